package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"madmail/internal/invite"
	"madmail/internal/ops"
)

// creds holds the switches that earlier versions kept there.
func (s *shell) creds() *cobra.Command {
	turn := s.group("turn", "Show or switch the relay for calls", "  madmail creds turn off")
	sub := func(use, short string, enabled *bool) {
		turn.AddCommand(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Example: "  madmail creds turn " + use,
			RunE: func(*cobra.Command, []string) error {
				var c ops.Calls
				if err := s.call("turn", map[string]*bool{"Enabled": enabled}, &c); err != nil {
					return err
				}
				return s.result("creds turn "+use, "", c, func(w io.Writer) {
					word := map[bool]string{true: "ENABLED", false: "DISABLED"}[c.Enabled]
					if enabled != nil {
						fmt.Fprintln(w, "TURN server is now", word)
					} else {
						fmt.Fprintln(w, "TURN server is", word)
					}
					if c.Enabled && !c.Configured {
						fmt.Fprintln(s.err, "Note: nothing is relayed without turn_enable and turn_secret in the configuration.")
					}
				})
			}})
	}
	yes, no := true, false
	sub("on", "Relay calls and announce it to clients", &yes)
	sub("off", "Close the port, end what is relayed, announce nothing", &no)
	sub("status", "Tell whether calls are relayed", nil)
	return s.group("creds", "Accounts and switches as earlier versions had them", "  madmail creds turn status\n  madmail creds list", append(s.credsUsers(), turn)...)
}

func (s *shell) proxy() *cobra.Command {
	c := s.group("proxy", "Manage Shadowsocks, a camouflaged way to the mail ports",
		"  madmail proxy\n  madmail proxy password set\n  madmail proxy disable",
		s.proxyStatus(), s.proxyEnable("enable", "Serve it, where it is configured", true), s.proxyEnable("disable", "Close its port and end its connections", false),
		s.proxyCipher(), s.proxyPassword())
	c.Aliases = []string{"pr"}
	s.unlessCommand(c, func() error { return s.proxyShow(s.onTerminal()) })
	return c
}

// unlessCommand lets a group do something when nobody says which of its commands.
func (s *shell) unlessCommand(c *cobra.Command, run func() error) {
	needs := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return needs(c, args)
		}
		return run()
	}
}

// onTerminal reports whether somebody reads the output as it comes.
func (s *shell) onTerminal() bool {
	f, ok := s.out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// proxyShow tells how it is, with the link as a code for cameras if wanted.
func (s *shell) proxyShow(code bool) error {
	var p ops.Proxy
	if err := s.call("proxy.status", nil, &p); err != nil {
		return err
	}
	return s.result("proxy status", "", p, func(w io.Writer) {
		if !p.Configured {
			fmt.Fprintln(w, "Shadowsocks is not configured: ss_addr and ss_password are missing.")
			return
		}
		fmt.Fprintf(w, "Shadowsocks is %s\nPort: %s\nCipher: %s (%s)\nURL: %s\n",
			map[bool]string{true: "ENABLED", false: "DISABLED"}[p.Enabled], p.Port, p.Cipher, p.CipherSource, p.URL)
		if p.WSEnabled {
			fmt.Fprintf(w, "Inside WebSocket: ENABLED\n")
			for _, link := range []string{p.HTTPSURL, p.WSURL} {
				if link != "" {
					fmt.Fprintf(w, "URL: %s\n", link)
				}
			}
		}
		fmt.Fprintf(w, "HTTP proxy: %s\n", map[bool]string{true: "ENABLED", false: "DISABLED"}[p.HTTPProxy])
		if picture, err := invite.Terminal(p.URL); code && err == nil { // else the link is too long for one
			fmt.Fprintf(w, "\n%s", picture)
		}
	})
}

func (s *shell) proxyStatus() *cobra.Command {
	var code bool
	c := &cobra.Command{Use: "status", Short: "Tell how it is, and the link for clients", Args: cobra.NoArgs, Example: "  madmail proxy status --qr",
		RunE: func(c *cobra.Command, _ []string) error {
			return s.proxyShow(code || s.onTerminal() && !c.Flags().Changed("qr"))
		}}
	c.Flags().BoolVar(&code, "qr", false, "the link as a QR code, too (default: on a terminal)")
	return c
}

func (s *shell) proxyEnable(use, short string, on bool) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Example: "  madmail proxy " + use,
		RunE: func(*cobra.Command, []string) error {
			var r ops.Switched
			if err := s.call("proxy.enable", map[string]bool{"Enabled": on}, &r); err != nil {
				return err
			}
			return s.result("proxy "+use, "", r, func(w io.Writer) {
				fmt.Fprintf(w, "Shadowsocks is now %s\n%s\n", map[bool]string{true: "ENABLED", false: "DISABLED"}[r.Enabled], r.Applied)
			})
		}}
}

