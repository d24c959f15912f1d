package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/certs"
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
	return s.group("certificate", "Manage the TLS certificate", "  madmail certificate status\n  madmail certificate self-signed", status, selfSigned, dev)
}
