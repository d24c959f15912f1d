package importer

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/db"
	"madmail/internal/fault"
)

// Names of the files that Dump writes, which are those that the first version has when
// it keeps its tables in SQLite.
const (
	accountsFile = db.FileName
	indexFile    = "imapsql.db"
)

// maxStatement bounds a statement of a dump. The largest hold the cached header of a
// message.
const maxStatement = 16 << 20

// dumped are the tables of a dump that are kept, with the columns that matter.
var dumped = []struct{ file, name, columns string }{
	{accountsFile, "passwords", "key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL"},
	{accountsFile, "settings", "key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL"},
	{accountsFile, "exchangers", "name TEXT PRIMARY KEY, url TEXT NOT NULL, enabled INTEGER, poll_interval INTEGER, last_poll_at DATETIME, created_at DATETIME, updated_at DATETIME"},
	{indexFile, "schema_version", "version INTEGER NOT NULL"},
	{indexFile, "users", "id INTEGER PRIMARY KEY, username TEXT NOT NULL, msgsizelimit INTEGER, inboxid INTEGER"},
	{indexFile, "mboxes", "id INTEGER PRIMARY KEY, uid INTEGER NOT NULL, name TEXT NOT NULL, sub INTEGER, uidnext INTEGER, uidvalidity INTEGER, specialuse TEXT"},
	{indexFile, "msgs", "mboxid INTEGER NOT NULL, msgid INTEGER NOT NULL, date INTEGER, bodylen INTEGER, extbodykey TEXT, seen INTEGER, compressalgo TEXT, PRIMARY KEY (mboxid, msgid)"},
	{indexFile, "flags", "mboxid INTEGER NOT NULL, msgid INTEGER NOT NULL, flag TEXT NOT NULL, PRIMARY KEY (mboxid, msgid, flag)"},
	{indexFile, "quota", "username TEXT PRIMARY KEY, max_storage INTEGER, created_at INTEGER, first_login_at INTEGER, last_login_at INTEGER, used_token TEXT"},
	{indexFile, "blocked_users", "username TEXT PRIMARY KEY, reason TEXT, blocked_at DATETIME"},
	{indexFile, "registration_tokens", "token TEXT PRIMARY KEY, max_uses INTEGER, used_count INTEGER, comment TEXT, created_at DATETIME, expires_at DATETIME"},
	{indexFile, "dns_overrides", "lookup_key TEXT PRIMARY KEY, target_host TEXT NOT NULL, comment TEXT, created_at DATETIME, updated_at DATETIME"},
	{indexFile, "federation_rules", "id INTEGER PRIMARY KEY, domain TEXT UNIQUE, created_at INTEGER"},
	{indexFile, "message_stats", "name TEXT PRIMARY KEY, count INTEGER"},
	{indexFile, "federation_server_stats", "domain TEXT PRIMARY KEY, queued_messages INTEGER, failed_http INTEGER, failed_https INTEGER, failed_http_s INTEGER, failed_smtp INTEGER, " +
		"success_http INTEGER, success_https INTEGER, success_http_s INTEGER, success_smtp INTEGER, inbound_deliveries INTEGER, successful_deliveries INTEGER, total_latency_ms INTEGER, last_active INTEGER"},
}

// Dump reads what "pg_dump --data-only --column-inserts" says of the database of the first
// version, and writes it into a state directory as the files that the first version has
// with SQLite. They are there when all of the dump was read, or not at all. It returns how
// many rows were kept.
//
// Errors: fault.Exists when one of the files is there; fault.Invalid for what is no such
// dump, with the line; fault.Busy.
func Dump(ctx context.Context, r io.Reader, stateDir string) (rows int64, err error) {
	for _, name := range []string{accountsFile, indexFile} {
		if _, err := os.Lstat(filepath.Join(stateDir, name)); !errors.Is(err, os.ErrNotExist) {
			return 0, fault.WithHint(fault.Newf(fault.Exists, "importer: %s is there already", filepath.Join(stateDir, name)),
				"a dump is taken over into a state directory without accounts and mail index; move both files away, if nobody uses them")
		}
	}
	w, err := newDumpWriter(ctx, stateDir)
	if err != nil {
		return 0, err
	}
	err = readDump(r, func(table string) bool { return w.inserts[table] != nil }, func(s statement) error { return w.row(ctx, s) })
	if err == nil && (w.rows["passwords"] == 0 || w.rows["users"] == 0) {
		err = fault.WithHint(fault.New(fault.Invalid, "importer: the dump has no accounts"), dumpHint)
	}
	if err = w.close(err); err != nil {
		return 0, err
	}
	for _, n := range w.rows {
		rows += n
	}
	return rows, nil
}

