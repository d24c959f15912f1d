package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
)

// webmailChange asks how mail for browsers is, or changes it.
func (s *shell) webmailChange(command string, p ops.WebmailChange, text func(io.Writer, ops.Webmail)) error {
	var r ops.Webmail
	if err := s.call("webmail", p, &r); err != nil {
		return err
	}
	return s.result(command, "", r, func(w io.Writer) { text(w, r) })
}

var enabledWord = map[bool]string{true: "enabled", false: "disabled"}

// browserPart is one of the two switches of mail for browsers.
func (s *shell) browserPart(name, what string, pick func(*ops.Webmail, *ops.WebmailChange) (*bool, **bool)) *cobra.Command {
	sub := func(use, short string, on *bool) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Example: "  madmail " + name + " " + use, RunE: func(*cobra.Command, []string) error {
			var p ops.WebmailChange
			var r ops.Webmail
			_, change := pick(&r, &p)
			*change = on
			if err := s.call("webmail", p, &r); err != nil {
				return err
			}
			is, _ := pick(&r, &p)
			result := struct {
				Service string `json:"service"`
				Enabled bool   `json:"enabled"`
				Applied string `json:"applied,omitempty"`
			}{name, *is, r.Applied}
			return s.result(name+" "+use, "", result, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s\n", what, enabledWord[*is])
				if r.Applied != "" {
					fmt.Fprintln(w, r.Applied)
				}
			})
		}}
	}
	yes, no := true, false
	status := sub("status", "Tell whether it is served", nil)
	return s.orStatus(s.group(name, "Show or switch "+what, "  madmail "+name+" enable\n  madmail "+name+" status", status,
		sub("enable", "Serve it from now on", &yes), sub("disable", "Answer 404 from now on, and end what is open", &no)), status)
}

func (s *shell) webimap() *cobra.Command {
	return s.browserPart("webimap", "mail access for browsers (WebIMAP)", func(w *ops.Webmail, c *ops.WebmailChange) (*bool, **bool) { return &w.Reading, &c.Reading })
}

func (s *shell) websmtp() *cobra.Command {
	return s.browserPart("websmtp", "sending for browsers (WebSMTP)", func(w *ops.Webmail, c *ops.WebmailChange) (*bool, **bool) { return &w.Sending, &c.Sending })
}

// webmailCORS says whose pages may use mail for browsers.
func (s *shell) webmailCORS() *cobra.Command {
	show := func(w io.Writer, r ops.Webmail) {
		fmt.Fprintf(w, "WebIMAP: %s\nWebSMTP: %s\n", enabledWord[r.Reading], enabledWord[r.Sending])
		switch {
		case r.Reflected:
			fmt.Fprintln(w, "Pages of any site may call.")
		case len(r.List) == 0:
			fmt.Fprintln(w, "Pages of this host alone may call.")
		default:
			fmt.Fprintf(w, "Pages of this host may call, and those of:\n  %s\n", strings.Join(r.List, "\n  "))
		}
		if r.Applied != "" {
			fmt.Fprintln(w, r.Applied)
		}
	}
	sub := func(use, short, example string, args cobra.PositionalArgs, change func(p *ops.WebmailChange, a []string)) *cobra.Command {
		word, _, _ := strings.Cut(use, " ")
		return &cobra.Command{Use: use, Short: short, Args: args, Example: "  madmail webmail-cors " + example, RunE: func(_ *cobra.Command, a []string) error {
			var p ops.WebmailChange
			change(&p, a)
			return s.webmailChange("webmail-cors "+word, p, show)
		}}
	}
	both := func(p *ops.WebmailChange, on bool) { p.Reading, p.Sending = &on, &on }
	status := sub("status", "Tell what is served, and to whose pages", "status", cobra.NoArgs, func(*ops.WebmailChange, []string) {})
	c := s.orStatus(s.group("webmail-cors", "Say whose pages may use mail for browsers, and /new",
		"  madmail webmail-cors enable https://mail.example.org\n  madmail webmail-cors status", status,
		sub("set ORIGIN[,ORIGIN]", "Let pages of these sites call, and of no others; * stands for all", "set https://a.example,https://b.example:8443", cobra.ExactArgs(1),
			func(p *ops.WebmailChange, a []string) { p.Set = &a[0] }),
		sub("add ORIGIN", "Let pages of one more site call", "add http://127.0.0.1:5173", cobra.ExactArgs(1), func(p *ops.WebmailChange, a []string) { p.Add = a[0] }),
		sub("remove ORIGIN", "Let pages of a site call no more", "remove http://127.0.0.1:5173", cobra.ExactArgs(1), func(p *ops.WebmailChange, a []string) { p.Remove = a[0] }),
		sub("reset", "Let pages of this host alone call", "reset", cobra.NoArgs, func(p *ops.WebmailChange, _ []string) { p.Reset = true }),
		sub("enable [ORIGIN]", "Serve reading and sending, and let pages of a site call", "enable https://mail.example.org", cobra.MaximumNArgs(1), func(p *ops.WebmailChange, a []string) {
			both(p, true)
			if len(a) > 0 {
				p.Add = a[0]
			}
		}),
		sub("disable", "Serve neither reading nor sending; the list stays", "disable", cobra.NoArgs, func(p *ops.WebmailChange, _ []string) { both(p, false) })), status)
	c.Aliases = []string{"webmail-dev"}
	return c
}
