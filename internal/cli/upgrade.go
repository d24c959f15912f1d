package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/setup"
	"madmail/internal/version"
)

// tree is the versions of this machine, or of an image below root.
func tree(root string) (setup.Tree, error) {
	m := setup.Machine(root)
	name := config.BinaryName()
	t := setup.Tree{System: m, Name: name, Dir: "/opt/" + name, Link: "/usr/local/bin/" + name}
	for _, key := range []string{"MADMAIL_INSTALL_ROOT", "MADMAIL_OPT_ROOT"} {
		if dir := os.Getenv(key); dir != "" {
			t.Dir = dir
			break
		}
	}
	if version.ReleaseKey != "" {
		key, err := base64.StdEncoding.DecodeString(version.ReleaseKey)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return t, fault.New(fault.Internal, "this program was built with a key of releases that is none")
		}
		t.Key = key
	}
	l := setup.Layout{Name: name}.Fill()
	if _, err := os.Stat(l.Unit()); err == nil && m.Manager && os.Getenv("MADMAIL_VERSION_MANAGER_NO_SERVICE") != "1" {
		t.Service = func(ctx context.Context, word string) error {
			if word == "start" {
				// Several starts in a few seconds are no reason to refuse one. It fails for
				// a unit that nothing is known of; then there is nothing to reset.
				_, _ = m.Run(ctx, "systemctl", "reset-failed", l.Service)
			}
			_, err := m.Run(ctx, "systemctl", word, l.Service)
			return err
		}
	}
	return t, nil
}

// switched prints what is used now.
func (s *shell) switched(command string, r setup.Switched) error {
	m := "Version " + r.Version + " is in use."
	if r.Previous == r.Version {
		m = "Version " + r.Version + " was in use already."
	}
	return s.result(command, m, r, func(w io.Writer) {
		fmt.Fprintln(w, m)
		if !r.SignatureOK {
			fmt.Fprintln(s.err, "Note: nobody vouches for it: it has no signature of a release.")
		}
	})
}

func (s *shell) upgrade() *cobra.Command {
	var root string
	var unsafe, unsigned bool
	c := &cobra.Command{Use: "upgrade PATH|URL", Aliases: []string{"update"}, Short: "Let another version of the program run, and go back when it does not start", Args: cobra.ExactArgs(1),
		Example: "  madmail upgrade https://example.org/madmail-linux-amd64.tar.gz\n  madmail upgrade ./madmail --unsigned",
		RunE: func(_ *cobra.Command, a []string) error {
			if a[0] == "latest" {
				return fault.WithHint(fault.New(fault.Refused, "this program does not know where releases are"), "give the path or the URL of one")
			}
			if err := mayChange(root); err != nil {
				return err
			}
			t, err := tree(root)
			if err != nil {
				return err
			}
			ctx := context.Background()
			data, source, err := setup.Fetch(ctx, a[0], unsafe)
			if err != nil {
				return err
			}
			v, err := t.Add(ctx, data, source, a[0], unsigned)
			if err != nil {
				return err
			}
			r, err := t.Use(ctx, v.Version)
			if err != nil {
				return err
			}
			return s.switched("upgrade", r)
		}}
	c.Flags().BoolVar(&unsafe, "accept-unsafe-https", false, "take any certificate, and http; the signature still counts")
	c.Flags().BoolVar(&unsigned, "unsigned", false, "take a program without a signature of a release, such as your own build")
	c.Flags().StringVar(&root, "root", "", "do it below this `directory`, for an image of a machine")
	return c
}

