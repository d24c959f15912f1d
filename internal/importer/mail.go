package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/maildir"
)

const (
	// A batch shares the cost of making it durable; what is broken off is done again.
	batchMessages = 5000
	batchBoxes    = 500

	maxBody   = 1 << 30 // a message of the first version is smaller
	maxWindow = 64 << 20
	room      = 64 << 20 // is left free for the running server

	separator = "." // of the first version's mailbox names
)

// oldBox is a mailbox of the first version.
type oldBox struct {
	id       int64
	account  address.Addr
	name     string
	kept     maildir.Kept
	messages int64
	plain    int64 // octets of bodies that can be linked
	packed   int64 // octets that compressed bodies have when unpacked
	files    int64 // compressed bodies
}

// user is an account that the index knows.
type user struct {
	id, inbox int64
	name      string
	account   address.Addr
	last      int64 // login, unix seconds
}

func (im *run) importMail(ctx context.Context) error {
	for _, t := range []string{"users", "mboxes", "msgs", "flags"} {
		if have, err := columnsOf(ctx, im.old, t); err != nil {
			return err
		} else if len(have) == 0 {
			return fault.WithHint(fault.Newf(fault.Invalid, "importer: %s has no table %s", im.o.Index, t), "is it the first version's mail index?")
		}
	}
	im.version(ctx)
	boxes, err := im.boxes(ctx)
	if err != nil {
		return err
	}
	if err := im.fits(boxes); err != nil {
		return err
	}
	if im.o.DryRun {
		for _, b := range boxes {
			im.report.Mailboxes++
			im.report.Messages += b.messages
			im.report.Bytes += b.plain + b.packed
		}
		return nil
	}
	unpack, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fault.Wrap(fault.Internal, err, "importer: zstd")
	}
	defer unpack.Close()
	m := &mover{run: im, unpack: unpack}
	for _, b := range boxes {
		if err := m.box(ctx, b); err != nil {
			return err
		}
		if m.messages >= batchMessages || len(m.marks) >= batchBoxes {
			if err := m.commit(ctx); err != nil {
				return err
			}
		}
	}
	if err := m.commit(ctx); err != nil {
		return err
	}
	return im.markAll(ctx, markMail)
}

// schemaVersion is the one that is known. Others are read as well as they can be.
const schemaVersion = 6

func (im *run) version(ctx context.Context) {
	var v int
	if err := im.old.QueryRowContext(ctx, "SELECT version FROM schema_version").Scan(&v); err == nil && v != schemaVersion {
		im.skip("schema_version", "", fmt.Sprintf("the index has schema %d, %d is known; check the mailboxes", v, schemaVersion))
	}
}

// users lists the accounts whose mail is taken over, by number.
func (im *run) users(ctx context.Context) (map[int64]user, error) {
	logins, err := im.logins(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := im.old.QueryContext(ctx, "SELECT id, username, coalesce(inboxId, 0) FROM users ORDER BY id")
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "importer: read users")
	}
	defer rows.Close()
	byName := make(map[address.Addr]user)
	for rows.Next() {
		var u user
		if err := rows.Scan(&u.id, &u.name, &u.inbox); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "importer: read users")
		}
		if strings.HasPrefix(u.name, "__") {
			continue // a setting
		}
		if u.account, err = address.Parse(u.name); err != nil {
			im.skip("users", u.name, "not an address")
			continue
		}
		if !im.o.Exists(u.account) {
			im.skip("users", u.name, "there is no such account; create it and import again, if its mail is wanted")
			continue
		}
		u.last = logins[u.name]
		if other, twice := byName[u.account]; twice {
			if u.last <= other.last {
				u, other = other, u
			}
			im.skip("users", other.name, "another spelling of an account that logged in later")
			im.o.Log.Warn("mail of another spelling of one account is not imported", "account", u.account)
		}
		byName[u.account] = u
	}
	if err := rows.Err(); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "importer: read users")
	}
	all := make(map[int64]user, len(byName))
	for _, u := range byName {
		all[u.id] = u
	}
	return all, nil
}

