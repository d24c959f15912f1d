package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/setup"
	"madmail/internal/units"
)

// tree is the versions of this machine, or of an image below root, and where releases
// are.
func (s *shell) tree(root string) (setup.Tree, setup.Releases, error) {
	_, conf, _ := s.find()
	from, err := setup.WhereReleases(conf.ReleaseURL, conf.ReleaseKey, os.Getenv)
	if err != nil {
		return setup.Tree{}, from, err
	}
	return setup.Versions(root, config.BinaryName(), from.Key, os.Getenv), from, nil
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
	c := &cobra.Command{Use: "upgrade PATH|URL|latest", Aliases: []string{"update"}, Short: "Let another version of the program run, and go back when it does not start", Args: cobra.ExactArgs(1),
		Example: "  madmail upgrade latest\n  madmail upgrade https://example.org/madmail-linux-amd64.tar.gz\n  madmail upgrade ./madmail --unsigned",
		RunE: func(_ *cobra.Command, a []string) error {
			t, releases, err := s.tree(root)
			if err != nil {
				return err
			}
			ctx, from := context.Background(), a[0]
			if from == "latest" {
				r, err := releases.Latest(ctx, unsafe)
				if err != nil {
					return err
				}
				s.say("The newest release is %s (%s).", r.Version, r.Asset)
				from = r.URL
			}
			data, source, plain, err := setup.Fetch(ctx, from, unsafe, s.fetching())
			if err != nil {
				return err
			}
			if plain {
				if unsigned {
					return fault.WithHint(fault.New(fault.Refused, "without TLS and without a signature it can be anybody's program"), "use https, or a release that is signed")
				}
				s.say("Warning: it came without TLS. Its signature counts.")
			}
			p, err := t.Check(data, unsigned)
			if err != nil {
				return err
			}
			if p.Archived {
				s.say("Extracting %s binary from archive", t.Name)
			}
			if p.Signed {
				s.say("Signature verification successful")
			}
			if root == "" { // an image may be of another machine
				if err := t.Try(ctx, p); err != nil {
					return err
				}
			}
			if err := mayChange(root); err != nil {
				return err
			}
			v, err := t.Keep(ctx, p, source, from)
			if err != nil {
				return err
			}
			r, err := t.Use(ctx, v.Version)
			if err != nil {
				return err
			}
			return s.switched("upgrade", r)
		}}
	c.Flags().BoolVar(&unsafe, "accept-unsafe-https", false, "take any certificate; the signature still counts")
	c.Flags().BoolVar(&unsigned, "unsigned", false, "take a program without a signature of a release, such as your own build")
	c.Flags().StringVar(&root, "root", "", "do it below this `directory`, for an image of a machine")
	return c
}

// say tells a person what is done; programs read the result.
func (s *shell) say(format string, args ...any) {
	if !s.json {
		fmt.Fprintf(s.err, format+"\n", args...)
	}
}

// fetching tells how far a download is: at each tenth, or each 4 MiB when nobody knows
// how much it is. Short ones are over before.
func (s *shell) fetching() setup.Progress {
	const part = 4 << 20
	var told int64
	return func(got, total int64) {
		step := max(total/10, part)
		if got/step <= told {
			return
		}
		told = got / step
		if total > 0 {
			s.say("Fetched %s of %s", units.FormatSize(got), units.FormatSize(total))
		} else {
			s.say("Fetched %s", units.FormatSize(got))
		}
	}
}

// versionRow is a version that is kept here, released, or both.
type versionRow struct {
	setup.Version
	Source       string `json:"source"` // local, remote or both
	Installed    bool   `json:"installed"`
	RemoteLatest bool   `json:"remote_latest"`
	PublishedAt  string `json:"published_at,omitempty"`
	Asset        string `json:"asset,omitempty"`
	AssetSize    int64  `json:"asset_size,omitempty"`
}

func (s *shell) versionsList(root string, remote bool) error {
	t, releases, err := s.tree(root)
	if err != nil {
		return err
	}
	all, err := t.List()
	if err != nil {
		return err
	}
	if !remote {
		return s.result("versions list", "", map[string]any{"install_root": t.Dir, "versions": all, "current": t.Current()}, func(w io.Writer) {
			if len(all) == 0 {
				fmt.Fprintln(w, "No versions are kept here.")
			}
			for _, v := range all {
				fmt.Fprintf(w, "%s %s\t%s\n", mark(v), v.Version, installedAt(v))
			}
		})
	}
	offered, err := releases.List(context.Background(), false)
	if err != nil {
		return err
	}
	rows := []versionRow{}
	for i, r := range offered {
		row := versionRow{Version: setup.Version{Version: r.Version}, Source: "remote", RemoteLatest: i == 0, PublishedAt: r.PublishedAt, Asset: r.Asset, AssetSize: r.Size}
		if at := slices.IndexFunc(all, func(v setup.Version) bool { return v.Version == r.Version }); at >= 0 {
			row.Version, row.Source, row.Installed = all[at], "both", true
			all = slices.Delete(all, at, at+1)
		}
		rows = append(rows, row)
	}
	for _, v := range all {
		rows = append(rows, versionRow{Version: v, Source: "local", Installed: true})
	}
	return s.result("versions list", "", map[string]any{"install_root": t.Dir, "versions": rows, "current": t.Current()}, func(w io.Writer) {
		if len(rows) == 0 {
			fmt.Fprintln(w, "No versions are kept here, and none is released for this machine.")
		}
		for _, r := range rows {
			fmt.Fprintf(w, "%s %s\t%s\t%s\n", mark(r.Version), r.Version.Version, r.Source, cmp.Or(r.PublishedAt, installedAt(r.Version)))
		}
	})
}

func mark(v setup.Version) string {
	if v.Active {
		return "*"
	}
	return " "
}

func installedAt(v setup.Version) string {
	if v.Meta == nil {
		return ""
	}
	return v.Meta.InstalledAt
}

func (s *shell) versions() *cobra.Command {
	var root string
	var yes bool
	var keep int
	with := func(f func(t setup.Tree, a []string) error) func(*cobra.Command, []string) error {
		return func(_ *cobra.Command, a []string) error {
			t, _, err := s.tree(root)
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
	var remote bool
	list := &cobra.Command{Use: "list", Short: "List the versions that are kept here, with --remote also the releases", Args: cobra.NoArgs, Example: "  madmail versions list\n  madmail versions list --remote --json",
		RunE: func(*cobra.Command, []string) error { return s.versionsList(root, remote) }}
	list.Flags().BoolVar(&remote, "remote", false, "ask where releases are, too")
	now := &cobra.Command{Use: "current", Short: "Print the version in use", Args: cobra.NoArgs, Example: "  madmail versions current",
		RunE: with(func(t setup.Tree, _ []string) error {
			id := t.Current()
			data := map[string]any{"current": id, "install_root": t.Dir, "version": nil, "path": nil}
			if id != "" {
				data["version"], data["path"] = id, t.Program(id)
			}
			return s.result("versions current", "", data, func(w io.Writer) {
				if id == "" {
					id = "No active version under the install root."
				}
				fmt.Fprintln(w, id)
			})
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
