package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"madmail/internal/config"
	"madmail/internal/control"
	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/website"
)

// The commands of an operator's own site. They work on files, as whoever may write these,
// and tell a server that runs.

func (s *shell) htmlExport() *cobra.Command {
	var force bool
	c := &cobra.Command{Use: "html-export DEST", Short: "Write the built-in pages to a directory, to change them there", Args: cobra.ExactArgs(1),
		Example: "  madmail html-export /srv/www\n  madmail html-serve /srv/www      then these are shown",
		RunE: func(_ *cobra.Command, a []string) error {
			dest, err := filepath.Abs(a[0])
			if err != nil {
				return err
			}
			files, err := website.Export(dest, force)
			if err != nil {
				return err
			}
			m := fmt.Sprintf("Wrote %d files to %s", len(files), dest)
			return s.result("html-export", m, map[string]any{"dest": dest, "files": files}, func(w io.Writer) {
				fmt.Fprintln(w, m)
				for _, f := range files {
					fmt.Fprintln(w, "  "+f)
				}
			})
		}}
	c.Flags().BoolVar(&force, "force", false, "overwrite files that were changed")
	return c
}

// served is what html-serve tells.
type served struct {
	WWWDir   string   `json:"www_dir"` // "" for the built-in pages
	Strict   bool     `json:"strict"`
	Config   string   `json:"config"`
	Changed  bool     `json:"changed"`
	Applied  string   `json:"applied"`
	Problems []string `json:"problems"` // pages that cannot be shown, or not as they are meant
}

func (s *shell) htmlServe() *cobra.Command {
	var strict bool
	c := &cobra.Command{Use: "html-serve DIR|embedded", Short: "Show the pages of a directory, or the built-in ones", Args: cobra.ExactArgs(1),
		Example: "  madmail html-serve /srv/www\n  madmail html-serve /srv/www --strict   nothing that is not there\n  madmail html-serve embedded            the built-in pages again",
		RunE: func(_ *cobra.Command, a []string) error {
			dir, err := siteDir(a[0])
			if err != nil {
				return err
			}
			if dir == "" && strict {
				return usageError{errors.New("--strict is about a directory")}
			}
			if _, _, state := s.find(); dir != "" && config.Holds(dir, state) {
				return fault.Newf(fault.Invalid, "%s holds the state directory %s, with mail and keys", dir, state)
			}
			r := served{WWWDir: dir, Strict: strict, Config: config.FindFile(s.config, os.Getenv), Problems: []string{}}
			if dir != "" {
				list, err := website.Check(website.Own{Dir: dir, Strict: strict})
				if err != nil {
					return fault.Wrap(fault.Invalid, err, "html-serve")
				}
				for _, t := range list {
					r.Problems = append(r.Problems, t.String())
				}
			}
			if r.Changed, err = config.ServeSite(r.Config, dir, strict); err != nil {
				return err
			}
			if r.Applied, err = s.applied(); err != nil {
				return err
			}
			m := "The built-in pages are shown."
			if dir != "" {
				m = "The pages of " + dir + " are shown."
			}
			return s.result("html-serve", m, r, func(w io.Writer) {
				fmt.Fprintln(w, m)
				fmt.Fprintf(w, "%s says so; %s\n", r.Config, r.Applied)
				for _, p := range r.Problems {
					fmt.Fprintln(s.err, "Warning:", p)
				}
			})
		}}
	c.Flags().BoolVar(&strict, "strict", false, "show nothing that is not in the directory, instead of the built-in file")
	return c
}

// siteDir reads an argument that names a site; "" is the built-in one.
func siteDir(arg string) (string, error) {
	switch arg {
	case "embedded", "embed", "internal":
		return "", nil
	}
	dir, err := filepath.Abs(arg)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", fault.WithHint(fault.Wrap(fault.Invalid, err, "html-serve"), "madmail html-export "+arg+" makes it")
	}
	if !info.IsDir() {
		return "", fault.Newf(fault.Invalid, "%s is no directory", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "index.html")); err != nil {
		return "", fault.WithHint(fault.Newf(fault.Invalid, "%s has no index.html", dir), "madmail html-export "+arg+" writes the built-in pages there")
	}
	return dir, nil
}

