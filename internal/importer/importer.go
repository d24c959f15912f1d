// Package importer reads the state of the first version and writes ours, once.
//
// The first version keeps its mail index and small tables in imapsql.db and bodies as
// files in messages/. Both are read and never changed. What was done is marked in the
// table imports: the tables, each mailbox, the whole. So an import that was broken off
// goes on where it was, and one that is done does nothing.
//
// It is the one package that writes tables of others: their rows as they were, before
// their owners have read them. Mail goes through the store, which gives files and index
// their form. The caller holds the state directory, and no session is open.
package importer

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
	"madmail/internal/mailbox/maildir"
)

// Options say what to import. Store and Exists are not needed by Tables.
type Options struct {
	DB       *db.DB
	Store    *maildir.Store
	StateDir string
	Index    string // the first version's database, an absolute path
	Messages string // directory of its bodies
	DryRun   bool   // only look and count
	// Sharing is the database of contact links, and Shares takes it over; nil takes none.
	Sharing string
	Shares  interface {
		Import(ctx context.Context, path string, dry bool) (int, error)
	}
	// Exists tells whether there is an account: mail of a name that is free would
	// belong to whoever takes it.
	Exists func(address.Addr) bool
	// Free returns the octets that can be written below a path, if that is known.
	Free     func(path string) (int64, bool)
	Progress func(Report) // called now and then, when not nil
	Log      *slog.Logger
	Now      func() time.Time
}

// Skipped is something that was not taken over.
type Skipped struct {
	What   string `json:"what"`
	Name   string `json:"name,omitempty"`
	Reason string `json:"reason"`
}

// Report tells what was taken over, or would be.
type Report struct {
	Done         bool      `json:"already_done"` // an earlier run came to its end
	DryRun       bool      `json:"dry_run"`
	Users        int       `json:"users"`
	Quotas       int       `json:"quotas"`
	AppendLimits int       `json:"append_limits"`
	Blocked      int       `json:"blocked"`
	Tokens       int       `json:"tokens"`
	Overrides    int       `json:"overrides"`
	Rules        int       `json:"rules"`
	Exchangers   int       `json:"exchangers"`
	Stats        int       `json:"stats"`
	Contacts     int       `json:"contacts"` // links of contact pages
	Mailboxes    int       `json:"mailboxes"`
	Messages     int64     `json:"messages"`
	Bytes        int64     `json:"bytes"`
	Linked       int64     `json:"linked"` // messages that need no room of their own
	Total        int64     `json:"total"`  // messages that were to be taken over
	Needed       int64     `json:"needed"` // octets of disk
	NotTaken     int64     `json:"skipped_count"`
	Skipped      []Skipped `json:"skipped"` // the first of them
}

// maxSkipped bounds the list of the report. All are counted.
const maxSkipped = 1000

// Marks of the table imports.
const (
	markTables = "tables"
	markMail   = "mail"
	markShares = "contacts"
	markBox    = "mailbox " // with its number
)

// run is one import.
type run struct {
	o      Options
	old    *sql.DB
	done   map[string]bool // what is marked
	report Report
	told   time.Time
}

func (im *run) skip(what, name, why string) {
	im.report.NotTaken++
	if len(im.report.Skipped) < maxSkipped {
		im.report.Skipped = append(im.report.Skipped, Skipped{what, name, why})
	}
}

func begin(ctx context.Context, o Options) (*run, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	old, err := db.OpenForeign(ctx, o.Index)
	if err != nil {
		return nil, fault.WithHint(err, "imapsql.db of the first version is looked for in the state directory, or where dsn in the block storage.imapsql says")
	}
	im := &run{o: o, old: old, told: o.Now(), done: make(map[string]bool), report: Report{DryRun: o.DryRun, Skipped: []Skipped{}}}
	if err := im.marks(ctx); err != nil {
		return nil, errors.Join(err, old.Close())
	}
	return im, nil
}

// Tables takes over limits, blocks, tokens, overrides, rules, exchangers and counts. Rows
// that are here already win. Owners of these tables must read them afterwards.
//
// Errors: fault.NotFound when there is no index, fault.Invalid when it cannot be read,
// fault.Busy.
func Tables(ctx context.Context, o Options) (Report, error) {
	im, err := begin(ctx, o)
	if err != nil {
		return Report{}, err
	}
	defer im.old.Close()
	err = im.importTables(ctx)
	return im.report, err
}

// Run takes over the tables and all mail that was not taken over yet.
//
// Errors: those of Tables; fault.Full when the disk has too little room, before anything
// was written. What was done before an error stays done.
func Run(ctx context.Context, o Options) (Report, error) {
	im, err := begin(ctx, o)
	if err != nil {
		return Report{}, err
	}
	defer im.old.Close()
	im.report.Done = im.done[markMail]
	if err := im.importTables(ctx); err != nil {
		return im.report, err
	}
	if err := im.importContacts(ctx); err != nil {
		return im.report, err
	}
	return im.report, im.importMail(ctx)
}

// importContacts takes over the contact links. A file that cannot be read keeps nothing
// else from being imported.
func (im *run) importContacts(ctx context.Context) error {
	if im.o.Shares == nil || im.o.Sharing == "" || im.done[markShares] {
		return nil
	}
	n, err := im.o.Shares.Import(ctx, im.o.Sharing, im.o.DryRun)
	switch {
	case fault.Is(err, fault.NotFound):
		return nil
	case err != nil && ctx.Err() == nil && !fault.Is(err, fault.Busy):
		im.skip("contacts", im.o.Sharing, err.Error())
		return nil
	case err != nil:
		return err
	}
	if im.report.Contacts = n; im.o.DryRun {
		return nil
	}
	return im.markAll(ctx, markShares)
}

// Waiting tells how many messages of the first version there are to import: 0 when that
// was done.
func Waiting(ctx context.Context, o Options) (int64, error) {
	im, err := begin(ctx, o)
	if err != nil {
		return 0, err
	}
	defer im.old.Close()
	if im.done[markMail] {
		return 0, nil
	}
	have, err := columnsOf(ctx, im.old, "msgs")
	if err != nil || len(have) == 0 {
		return 0, err
	}
	var n int64
	err = im.old.QueryRowContext(ctx, "SELECT count(*) FROM msgs").Scan(&n)
	return n, fault.Wrap(fault.Invalid, err, "importer: count messages")
}

// marks reads what is done.
func (im *run) marks(ctx context.Context) error {
	return im.o.DB.Read(ctx, func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, "SELECT what FROM imports")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var what string
			if err := rows.Scan(&what); err != nil {
				return fault.Wrap(fault.Internal, err, "importer: read marks")
			}
			im.done[what] = true
		}
		return fault.Wrap(fault.Busy, rows.Err(), "importer: read marks")
	})
}

func (im *run) mark(ctx context.Context, tx *db.Tx, what string) error {
	_, err := tx.Exec(ctx, "INSERT INTO imports (what, done_at) VALUES (?, ?) ON CONFLICT DO NOTHING", what, im.o.Now().Unix())
	return err
}

// markAll marks mailboxes, or something else, as done.
func (im *run) markAll(ctx context.Context, what ...string) error {
	return im.o.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, w := range what {
			if err := im.mark(ctx, tx, w); err != nil {
				return err
			}
		}
		return nil
	})
}

func boxMark(id int64) string { return markBox + strconv.FormatInt(id, 10) }

// tell reports progress, every second.
func (im *run) tell() {
	if now := im.o.Now(); im.o.Progress != nil && now.Sub(im.told) >= time.Second {
		im.told = now
		im.o.Progress(im.report)
	}
}
