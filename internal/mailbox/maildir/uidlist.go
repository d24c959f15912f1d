package maildir

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"

	"madmail/internal/mailbox"
)

// The index of a mailbox is the text file chatmail-uidlist in its Maildir
// root. First line:
//
//	1 V<UIDVALIDITY> N<next UID, ten digits> M<modseq, 19 digits> Gmadmail
//
// then one line per change, the last one about a UID counts:
//
//	<uid> S<size> T<internal date> M<modseq> A<saved> F<flags> K<keywords> N<next> :<base>
//	<uid> X M<modseq> N<next> :<base>      the message was expunged
//
// A stands only where it differs from T. Earlier servers wrote only S and T; they skip fields they do not know. The
// first line is brought up to date by every checkpoint, and lines carry next UID
// and modseq too, so the two ends of the file tell them and a delivery need not
// read the rest.
const indexName = "chatmail-uidlist"

// maxIndexLine bounds a line; longer ones are damage.
const maxIndexLine = 4096

// entry is a line of the index.
type entry struct {
	mailbox.Message
	base string
	next mailbox.UID
	gone bool
	ours bool // has our fields; otherwise flags come from the file name
}

// header is the first line.
type header struct {
	validity uint32
	next     mailbox.UID
	mod      mailbox.ModSeq
	ours     bool
}

var errIndex = errors.New("maildir: damaged index")

func appendHeader(b []byte, h header) []byte {
	b = append(b, "1 V"...)
	b = strconv.AppendUint(b, uint64(h.validity), 10)
	b = append(b, " N"...)
	n := strconv.Itoa(int(h.next))
	for range 10 - len(n) {
		b = append(b, '0')
	}
	b = append(b, n...)
	// Both numbers have a fixed width, so that the line can be written in place.
	b = append(b, " M"...)
	n = strconv.FormatUint(uint64(h.mod), 10)
	for range 19 - len(n) {
		b = append(b, '0')
	}
	b = append(b, n...)
	return append(b, " Gmadmail\n"...)
}

func parseHeader(line []byte) (h header, err error) {
	fields := bytes.Fields(line)
	if len(fields) < 2 || string(fields[0]) != "1" {
		return h, errIndex
	}
	for _, f := range fields[1:] {
		v, err := strconv.ParseUint(string(f[1:]), 10, 63)
		switch f[0] {
		case 'V':
			if err != nil || v == 0 || v > 1<<32-1 {
				return h, errIndex
			}
			h.validity = uint32(v)
		case 'N':
			if err != nil || v > 1<<32-1 {
				return h, errIndex
			}
			h.next = mailbox.UID(v)
		case 'M':
			if err == nil {
				h.mod = mailbox.ModSeq(v)
			}
		case 'G':
			h.ours = true
		}
	}
	if h.validity == 0 {
		return h, errIndex
	}
	h.next = max(h.next, 1)
	return h, nil
}

func appendEntry(b []byte, m mailbox.Message, next mailbox.UID, base string) []byte {
	b = strconv.AppendUint(b, uint64(m.UID), 10)
	b = append(b, " S"...)
	b = strconv.AppendInt(b, m.Size, 10)
	b = append(b, " T"...)
	b = strconv.AppendInt(b, m.Internal, 10)
	b = append(b, " M"...)
	b = strconv.AppendUint(b, uint64(m.ModSeq), 10)
	if m.Saved != 0 {
		b = append(b, " A"...)
		b = strconv.AppendUint(b, uint64(m.Saved), 10)
	}
	b = append(b, " F"...)
	b = appendFlags(b, m.Flags)
	if len(m.Keywords) > 0 {
		b = append(b, " K"...)
		b = append(b, joinKeywords(m.Keywords)...)
	}
	return appendTail(b, next, base)
}

func appendGone(b []byte, uid mailbox.UID, mod mailbox.ModSeq, next mailbox.UID, base string) []byte {
	b = strconv.AppendUint(b, uint64(uid), 10)
	b = append(b, " X M"...)
	b = strconv.AppendUint(b, uint64(mod), 10)
	return appendTail(b, next, base)
}

func appendTail(b []byte, next mailbox.UID, base string) []byte {
	b = append(b, " N"...)
	b = strconv.AppendUint(b, uint64(next), 10)
	b = append(b, " :"...)
	b = append(b, base...)
	return append(b, '\n')
}

