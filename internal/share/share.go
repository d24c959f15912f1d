// Package share keeps contact links: short names, slugs, under which the site shows how
// to reach somebody on Delta Chat.
//
// The links are in a database of their own, sharing.db, table contacts, so that the files
// of both predecessors can be taken as they are. It is opened when something is first
// asked of it, and made when something is first kept. An invite holds an address: errors
// and logs repeat neither invites nor names.
//
// All methods may be called from many goroutines.
package share

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

//go:embed migrations/*.sql
var files embed.FS

// FileName is the database in the state directory.
const FileName = "sharing.db"

// maxLinks bounds the table: what visitors make stays until somebody removes it.
const maxLinks = 100_000

// Link is a slug and what it shows. URL is an invite in its stored form.
type Link struct {
	Slug, URL, Name string
	Created         time.Time
}

// Reserved reports whether the slug is only kept from others, and shows nothing.
func (l Link) Reserved() bool { return !strings.HasPrefix(l.URL, Scheme) }

// Options say what a Store needs. Path is needed.
type Options struct {
	Path string // of the database
	// Taken tells that a name belongs to something else; nil is nothing.
	Taken func(slug string) bool
	Log   *slog.Logger
	Now   func() time.Time

	random func() string // for tests
	max    int           // likewise
}

// Store is the links. Make one with New, and Close it.
type Store struct {
	o Options

	mu     sync.Mutex // guards the fields below
	db     *db.DB     // nil until it is needed
	closed bool
}

// New returns a store that has not opened its database.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.random == nil {
		o.random = randomSlug
	}
	if o.max == 0 {
		o.max = maxLinks
	}
	return &Store{o: o}
}

func (s *Store) taken(slug string) bool { return s.o.Taken != nil && s.o.Taken(slug) }

// alphabet has no letters that are taken for digits or for each other.
const alphabet = "abcdefghijkmnpqrstuvwxyz23456789"

func randomSlug() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails: crypto/rand
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)] // 32 of them, so each is as likely
	}
	return string(b)
}

// Path is where the database is, or would be.
func (s *Store) Path() string { return s.o.Path }

// Open opens the database, and makes it where there is none.
//
// Errors: those of db.Open; fault.Busy when the store is closed.
func (s *Store) Open(ctx context.Context) error {
	_, err := s.open(ctx, true)
	return err
}

// open returns the database; nil when there is none and it is not to be made.
func (s *Store) open(ctx context.Context, create bool) (*db.DB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, fault.New(fault.Busy, "share: closed")
	case s.db != nil:
		return s.db, nil
	}
	if _, err := os.Stat(s.o.Path); errors.Is(err, fs.ErrNotExist) && !create {
		return nil, nil
	}
	own, err := fs.Sub(files, "migrations")
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "share: migrations")
	}
	d, err := db.Open(ctx, db.Options{Path: s.o.Path, Readers: 2, Log: s.o.Log, Now: s.o.Now, Migrations: own})
	if err != nil {
		return nil, fault.Wrap(fault.KindOf(err), err, "share: open")
	}
	if err := fillOwners(ctx, d); err != nil {
		return nil, errors.Join(err, d.Close(ctx))
	}
	s.db = d
	return d, nil
}

// Close closes the database, if it was opened. It may be called twice.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.db == nil {
		return nil
	}
	return s.db.Close(ctx)
}

// fillOwners notes whose the rows are that a predecessor wrote.
func fillOwners(ctx context.Context, d *db.DB) error {
	err := d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		rows, err := tx.Query(ctx, "SELECT slug, url FROM contacts WHERE address IS NULL")
		if err != nil {
			return err
		}
		owners := make(map[string]string)
		for rows.Next() {
			var slug, url string
			if err := rows.Scan(&slug, &url); err != nil {
				return errors.Join(fault.Wrap(fault.Internal, err, "share: read"), rows.Close())
			}
			owners[slug] = ownerOf(url)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return fault.Wrap(fault.Busy, err, "share: read")
		}
		for slug, owner := range owners {
			if _, err := tx.Exec(ctx, "UPDATE contacts SET address = ? WHERE slug = ?", owner, slug); err != nil {
				return err
			}
		}
		return nil
	})
	return fault.Wrap(fault.KindOf(err), err, "share: look whose the links are")
}

// Create keeps a link of a visitor's: an invite as clients give it, under a slug of their
// choice, or of ours where it is "".
//
// Errors: ErrURL, ErrName, ErrSlug, ErrReserved, ErrTaken, ErrMany; fault.Busy.
func (s *Store) Create(ctx context.Context, slug, invite, name string) (Link, error) {
	stored, err := ParseInvite(invite)
	if err != nil {
		return Link{}, err
	}
	return s.create(ctx, slug, stored, name, false)
}

