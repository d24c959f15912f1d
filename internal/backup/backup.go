// Package backup copies a state directory while the server works on it, and puts a
// copy back where none works.
//
// A copy holds every message, account and setting that was acknowledged before it
// began, and perhaps some that came later. Messages are immutable files: on the same
// file system they are linked and cost no space until the original goes. The database
// is copied as of one moment. What is only a cache, a lock or a temporary file stays
// behind. A copy is made under another name and gets its own when it is complete and
// on disk, so that half a copy is never taken for one.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// ManifestName is the file that makes a directory a copy.
const ManifestName = "madmail-backup.json"

// Manifest tells what a copy is.
type Manifest struct {
	Version  int    `json:"version"` // of this form: 1
	Server   string `json:"server"`  // version of the program
	Began    string `json:"began"`   // RFC 3339
	Ended    string `json:"ended"`
	Files    int64  `json:"files"`
	Bytes    int64  `json:"bytes"`
	Database string `json:"database"` // name of its file
}

// Progress counts while a copy is made. It may be read from other goroutines.
type Progress struct{ Files, Bytes, Linked atomic.Int64 }

// Source is a state directory in use.
type Source struct {
	Dir     string
	Version string
	// Settle puts all acknowledged mail into its place.
	Settle func(ctx context.Context) error
	// Still runs f, which lists a directory, while no message is renamed; nil where
	// nobody works.
	Still func(f func())
	// Database is the path of the database; Copy writes a consistent copy of it.
	Database string
	Copy     func(ctx context.Context, path string) error
	// Sharing is the path of the database of contact links, which may not exist, and
	// CopySharing copies it as Copy does the other.
	Sharing     string
	CopySharing func(ctx context.Context, path string) error
	// Queue is the directory of the outbound queue, where it is not below Dir.
	Queue string
	Now   func() time.Time
}

// skipped are names directly below a state directory that are not copied: the journal
// and the spool are in place after Settle, the rest is cache or belongs to a process.
var skipped = []string{"journal", "spool", "mta-sts", "run", "lock", ManifestName}

// temporary reports whether a file is one that a writer has not finished.
func temporary(name string) bool {
	return strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, ".new") || strings.HasPrefix(name, ".trash-")
}

// Create copies the state into dest, which must not exist. When it fails dest does not
// exist either.
//
// Errors: fault.Exists, fault.Invalid for a destination inside the state directory,
// fault.Busy when the disk is full or ctx ends.
func Create(ctx context.Context, s Source, dest string, p *Progress) (m Manifest, err error) {
	if s.Now == nil {
		s.Now = time.Now
	}
	if dest, err = filepath.Abs(dest); err != nil {
		return m, fault.Wrap(fault.Invalid, err, "backup")
	}
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return m, fault.Wrap(fault.Invalid, err, "backup")
	}
	if rel, err := filepath.Rel(dir, dest); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return m, fault.WithHint(fault.New(fault.Invalid, "backup: the copy would lie inside the state directory"), "name a directory elsewhere, best on another disk")
	}
	if _, err := os.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
		return m, fault.WithHint(fault.Newf(fault.Exists, "backup: %s exists", dest), "name one that does not; it is made")
	}
	part := dest + ".partial"
	if err := os.RemoveAll(part); err != nil {
		return m, fault.Wrap(fault.Busy, err, "backup: remove what an earlier try left")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(part))
		}
	}()
	began := s.Now()
	if err := s.Settle(ctx); err != nil {
		return m, err
	}
	if err := os.MkdirAll(part, 0o700); err != nil {
		return m, fault.Wrap(fault.Busy, err, "backup")
	}
	c := copier{ctx: ctx, p: p, still: s.Still}
	// The mail first: what it belongs to is in the database by then.
	if err := c.mail(filepath.Join(dir, "mail"), filepath.Join(part, "mail")); err != nil {
		return m, err
	}
	if s.Queue != "" {
		if err := c.tree(s.Queue, filepath.Join(part, "remote_queue")); err != nil {
			return m, err
		}
	}
	name := filepath.Base(s.Database)
	databases := []string{name}
	if s.Sharing != "" {
		sharing := filepath.Base(s.Sharing)
		databases = append(databases, sharing)
		if err := s.CopySharing(ctx, filepath.Join(part, sharing)); err != nil {
			return m, err
		}
	}
	if err := c.rest(dir, part, databases); err != nil {
		return m, err
	}
	if err := s.Copy(ctx, filepath.Join(part, name)); err != nil {
		return m, err
	}
	m = Manifest{Version: 1, Server: s.Version, Began: began.UTC().Format(time.RFC3339), Ended: s.Now().UTC().Format(time.RFC3339),
		Files: p.Files.Load(), Bytes: p.Bytes.Load(), Database: name}
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, fault.Wrap(fault.Internal, err, "backup")
	}
	if err := safefile.Write(filepath.Join(part, ManifestName), append(raw, '\n'), 0o600); err != nil {
		return m, err
	}
	if err := syncTree(part); err != nil {
		return m, err
	}
	if err := os.Rename(part, dest); err != nil {
		return m, fault.Wrap(fault.Busy, err, "backup")
	}
	return m, syncDir(filepath.Dir(dest))
}