// proxySetting runs an action on one of the two settings.
func (s *shell) proxySetting(op, command string, p ops.ProxyChange, text func(io.Writer, ops.ProxySetting)) error {
	var r ops.ProxySetting
	if err := s.call(op, p, &r); err != nil {
		return err
	}
	return s.result(command, "", r, func(w io.Writer) {
		text(w, r)
		if r.Applied != "" {
			fmt.Fprintln(w, r.Applied)
		}
	})
}

func (s *shell) proxyCipher() *cobra.Command {
	show := func(w io.Writer, r ops.ProxySetting) { fmt.Fprintf(w, "%s (%s)\n", r.Cipher, r.Source) }
	status := func() error { return s.proxySetting("proxy.cipher", "proxy cipher status", ops.ProxyChange{}, show) }
	c := s.group("cipher", "Show or change the cipher", "  madmail proxy cipher set 2022-blake3-aes-256-gcm",
		&cobra.Command{Use: "status", Short: "Show the cipher and where it comes from", Args: cobra.NoArgs, Example: "  madmail proxy cipher status",
			RunE: func(*cobra.Command, []string) error { return status() }},
		&cobra.Command{Use: "set CIPHER", Short: "Store a cipher; links that were given out stop working", Args: cobra.ExactArgs(1),
			Example: "  madmail proxy cipher set aes-256-gcm",
			RunE: func(_ *cobra.Command, args []string) error {
				return s.proxySetting("proxy.cipher", "proxy cipher set", ops.ProxyChange{Set: args[0]}, show)
			}},
		&cobra.Command{Use: "reset", Short: "Forget the stored cipher", Args: cobra.NoArgs, Example: "  madmail proxy cipher reset",
			RunE: func(*cobra.Command, []string) error {
				return s.proxySetting("proxy.cipher", "proxy cipher reset", ops.ProxyChange{Reset: true}, show)
			}})
	s.unlessCommand(c, status)
	return c
}

func (s *shell) proxyPassword() *cobra.Command {
	text := func(w io.Writer, r ops.ProxySetting) {
		if r.Configured == nil || !*r.Configured {
			fmt.Fprintln(w, "There is no password.")
			return
		}
		if r.Value != "" && r.Value != "***" {
			fmt.Fprintln(w, "Password:", r.Value)
		}
		fmt.Fprintf(w, "A password is set (%s)\n", r.Source)
	}
	status := func() error {
		return s.proxySetting("proxy.password", "proxy password status", ops.ProxyChange{}, text)
	}
	var p ops.ProxyChange
	set := &cobra.Command{Use: "set [PASSWORD]", Short: "Store a password, or draw one; links that were given out stop working", Args: cobra.MaximumNArgs(1),
		Example: "  madmail proxy password set --show",
		RunE: func(_ *cobra.Command, args []string) error {
			change := p
			if change.Generate = len(args) == 0; !change.Generate {
				change.Set = args[0]
			}
			return s.proxySetting("proxy.password", "proxy password set", change, text)
		}}
	set.Flags().BoolVar(&p.Show, "show", false, "print the password")
	set.Flags().StringVar(&p.For, "cipher", "", "draw one that fits this `cipher`, before it is set")
	c := s.group("password", "Show or change the password", "  madmail proxy password set",
		&cobra.Command{Use: "status", Short: "Tell whether there is a password and where it comes from", Args: cobra.NoArgs, Example: "  madmail proxy password status",
			RunE: func(*cobra.Command, []string) error { return status() }},
		set,
		&cobra.Command{Use: "reset", Short: "Forget the stored password", Args: cobra.NoArgs, Example: "  madmail proxy password reset",
			RunE: func(*cobra.Command, []string) error {
				return s.proxySetting("proxy.password", "proxy password reset", ops.ProxyChange{Reset: true}, text)
			}})
	s.unlessCommand(c, status)
	return c
}
