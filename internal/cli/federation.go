package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
)

func (s *shell) federation() *cobra.Command {
	return s.group("federation", "Decide with which other servers mail is exchanged",
		"  madmail federation status\n  madmail federation block spam.example\n  madmail federation policy reject",
		s.federationPolicy(), s.federationRule("block"), s.federationRule("allow"), s.federationRemove(), s.federationFlush(), s.federationList(),
		s.federationStatus(), s.federationDismiss(), s.federationUndismiss(), s.dismissList(), s.dismissFlush(), s.federationTLS())
}

func (s *shell) federationPolicy() *cobra.Command {
	return &cobra.Command{Use: "policy accept|reject", Short: "Say what happens to servers without a rule", Args: cobra.ExactArgs(1),
		Example: "  madmail federation policy reject",
		RunE: func(_ *cobra.Command, args []string) error {
			var p ops.FederationPolicy
			if err := s.call("federation.policy", ops.FederationPolicy{Policy: args[0]}, &p); err != nil {
				return err
			}
			m := "Global federation policy switched to " + p.Policy + "."
			return s.result("federation policy", m, p, func(w io.Writer) { fmt.Fprintln(w, "Success:", m) })
		}}
}

func (s *shell) federationRule(action string) *cobra.Command {
	var only string
	c := &cobra.Command{Use: action + " DOMAIN", Args: cobra.ExactArgs(1),
		Short:   map[string]string{"block": "Exchange no mail with a server (under policy accept)", "allow": "Exchange mail with a server (under policy reject)"}[action],
		Example: "  madmail federation " + action + " peer.example\n  madmail federation " + action + " peer.example --transport http",
		RunE: func(_ *cobra.Command, args []string) error {
			if only != "" {
				return s.transport("federation "+action, args[0], only, action)
			}
			var r ops.FederationChange
			if err := s.call("federation.rule", map[string]string{"Domain": args[0], "Action": action}, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("'%s' added to rules. Currently %s %d total domain(s).", r.Domain, map[string]string{"block": "blocking", "allow": "trusting"}[r.Action], r.Total)
			return s.result("federation "+action, m, map[string]any{"domain": r.Domain, "action": r.Action, "total": r.Total},
				func(w io.Writer) { fmt.Fprintln(w, "Success:", m) })
		}}
	c.Flags().StringVar(&only, "transport", "", "only by https, http or smtp")
	return c
}

// transport says that one way to a domain is allowed, blocked or as usual.
func (s *shell) transport(command, domain, way, permission string) error {
	p := ops.TransportPolicy{Domain: domain}
	switch strings.ToLower(way) {
	case "https":
		p.HTTPS = permission
	case "http":
		p.HTTP = permission
	case "smtp":
		p.SMTP = permission
	default:
		return usageError{fmt.Errorf("%q is no transport: https, http or smtp", way)}
	}
	return s.transports(command, p)
}

// transports changes and tells how mail may go to a domain.
func (s *shell) transports(command string, p ops.TransportPolicy) error {
	var r ops.TransportPolicy
	if err := s.call("federation.transports", p, &r); err != nil {
		return err
	}
	return s.result(command, "", r, func(w io.Writer) { fmt.Fprintln(w, ways(r)) })
}

// ways is a line about how mail may go to a domain.
func ways(t ops.TransportPolicy) string {
	return fmt.Sprintf("%s: HTTPS %s, HTTP %s, SMTP %s; certificates %s", t.Domain, t.HTTPS, t.HTTP, t.SMTP, t.TLS)
}

func (s *shell) federationTLS() *cobra.Command {
	return &cobra.Command{Use: "tls DOMAIN [strict|relaxed]", Short: "Say whether a server's certificate must be valid for its name", Args: cobra.RangeArgs(1, 2),
		Example: "  madmail federation tls peer.example relaxed",
		RunE: func(_ *cobra.Command, args []string) error {
			p := ops.TransportPolicy{Domain: args[0]}
			if len(args) == 2 {
				p.TLS = args[1]
			}
			return s.transports("federation tls", p)
		}}
}

func (s *shell) federationRemove() *cobra.Command {
	var only string
	c := &cobra.Command{Use: "remove DOMAIN", Aliases: []string{"delete"}, Short: "Remove a rule", Args: cobra.ExactArgs(1),
		Example: "  madmail federation remove peer.example\n  madmail federation remove peer.example --transport http",
		RunE: func(_ *cobra.Command, args []string) error {
			if only != "" {
				return s.transport("federation remove", args[0], only, "usual")
			}
			var r ops.FederationChange
			if err := s.call("federation.remove", ops.DomainName{Domain: args[0]}, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Removed '%s' from rules. %d remaining.", r.Domain, r.Remaining)
			return s.result("federation remove", m, map[string]any{"domain": r.Domain, "remaining": r.Remaining}, func(w io.Writer) { fmt.Fprintln(w, "Success:", m) })
		}}
	c.Flags().StringVar(&only, "transport", "", "what was said about https, http or smtp")
	return c
}

func (s *shell) federationFlush() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "flush", Short: "Remove all rules", Args: cobra.NoArgs, Example: "  madmail federation flush --yes",
		RunE: func(*cobra.Command, []string) error {
			var r ops.FederationChange
			if err := s.call("federation.flush", nil, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Configuration flushed. %d custom domains remain in active list.", r.Total)
			return s.result("federation flush", m, map[string]any{"flushed": r.Flushed, "total": r.Total}, func(w io.Writer) { fmt.Fprintln(w, "WARNING:", m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "accepted; nothing is asked")
	return c
}

// day is the date of a moment.
func day(moment string) string { return moment[:min(len(moment), len("2006-01-02"))] }

func (s *shell) federationList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List policy and rules", Args: cobra.NoArgs, Example: "  madmail federation list",
		RunE: func(*cobra.Command, []string) error {
			var r ops.FederationRules
			if err := s.call("federation.list", nil, &r); err != nil {
				return err
			}
			return s.result("federation list", "", r, func(w io.Writer) {
				fmt.Fprintf(w, "[ FEDERATION STATE ]\nPolicy:   %s\n\n[ ACTIVE RULES ]\n", r.Policy)
				if len(r.Rules) == 0 {
					fmt.Fprintln(w, "No exceptions configured.")
				}
				for i, x := range r.Rules {
					fmt.Fprintf(w, "%d. %s\t(Added: %s)\n", i+1, x.Domain, day(x.Added))
				}
				if len(r.Rules) > 0 {
					fmt.Fprintf(w, "---\nTotal: %d exceptions.\n", len(r.Rules))
				}
				if len(r.Transports) > 0 {
					fmt.Fprint(w, "\n[ TRANSPORTS ]\n")
				}
				for _, x := range r.Transports {
					fmt.Fprintln(w, ways(x))
				}
			})
		}}
}

func (s *shell) federationStatus() *cobra.Command {
	return &cobra.Command{Use: "status", Aliases: []string{"stats"}, Short: "Tell what happened with other servers", Args: cobra.NoArgs, Example: "  madmail federation status",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Traffic []ops.Traffic `json:"traffic"`
			}
			if err := s.call("federation.status", nil, &r); err != nil {
				return err
			}
			return s.result("federation status", "", r, func(w io.Writer) {
				fmt.Fprintln(w, "[ TRAFFIC ANOMALIES ]")
				if len(r.Traffic) == 0 {
					fmt.Fprintln(w, "No federation traffic recorded.")
				}
				for _, t := range r.Traffic {
					var failed []string
					for _, x := range []struct {
						n    int64
						name string
					}{{t.FailedTLS, "HTTPS"}, {t.FailedHTTP, "HTTP"}, {t.FailedSMTP, "SMTP"}} {
						if x.n > 0 {
							failed = append(failed, fmt.Sprintf("%d Failed (%s)", x.n, x.name))
						}
					}
					if failed == nil {
						failed = []string{"0 Failed"}
					}
					fmt.Fprintf(w, "- %s : %d Delivered (%d HTTPS, %d HTTP, %d SMTP) / %d pending / %s\n",
						t.Domain, t.Delivered, t.OverTLS, t.OverHTTP, t.OverSMTP, t.Queued, strings.Join(failed, " "))
					if t.Trouble != "" {
						fmt.Fprintln(w, "  not reached at present:", t.Trouble)
					}
				}
			})
		}}
}

func (s *shell) federationDismiss() *cobra.Command {
	return &cobra.Command{Use: "dismiss DOMAIN", Short: "Accept mail to a domain and drop it", Args: cobra.ExactArgs(1), Example: "  madmail federation dismiss gone.example",
		RunE: func(_ *cobra.Command, args []string) error {
			var r ops.FederationChange
			if err := s.call("federation.dismiss", ops.DomainName{Domain: args[0]}, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("'%s' added to silent dismiss. Currently dismissing %d domain(s).", r.Domain, r.Total)
			return s.result("federation dismiss", m, map[string]any{"domain": r.Domain, "total": r.Total}, func(w io.Writer) { fmt.Fprintln(w, "Success:", m) })
		}}
}

func (s *shell) federationUndismiss() *cobra.Command {
	return &cobra.Command{Use: "undismiss DOMAIN", Short: "Send mail to a domain again", Args: cobra.ExactArgs(1), Example: "  madmail federation undismiss gone.example",
		RunE: func(_ *cobra.Command, args []string) error {
			var r ops.FederationChange
			if err := s.call("federation.undismiss", ops.DomainName{Domain: args[0]}, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Removed '%s' from silent dismiss. %d remaining.", r.Domain, r.Remaining)
			return s.result("federation undismiss", m, map[string]any{"domain": r.Domain, "remaining": r.Remaining}, func(w io.Writer) { fmt.Fprintln(w, "Success:", m) })
		}}
}

func (s *shell) dismissList() *cobra.Command {
	return &cobra.Command{Use: "dismiss-list", Short: "List the domains to which mail is dropped", Args: cobra.NoArgs, Example: "  madmail federation dismiss-list",
		RunE: func(*cobra.Command, []string) error {
			var r ops.Dismissals
			if err := s.call("federation.dismiss-list", nil, &r); err != nil {
				return err
			}
			return s.result("federation dismiss-list", "", r, func(w io.Writer) {
				fmt.Fprintln(w, "[ SILENT DISMISS ]")
				if r.Total == 0 {
					fmt.Fprintln(w, "No domains configured.")
					return
				}
				for i, x := range r.Domains {
					fmt.Fprintf(w, "%d. %s\t(Added: %s)\n", i+1, x.Domain, day(x.Added))
				}
				fmt.Fprintf(w, "---\nTotal: %d domains.\n", r.Total)
			})
		}}
}

func (s *shell) dismissFlush() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "dismiss-flush", Short: "Drop mail to nobody any more", Args: cobra.NoArgs, Example: "  madmail federation dismiss-flush --yes",
		RunE: func(*cobra.Command, []string) error {
			var r ops.FederationChange
			if err := s.call("federation.dismiss-flush", nil, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Silent dismiss list flushed. %d domains remain.", r.Total)
			return s.result("federation dismiss-flush", m, map[string]any{"flushed": r.Flushed, "total": r.Total}, func(w io.Writer) { fmt.Fprintln(w, "WARNING:", m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "accepted; nothing is asked")
	return c
}

func (s *shell) endpoints() *cobra.Command {
	c := s.group("endpoint-cache", "Say where a domain is reached, instead of where the DNS says",
		"  madmail endpoint-cache set peer.example 192.0.2.7\n  madmail endpoint-cache set peer.example https://192.0.2.7:8443 --comment moving\n  madmail endpoint-cache list",
		s.endpointList(), s.endpointSet(), s.endpointGet(), s.endpointRemove())
	c.Aliases = []string{"dns-cache"}
	return c
}

func (s *shell) endpointList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the overrides", Args: cobra.NoArgs, Example: "  madmail endpoint-cache list",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Entries []ops.Endpoint `json:"entries"`
			}
			if err := s.call("endpoints.list", nil, &r); err != nil {
				return err
			}
			if len(r.Entries) == 0 && !s.json {
				fmt.Fprintln(s.err, "No endpoint override entries.")
				return nil
			}
			return s.result("endpoint-cache list", "", r, func(w io.Writer) {
				fmt.Fprintln(w, "LOOKUP KEY\tTARGET HOST\tCOMMENT\tCREATED AT\tUPDATED AT")
				for _, e := range r.Entries {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Key, e.Target, e.Comment, e.Created, e.Updated)
				}
			})
		}}
}

// showEndpoint prints one override.
func (s *shell) showEndpoint(command string, e ops.Endpoint) error {
	return s.result(command, "", e, func(w io.Writer) {
		fmt.Fprintf(w, "Lookup Key:\t%s\nTarget Host:\t%s\nComment:\t%s\nCreated At:\t%s\nUpdated At:\t%s\n", e.Key, e.Target, e.Comment, e.Created, e.Updated)
	})
}

func (s *shell) endpointSet() *cobra.Command {
	var comment string
	c := &cobra.Command{Use: "set KEY HOST [COMMENT]", Short: "Add or change an override; HOST is a host, host:port, address or https/http/smtp URL", Args: cobra.RangeArgs(2, 3),
		Example: "  madmail endpoint-cache set peer.example https://192.0.2.7:8443 --comment moving",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 3 {
				comment = args[2]
			}
			var e ops.Endpoint
			if err := s.call("endpoints.set", ops.Endpoint{Key: args[0], Target: args[1], Comment: comment}, &e); err != nil {
				return err
			}
			return s.showEndpoint("endpoint-cache set", e)
		}}
	c.Flags().StringVar(&comment, "comment", "", "a note for the list")
	return c
}

