package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/control"
	"madmail/internal/ops"
)

func (s *shell) certificate() *cobra.Command {
	var force bool
	status := &cobra.Command{Use: "status", Short: "Show the certificate and how long it is good", Args: cobra.NoArgs, Example: "  madmail certificate status --json",
		RunE: func(*cobra.Command, []string) error {
			var c ops.Certificate
			if err := s.call("certificate.status", nil, &c); err != nil {
				return err
			}
			return s.result("certificate status", "", c, func(w io.Writer) {
				fmt.Fprintf(w, "TLS mode: %s\nCertificate: %s\nStatus: %s\n", c.Mode, c.CertPath, c.Status)
				if c.Trouble != "" {
					fmt.Fprintln(w, "Trouble:", c.Trouble)
				}
				if c.NotAfter != nil {
					fmt.Fprintf(w, "Type: %s\nSubject: %s\nIssuer: %s\nNames: %s\nNot before: %s\nNot after: %s (%d days)\n",
						c.Type, c.Subject, c.Issuer, strings.Join(c.SANs, ", "), *c.NotBefore, *c.NotAfter, *c.DaysRemaining)
				}
			})
		}}
	selfSigned := &cobra.Command{Use: "self-signed", Short: "Make a self-signed pair for this server, keeping one that is good", Args: cobra.NoArgs, Example: "  madmail certificate self-signed --force",
		RunE: func(*cobra.Command, []string) error {
			var r ops.CertificateMade
			if err := s.call("certificate.self-signed", map[string]bool{"Force": force}, &r); err != nil {
				return err
			}
			m := map[string]string{"issued": "Made a certificate for " + r.Domain, "skipped": "The certificate is good; --force makes another one."}[r.Action]
			return s.result("certificate self-signed", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	selfSigned.Flags().BoolVar(&force, "force", false, "also when there is a good one; clients that learnt that have to join again")
	dev := &cobra.Command{Use: "dev", Args: cobra.NoArgs, Short: "Make a self-signed pair for this machine, keeping one that is there",
		Example: "  madmail certificate dev --state-dir data",
		RunE: func(*cobra.Command, []string) error {
			dir := s.stateDir
			if dir == "" {
				dir = "data"
			}
			cert, key := certs.DefaultPaths(dir)
			_, err := certs.Open(certs.Options{Cert: cert, Key: key, Make: true, Names: []string{"127.0.0.1", "localhost"}})
			if err != nil {
				return err
			}
			return s.result("certificate dev", "", map[string]string{"cert_path": cert, "key_path": key}, func(w io.Writer) { fmt.Fprintln(w, cert) })
		}}
	get, again := s.certificateGet("get"), s.certificateGet("regenerate")
	again.Short, again.Example = "Order a certificate from an authority, also when there is a good one", "  madmail certificate regenerate"
	return s.group("certificate", "Manage the TLS certificate", "  madmail certificate status\n  madmail certificate autocert enable --email you@example.org\n  madmail certificate get",
		status, get, again, s.autocert(), s.certificateACME(), selfSigned, dev)
}

// orderFlags are the flags of every command that orders.
func orderFlags(c *cobra.Command, o *ops.CertificateOrder) {
	f := c.Flags()
	f.StringVar(&o.Email, "email", "", "`address` where the authority reaches you")
	f.StringVar(&o.HTTPListen, "http-listen", "", "`host:port` where challenges are answered when the server does not listen at port 80 (:80)")
	f.BoolVar(&o.Staging, "staging", false, "ask for a certificate for tests only, that nobody trusts")
	f.BoolVar(&o.Force, "force", false, "also when there is a good one; authorities count")
}

// obtain orders a certificate and shows what came of it.
func (s *shell) obtain(command string, o ops.CertificateOrder) error {
	var r ops.CertificateMade
	if err := s.call("certificate.get", o, &r); err != nil {
		return failure{err}
	}
	m := map[string]string{
		"issued": "There is a certificate for " + strings.Join(r.Names, ", "), "renewed": "There is a new certificate for " + strings.Join(r.Names, ", "),
		"skipped": "The certificate is good; --force orders another one.",
	}[r.Action]
	return s.result(command, m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
}

func (s *shell) certificateGet(word string) *cobra.Command {
	var o ops.CertificateOrder
	c := &cobra.Command{Use: word, Short: "Order a certificate from an authority, unless there is a good one", Args: cobra.NoArgs,
		Example: "  madmail certificate get\n  madmail certificate get --staging   try it out",
		RunE: func(*cobra.Command, []string) error {
			o.Force = o.Force || word == "regenerate"
			return s.obtain("certificate "+word, o)
		}}
	orderFlags(c, &o)
	c.Flags().StringVar(&o.Domain, "domain", "", "this `name` instead of those of the configuration, once; acme_names adds one for good")
	return c
}

// enableAutocert writes into the configuration that certificates are ordered, lets the
// server know, and orders one. The file is the operator's: the server may not write it.
func (s *shell) enableAutocert(command string, o ops.CertificateOrder, obtain bool) error {
	path, conf, dir := s.find()
	lines := []config.Line{{Key: "tls_mode", Value: "autocert"}, {Key: "tls_cert"}, {Key: "tls_key"}, {Key: "tls"}}
	for _, l := range []config.Line{{Key: "acme_email", Value: o.Email}, {Key: "acme_http_listen", Value: o.HTTPListen}} {
		if l.Value != "" {
			lines = append(lines, l)
		}
	}
	switch {
	case o.Staging:
		lines = append(lines, config.Line{Key: "acme_directory", Value: "staging"})
	case conf.ACMEDirectory == "staging": // an authority of one's own stays
		lines = append(lines, config.Line{Key: "acme_directory"})
	}
	if err := config.Edit(path, lines...); err != nil {
		return err
	}
	if r, err := s.reloadBy("", "full", false); err == nil {
		for _, l := range r.Restart {
			fmt.Fprintln(s.err, l)
		}
	} else if control.Answers(context.Background(), conf.FindRuntimeDir(dir)) {
		return failure{err}
	}
	if obtain {
		return s.obtain(command, o)
	}
	m := "Certificates are ordered by the server: " + path
	return s.result(command, m, map[string]any{"enabled": true, "config_path": path}, func(w io.Writer) { fmt.Fprintln(w, m) })
}

func (s *shell) certificateACME() *cobra.Command {
	var o ops.CertificateOrder
	c := &cobra.Command{Use: "acme", Short: "Let the server order certificates from now on, and order one", Args: cobra.NoArgs,
		Example: "  madmail certificate acme --email you@example.org",
		RunE:    func(*cobra.Command, []string) error { return s.enableAutocert("certificate acme", o, true) }}
	orderFlags(c, &o)
	return c
}

func (s *shell) autocert() *cobra.Command {
	var o ops.CertificateOrder
	var obtain bool
	enable := &cobra.Command{Use: "enable", Short: "Write into the configuration that the server orders certificates, and order one", Args: cobra.NoArgs,
		Example: "  madmail certificate autocert enable --email you@example.org\n  madmail certificate autocert enable --staging --obtain=false",
		RunE: func(*cobra.Command, []string) error {
			return s.enableAutocert("certificate autocert enable", o, obtain)
		}}
	orderFlags(enable, &o)
	enable.Flags().BoolVar(&obtain, "obtain", true, "order one now; the server does it within ten minutes otherwise")
	status := &cobra.Command{Use: "status", Short: "Show how the orders go and when the next one is due", Args: cobra.NoArgs, Example: "  madmail certificate autocert status --json",
		RunE: func(*cobra.Command, []string) error {
			var a ops.Autocert
			if err := s.call("certificate.autocert", nil, &a); err != nil {
				return err
			}
			return s.result("certificate autocert status", "", a, func(w io.Writer) {
				fmt.Fprintf(w, "Enabled: %s (tls_mode %s)\nDomain: %s\nAuthority: %s\nContact: %s\n", map[bool]string{true: "yes", false: "no"}[a.Enabled], a.Mode, a.Domain, a.Authority, a.Email)
				if a.NotAfter != nil {
					fmt.Fprintf(w, "Issuer: %s\nNot after: %s (%d days; renewed when less than %d are left)\n", a.Issuer, *a.NotAfter, *a.DaysRemaining, a.RenewWithinDays)
				}
				if a.Failures > 0 && a.NextTry != nil {
					fmt.Fprintf(w, "Failures: %d; next try %s\nLast error: %s\n", a.Failures, *a.NextTry, a.Error)
				}
			})
		}}
	return s.group("autocert", "Let the server order its certificates", "  madmail certificate autocert status", enable, status)
}