const dumpHint = `make it with "pg_dump --data-only --column-inserts DATABASE", of the database that dsn in maddy.conf names`

// dumpWriter writes the two files below other names.
type dumpWriter struct {
	dir     string
	open    map[string]*sql.DB
	tx      map[string]*sql.Tx
	columns map[string][]string
	inserts map[string]*sql.Stmt // by table
	rows    map[string]int64
}

const unfinished = ".dump-new"

func newDumpWriter(ctx context.Context, dir string) (w *dumpWriter, err error) {
	w = &dumpWriter{dir: dir, open: make(map[string]*sql.DB), tx: make(map[string]*sql.Tx), columns: make(map[string][]string), inserts: make(map[string]*sql.Stmt), rows: make(map[string]int64)}
	defer func() {
		if err != nil {
			err = w.close(err)
		}
	}()
	for _, t := range dumped {
		if w.open[t.file] == nil {
			path := filepath.Join(dir, t.file+unfinished)
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was broken off
				return w, fault.Wrap(fault.Busy, err, "importer: dump")
			}
			d, err := db.CreateForeign(ctx, path)
			if err != nil {
				return w, err
			}
			w.open[t.file] = d
			if w.tx[t.file], err = d.BeginTx(ctx, nil); err != nil {
				return w, fault.Wrap(fault.Busy, err, "importer: dump")
			}
		}
		tx := w.tx[t.file]
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("CREATE TABLE %s (%s)", t.name, t.columns)); err != nil {
			return w, fault.Wrap(fault.Internal, err, "importer: dump")
		}
		for _, c := range strings.Split(t.columns, ",") {
			if f := strings.Fields(c); f[0] == strings.ToLower(f[0]) && !strings.ContainsAny(f[0], "()") && len(f) > 1 {
				w.columns[t.name] = append(w.columns[t.name], f[0])
			}
		}
		cols := w.columns[t.name]
		if w.inserts[t.name], err = tx.PrepareContext(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", t.name, strings.Join(cols, ", "), strings.TrimSuffix(strings.Repeat("?, ", len(cols)), ", "))); err != nil {
			return w, fault.Wrap(fault.Internal, err, "importer: dump")
		}
	}
	return w, nil
}

// row keeps one row.
func (w *dumpWriter) row(ctx context.Context, s statement) error {
	values := make([]any, len(w.columns[s.table]))
	for i, c := range w.columns[s.table] {
		if at := slices.Index(s.columns, c); at >= 0 {
			values[i] = s.values[at]
		}
	}
	if _, err := w.inserts[s.table].ExecContext(ctx, values...); err != nil {
		if ctx.Err() != nil {
			return fault.Wrap(fault.Busy, err, "importer: dump")
		}
		return fault.Wrap(fault.Invalid, err, fmt.Sprintf("importer: line %d of the dump: %s", s.line, s.table))
	}
	w.rows[s.table]++
	return nil
}

// close puts the files in place, or removes them when err is not nil.
func (w *dumpWriter) close(err error) error {
	for _, s := range w.inserts {
		if s != nil {
			_ = s.Close()
		}
	}
	for name, d := range w.open {
		if tx := w.tx[name]; tx != nil && err == nil {
			err = fault.Wrap(fault.Busy, tx.Commit(), "importer: dump")
		} else if tx != nil {
			_ = tx.Rollback()
		}
		if cerr := d.Close(); err == nil {
			err = fault.Wrap(fault.Busy, cerr, "importer: dump")
		}
	}
	// The accounts come last: without them nothing is taken for done.
	for _, name := range []string{indexFile, accountsFile} {
		from := filepath.Join(w.dir, name+unfinished)
		if err != nil {
			_ = os.Remove(from)
			continue
		}
		err = fault.Wrap(fault.Busy, os.Rename(from, filepath.Join(w.dir, name)), "importer: dump")
	}
	return err
}

// statement is one INSERT of a dump. Values are int64, string or nil.
type statement struct {
	line    int
	table   string
	columns []string
	values  []any
}