func parseEntry(line []byte) (e entry, err error) {
	if len(line) > maxIndexLine {
		return e, errIndex
	}
	meta, base, ok := bytes.Cut(line, []byte(" :"))
	if !ok || len(base) == 0 || bytes.ContainsAny(base, "/\x00") || base[0] == '.' {
		return e, errIndex
	}
	e.base = string(base)
	fields := bytes.Fields(meta)
	if len(fields) == 0 {
		return e, errIndex
	}
	uid, err := strconv.ParseUint(string(fields[0]), 10, 32)
	if err != nil || uid == 0 {
		return e, errIndex
	}
	e.UID = mailbox.UID(uid)
	for _, f := range fields[1:] {
		v := string(f[1:])
		switch f[0] {
		case 'S':
			e.Size, err = strconv.ParseInt(v, 10, 63)
		case 'T':
			e.Internal, err = strconv.ParseInt(v, 10, 64)
		case 'M':
			var n uint64
			n, err = strconv.ParseUint(v, 10, 63)
			e.ModSeq = mailbox.ModSeq(n)
		case 'A':
			var n uint64
			n, err = strconv.ParseUint(v, 10, 32)
			e.Saved = uint32(n)
		case 'F':
			e.Flags, e.ours = parseFlags(v), true
		case 'K':
			e.Keywords = mailbox.Keywords(splitKeywords(v))
		case 'N':
			var n uint64
			n, err = strconv.ParseUint(v, 10, 32)
			e.next = mailbox.UID(n)
		case 'X':
			e.gone, e.ours = true, true
		}
		if err != nil || e.Size < 0 {
			return e, errIndex
		}
	}
	return e, nil
}

// index is a whole index file in memory.
type index struct {
	header
	live  []entry // in order of UID
	lines int     // all entry lines, live or dead
	bad   int     // lines that could not be read
}

// parseIndex reads an index. A damaged first line is an error; damaged lines
// are counted and skipped: the directory tells what they were about. A last
// line without its end was being written and is not counted as damage.
func parseIndex(data []byte) (*index, error) {
	first, rest, ok := bytes.Cut(data, []byte("\n"))
	if !ok {
		return nil, errIndex
	}
	h, err := parseHeader(first)
	if err != nil {
		return nil, err
	}
	ix := &index{header: h}
	at := make(map[mailbox.UID]int)
	sorted := true
	for len(rest) > 0 {
		line, more, ok := bytes.Cut(rest, []byte("\n"))
		rest = more
		if !ok {
			break
		}
		ix.lines++
		e, err := parseEntry(line)
		if err != nil {
			ix.bad++
			continue
		}
		ix.next = max(ix.next, e.next, e.UID+1)
		ix.mod = max(ix.mod, e.ModSeq)
		i, known := at[e.UID]
		switch {
		case known && e.gone:
			ix.live[i].gone = true
		case e.gone:
		case known:
			if ix.live[i].base == e.base {
				ix.live[i] = e
			} else {
				ix.bad++ // a UID names one message for ever
			}
		default:
			if n := len(ix.live); n > 0 && ix.live[n-1].UID > e.UID {
				sorted = false
			}
			at[e.UID] = len(ix.live)
			ix.live = append(ix.live, e)
		}
	}
	keep := ix.live[:0]
	for _, e := range ix.live {
		if !e.gone {
			keep = append(keep, e)
		}
	}
	ix.live = keep
	if !sorted {
		sortEntries(ix.live)
	}
	return ix, nil
}

// tail is what the end of an index tells.
type tail struct {
	header
	size int64
}

// readTail learns validity, next UID and modseq from the first line and the
// last 4 KiB of an index. ok is false when that is not enough to be sure:
// the caller then reads all of it.
func readTail(path string) (t tail, ok bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return t, false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return t, false, err
	}
	t.size = st.Size()
	var buf [4096]byte
	n, err := f.ReadAt(buf[:min(256, t.size)], 0)
	if err != nil && err != io.EOF {
		return t, false, err
	}
	first, rest, whole := bytes.Cut(buf[:n], []byte("\n"))
	if !whole {
		return t, false, nil
	}
	h, err := parseHeader(first)
	if err != nil || !h.ours {
		return t, false, nil
	}
	t.header = h
	if int64(len(first))+1 == t.size {
		return t, true, nil
	}
	if t.size > int64(n) {
		from := max(0, t.size-int64(len(buf)))
		n, err = f.ReadAt(buf[:t.size-from], from)
		if err != nil && err != io.EOF {
			return t, false, err
		}
		rest = buf[:n]
	}
	if len(rest) == 0 || rest[len(rest)-1] != '\n' {
		return t, false, nil // a torn line: read and mend
	}
	rest = rest[:len(rest)-1]
	if i := bytes.LastIndexByte(rest, '\n'); i >= 0 {
		rest = rest[i+1:]
	}
	e, err := parseEntry(rest)
	if err != nil || !e.ours || e.next == 0 {
		return t, false, nil
	}
	t.next = max(t.next, e.next, e.UID+1)
	t.mod = max(t.mod, e.ModSeq)
	return t, true, nil
}