// Add is Create for operators, who may also give an invite in its stored form.
func (s *Store) Add(ctx context.Context, slug, invite, name string) (Link, error) {
	stored, err := parseStored(invite)
	if err != nil {
		return Link{}, err
	}
	if slug == "" {
		return Link{}, ErrSlug
	}
	return s.create(ctx, slug, stored, name, true)
}

// Reserve keeps a slug from others. Errors are those of Create.
func (s *Store) Reserve(ctx context.Context, slug string) (Link, error) {
	if slug == "" {
		return Link{}, ErrSlug
	}
	return s.create(ctx, slug, ReservedURL, reservedName, true)
}

func (s *Store) create(ctx context.Context, slug, stored, name string, operator bool) (Link, error) {
	name, err := checkName(name)
	if err != nil {
		return Link{}, err
	}
	chosen := slug != ""
	if chosen {
		if err := s.checkSlug(slug, operator); err != nil {
			return Link{}, err
		}
	}
	d, err := s.open(ctx, true)
	if err != nil {
		return Link{}, err
	}
	for range 20 {
		l := Link{Slug: slug, URL: stored, Name: name, Created: s.o.Now().UTC().Truncate(time.Second)}
		if !chosen {
			if l.Slug = s.o.random(); s.taken(l.Slug) {
				continue
			}
		}
		err = d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
			if n, err := count(ctx, tx); err != nil || n >= s.o.max {
				return cmp.Or(err, ErrMany)
			}
			return insert(ctx, tx, l)
		})
		if chosen || !errors.Is(err, ErrTaken) {
			return l, err
		}
	}
	return Link{}, err
}

func count(ctx context.Context, tx *db.Tx) (n int, err error) {
	err = tx.QueryRow(ctx, "SELECT count(*) FROM contacts", nil, []any{&n})
	return n, err
}

// insert adds a row. No other write comes between the look and the row.
func insert(ctx context.Context, tx *db.Tx, l Link) error {
	var same int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM contacts WHERE slug = ? COLLATE NOCASE", []any{l.Slug}, []any{&same}); err != nil {
		return err
	}
	if same > 0 {
		return ErrTaken
	}
	_, err := tx.Exec(ctx, "INSERT INTO contacts (slug, url, name, created_at, address) VALUES (?, ?, ?, ?, ?)", l.Slug, l.URL, l.Name, db.At(l.Created), ownerOf(l.URL))
	return err
}

func missing(slug string) error {
	if len(slug) > maxSlug {
		slug = slug[:maxSlug] + "..."
	}
	return fault.Newf(fault.NotFound, "slug %s not found", slug)
}

// Edit gives a link another invite, another name, or both; nil leaves what is there.
//
// Errors: fault.NotFound, ErrURL, ErrName, fault.Busy.
func (s *Store) Edit(ctx context.Context, slug string, invite, name *string) (Link, error) {
	var stored, called string
	var err error
	if invite != nil {
		if stored, err = parseStored(*invite); err != nil {
			return Link{}, err
		}
	}
	if name != nil {
		if called, err = checkName(*name); err != nil {
			return Link{}, err
		}
	}
	d, err := s.open(ctx, false)
	if err != nil {
		return Link{}, err
	}
	if d == nil {
		return Link{}, missing(slug)
	}
	var l Link
	err = d.Write(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if l, err = get(ctx, &tx.Q, slug); err != nil {
			return err
		}
		if invite != nil {
			l.URL = stored
		}
		if name != nil {
			l.Name = called
		}
		_, err = tx.Exec(ctx, "UPDATE contacts SET url = ?, name = ?, address = ? WHERE slug = ?", l.URL, l.Name, ownerOf(l.URL), slug)
		return err
	})
	return l, err
}

// Remove forgets a link. The error is fault.NotFound when there is none.
func (s *Store) Remove(ctx context.Context, slug string) error {
	d, err := s.open(ctx, false)
	if err != nil {
		return err
	}
	if d == nil {
		return missing(slug)
	}
	return d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, "DELETE FROM contacts WHERE slug = ?", slug)
		if err == nil && n == 0 {
			err = missing(slug)
		}
		return err
	})
}

// RemoveOf forgets the links that lead to an address, as when its account goes.
func (s *Store) RemoveOf(ctx context.Context, a address.Addr) error {
	d, err := s.open(ctx, false)
	if err != nil || d == nil {
		return err
	}
	some := 0
	err = d.Read(ctx, func(ctx context.Context, q *db.Q) error {
		return q.QueryRow(ctx, "SELECT count(*) FROM contacts WHERE address = ?", []any{a.Wire()}, []any{&some})
	})
	if err != nil || some == 0 {
		return err
	}
	return d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM contacts WHERE address = ?", a.Wire())
		return err
	})
}

const columns = "slug, url, coalesce(name, ''), created_at"