// logins reads when the accounts logged in last, by the names of the first version.
func (im *run) logins(ctx context.Context) (map[string]int64, error) {
	all := make(map[string]int64)
	for _, t := range tables {
		if t.order == "" {
			continue
		}
		have, err := columnsOf(ctx, im.old, t.from)
		if err != nil {
			return nil, err
		}
		var c []column
		for _, name := range []string{t.columns[0].name, t.order} {
			for _, x := range t.columns {
				if x.name == name && x.in(have) != "" {
					c = append(c, x)
				}
			}
		}
		if len(c) != 2 {
			return all, nil
		}
		rows, err := im.old.QueryContext(ctx, "SELECT "+c[0].name+", "+c[1].name+" FROM "+t.from)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "importer: read "+t.from)
		}
		defer rows.Close()
		for rows.Next() {
			if r, err := scan(rows, c); err == nil && len(r.values) == 2 {
				name, _ := r.values[0].(string)
				all[name], _ = r.values[1].(int64)
			}
		}
		if err := rows.Err(); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "importer: read "+t.from)
		}
	}
	return all, nil
}

// boxes lists the mailboxes that are still to be taken over.
func (im *run) boxes(ctx context.Context) ([]*oldBox, error) {
	users, err := im.users(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := im.old.QueryContext(ctx, `SELECT id, uid, name, coalesce(sub, 0), coalesce(uidnext, 1), coalesce(uidvalidity, 0), coalesce(specialuse, '')
		FROM mboxes ORDER BY uid, id`)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "importer: read mboxes")
	}
	defer rows.Close()
	var list []*oldBox
	byID := make(map[int64]*oldBox)
	taken := make(map[mailbox.Box]bool)
	for rows.Next() {
		b := &oldBox{}
		var owner, sub, next, validity int64
		if err := rows.Scan(&b.id, &owner, &b.name, &sub, &next, &validity, &b.kept.SpecialUse); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "importer: read mboxes")
		}
		u, ok := users[owner]
		if !ok {
			continue // its owner was reported
		}
		if im.done[boxMark(b.id)] {
			continue
		}
		b.account = u.account
		b.name = strings.ReplaceAll(b.name, separator, string(mailbox.Delimiter))
		if b.id == u.inbox || strings.EqualFold(b.name, mailbox.Inbox) {
			b.name = mailbox.Inbox
		}
		key := mailbox.Box{Account: b.account, Name: b.name}
		if taken[key] {
			im.skip("mboxes", u.name+" "+b.name, "two mailboxes have this name")
			continue
		}
		taken[key] = true
		if validity > 0 && validity < 1<<32 {
			b.kept.UIDValidity = uint32(validity)
		}
		b.kept.UIDNext = mailbox.UID(min(max(next, 1), 1<<32-2))
		b.kept.Hidden = sub == 0 && b.name != mailbox.Inbox
		list, byID[b.id] = append(list, b), b
	}
	if err := rows.Err(); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "importer: read mboxes")
	}
	im.report.Users = countUsers(list)
	return list, im.measure(ctx, byID)
}

func countUsers(list []*oldBox) int {
	seen := make(map[address.Addr]bool)
	for _, b := range list {
		seen[b.account] = true
	}
	return len(seen)
}

// measure adds up the messages of each mailbox.
func (im *run) measure(ctx context.Context, boxes map[int64]*oldBox) error {
	rows, err := im.old.QueryContext(ctx, `SELECT mboxId, coalesce(compressAlgo, '') != '', count(*), coalesce(sum(bodyLen), 0) FROM msgs GROUP BY 1, 2`)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "importer: measure messages")
	}
	defer rows.Close()
	for rows.Next() {
		var id, n, octets int64
		var packed bool
		if err := rows.Scan(&id, &packed, &n, &octets); err != nil {
			return fault.Wrap(fault.Invalid, err, "importer: measure messages")
		}
		b := boxes[id]
		if b == nil {
			continue
		}
		b.messages += n
		im.report.Total += n
		if packed {
			b.packed += octets
			b.files += n
		} else {
			b.plain += octets
		}
	}
	return fault.Wrap(fault.Invalid, rows.Err(), "importer: measure messages")
}