// Read returns the manifest of a copy. The error is of kind fault.Invalid when a
// directory is none.
func Read(dir string) (m Manifest, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	switch {
	case err != nil:
		return m, fault.WithHint(fault.Newf(fault.Invalid, "%s is not a complete backup", dir), "complete ones hold "+ManifestName)
	case m.Version != 1 || m.Database == "" || m.Database != filepath.Base(m.Database):
		return m, fault.Newf(fault.Invalid, "%s was made by a version that is not known here", dir)
	}
	return m, nil
}

// Restore copies a backup to where a state directory is to be. to must not exist, or be
// empty; no server may work there. When it fails to is as before.
func Restore(ctx context.Context, from, to string, p *Progress) (m Manifest, err error) {
	if m, err = Read(from); err != nil {
		return m, err
	}
	entries, err := os.ReadDir(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, fault.Wrap(fault.Invalid, err, "restore")
	}
	if len(entries) > 0 {
		return m, fault.WithHint(fault.Newf(fault.Exists, "restore: %s is not empty", to), "move it away first, so that nothing is lost")
	}
	part := strings.TrimRight(to, string(filepath.Separator)) + ".partial"
	if err := os.RemoveAll(part); err != nil {
		return m, fault.Wrap(fault.Busy, err, "restore: remove what an earlier try left")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(part))
		}
	}()
	c := copier{ctx: ctx, p: p, whole: true}
	if err := c.tree(from, part); err != nil {
		return m, err
	}
	if err := os.Remove(filepath.Join(part, ManifestName)); err != nil {
		return m, fault.Wrap(fault.Busy, err, "restore")
	}
	if err := syncTree(part); err != nil {
		return m, err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, fault.Wrap(fault.Busy, err, "restore")
	}
	if err := os.Rename(part, to); err != nil {
		return m, fault.Wrap(fault.Busy, err, "restore")
	}
	return m, syncDir(filepath.Dir(to))
}

// copier copies trees that change meanwhile.
type copier struct {
	ctx   context.Context
	p     *Progress
	whole bool // nothing is linked or left out
	still func(func())
}

// mail copies the tree of mailboxes.
func (c *copier) mail(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Busy, err, "backup: read the mail")
	}
	for _, e := range entries {
		if temporary(e.Name()) {
			continue
		}
		one, copied := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if err := c.entry(one, copied, e); err != nil {
			return err
		}
		if e.IsDir() {
			if err := c.moved(one, copied); err != nil {
				return err
			}
		}
	}
	return nil
}

// moved looks for messages that went from a mailbox not yet copied to one that was,
// while an account was copied: they are in neither copy.
func (c *copier) moved(from, to string) error {
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !e.IsDir() || e.Name() != "Maildir" {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if err := c.messages(path, filepath.Join(to, rel)); err != nil {
			return err
		}
		return filepath.SkipDir
	})
	if err != nil {
		return fault.Wrap(fault.Busy, err, "backup: read the mail again")
	}
	return nil
}

// entry copies a file or a directory.
func (c *copier) entry(from, to string, e fs.DirEntry) error {
	if err := c.ctx.Err(); err != nil {
		return fault.Wrap(fault.Busy, err, "backup")
	}
	switch {
	case e.IsDir() && e.Name() == "Maildir" && !c.whole:
		if err := c.messages(from, to); err != nil {
			return err
		}
		// The index after the messages that it names; what it lacks is found.
		return c.tree(from, to)
	case e.IsDir() && !c.whole && slices.Contains([]string{"cur", "new", "tmp"}, e.Name()):
		return nil // of a mailbox: done
	case e.IsDir():
		return c.tree(from, to)
	case e.Type().IsRegular():
		err := c.file(from, to, false)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		return err
	}
	return nil // sockets and links are not state
}

