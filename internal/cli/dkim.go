package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

func (s *shell) dkim() *cobra.Command {
	show := s.dkimShow()
	return s.orStatus(s.group("dkim", "See, check and replace the keys that sign outgoing mail",
		"  madmail dkim show\n  madmail dkim check\n  madmail dkim rotate", show, s.dkimStatus(), s.dkimCheck(), s.dkimRotate()), show)
}

// signing is what there is to sign with, in the words of the second version, too.
type signing struct {
	ops.DKIMKeys
	KeyPath     string `json:"private_key_path"`
	TXTPath     string `json:"txt_path"`
	Present     bool   `json:"key_present"`
	Generated   bool   `json:"generated"` // by this command; keys are there from the first start
	Publishable bool   `json:"publishable"`
	Reason      string `json:"reason,omitempty"` // of there being no key
}

// signing asks for the keys. None, where all addresses have IP addresses for a domain, is no
// failure.
func (s *shell) signing(domain string) (x signing, err error) {
	err = s.call("dkim.show", ops.DKIMSelect{Domain: domain}, &x.DKIMKeys)
	if domain == "" && fault.Is(err, fault.NotFound) {
		x.Keys, x.Reason = []ops.DKIMKey{}, err.Error()
		return x, nil
	}
	x.KeyPath, x.TXTPath, x.Present, x.Publishable = x.DKIMKey.KeyPath, x.DKIMKey.TXTPath, err == nil, err == nil
	return x, err
}

func (s *shell) dkimStatus() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show whether there is a key and its record is published", Args: cobra.NoArgs, Example: "  madmail dkim status",
		RunE: func(*cobra.Command, []string) error {
			var x struct {
				signing
				Checked   bool     `json:"dns_checked"`
				Matched   bool     `json:"dns_matched"`
				Published []string `json:"dns_txt"`
				Error     string   `json:"lookup_error,omitempty"`
			}
			var err error
			if x.signing, err = s.signing(""); err != nil {
				return err
			}
			x.Published = []string{}
			word := x.Reason
			if x.Publishable {
				var r ops.DKIMChecks
				if err := s.call("dkim.check", ops.DKIMSelect{}, &r); err != nil {
					return err
				}
				x.Checked, x.Matched, x.Published, x.Error = r.Checked, r.Matched, r.Published, r.Error
				if word = "published"; !x.Matched {
					word = r.Reason + r.Error
				}
			}
			return s.result("dkim status", "", x, func(w io.Writer) {
				if x.Publishable {
					fmt.Fprintf(w, "%s:\t", x.FQDN)
				}
				fmt.Fprintln(w, word)
			})
		}}
}

func printKeys(w io.Writer, k ops.DKIMKeys) {
	for i, x := range k.Keys {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Domain:\t%s\nSelector:\t%s (%s)\nDNS name:\t%s\nPrivate key:\t%s\nTXT record:\t%s\n", x.Domain, x.Selector, x.Phase, x.FQDN, x.KeyPath, x.TXT)
		if x.Until != "" {
			fmt.Fprintf(w, "Record may go:\t%s\n", x.Until)
		}
	}
}

func (s *shell) dkimShow() *cobra.Command {
	var domain string
	c := &cobra.Command{Use: "show", Short: "Show keys and the TXT records to publish", Args: cobra.NoArgs, Example: "  madmail dkim show --domain chat.example.org",
		RunE: func(*cobra.Command, []string) error {
			k, err := s.signing(domain)
			if err != nil {
				return err
			}
			return s.result("dkim show", "", k, func(w io.Writer) {
				if k.Reason != "" {
					fmt.Fprintln(w, k.Reason)
				}
				printKeys(w, k.DKIMKeys)
			})
		}}
	c.Flags().StringVar(&domain, "domain", "", "only of this `domain`")
	return c
}

