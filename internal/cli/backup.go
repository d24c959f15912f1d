package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"madmail/internal/backup"
	"madmail/internal/config"
	"madmail/internal/ops"
	"madmail/internal/units"
)

// backupLimit bounds a backup: somebody waits for it.
const backupLimit = 24 * time.Hour

func (s *shell) backup() *cobra.Command {
	return &cobra.Command{Use: "backup DIR", Short: "Copy mail, accounts, queue and keys to a new directory; the server goes on meanwhile", Args: cobra.ExactArgs(1),
		Example: "  madmail backup /mnt/other-disk/madmail-2026-11-24",
		RunE: func(_ *cobra.Command, args []string) error {
			dest, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), backupLimit)
			defer cancel()
			done := make(chan struct{})
			told := make(chan struct{})
			go func() { defer close(told); s.tellProgress(done) }() // ends with done, which is closed below
			raw, err := s.perform(ctx, "backup", ops.Backup{Dest: dest}, nil, 0)
			close(done)
			<-told
			if err != nil {
				return err
			}
			var b ops.BackedUp
			if err := json.Unmarshal(raw, &b); err != nil {
				return err
			}
			m := fmt.Sprintf("%s: %d files, %s, %d of them linked.", b.Dest, b.Files, units.FormatSize(b.Bytes), b.Linked)
			return s.result("backup", m, b, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
}

// tellProgress says now and then how far a backup is.
func (s *shell) tellProgress(done <-chan struct{}) {
	if s.json {
		return
	}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			var b ops.BackedUp
			if s.call("backup.status", nil, &b) == nil && b.Running {
				fmt.Fprintf(s.err, "%d files, %s\n", b.Files, units.FormatSize(b.Bytes))
			}
		}
	}
}

func (s *shell) restore() *cobra.Command {
	return &cobra.Command{Use: "restore DIR", Short: "Put a backup where the state directory is to be; no server may run, and nothing may be there", Args: cobra.ExactArgs(1),
		Example: "  madmail restore /mnt/other-disk/madmail-2026-11-24",
		RunE: func(_ *cobra.Command, args []string) error {
			conf, err := config.Load(config.FindFile(s.config, os.Getenv))
			if err != nil {
				return err
			}
			to, err := filepath.Abs(conf.FindStateDir(s.stateDir, os.Getenv))
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), backupLimit)
			defer cancel()
			p := &backup.Progress{}
			m, err := backup.Restore(ctx, args[0], to, p)
			if err != nil {
				return err
			}
			text := fmt.Sprintf("%s: %d files, %s, as of %s.", to, p.Files.Load(), units.FormatSize(p.Bytes.Load()), m.Began)
			return s.result("restore", text, map[string]any{"state_dir": to, "files": p.Files.Load(), "bytes": p.Bytes.Load(), "began": m.Began}, func(w io.Writer) { fmt.Fprintln(w, text) })
		}}
}
