package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
	"madmail/internal/settings"
)

func (s *shell) settings() *cobra.Command {
	return s.group("settings", "Show and change what can be changed while the server runs",
		"  madmail settings list --stored\n  madmail settings explain max_message_size\n  madmail settings set max_message_size 50M",
		s.settingsList(), s.settingsGet(), s.settingsExplain(), s.settingsSet(), s.settingsReset())
}

// settingKeys completes the name of a setting.
func settingKeys(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if len(args) == 0 {
		for _, e := range settings.Entries() {
			names = append(names, e.Name()+"\t"+e.Doc)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// shown is a value for people.
func shown(x ops.Setting) string {
	switch {
	case x.Secret && x.Source != "default":
		return "(hidden)"
	case x.Value == "":
		return "(none)"
	}
	return x.Value
}

func (s *shell) settingsList() *cobra.Command {
	var stored bool
	c := &cobra.Command{Use: "list", Short: "List the settings with their values and where these come from", Args: cobra.NoArgs,
		Example: "  madmail settings list --stored",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Settings []ops.Setting `json:"settings"`
			}
			if err := s.call("settings.list", map[string]bool{"Stored": stored}, &r); err != nil {
				return err
			}
			return s.result("settings list", "", r, func(w io.Writer) {
				for _, x := range r.Settings {
					fmt.Fprintf(w, "%s\t%s\t%s\n", x.Name, shown(x), x.Source)
				}
			})
		}}
	c.Flags().BoolVar(&stored, "stored", false, "only those that were set")
	return c
}

func (s *shell) settingsGet() *cobra.Command {
	return &cobra.Command{Use: "get KEY", ValidArgsFunction: settingKeys, Short: "Print a setting's value", Args: cobra.ExactArgs(1), Example: "  madmail settings get imap_tls_port",
		RunE: func(_ *cobra.Command, args []string) error {
			var x ops.Setting
			if err := s.call("settings.get", ops.SettingName{Name: args[0]}, &x); err != nil {
				return err
			}
			return s.result("settings get", "", x, func(w io.Writer) { fmt.Fprintf(w, "%s (%s)\n", shown(x), x.Source) })
		}}
}

func (s *shell) settingsExplain() *cobra.Command {
	return &cobra.Command{Use: "explain KEY", ValidArgsFunction: settingKeys, Short: "Tell everything about a setting", Args: cobra.ExactArgs(1), Example: "  madmail settings explain registration_open",
		RunE: func(_ *cobra.Command, args []string) error {
			var x ops.Setting
			if err := s.call("settings.get", ops.SettingName{Name: args[0]}, &x); err != nil {
				return err
			}
			return s.result("settings explain", "", x, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %s\n", x.Name, x.Doc)
				fmt.Fprintf(w, "Value: %s (%s)\n", shown(x), x.Source)
				if x.IsSet && x.Source != "stored" {
					fmt.Fprintf(w, "Stored, but not used: %s\n", x.Stored)
				}
				switch {
				case x.Follows != "":
					fmt.Fprintln(w, "Default: follows", x.Follows)
				case x.Default != "":
					fmt.Fprintln(w, "Default:", x.Default)
				}
				fmt.Fprintln(w, "Form:", strings.Join(append([]string{x.Kind}, x.Values...), " "))
				fmt.Fprintln(w, "A change counts:", map[string]string{
					"live": "at once", "component": "when its service is told", "rebind": "at once, on new sockets", "restart": "after a restart"}[x.When])
				if x.Unserved {
					fmt.Fprintln(w, "This version keeps it and does nothing with it.")
				}
				if x.Env != "" {
					fmt.Fprintln(w, "Beaten by the environment:", x.Env)
				}
				fmt.Fprintln(w, "Key in the database:", x.Key)
			})
		}}
}

func (s *shell) changed(command string, x ops.Setting) error {
	m := fmt.Sprintf("%s is now %s (%s)", x.Name, shown(x), x.Source)
	return s.result(command, m, x, func(w io.Writer) { fmt.Fprintf(w, "%s\n%s\n", m, x.Applied) })
}

func (s *shell) settingsSet() *cobra.Command {
	return &cobra.Command{Use: "set KEY VALUE", ValidArgsFunction: settingKeys, Short: "Store a setting", Args: cobra.ExactArgs(2), Example: "  madmail settings set language fa",
		RunE: func(_ *cobra.Command, args []string) error {
			var x ops.Setting
			if err := s.call("settings.set", ops.SettingName{Name: args[0], Value: args[1]}, &x); err != nil {
				return err
			}
			return s.changed("settings set", x)
		}}
}

func (s *shell) settingsReset() *cobra.Command {
	return &cobra.Command{Use: "reset KEY", ValidArgsFunction: settingKeys, Short: "Forget a stored setting: file or default count again", Args: cobra.ExactArgs(1),
		Example: "  madmail settings reset language",
		RunE: func(_ *cobra.Command, args []string) error {
			var x ops.Setting
			if err := s.call("settings.reset", ops.SettingName{Name: args[0]}, &x); err != nil {
				return err
			}
			return s.changed("settings reset", x)
		}}
}
