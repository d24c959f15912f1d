package maildir

import (
	"encoding/binary"
	"errors"

	"madmail/internal/address"
	"madmail/internal/mailbox"
)

// Kinds of journal records.
const (
	recDeliver byte = 'D' // one body into many mailboxes
	recFlags   byte = 'F'
	recGone    byte = 'X' // expunged, or a delivery that failed after all
	recLink    byte = 'L' // a copy: a further link to a stored message
	recCreate  byte = 'C' // a mailbox
	recAll     byte = 'A' // several records, all or none
)

var errRecord = errors.New("maildir: malformed journal record")

// hasSaved says, beside the flags of a message, that Saved follows them.
const hasSaved = 1 << 8

// placed is a message with the name of its file, as records carry it.
type placed struct {
	mailbox.Message
	base string
}

// record is the decoded form of all kinds; which fields count depends on kind.
type record struct {
	kind  byte
	boxes []recBox
	body  []byte    // recDeliver: inline
	spool string    // recDeliver: name of the spooled body
	from  recBox    // recLink: where the messages are linked from
	all   []*record // recAll: none of which is a recAll
}

type recBox struct {
	key      mailbox.Box
	validity uint32
	next     mailbox.UID
	mod      mailbox.ModSeq
	msgs     []placed
}

// encoder appends values; decoder takes them off and remembers failure.
type encoder struct{ b []byte }

func (e *encoder) uint(v uint64)  { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)    { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) str(s string)   { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) bytes(s []byte) { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) box(b *recBox) {
	e.str(b.key.Account.Wire())
	e.str(b.key.Name)
	e.uint(uint64(b.validity))
	e.uint(uint64(b.next))
	e.uint(uint64(b.mod))
	e.uint(uint64(len(b.msgs)))
	for i := range b.msgs {
		m := &b.msgs[i]
		e.uint(uint64(m.UID))
		e.int(m.Size)
		e.int(m.Internal)
		e.uint(uint64(m.ModSeq))
		if m.Saved == 0 {
			e.uint(uint64(m.Flags))
		} else {
			e.uint(uint64(m.Flags) | hasSaved)
			e.uint(uint64(m.Saved))
		}
		e.uint(uint64(len(m.Keywords)))
		for _, k := range m.Keywords {
			e.str(k)
		}
		e.str(m.base)
	}
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) fail() {
	d.err = errRecord
	d.b = nil
}

func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) str() string { return string(d.bytes()) }

// count reads a length and checks it against what can follow, each octet at least one item.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) box() (b recBox) {
	a, err := address.Parse(d.str())
	if d.err == nil && err != nil {
		d.fail()
	}
	b.key = mailbox.Box{Account: a, Name: d.str()}
	b.validity = uint32(d.uint())
	b.next = mailbox.UID(d.uint())
	b.mod = mailbox.ModSeq(d.uint())
	n := d.count()
	for range n {
		if d.err != nil {
			return b
		}
		var m placed
		m.UID = mailbox.UID(d.uint())
		m.Size = d.int()
		m.Internal = d.int()
		m.ModSeq = mailbox.ModSeq(d.uint())
		flags := d.uint()
		m.Flags = mailbox.Flags(flags)
		if flags&hasSaved != 0 {
			m.Saved = uint32(d.uint())
		}
		for range d.count() {
			m.Keywords = append(m.Keywords, d.str())
		}
		m.base = d.str()
		b.msgs = append(b.msgs, m)
	}
	return b
}

func (r *record) appendTo(b []byte) []byte {
	e := encoder{append(b, r.kind)}
	e.uint(uint64(len(r.boxes)))
	for i := range r.boxes {
		e.box(&r.boxes[i])
	}
	switch r.kind {
	case recDeliver:
		e.str(r.spool)
		e.bytes(r.body)
	case recLink:
		e.box(&r.from)
	case recAll:
		e.uint(uint64(len(r.all)))
		for _, one := range r.all {
			e.bytes(one.appendTo(nil))
		}
	}
	return e.b
}

func parseRecord(p []byte) (*record, error) {
	if len(p) == 0 {
		return nil, errRecord
	}
	r := &record{kind: p[0]}
	d := decoder{b: p[1:]}
	for range d.count() {
		if d.err != nil {
			break
		}
		r.boxes = append(r.boxes, d.box())
	}
	switch r.kind {
	case recDeliver:
		r.spool = d.str()
		r.body = d.bytes()
	case recLink:
		r.from = d.box()
	case recAll:
		for range d.count() {
			one, err := parseRecord(d.bytes())
			if err != nil || one.kind == recAll {
				d.fail()
				break
			}
			r.all = append(r.all, one)
		}
	case recFlags, recGone, recCreate:
	default:
		d.fail()
	}
	if d.err == nil && len(d.b) != 0 {
		d.fail()
	}
	for _, b := range r.boxes {
		if d.err == nil && !safeBox(b) {
			d.fail()
		}
	}
	return r, d.err
}

// safeBox refuses names that would leave the mailbox's directory. A record with a
// good checksum never has them; replay trusts nothing all the same.
func safeBox(b recBox) bool {
	if name, err := cleanName(b.key.Name); err != nil || name != b.key.Name {
		return false
	}
	for _, m := range b.msgs {
		if m.UID == 0 || !safeBase(m.base) {
			return false
		}
	}
	return true
}

func safeBase(s string) bool {
	if s == "" || s[0] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] == '/' || s[i] == 0 || s[i] == '\n' {
			return false
		}
	}
	return true
}
