package ops

import (
	"context"
	"sync"

	"madmail/internal/backup"
	"madmail/internal/fault"
)

// Backup asks for a copy of the state in a directory that does not exist yet.
type Backup struct {
	Dest string `json:"dest"`
}

// BackedUp is a copy that was made.
type BackedUp struct {
	Dest   string `json:"dest"`
	Files  int64  `json:"files"`
	Linked int64  `json:"linked"` // of them: they take no space while the original is there
	Bytes  int64  `json:"bytes"`
	Began  string `json:"began"`
	Ended  string `json:"ended,omitempty"`
	// Running says that it is not finished.
	Running bool `json:"running"`
}

// backups remembers the copy that is being made.
type backups struct {
	mu   sync.Mutex // guards the fields below
	dest string     // "" when there is none
	p    *backup.Progress
}

func (d *Desk) backup(ctx context.Context, p Backup) (BackedUp, error) {
	if p.Dest == "" {
		return BackedUp{}, fault.New(fault.Invalid, "name the directory that the backup is to be")
	}
	d.backups.mu.Lock()
	if d.backups.dest != "" {
		d.backups.mu.Unlock()
		return BackedUp{}, fault.New(fault.Busy, "a backup is being made already")
	}
	progress := &backup.Progress{}
	d.backups.dest, d.backups.p = p.Dest, progress
	d.backups.mu.Unlock()
	defer func() {
		d.backups.mu.Lock()
		defer d.backups.mu.Unlock()
		d.backups.dest = ""
	}()
	m, err := d.Backup(ctx, p.Dest, progress)
	if err != nil {
		return BackedUp{}, err
	}
	return BackedUp{Dest: p.Dest, Files: m.Files, Linked: progress.Linked.Load(), Bytes: m.Bytes, Began: m.Began, Ended: m.Ended}, nil
}

func (d *Desk) backupStatus(context.Context, none) (BackedUp, error) {
	d.backups.mu.Lock()
	defer d.backups.mu.Unlock()
	if d.backups.dest == "" {
		return BackedUp{}, nil
	}
	p := d.backups.p
	return BackedUp{Dest: d.backups.dest, Files: p.Files.Load(), Linked: p.Linked.Load(), Bytes: p.Bytes.Load(), Running: true}, nil
}