// tree copies a directory.
func (c *copier) tree(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.MkdirAll(to, info.Mode().Perm()|0o700)
	}
	var entries []fs.DirEntry
	if err == nil {
		entries, err = os.ReadDir(from)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fault.Wrap(fault.Busy, err, "backup")
	}
	for _, e := range entries {
		if temporary(e.Name()) && !c.whole {
			continue
		}
		if err := c.entry(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), e); err != nil {
			return err
		}
	}
	return nil
}

// unique is the part of a message's name that stays when its flags change.
func unique(name string) string {
	base, _, _ := strings.Cut(name, ":")
	return base
}

// list reads both directories of a mailbox as of one moment.
func (c *copier) list(from string) (list [2][]fs.DirEntry, err error) {
	read := func() {
		for i, sub := range subs {
			entries, e := os.ReadDir(filepath.Join(from, sub))
			if list[i] = entries; e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = fault.Wrap(fault.Busy, e, "backup")
			}
		}
	}
	if c.still == nil {
		read()
	} else {
		c.still(read)
	}
	return list, err
}

// subs are the directories of a mailbox that hold messages.
var subs = [2]string{"new", "cur"}

// messages copies the messages of a mailbox. A change of flags renames a file, or
// moves it from new to cur, before we come to it: so all of it is looked at again until
// nothing was missed.
func (c *copier) messages(from, to string) error {
	have := make(map[string]bool)
	for _, sub := range []string{"new", "cur"} { // of an earlier look
		entries, err := os.ReadDir(filepath.Join(to, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Busy, err, "backup")
		}
		for _, e := range entries {
			have[unique(e.Name())] = true
		}
	}
	for range 100 {
		missed := false
		list, err := c.list(from)
		if err != nil {
			return err
		}
		for i, sub := range subs {
			if err := os.MkdirAll(filepath.Join(to, sub), 0o700); err != nil {
				return fault.Wrap(fault.Busy, err, "backup")
			}
			for _, e := range list[i] {
				if !e.Type().IsRegular() || temporary(e.Name()) || have[unique(e.Name())] {
					continue
				}
				if err := c.ctx.Err(); err != nil {
					return fault.Wrap(fault.Busy, err, "backup")
				}
				err := c.file(filepath.Join(from, sub, e.Name()), filepath.Join(to, sub, e.Name()), true)
				switch {
				case errors.Is(err, fs.ErrNotExist):
					missed = true // renamed, or gone
				case err != nil:
					return err
				default:
					have[unique(e.Name())] = true
				}
			}
		}
		if !missed {
			return nil
		}
	}
	return fault.New(fault.Busy, "backup: a mailbox changes too fast to be copied")
}

// file copies a file, or links it where it never changes.
func (c *copier) file(from, to string, immutable bool) error {
	if immutable && !c.whole && os.Link(from, to) == nil {
		info, err := os.Stat(to)
		if err != nil {
			return fault.Wrap(fault.Busy, err, "backup")
		}
		c.p.Files.Add(1)
		c.p.Linked.Add(1)
		c.p.Bytes.Add(info.Size())
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fault.Wrap(fault.Busy, err, "backup")
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return fault.Wrap(fault.Busy, err, "backup")
	}
	n, err := io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chtimes(to, info.ModTime(), info.ModTime())
	}
	if err != nil {
		return fault.WithHint(fault.Wrap(fault.Busy, err, "backup"), "is the disk full?")
	}
	c.p.Files.Add(1)
	c.p.Bytes.Add(n)
	return nil
}

// rest copies what else lies in a state directory.
func (c *copier) rest(dir, part string, databases []string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Wrap(fault.Busy, err, "backup")
	}
	for _, e := range entries {
		name := e.Name()
		if name == "mail" || slices.Contains(skipped, name) || temporary(name) || slices.ContainsFunc(databases, func(d string) bool { return strings.HasPrefix(name, d) }) ||
			strings.HasSuffix(name, ".pid") || strings.HasSuffix(name, ".lock") || strings.HasSuffix(name, ".sock") {
			continue
		}
		if _, err := os.Lstat(filepath.Join(part, name)); err == nil {
			continue // copied already
		}
		if err := c.entry(filepath.Join(dir, name), filepath.Join(part, name), e); err != nil {
			return err
		}
	}
	return nil
}