// fits looks whether the disk has the room before anything is written.
func (im *run) fits(boxes []*oldBox) error {
	if len(boxes) == 0 {
		return nil
	}
	const block, line = 4096, 160 // octets of a file that are lost on average, and of an index line
	need := int64(room)
	linked := im.canLink()
	for _, b := range boxes {
		need += b.packed + b.files*block + b.messages*line
		if !linked {
			need += b.plain + (b.messages-b.files)*block
		}
	}
	im.report.Needed = need
	if im.o.Free == nil {
		return nil
	}
	free, known := im.o.Free(im.o.StateDir)
	if !known || free >= need {
		return nil
	}
	err := fault.Newf(fault.Full, "importer: the disk has %d MiB free, and %d MiB are needed", free>>20, need>>20)
	if im.o.DryRun {
		im.skip("disk", im.o.StateDir, err.Error())
		return nil
	}
	return fault.WithHint(err, "nothing was imported; make room, or have the state directory on the file system of the first version's messages, where they are only linked")
}

// canLink tries whether bodies can be linked into the store, with any of them.
func (im *run) canLink() bool {
	linked := false
	_ = filepath.WalkDir(im.o.Messages, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		linked = tryLink(path, im.o.StateDir)
		return fs.SkipAll
	})
	return linked
}

func tryLink(from, dir string) bool {
	to := filepath.Join(dir, ".link-trial")
	_ = os.Remove(to)
	if os.Link(from, to) != nil {
		return false
	}
	return os.Remove(to) == nil
}

// mover moves mailboxes, some at a time.
type mover struct {
	*run
	unpack   *zstd.Decoder
	batch    *maildir.Restore
	marks    []string
	messages int // in this batch
}

func (m *mover) commit(ctx context.Context) error {
	if m.batch != nil {
		if err := m.batch.Commit(ctx); err != nil {
			return err
		}
	}
	if len(m.marks) > 0 {
		if err := m.markAll(ctx, m.marks...); err != nil {
			return err
		}
	}
	m.batch, m.marks, m.messages = nil, nil, 0
	return nil
}

// box begins a mailbox of the batch.
func (m *mover) box(ctx context.Context, b *oldBox) error {
	if m.batch == nil {
		m.batch = m.o.Store.Restore()
	}
	to, err := m.batch.Box(mailbox.Box{Account: b.account, Name: b.name}, b.kept)
	switch {
	case fault.Is(err, fault.Exists): // committed, and stopped before the mark
		m.marks = append(m.marks, boxMark(b.id))
		return nil
	case fault.Is(err, fault.Invalid):
		m.skip("mboxes", b.account.Wire()+" "+b.name, err.Error())
		return nil
	case err != nil:
		return err
	}
	flags, err := m.flags(ctx, b)
	if err != nil {
		return err
	}
	rows, err := m.old.QueryContext(ctx, `SELECT msgId, coalesce(date, 0), coalesce(bodyLen, 0), coalesce(extBodyKey, ''), coalesce(seen, 0), coalesce(compressAlgo, '')
		FROM msgs WHERE mboxId = ? ORDER BY msgId`, b.id)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "importer: read msgs")
	}
	defer rows.Close()
	for rows.Next() {
		var o oldMessage
		var seen bool
		if err := rows.Scan(&o.uid, &o.date, &o.size, &o.key, &seen, &o.algo); err != nil {
			return fault.Wrap(fault.Invalid, err, "importer: read msgs")
		}
		o.box = b
		f := flags[o.uid]
		msg := mailbox.Message{UID: mailbox.UID(o.uid), Internal: o.date, Flags: f.flags, Keywords: mailbox.Keywords(f.words)}
		if seen {
			msg.Flags |= mailbox.Seen
		}
		if err := m.message(to, msg, o); err != nil {
			return err
		}
		m.tell()
		if err := ctx.Err(); err != nil {
			return fault.Wrap(fault.Busy, err, "importer: stopped; run it again to go on")
		}
	}
	if err := rows.Err(); err != nil {
		return fault.Wrap(fault.Invalid, err, "importer: read msgs")
	}
	m.report.Mailboxes++
	m.marks = append(m.marks, boxMark(b.id))
	return nil
}