func (s *shell) endpointGet() *cobra.Command {
	return &cobra.Command{Use: "get KEY", Short: "Show an override", Args: cobra.ExactArgs(1), Example: "  madmail endpoint-cache get peer.example",
		RunE: func(_ *cobra.Command, args []string) error {
			var e ops.Endpoint
			if err := s.call("endpoints.get", ops.EndpointKey{Key: args[0]}, &e); err != nil {
				return err
			}
			return s.showEndpoint("endpoint-cache get", e)
		}}
}

func (s *shell) endpointRemove() *cobra.Command {
	return &cobra.Command{Use: "remove KEY", Aliases: []string{"delete"}, Short: "Remove an override", Args: cobra.ExactArgs(1), Example: "  madmail endpoint-cache remove peer.example",
		RunE: func(_ *cobra.Command, args []string) error {
			var e ops.EndpointKey
			if err := s.call("endpoints.remove", ops.EndpointKey{Key: args[0]}, &e); err != nil {
				return err
			}
			m := "Removed the override of " + args[0] + "."
			return s.result("endpoint-cache remove", m, e, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
}

func (s *shell) queue() *cobra.Command {
	status := s.queueStatus()
	c := s.group("queue", "See and change what waits for other servers",
		"  madmail queue list\n  madmail queue why peer.example\n  madmail queue retry",
		status, s.queueList(), s.queueShow(), s.queueRemove(), s.queuePurge(), s.queueRetry(), s.queueWhy())
	group := c.RunE
	c.RunE = func(x *cobra.Command, args []string) error {
		if len(args) == 0 {
			return status.RunE(status, nil)
		}
		return group(x, args)
	}
	return c
}

func (s *shell) queueStatus() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Tell about the queue", Args: cobra.NoArgs, Example: "  madmail queue status",
		RunE: func(*cobra.Command, []string) error {
			var q ops.QueueStatus
			if err := s.call("queue.status", nil, &q); err != nil {
				return err
			}
			return s.result("queue status", "", q, func(w io.Writer) {
				fmt.Fprintln(w, "Outbound delivery queue (federation / remote SMTP retries)")
				fmt.Fprintf(w, "Path: %s\nPending entries: %d, to %d domain(s), %d in flight\nMax tries: %d soon, then rarely\nMax parallelism: %d\n", q.Path, q.Count, q.Destinations, q.InFlight, q.MaxTries, q.Parallel)
				fmt.Fprintf(w, "First retry after: %s, each later by %.4g\nGiven up after: %s\n", seconds(q.InitialRetry), q.Scale, seconds(q.Lifetime))
				if q.Oldest != "" {
					fmt.Fprintln(w, "Oldest entry:", q.Oldest)
				}
				if q.Broken > 0 {
					fmt.Fprintf(w, "Set aside as unreadable: %d (files *.meta_broken)\n", q.Broken)
				}
			})
		}}
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// at is a moment in the list.
func at(unix int64) string {
	if unix == 0 {
		return "-"
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}

func lastError(e ops.QueueEntry) string {
	if e.Error == nil {
		return ""
	}
	return *e.Error
}

func (s *shell) queueList() *cobra.Command {
	var f ops.QueueFilter
	c := &cobra.Command{Use: "list", Short: "List the entries, the first due first", Args: cobra.NoArgs, Example: "  madmail queue list --domain peer.example --limit 20",
		RunE: func(*cobra.Command, []string) error {
			var q ops.QueueList
			if err := s.call("queue.list", f, &q); err != nil {
				return err
			}
			return s.result("queue list", "", q, func(w io.Writer) {
				if q.Count == 0 {
					fmt.Fprintln(w, "No pending outbound queue entries.")
					return
				}
				fmt.Fprintf(w, "ID\tFROM\tTO\tTRIES\tNEXT_ATTEMPT\tLAST_ERROR  (%d entries)\n", q.Count)
				for _, e := range q.Entries {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", e.ID, e.From, strings.Join(e.Recipients, ","), e.Tries, at(e.Next), lastError(e))
				}
			})
		}}
	c.Flags().StringVar(&f.Domain, "domain", "", "only to this domain")
	c.Flags().IntVar(&f.Limit, "limit", 0, "at most so many")
	return c
}

func (s *shell) showEntry(command string, e ops.QueueEntry) error {
	return s.result(command, "", e, func(w io.Writer) {
		fmt.Fprintf(w, "ID:\t%s\nFrom:\t%s\nTo:\t%s\nTries:\t%d\nQueued:\t%s\nLast try:\t%s\nNext try:\t%s\nGiven up:\t%s\nSize:\t%d\nFile:\t%s\nLast error:\t%s\n",
			e.ID, e.From, strings.Join(e.Recipients, ", "), e.Tries, at(e.Queued), at(e.Last), at(e.Next), at(e.Expires), e.Bytes, e.Path, lastError(e))
	})
}

func (s *shell) queueShow() *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Show an entry", Args: cobra.ExactArgs(1), Example: "  madmail queue show 0b9d4c1e-6a70-4c0e-9a55-8e2f6d1c7b33",
		RunE: func(_ *cobra.Command, args []string) error {
			var e ops.QueueEntry
			if err := s.call("queue.show", ops.QueueID{ID: args[0]}, &e); err != nil {
				return err
			}
			return s.showEntry("queue show", e)
		}}
}

func (s *shell) queueRemove() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "remove ID", Aliases: []string{"delete"}, Short: "Remove an entry; its sender is not told", Args: cobra.ExactArgs(1),
		Example: "  madmail queue remove 0b9d4c1e-6a70-4c0e-9a55-8e2f6d1c7b33 --yes",
		RunE: func(_ *cobra.Command, args []string) error {
			if !s.confirm("Remove "+args[0]+" from the queue?", yes) {
				return s.aborted("queue remove")
			}
			var e ops.QueueEntry
			if err := s.call("queue.remove", ops.QueueID{ID: args[0]}, &e); err != nil {
				return err
			}
			m := "Removed " + e.ID + "."
			return s.result("queue remove", m, e, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (s *shell) queuePurge() *cobra.Command {
	var yes, bySender, byRecipient bool
	c := &cobra.Command{Use: "purge [USER]", Aliases: []string{"clear"}, Short: "Remove all entries, or those of a user; senders are not told", Args: cobra.MaximumNArgs(1),
		Example: "  madmail queue purge --yes\n  madmail queue purge spammer@example.org",
		RunE: func(_ *cobra.Command, args []string) error {
			var f ops.QueueFilter
			question := "Remove everything from the queue?"
			if len(args) == 1 {
				if f.Sender = args[0]; byRecipient && !bySender {
					f.Sender, f.Recipient = "", args[0]
				}
				question = "Remove the messages of " + args[0] + " from the queue?"
			}
			if !s.confirm(question, yes) {
				return s.aborted("queue purge")
			}
			var r ops.QueuePurged
			if err := s.call("queue.purge", f, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Removed %d entries.", r.Deleted)
			switch {
			case len(args) == 1:
				m = fmt.Sprintf("Purged %d messages for %s from queue.", r.Deleted, args[0])
			case r.Deleted == 0:
				m = "Queue is already empty."
			}
			return s.result("queue purge", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&bySender, "sender", false, "USER is the sender")
	c.Flags().BoolVar(&byRecipient, "recipient", false, "USER is the recipient")
	return c
}

func (s *shell) queueRetry() *cobra.Command {
	var p ops.QueueRetry
	c := &cobra.Command{Use: "retry [ID]", Short: "Try again now: an entry, a domain, or all", Args: cobra.MaximumNArgs(1), Example: "  madmail queue retry --domain peer.example",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				p.ID = args[0]
			}
			var r ops.QueueRetry
			if err := s.call("queue.retry", p, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("%d entries are due now.", r.Due)
			return s.result("queue retry", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().StringVar(&p.Domain, "domain", "", "all to this domain")
	return c
}

func (s *shell) queueWhy() *cobra.Command {
	return &cobra.Command{Use: "why DOMAIN", Short: "Tell why mail to a domain waits", Args: cobra.ExactArgs(1), Example: "  madmail queue why peer.example",
		RunE: func(_ *cobra.Command, args []string) error {
			var y ops.Why
			if err := s.call("queue.why", ops.DomainName{Domain: args[0]}, &y); err != nil {
				return err
			}
			return s.result("queue why", "", y, func(w io.Writer) {
				switch y.Verdict {
				case "refuse":
					fmt.Fprintln(w, "Policy: no mail is exchanged with it (madmail federation list)")
				case "dismiss":
					fmt.Fprintln(w, "Policy: mail to it is accepted and dropped (madmail federation dismiss-list)")
				default:
					fmt.Fprintln(w, "Policy: mail may go there")
				}
				if y.Endpoint != nil {
					fmt.Fprintf(w, "Reached at: %s, by override (madmail endpoint-cache get %s)\n", y.Endpoint.Target, y.Endpoint.Key)
				}
				fmt.Fprintf(w, "Transports: HTTPS %s, HTTP %s, SMTP %s; certificates %s\n", y.Transports.HTTPS, y.Transports.HTTP, y.Transports.SMTP, y.Transports.TLS)
				if y.Trouble != "" {
					fmt.Fprintln(w, "Not reached at present:", y.Trouble)
				}
				if y.Waiting == 0 {
					fmt.Fprintln(w, "Nothing waits for it.")
					return
				}
				fmt.Fprintf(w, "Waiting: %d, next try %s\n", y.Waiting, y.Next)
				if y.Error != "" {
					fmt.Fprintln(w, "Last error:", y.Error)
				}
			})
		}}
}

func (s *shell) openrelay() *cobra.Command {
	set := func(use, short, value string) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Example: "  madmail openrelay " + use,
			RunE: func(*cobra.Command, []string) error {
				var x ops.Setting
				if err := s.call("settings.set", ops.SettingName{Name: openRelayKey, Value: value}, &x); err != nil {
					return err
				}
				m := "Open relay is now " + map[string]string{"true": "allowed: strangers can send to anybody through this server.", "false": "off."}[value]
				return s.result("openrelay "+use, m, map[string]any{"allowed": value == "true", "reload_required": false}, func(w io.Writer) { fmt.Fprintln(w, m) })
			}}
	}
	status := &cobra.Command{Use: "status", Short: "Tell whether strangers can send to other domains through us", Args: cobra.NoArgs, Example: "  madmail openrelay status",
		RunE: func(*cobra.Command, []string) error {
			var x ops.Setting
			if err := s.call("settings.get", ops.SettingName{Name: openRelayKey}, &x); err != nil {
				return err
			}
			allowed := x.Value == "true"
			var stored any
			if x.IsSet {
				stored = x.Stored == "true"
			}
			return s.result("openrelay status", "", map[string]any{"allowed": allowed, "file_default": fileValue(x), "db_override": stored, "reload_required": false}, func(w io.Writer) {
				word := map[bool]string{true: "allowed", false: "off"}
				override := "none"
				if x.IsSet {
					override = word[x.Stored == "true"]
				}
				fmt.Fprintf(w, "Open relay: %s\nFile or default: %s\nStored override: %s\n", word[allowed], word[fileValue(x)], override)
				if allowed {
					fmt.Fprintln(w, "Spammers find such servers within days: madmail openrelay disable")
				} else {
					fmt.Fprintln(w, "Users who log in can send to other domains in any case.")
				}
			})
		}}
	return s.group("openrelay", "Let strangers send to other domains through this server, or not", "  madmail openrelay status",
		status, set("enable", "Let anybody send to anybody through this server", "true"), set("disable", "Take mail from strangers for our own users only", "false"))
}

// fileValue is what would count without a stored value.
func fileValue(x ops.Setting) bool { return x.Unstored == "true" }

const openRelayKey = "__ALLOW_INBOUND_REMOTE_RCPT__"