// readDump calls f for each INSERT into a table that is wanted. The rest is passed over.
func readDump(r io.Reader, wanted func(table string) bool, f func(statement) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	bad := func(line int, what string) error {
		return fault.WithHint(fault.Newf(fault.Invalid, "importer: line %d of the dump: %s", line, what), dumpHint)
	}
	var text strings.Builder
	line, begun, quotes := 0, 0, 0
	for {
		part, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
			return fault.Wrap(fault.Busy, err, "importer: read the dump")
		}
		end := errors.Is(err, io.EOF)
		whole := !errors.Is(err, bufio.ErrBufferFull)
		if begun == 0 && text.Len() == 0 { // a new line
			switch {
			case strings.HasPrefix(string(part), "INSERT INTO "):
				begun, quotes = line+1, 0
			case strings.HasPrefix(string(part), "COPY ") && strings.Contains(string(part), "FROM stdin"):
				return bad(line+1, "rows are not INSERT statements")
			}
		}
		if begun > 0 {
			if text.Len()+len(part) > maxStatement {
				return bad(begun, "a statement is too long")
			}
			text.Write(part)
			quotes += strings.Count(string(part), "'")
			if whole && quotes%2 == 0 && strings.HasSuffix(strings.TrimRight(text.String()[max(0, text.Len()-4):], "\r\n"), ");") {
				s, ok := parseInsert(text.String(), wanted)
				if !ok {
					return bad(begun, "the statement is not understood")
				}
				if s.line = begun; s.columns != nil {
					if err := f(s); err != nil {
						return err
					}
				}
				text.Reset()
				begun = 0
			}
		}
		if whole && len(part) > 0 {
			line++
		}
		if end {
			if begun > 0 {
				return bad(begun, "the statement has no end")
			}
			return nil
		}
		// The rest of a long line that is none of ours must not be taken for a beginning.
		for begun == 0 && !whole {
			_, err := in.ReadSlice('\n')
			if whole = !errors.Is(err, bufio.ErrBufferFull); whole {
				line++
			}
		}
	}
}

// parseInsert reads INSERT INTO schema.table (columns) VALUES (values); of tables that are
// not wanted the name only.
func parseInsert(text string, wanted func(table string) bool) (s statement, ok bool) {
	p := literals{strings.TrimPrefix(text, "INSERT INTO ")}
	for {
		if s.table, ok = p.name(); !ok {
			return s, false
		}
		if !p.skip(".") { // the last part of the name
			break
		}
	}
	if !wanted(s.table) {
		return s, true
	}
	if !p.skip(" (") {
		return s, false
	}
	for {
		c, ok := p.name()
		if !ok {
			return s, false
		}
		s.columns = append(s.columns, c)
		if !p.skip(", ") {
			break
		}
	}
	if !p.skip(") VALUES (") {
		return s, false
	}
	for {
		v, ok := p.value()
		if !ok {
			return s, false
		}
		s.values = append(s.values, v)
		if !p.skip(", ") {
			break
		}
	}
	return s, p.skip(");") && strings.TrimSpace(p.rest) == "" && len(s.columns) == len(s.values)
}

// literals reads a statement from its beginning.
type literals struct{ rest string }

func (p *literals) skip(s string) bool {
	rest, ok := strings.CutPrefix(p.rest, s)
	p.rest = rest
	return ok
}

// name is an identifier, in quotes or not, in small letters.
func (p *literals) name() (string, bool) {
	if p.skip(`"`) {
		name, rest, ok := strings.Cut(p.rest, `"`)
		p.rest = rest
		return strings.ToLower(name), ok && name != ""
	}
	n := 0
	for n < len(p.rest) && (p.rest[n] == '_' || p.rest[n] >= '0' && p.rest[n] <= '9' || p.rest[n]|0x20 >= 'a' && p.rest[n]|0x20 <= 'z') {
		n++
	}
	name := strings.ToLower(p.rest[:n])
	p.rest = p.rest[n:]
	return name, name != ""
}

// value is a literal: a string, with quotes doubled in it, a number, a truth or NULL. A
// number that is not whole is kept as it is written.
func (p *literals) value() (any, bool) {
	if !p.skip("'") {
		n := strings.IndexAny(p.rest, ",)")
		if n < 0 {
			return nil, false
		}
		word := p.rest[:n]
		p.rest = p.rest[n:]
		switch word {
		case "NULL":
			return nil, true
		case "true":
			return int64(1), true
		case "false":
			return int64(0), true
		}
		if v, err := strconv.ParseInt(word, 10, 64); err == nil {
			return v, true
		}
		return word, word != "" && !strings.ContainsAny(word, "'( \n")
	}
	var b strings.Builder
	for {
		n := strings.IndexByte(p.rest, '\'')
		if n < 0 {
			return nil, false
		}
		b.WriteString(p.rest[:n])
		p.rest = p.rest[n+1:]
		if !p.skip("'") {
			return b.String(), true
		}
		b.WriteByte('\'')
	}
}