func get(ctx context.Context, q *db.Q, slug string) (l Link, err error) {
	var at db.Time
	err = q.QueryRow(ctx, "SELECT "+columns+" FROM contacts WHERE slug = ?", []any{slug}, []any{&l.Slug, &l.URL, &l.Name, &at})
	if fault.Is(err, fault.NotFound) {
		return Link{}, missing(slug)
	}
	l.Created = at.Time
	return l, err
}

// Get returns a link, which may be reserved. The error is fault.NotFound when there is
// none.
func (s *Store) Get(ctx context.Context, slug string) (l Link, err error) {
	d, err := s.open(ctx, false)
	if err != nil {
		return Link{}, err
	}
	if d == nil || len(slug) > maxURL {
		return Link{}, missing(slug)
	}
	err = d.Read(ctx, func(ctx context.Context, q *db.Q) (err error) {
		l, err = get(ctx, q, slug)
		return err
	})
	return l, err
}

// Show is Get for visitors: what is reserved, or belongs to something else, is not found.
func (s *Store) Show(ctx context.Context, slug string) (Link, error) {
	l, err := s.Get(ctx, slug)
	if err == nil && (l.Reserved() || s.taken(slug)) {
		return Link{}, missing(slug)
	}
	return l, err
}

// List returns the links, the latest first.
func (s *Store) List(ctx context.Context) ([]Link, error) {
	list := []Link{}
	d, err := s.open(ctx, false)
	if err != nil || d == nil {
		return list, err
	}
	err = d.Read(ctx, func(ctx context.Context, q *db.Q) (err error) {
		list, err = links(ctx, q)
		return err
	})
	return list, err
}

func links(ctx context.Context, q *db.Q) ([]Link, error) {
	rows, err := q.Query(ctx, "SELECT "+columns+" FROM contacts")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []Link{}
	for rows.Next() {
		var l Link
		var at db.Time
		if err := rows.Scan(&l.Slug, &l.URL, &l.Name, &at); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "share: read")
		}
		l.Created = at.Time
		list = append(list, l)
	}
	// Their times are in several forms, which do not sort as text.
	slices.SortFunc(list, func(a, b Link) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Slug, b.Slug)) })
	return list, fault.Wrap(fault.Busy, rows.Err(), "share: read")
}

// Hidden returns the slugs of predecessors that nobody can open: their names belong to
// something else here.
func (s *Store) Hidden(ctx context.Context) (hidden []string, links int, err error) {
	list, err := s.List(ctx)
	for _, l := range list {
		if s.taken(l.Slug) && !l.Reserved() {
			hidden = append(hidden, l.Slug)
		}
	}
	return hidden, len(list), err
}

// Import takes over the links of another database of this kind; those that are here
// already win. The file may be this store's own, as a predecessor left it. It returns how
// many came, or would come with dry.
//
// Errors: fault.NotFound when there is no such file, fault.Invalid when it is none of
// these, ErrMany, fault.Busy.
func (s *Store) Import(ctx context.Context, path string, dry bool) (taken int, err error) {
	old, err := db.OpenForeign(ctx, path)
	if err != nil {
		return 0, err
	}
	defer old.Close()
	rows, err := old.QueryContext(ctx, "SELECT "+columns+" FROM contacts")
	if err != nil {
		return 0, fault.Wrap(fault.Invalid, err, "share: read the old links")
	}
	defer rows.Close()
	var list []Link
	for rows.Next() {
		var l Link
		var at db.Time
		if err := rows.Scan(&l.Slug, &l.URL, &l.Name, &at); err != nil {
			return 0, fault.Wrap(fault.Invalid, err, "share: read the old links")
		}
		if l.Created = at.Time; !at.Valid {
			l.Created = s.o.Now()
		}
		if list = append(list, l); len(list) > s.o.max {
			return 0, ErrMany
		}
	}
	if err := rows.Err(); err != nil || len(list) == 0 {
		return 0, fault.Wrap(fault.Invalid, err, "share: read the old links")
	}
	if dry {
		return len(list), nil
	}
	d, err := s.open(ctx, true)
	if err == nil && s.same(path) {
		return len(list), nil
	}
	if err != nil {
		return 0, err
	}
	err = d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if n, err := count(ctx, tx); err != nil || n+len(list) > s.o.max {
			return cmp.Or(err, ErrMany)
		}
		for _, l := range list {
			switch err := insert(ctx, tx, l); {
			case errors.Is(err, ErrTaken):
			case err != nil:
				return err
			default:
				taken++
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return taken, nil
}

// same reports whether a path is that of this store's own database.
func (s *Store) same(path string) bool {
	a, err := os.Stat(path)
	if err != nil {
		return false
	}
	b, err := os.Stat(s.o.Path)
	return err == nil && os.SameFile(a, b)
}

// Backup writes a copy of the database to a file that must not exist, if there is one.
func (s *Store) Backup(ctx context.Context, path string) error {
	d, err := s.open(ctx, false)
	if err != nil || d == nil {
		return err
	}
	return d.Backup(ctx, path)
}