// flagSet are the flags of one message.
type flagSet struct {
	flags mailbox.Flags
	words []string
	long  int
}

// maxWords bounds the octets of a message's keywords: they stand in one line of the index.
const maxWords = 800

var systemFlags = map[string]mailbox.Flags{
	`\seen`: mailbox.Seen, `\answered`: mailbox.Answered, `\flagged`: mailbox.Flagged, `\deleted`: mailbox.Deleted, `\draft`: mailbox.Draft, `\recent`: 0,
}

func (m *mover) flags(ctx context.Context, b *oldBox) (map[int64]flagSet, error) {
	rows, err := m.old.QueryContext(ctx, "SELECT msgId, flag FROM flags WHERE mboxId = ? ORDER BY msgId, flag", b.id)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "importer: read flags")
	}
	defer rows.Close()
	all := make(map[int64]flagSet)
	for rows.Next() {
		var uid int64
		var name string
		if err := rows.Scan(&uid, &name); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "importer: read flags")
		}
		f := all[uid]
		flag, known := systemFlags[strings.ToLower(name)]
		switch {
		case known:
			f.flags |= flag
		case !keyword(name) || f.long+len(name) > maxWords:
			m.skip("flags", fmt.Sprintf("%s %s %d", b.account.Wire(), b.name, uid), "a flag that cannot be kept")
		default:
			f.words, f.long = append(f.words, name), f.long+len(name)
		}
		all[uid] = f
	}
	return all, fault.Wrap(fault.Invalid, rows.Err(), "importer: read flags")
}

// keyword reports whether s is a flag-keyword, an atom (RFC 3501 section 9).
func keyword(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(`(){%*"\]`, s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}

// oldMessage is a row of msgs.
type oldMessage struct {
	box             *oldBox
	uid, date, size int64
	key, algo       string
}

// message takes one message over, or reports why not.
func (m *mover) message(to *maildir.RestoredBox, msg mailbox.Message, o oldMessage) error {
	skip := func(why string) error {
		m.skip("msgs", fmt.Sprintf("%s %s %d", o.box.account.Wire(), o.box.name, o.uid), why)
		return nil
	}
	if o.uid <= 0 || o.uid > 1<<32-2 {
		return skip("its UID cannot be")
	}
	path, err := m.body(o.key)
	if err != nil {
		return skip("its body is not in " + m.o.Messages)
	}
	n := o.size
	if o.algo == "" {
		var linked bool
		if linked, err = to.Link(msg, path); err != nil {
			return err
		}
		if linked {
			m.report.Linked++
			if st, err := os.Stat(path); err == nil {
				n = st.Size()
			}
			return m.took(o, n)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return skip("its body cannot be read")
	}
	defer f.Close()
	var in io.Reader = f
	switch strings.ToLower(o.algo) {
	case "":
	case "zstd":
		if err := m.unpack.Reset(f); err != nil {
			return skip("its body cannot be unpacked")
		}
		in = m.unpack
	case "lz4":
		in = newLZ4(f)
	default:
		return skip("its body is compressed by " + o.algo + ", which is not known")
	}
	n, err = to.Copy(msg, &bounded{r: in, left: maxBody})
	if fault.Is(err, fault.Busy) {
		return err
	}
	if err != nil {
		return skip("its body cannot be unpacked")
	}
	return m.took(o, n)
}

// took counts a message. One of another length than the index says is taken as it is.
func (m *mover) took(o oldMessage, n int64) error {
	if n != o.size {
		m.skip("msgs", fmt.Sprintf("%s %s %d", o.box.account.Wire(), o.box.name, o.uid), fmt.Sprintf("taken over, but the index says %d octets, and there are %d", o.size, n))
	}
	m.report.Messages++
	m.report.Bytes += n
	m.messages++
	return nil
}

// body finds the file of a key. Old stores are flat.
func (m *mover) body(key string) (string, error) {
	if key == "" || !filepath.IsLocal(key) {
		return "", fs.ErrNotExist
	}
	for _, k := range []string{key, filepath.Base(key)} {
		path := filepath.Join(m.o.Messages, k)
		if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

var errTooLong = errors.New("too long")

// bounded fails behind left octets.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}
