package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"madmail/internal/version"
)

// written are the commands that documents describe, each after the group that it
// is in.
func written(c *cobra.Command) (all []*cobra.Command) {
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" {
			all = append(append(all, sub), written(sub)...)
		}
	}
	return all
}

// flags are those of one command, without those of all.
func flags(c *cobra.Command) (list []*pflag.Flag) {
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			list = append(list, f)
		}
	})
	return list
}

// flagForm is how a flag is typed.
func flagForm(f *pflag.Flag) string {
	what, _ := pflag.UnquoteUsage(f)
	form := "--" + f.Name
	if f.Shorthand != "" {
		form = "-" + f.Shorthand + ", " + form
	}
	if what != "" {
		form += " " + strings.ToUpper(what)
	}
	return form
}

func flagText(f *pflag.Flag) string {
	_, text := pflag.UnquoteUsage(f)
	if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" {
		text += " (" + f.DefValue + ")"
	}
	return text
}

// roff escapes text for a manual page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// Manual writes the manual page, man(7), of section 1.
func Manual(w io.Writer) {
	root := (&shell{}).root()
	fmt.Fprintf(w, ".TH %s 1 \"\" \"%s\" \"User Commands\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(version.Name), version.Name, version.Name, roff(root.Short))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]\n", version.Name)
	fmt.Fprintf(w, ".SH DESCRIPTION\n%s\n", roff("One program is the mail server and the tool that looks after it. Commands talk to the running server; when none runs they do the work themselves."))
	fmt.Fprint(w, ".SH OPTIONS\n")
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			fmt.Fprintf(w, ".TP\n.B %s\n%s\n", roff(flagForm(f)), roff(flagText(f)))
		}
	})
	fmt.Fprint(w, ".SH COMMANDS\n")
	for _, c := range written(root) {
		if c.HasAvailableSubCommands() {
			continue
		}
		fmt.Fprintf(w, ".TP\n.B %s\n%s.\n", roff(strings.TrimSuffix(c.UseLine(), " [flags]")), roff(c.Short))
		for _, f := range flags(c) {
			fmt.Fprintf(w, ".br\n\\fB%s\\fR: %s\n", roff(flagForm(f)), roff(flagText(f)))
		}
	}
	fmt.Fprint(w, ".SH EXIT STATUS\n0 when it worked, 2 for wrong arguments or values, 1 for everything else that failed.\n")
	fmt.Fprint(w, ".SH FILES\n.TP\n.I /etc/madmail/chatmail.toml\nconfiguration\n.TP\n.I /var/lib/madmail\nstate: accounts, mail, certificates\n")
}

func (s *shell) generate() []*cobra.Command {
	man := &cobra.Command{Use: "generate-man", Hidden: true, Short: "Print the manual page", Args: cobra.NoArgs, Example: "  madmail generate-man",
		Run: func(*cobra.Command, []string) { Manual(s.out) }}
	fish := &cobra.Command{Use: "generate-fish-completion", Hidden: true, Short: "Print the completions of fish", Args: cobra.NoArgs, Example: "  madmail generate-fish-completion",
		RunE: func(c *cobra.Command, _ []string) error { return c.Root().GenFishCompletion(s.out, true) }}
	return []*cobra.Command{man, fish}
}
