package maildir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// The journal is a ring of preallocated files journal/seg-<n>. A segment
// begins with
//
//	"madmailj" epoch(8) crc32c(4) zero(12)
//
// and holds records, each aligned to 8 octets:
//
//	mark(4) length(4) crc32c(4) zero(4) payload
//
// mark and checksum depend on the epoch, so what an earlier life of the file
// left behind is never taken for a record. The file journal/checkpoint names
// the lowest epoch that may still be needed.
const (
	segHeader  = 32
	recHeader  = 16
	segMagic   = "madmailj"
	checkpoint = "checkpoint"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errJournalFull says that no segment is free.
var errJournalFull = errors.New("maildir: journal is full")

type segment struct {
	f     *os.File
	epoch uint64 // 0: free
	used  int64
}

// journal is owned by the sequencer; only recycle is called by others.
type journal struct {
	disk *disk
	dir  string
	size int64
	max  int

	segs  []*segment
	cur   *segment
	epoch uint64 // of cur, or of the last one there was
	buf   []byte // records of the batch, not written yet
}

func recMark(epoch uint64) uint32 { return uint32(epoch*0x9E3779B1) ^ 0x6d61646d }

func recSum(epoch uint64, payload []byte) uint32 {
	var e [12]byte
	binary.LittleEndian.PutUint64(e[:], epoch)
	binary.LittleEndian.PutUint32(e[8:], uint32(len(payload)))
	return crc32.Update(crc32.Checksum(e[:], castagnoli), castagnoli, payload)
}

// begin starts a record in the batch buffer and returns where; end closes it.
func (j *journal) begin() int {
	at := len(j.buf)
	j.buf = append(j.buf, make([]byte, recHeader)...)
	return at
}

// end fills the record header. The epoch is set when the batch is written.
func (j *journal) end(at int) {
	binary.LittleEndian.PutUint32(j.buf[at+4:], uint32(len(j.buf)-at-recHeader))
	for len(j.buf)%8 != 0 {
		j.buf = append(j.buf, 0)
	}
}

// room says whether the batch fits into the present segment.
func (j *journal) room() bool {
	return j.cur != nil && j.cur.used+int64(len(j.buf)) <= j.size
}

// seal writes marks and checksums for the epoch of the present segment.
func (j *journal) seal() {
	mark := recMark(j.cur.epoch)
	for at := 0; at < len(j.buf); {
		n := int(binary.LittleEndian.Uint32(j.buf[at+4:]))
		payload := j.buf[at+recHeader : at+recHeader+n]
		binary.LittleEndian.PutUint32(j.buf[at:], mark)
		binary.LittleEndian.PutUint32(j.buf[at+8:], recSum(j.cur.epoch, payload))
		at += (recHeader + n + 7) &^ 7
	}
}

// commit writes the batch and waits until it is durable. After an error the
// segment is not used again: what a failed sync left on disk is unknown.
func (j *journal) commit() error {
	defer func() { j.buf = j.buf[:0] }()
	if len(j.buf) == 0 {
		return nil
	}
	if !j.room() {
		return errJournalFull
	}
	j.seal()
	err := j.disk.writeAt(j.cur.f, j.buf, j.cur.used)
	if err == nil {
		err = j.disk.sync(j.cur.f)
	}
	if err != nil {
		j.abandon()
		return err
	}
	j.cur.used += int64(len(j.buf))
	return nil
}

// abandon stops writing to the present segment. Its good records stay live;
// what the failed batch may have left behind them is cut off when possible, and
// otherwise comes back after a crash as mail that was refused: a duplicate.
func (j *journal) abandon() {
	if j.cur == nil {
		return
	}
	_ = j.disk.writeAt(j.cur.f, make([]byte, len(j.buf)), j.cur.used)
	j.cur = nil
}

// open makes the next segment current: a free one, or a new one.
func (j *journal) open() error {
	var s *segment
	for _, c := range j.segs {
		if c.epoch == 0 {
			s = c
			break
		}
	}
	if s == nil {
		if len(j.segs) >= j.max {
			return errJournalFull
		}
		var err error
		if s, err = j.create(len(j.segs)); err != nil {
			return err
		}
		j.segs = append(j.segs, s)
	}
	epoch := j.epoch + 1
	if err := j.disk.writeAt(s.f, segmentHeader(epoch), 0); err != nil {
		return err
	}
	j.epoch = epoch
	s.epoch, s.used = epoch, segHeader
	j.cur = s
	return nil
}

// reserve makes segments ahead of need: on a full disk none could be made.
func (j *journal) reserve(n int) error {
	for len(j.segs) < n {
		s, err := j.create(len(j.segs))
		if err != nil {
			return trouble(err, "reserve the journal")
		}
		j.segs = append(j.segs, s)
	}
	return nil
}

func segmentHeader(epoch uint64) []byte {
	h := make([]byte, segHeader)
	copy(h, segMagic)
	binary.LittleEndian.PutUint64(h[8:], epoch)
	binary.LittleEndian.PutUint32(h[16:], crc32.Checksum(h[:16], castagnoli))
	return h
}

func (j *journal) path(n int) string { return filepath.Join(j.dir, "seg-"+strconv.Itoa(n)) }

func (j *journal) create(n int) (*segment, error) {
	path := j.path(n)
	if err := j.disk.ask("newseg", path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = preallocate(f, j.size)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.disk.syncDir(j.dir)
	}
	if err != nil {
		f.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return &segment{f: f}, nil
}

// live returns the segments that may be needed, oldest first.
func (j *journal) live() []*segment {
	var l []*segment
	for _, s := range j.segs {
		if s.epoch != 0 {
			l = append(l, s)
		}
	}
	sort.Slice(l, func(a, b int) bool { return l[a].epoch < l[b].epoch })
	return l
}

// release frees all segments up to and including epoch.
func (j *journal) release(epoch uint64) {
	for _, s := range j.segs {
		if s.epoch != 0 && s.epoch <= epoch && s != j.cur {
			s.epoch, s.used = 0, 0
		}
	}
}

func (j *journal) close() error {
	var errs []error
	for _, s := range j.segs {
		errs = append(errs, s.f.Close())
	}
	return errors.Join(errs...)
}

// saveCheckpoint records that epochs below low are no longer needed.
func (j *journal) saveCheckpoint(low uint64) error {
	return j.disk.replace(filepath.Join(j.dir, checkpoint), []byte(strconv.FormatUint(low, 10)+"\n"))
}

// load opens the files of an earlier run and finds the live segments.
func (j *journal) load() error {
	low := uint64(1)
	data, err := os.ReadFile(filepath.Join(j.dir, checkpoint))
	switch {
	case err == nil:
		if low, err = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err != nil {
			return fmt.Errorf("maildir: %s: not a number", filepath.Join(j.dir, checkpoint))
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	j.epoch = low - 1
	for n := 0; ; n++ {
		f, err := os.OpenFile(j.path(n), os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		s := &segment{f: f}
		j.segs = append(j.segs, s)
		h := make([]byte, segHeader)
		if _, err := f.ReadAt(h, 0); err != nil && err != io.EOF {
			return err
		}
		epoch := binary.LittleEndian.Uint64(h[8:])
		if string(h[:8]) != segMagic || crc32.Checksum(h[:16], castagnoli) != binary.LittleEndian.Uint32(h[16:]) || epoch < low {
			continue
		}
		s.epoch = epoch
		j.epoch = max(j.epoch, epoch)
	}
	return nil
}

// replayed says what a reading of a segment found.
type replayed struct {
	records int
	damaged int // gaps between readable records
}

// scan calls f for every record of a segment in order. It stops at the end of
// what was written; a damaged record in the middle is skipped and counted.
func (s *segment) scan(size int64, f func(payload []byte) error) (r replayed, err error) {
	data := make([]byte, size)
	n, err := s.f.ReadAt(data, 0)
	if err != nil && err != io.EOF {
		return r, err
	}
	return scanRecords(data[min(n, segHeader):n], s.epoch, f)
}

func scanRecords(data []byte, epoch uint64, f func(payload []byte) error) (r replayed, err error) {
	mark := recMark(epoch)
	gap := false
	budget := 64 << 20 // octets of checksums spent on what may be a record
	for at := 0; at+recHeader <= len(data); {
		n := int64(binary.LittleEndian.Uint32(data[at+4:]))
		if binary.LittleEndian.Uint32(data[at:]) == mark && n <= int64(len(data)-at-recHeader) && budget > 0 {
			payload := data[at+recHeader : at+recHeader+int(n)]
			if gap {
				budget -= len(payload)
			}
			if recSum(epoch, payload) == binary.LittleEndian.Uint32(data[at+8:]) {
				if gap {
					r.damaged++
					gap = false
				}
				if err := f(payload); err != nil {
					return r, err
				}
				r.records++
				at += (recHeader + int(n) + 7) &^ 7
				continue
			}
		}
		gap = true
		at += 8
	}
	return r, nil
}