func (s *shell) dkimCheck() *cobra.Command {
	var domain string
	c := &cobra.Command{Use: "check", Short: "Compare the published records with the keys; exit code 1 when they differ", Args: cobra.NoArgs, Example: "  madmail dkim check --json",
		RunE: func(*cobra.Command, []string) error {
			var r ops.DKIMChecks
			if err := s.call("dkim.check", ops.DKIMSelect{Domain: domain}, &r); domain == "" && fault.Is(err, fault.NotFound) {
				r.Published, r.Reason, r.Checks = []string{}, err.Error(), []ops.DKIMCheck{}
				return s.result("dkim check", "", r, func(w io.Writer) { fmt.Fprintln(w, r.Reason) })
			} else if err != nil {
				return err
			}
			bad := 0
			err := s.result("dkim check", "", r, func(w io.Writer) {
				for _, c := range r.Checks {
					word := "ok"
					if !c.Matched {
						word = c.Reason + c.Error
					}
					fmt.Fprintf(w, "%s:\t%s\n", c.FQDN, word)
				}
			})
			for _, c := range r.Checks {
				if !c.Matched && c.Phase == "active" {
					bad++
				}
			}
			if err == nil && bad > 0 {
				return fault.WithHint(fault.Newf(fault.Refused, "%d record(s) are not published as they have to be", bad), "madmail dkim show prints them")
			}
			return err
		}}
	c.Flags().StringVar(&domain, "domain", "", "only of this `domain`")
	return c
}

func (s *shell) dkimRotate() *cobra.Command {
	var p ops.DKIMRotation
	c := &cobra.Command{Use: "rotate", Short: "Make a new key; run again when its record is published, and it signs", Args: cobra.NoArgs,
		Example: "  madmail dkim rotate             make the next key and print its record\n  madmail dkim rotate             after publishing: let it sign\n  madmail dkim rotate --abandon   give it up",
		RunE: func(*cobra.Command, []string) error {
			var k ops.DKIMKeys
			if err := s.call("dkim.rotate", p, &k); err != nil {
				return err
			}
			m := fmt.Sprintf("Publish these records, wait until the DNS shows them, and run the command again: selector %q signs from then on.", k.Selector)
			switch {
			case p.Abandon:
				m = fmt.Sprintf("Selector %q was given up.", k.Selector)
			case k.Switched:
				m = fmt.Sprintf("Selector %q signs now. Leave the old record in the DNS for a week: mail under way is checked with it.", k.Selector)
			}
			return s.result("dkim rotate", m, k, func(w io.Writer) {
				if !p.Abandon {
					printKeys(w, k)
				}
				fmt.Fprintln(w, m)
			})
		}}
	c.Flags().StringVar(&p.Selector, "selector", "", "`name` of the new key; it is named after the day without")
	c.Flags().BoolVar(&p.Abandon, "abandon", false, "give up the key that waits for its record")
	c.Flags().BoolVar(&p.Force, "force", false, "let the next key sign, whatever the DNS shows")
	return c
}

func (s *shell) zone() *cobra.Command {
	var printOnly bool
	c := &cobra.Command{Use: "dns", Short: "Print the zone that this server needs, and check what is published", Args: cobra.NoArgs,
		Example: "  madmail dns                the records, and which of them are there\n  madmail dns --print-only   the records alone, as a zone file has them",
		RunE: func(*cobra.Command, []string) error {
			var z ops.Zone
			if err := s.call("dns", ops.ZoneRequest{Check: !printOnly}, &z); err != nil {
				return err
			}
			err := s.result("dns", z.Reason, z, func(w io.Writer) {
				if z.Reason != "" {
					fmt.Fprintln(w, z.Reason)
				}
				for _, r := range z.Records {
					note := ""
					switch {
					case r.State == "ok":
						note = "\t; published"
					case r.State == "unknown":
						note = "\t; not known: " + r.Error
					case r.State != "":
						note = "\t; " + strings.ToUpper(r.State)
						if !r.Required {
							note += ", recommended"
						}
						if r.State == "differs" {
							note += ": " + strings.Join(r.Published, " | ")
						}
					}
					fmt.Fprintf(w, "%s\t3600\tIN\t%s\t%s%s\n", r.Name, r.Type, zoneText(r), note)
				}
			})
			if err == nil && !z.OK {
				return fault.WithHint(fault.New(fault.Refused, "records that other servers need are not published"), "copy those without the word \"published\" into the zone")
			}
			return err
		}}
	c.Flags().BoolVar(&printOnly, "print-only", false, "ask nobody")
	return c
}

// zoneText is a record's value in a zone file: strings have 255 octets at most.
func zoneText(r ops.ZoneRecord) string {
	if r.Type != "TXT" {
		return r.Value
	}
	var b strings.Builder
	for v := r.Value; ; {
		n := min(len(v), 255)
		b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v[:n]) + `"`)
		if v = v[n:]; v == "" {
			return b.String()
		}
		b.WriteByte(' ')
	}
}