// applied lets a server that runs read its configuration again.
func (s *shell) applied() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, conf, dir := s.find()
	raw, err := control.Call(ctx, conf.FindRuntimeDir(dir), "reload", nil)
	if errors.Is(err, control.ErrNoServer) {
		return "no server is running: it counts from the next start", nil
	}
	var r ops.Reloaded
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return "", failure{fault.WithHint(fmt.Errorf("the configuration is changed, and the server could not read it: %w", err), "madmail reload, when that is mended")}
	}
	return "in effect", nil
}

// migration is what html-migrate tells.
type migration struct {
	Config string `json:"config"`
	WWWDir string `json:"www_dir"`
	website.Migration
	Action string `json:"action"`
}

func (s *shell) htmlMigrate() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "html-migrate", Short: "Convert pages of the first version to the form of the second", Args: cobra.NoArgs,
		Long: "Convert pages of the first version to the form of the second, and let pages draw QR codes that they asked /qr for.\n\n" +
			"Both forms are shown, and /qr is served: nothing has to be converted. A page is converted only when it shows the same\n" +
			"afterwards; what it was stays beside it, as NAME" + ".go-template.bak.",
		Example: "  madmail html-migrate          tells what it found, and asks\n  madmail html-migrate -y --json",
		RunE: func(*cobra.Command, []string) error {
			path := config.FindFile(s.config, os.Getenv)
			conf, err := config.Load(path)
			if err != nil {
				return err
			}
			r := migration{Config: path, WWWDir: conf.WWWDir, Action: "noop_embedded"}
			if conf.WWWDir == "" {
				r.Migration = website.NoMigration()
				return s.migrated(r)
			}
			if r.Migration, err = website.Migrate(conf.WWWDir, false); err != nil {
				return err
			}
			r.Action = "noop_already_migrated"
			if r.Pending > 0 {
				switch {
				case !yes && !s.asks():
					r.Action = "skipped_noninteractive"
				case !s.confirm(fmt.Sprintf("Convert %d file(s) of %s?", r.Pending, conf.WWWDir), yes):
					r.Action = "declined"
				default:
					if r.Migration, err = website.Migrate(conf.WWWDir, true); err != nil {
						return err
					}
					r.Action = "migrated"
				}
			}
			return s.migrated(r)
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// asks reports whether there is somebody to ask.
func (s *shell) asks() bool {
	f, ok := s.in.(*os.File)
	return !s.json && (!ok || term.IsTerminal(int(f.Fd())))
}

func (s *shell) migrated(r migration) error {
	m := map[string]string{
		"noop_embedded": "The built-in pages are shown: there is nothing to convert.", "noop_already_migrated": "There is nothing to convert.",
		"skipped_noninteractive": "Nothing was converted: there is nobody to ask. Use -y.", "declined": "Nothing was converted.",
		"migrated": fmt.Sprintf("Converted %d file(s).", len(r.Backups)),
	}[r.Action]
	return s.result("html-migrate", m, r, func(w io.Writer) {
		if r.WWWDir != "" {
			fmt.Fprintf(w, "%s: %d file(s) looked at\n", r.WWWDir, r.Scanned)
		}
		for _, l := range []struct {
			what  string
			files []string
		}{
			{"in the form of the first version", without(r.GoStyle, r.Migrated)}, {"converted", r.Migrated}, {"asks for /qr, which is served", without(r.QR, r.QRDrawn)},
			{"draws its QR codes now", r.QRDrawn}, {"braces that are no templates", r.Literal}, {"as it was", r.Backups}, {"left as it is", r.Errors},
		} {
			for _, f := range l.files {
				fmt.Fprintf(w, "  %s: %s\n", l.what, f)
			}
		}
		fmt.Fprintln(w, m)
	})
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}