func (s *shell) versions() *cobra.Command {
	var root string
	var yes bool
	var keep int
	with := func(f func(t setup.Tree, a []string) error) func(*cobra.Command, []string) error {
		return func(_ *cobra.Command, a []string) error {
			t, err := tree(root)
			if err != nil {
				return err
			}
			return f(t, a)
		}
	}
	current := func(t setup.Tree) (string, error) {
		if id := t.Current(); id != "" {
			return id, nil
		}
		return "", fault.WithHint(fault.New(fault.NotFound, "no version is kept here"), "madmail upgrade PATH keeps one")
	}
	list := &cobra.Command{Use: "list", Short: "List the versions that are kept here", Args: cobra.NoArgs, Example: "  madmail versions list",
		RunE: with(func(t setup.Tree, _ []string) error {
			all, err := t.List()
			if err != nil {
				return err
			}
			return s.result("versions list", "", map[string]any{"install_root": t.Dir, "versions": all, "current": t.Current()}, func(w io.Writer) {
				if len(all) == 0 {
					fmt.Fprintln(w, "No versions are kept here.")
				}
				for _, v := range all {
					mark, at := " ", ""
					if v.Active {
						mark = "*"
					}
					if v.Meta != nil {
						at = v.Meta.InstalledAt
					}
					fmt.Fprintf(w, "%s %s\t%s\n", mark, v.Version, at)
				}
			})
		})}
	now := &cobra.Command{Use: "current", Short: "Print the version in use", Args: cobra.NoArgs, Example: "  madmail versions current",
		RunE: with(func(t setup.Tree, _ []string) error {
			id, err := current(t)
			if err != nil {
				return err
			}
			return s.result("versions current", "", map[string]string{"current": id}, func(w io.Writer) { fmt.Fprintln(w, id) })
		})}
	use := &cobra.Command{Use: "use VERSION", Short: "Let a version that is kept run, and go back when it does not start", Args: cobra.ExactArgs(1), Example: "  madmail versions use 1.2.3",
		RunE: with(func(t setup.Tree, a []string) error {
			if err := mayChange(root); err != nil {
				return err
			}
			r, err := t.Use(context.Background(), a[0])
			if err != nil {
				return err
			}
			return s.switched("versions use", r)
		})}
	prune := &cobra.Command{Use: "prune", Short: "Forget old versions; the one in use stays", Args: cobra.NoArgs, Example: "  madmail versions prune --keep 3 --yes",
		RunE: with(func(t setup.Tree, _ []string) error {
			if keep < 0 {
				return usageError{errors.New("--keep is not negative")}
			}
			if !s.confirm(fmt.Sprintf("Forget all but the %d newest versions?", keep), yes) {
				return s.aborted("versions prune")
			}
			removed, err := t.Prune(keep)
			if err != nil {
				return err
			}
			return s.result("versions prune", "", map[string]any{"removed": removed, "keep": keep}, func(w io.Writer) { fmt.Fprintf(w, "Forgot %d version(s).\n", len(removed)) })
		})}
	prune.Flags().IntVar(&keep, "keep", 5, "keep so many `versions`")
	prune.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	remove := &cobra.Command{Use: "remove VERSION", Short: "Forget a version that is not in use", Args: cobra.ExactArgs(1), Example: "  madmail versions remove 1.2.3 --yes",
		RunE: with(func(t setup.Tree, a []string) error {
			if !s.confirm("Forget version "+a[0]+"?", yes) {
				return s.aborted("versions remove")
			}
			if err := t.Remove(a[0]); err != nil {
				return err
			}
			m := "Forgot version " + a[0]
			return s.result("versions remove", m, map[string]string{"version": a[0]}, func(w io.Writer) { fmt.Fprintln(w, m) })
		})}
	remove.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	path := &cobra.Command{Use: "path [VERSION]", Short: "Print where a version is; without one that in use", Args: cobra.MaximumNArgs(1), Example: "  madmail versions path",
		RunE: with(func(t setup.Tree, a []string) error {
			var id string
			var err error
			if len(a) > 0 {
				id = a[0]
			} else if id, err = current(t); err != nil {
				return err
			}
			all, err := t.List()
			if err != nil {
				return err
			}
			for _, v := range all {
				if v.Version == id {
					return s.result("versions path", "", map[string]string{"version": id, "path": v.Path, "binary": v.Binary}, func(w io.Writer) { fmt.Fprintln(w, v.Binary) })
				}
			}
			return fault.WithHint(fault.Newf(fault.NotFound, "version %s is not here", id), "madmail versions list")
		})}
	c := s.group("versions", "See and switch the versions of the program that are kept here", "  madmail versions list\n  madmail versions use 1.2.3", list, now, use, prune, remove, path)
	for _, x := range c.Commands() {
		x.Flags().StringVar(&root, "root", "", "look below this `directory`, for an image of a machine")
	}
	return c
}
