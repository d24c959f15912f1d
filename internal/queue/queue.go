package queue

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Options are what Open needs. Dir must be set.
type Options struct {
	Dir string // made when missing
	// Lifetime is how long entries are kept that name no other time (24 h).
	Lifetime time.Duration
	// Delay is how long after Open entries found there are not due: a machine that
	// boots may not have its network yet.
	Delay  time.Duration
	Logger *slog.Logger
	Now    func() time.Time

	files files // for tests
}

// Queue is an open spool. Make one with Open.
type Queue struct {
	Options
	dir     files
	syncDir syncer
	changed chan struct{}

	mu      sync.Mutex // guards the fields below
	all     map[ID]*record
	lanes   map[address.Domain]*lane
	order   laneHeap // lanes with waiting records
	broken  int
	taken   int
	noticed []ID
	arrived uint32
	closed  bool
}

// record is what memory holds of an entry.
type record struct {
	id      ID
	due     int64 // unix microseconds
	lane    *lane
	expires uint32 // unix seconds
	arrival uint32 // of those that are due together the first comes first
	pos     int32  // in the lane's heap, or taken
	drop    bool   // removed by the operator while taken
}

const taken = -1

// lane is the entries of one destination.
type lane struct {
	to      address.Domain
	waiting recordHeap
	entries int   // waiting and taken
	hold    int64 // unix microseconds before which nothing is due
	pos     int   // in order, or -1
}

func (l *lane) due() int64 {
	if len(l.waiting) == 0 {
		return math.MaxInt64
	}
	return max(l.hold, l.waiting[0].due)
}

type recordHeap []*record

func (h recordHeap) Len() int { return len(h) }
func (h recordHeap) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return int32(h[i].arrival-h[j].arrival) < 0
}
func (h recordHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = int32(i), int32(j)
}
func (h *recordHeap) Push(x any) {
	r := x.(*record)
	r.pos = int32(len(*h))
	*h = append(*h, r)
}
func (h *recordHeap) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	r.pos = taken
	return r
}

type laneHeap []*lane

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].due() < h[j].due() }
func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}
func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.pos = len(*h)
	*h = append(*h, l)
}
func (h *laneHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	l.pos = -1
	return l
}

const orphanAge = time.Hour

// Open reads the directory. Entries that cannot be read are set aside, not an
// error. Errors: fault.Invalid for the options, fault.Busy when the directory
// cannot be read or made.
func Open(ctx context.Context, o Options) (*Queue, error) {
	if o.Dir == "" && o.files == nil {
		return nil, fault.New(fault.Invalid, "queue: Dir is not set")
	}
	if o.Lifetime <= 0 {
		o.Lifetime = 24 * time.Hour
	}
	o.Lifetime = min(o.Lifetime, maxLifetime)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	q := &Queue{
		Options: o, dir: o.files, changed: make(chan struct{}, 1),
		all: make(map[ID]*record), lanes: make(map[address.Domain]*lane),
	}
	if q.dir == nil {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, kinded(err, "queue: make the directory")
		}
		q.dir = directory(o.Dir)
	}
	q.syncDir.sync = q.dir.syncDir
	if err := q.load(ctx); err != nil {
		return nil, kinded(err, "queue: open")
	}
	return q, nil
}

// load reads the directory and mends what an interrupted server left.
func (q *Queue) load(ctx context.Context) error {
	var metas, strange, headers []string
	bodies := make(map[string]bool) // false: nobody wants it yet
	kept := make(map[string]bool)   // bases with something set aside
	var remove []string
	err := q.dir.names(func(name string) {
		switch base, suffix := split(name); suffix {
		case metaSuffix:
			if _, err := ParseID(base); err == nil {
				metas = append(metas, base)
			} else {
				strange = append(strange, base)
			}
		case bodySuffix:
			bodies[base] = false
		case headerSuffix:
			headers = append(headers, base)
		case newSuffix, halfSuffix:
			remove = append(remove, name)
		case brokenSuffix:
			q.broken++
			kept[base] = true
		}
	})
	if err != nil {
		return err
	}
	for _, name := range remove {
		if err := q.dir.remove(name); err != nil {
			q.Logger.Warn("a left-over file of the queue stays", "err", err)
		}
	}
	hasHeader := make(map[string]bool)
	for _, h := range headers {
		hasHeader[h] = true
	}
	start := q.Now().Add(q.Delay)
	// What is converted comes last, when it is known what was converted before.
	slices.SortStableFunc(metas, func(a, b string) int { return cmp.Compare(rank(hasHeader[a]), rank(hasHeader[b])) })
	for _, list := range [][]string{metas, strange} {
		for _, base := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			_, ok := bodies[base]
			bodies[base] = true
			err := errors.New("there is no body")
			if ok {
				err = q.loadOne(base, hasHeader[base], start)
			}
			switch {
			case err == nil:
			case ofDisk(err): // not the file's fault: the next start may read it
				q.broken++
				q.Logger.Error("an entry of the queue cannot be read", "err", err)
			default:
				q.breakFile(base, err)
			}
		}
	}
	for base, wanted := range bodies {
		if wanted || kept[base] || q.has(base) {
			continue
		}
		// One that is younger may be of a predecessor that is still stopping.
		if t, err := q.dir.age(base + bodySuffix); err != nil || q.Now().Sub(t) < orphanAge {
			continue
		}
		if err := q.dir.remove(base + bodySuffix); err != nil {
			q.Logger.Warn("a left-over body in the queue stays", "err", err)
		}
		if hasHeader[base] {
			_ = q.dir.remove(base + headerSuffix) // goes with its body
		}
	}
	return nil
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// has reports whether base is the ID of an entry.
func (q *Queue) has(base string) bool {
	id, err := ParseID(base)
	return err == nil && q.all[id] != nil
}

// ofDisk reports whether an error is the disk's and not a missing or damaged file.
func ofDisk(err error) bool {
	var p *fs.PathError
	var l *os.LinkError
	return (errors.As(err, &p) || errors.As(err, &l)) && !errors.Is(err, fs.ErrNotExist)
}

// loadOne takes an entry into memory; the error says why it cannot be read.
func (q *Queue) loadOne(base string, header bool, start time.Time) error {
	b, err := q.dir.read(base+metaSuffix, maxMeta)
	if err != nil {
		return err
	}
	if header {
		if list, err := decodeV1(base, b, q.Lifetime, start); !errors.Is(err, errNotV1) {
			if err != nil {
				return err
			}
			return q.convert(base, list)
		}
	}
	id, err := ParseID(base)
	if err != nil { // a name that a hand gave
		var m meta
		e := &Entry{}
		id = derived(base, "", 0)
		if err = json.Unmarshal(b, &m); err == nil {
			e, err = m.entry(id, q.Lifetime, q.came(base))
		}
		if err != nil {
			return err
		}
		return q.adopt(base, e)
	}
	e, err := decode(id, b, q.Lifetime, q.came(base))
	if err != nil {
		return err
	}
	e.Due = later(e.Due, start)
	q.add(e)
	if e.Notice != "" {
		q.noticed = append(q.noticed, id)
	}
	return nil
}

// came is when an entry's files were written, for those that do not say when it came.
func (q *Queue) came(base string) func() time.Time {
	return func() time.Time {
		t, err := q.dir.age(base + bodySuffix)
		if err != nil {
			return time.Time{}
		}
		return t
	}
}

// Noticed returns the entries found at Open whose notification was written down and
// perhaps delivered. It forgets them.
func (q *Queue) Noticed() []ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := q.noticed
	q.noticed = nil
	return ids
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// adopt gives an entry with a strange name one of ours.
func (q *Queue) adopt(base string, e *Entry) error {
	if err := q.dir.link(base+bodySuffix, e.ID.String()+bodySuffix); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := q.write(e); err != nil {
		return err
	}
	q.add(e)
	return q.discard(base)
}

// convert makes entries of a message of the first predecessor, whose header and body are
// two files.
func (q *Queue) convert(base string, list []*Entry) error {
	var missing []*Entry
	for _, e := range list {
		q.mu.Lock()
		_, there := q.all[e.ID] // from a conversion that was interrupted
		q.mu.Unlock()
		if !there {
			missing = append(missing, e)
		}
	}
	if len(missing) > 0 {
		header, err := q.dir.read(base+headerSuffix, maxMeta)
		if err != nil {
			return err
		}
		f, err := q.dir.open(base + bodySuffix)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		for _, e := range missing { // what an interrupted conversion left without meta
			_ = q.dir.remove(e.ID.String() + bodySuffix)
		}
		body := &joined{header, f}
		if err := q.put(body, int64(len(header))+info.Size(), missing); err != nil {
			return err
		}
	}
	if err := q.dir.remove(base + metaSuffix); err != nil {
		return err
	}
	_ = q.dir.remove(base + headerSuffix) // what stays is an orphan
	return q.discard(base)
}

// joined is a header block and what stands behind it.
type joined struct {
	header []byte
	body   io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (j *joined) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(j.header)) {
		n = copy(p, j.header[off:])
		if n == len(p) {
			return n, nil
		}
	}
	m, err := j.body.ReadAt(p[n:], off+int64(n)-int64(len(j.header)))
	return n + m, err
}

// discard removes the files of an entry, the meta first: a body alone is nothing.
func (q *Queue) discard(base string) error {
	if err := q.dir.remove(base + metaSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := q.dir.remove(base + bodySuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		q.Logger.Warn("a body in the queue stays until the next start", "err", err)
	}
	return nil
}

// breakFile sets a meta file aside with a note. What is wrong with an address in it
// must not reach the log.
func (q *Queue) breakFile(base string, why error) {
	err := q.dir.rename(base+metaSuffix, base+brokenSuffix)
	if err == nil {
		_ = q.dir.remove(base + noteSuffix)
		var f file
		if f, err = q.create(base+noteSuffix, []byte(q.Now().UTC().Format(time.RFC3339)+" "+why.Error()+"\n")); err == nil {
			err = syncAll([]file{f})
		}
	}
	q.mu.Lock()
	q.broken++
	q.mu.Unlock()
	q.Logger.Error("an entry of the queue cannot be read and was set aside", "file", base+brokenSuffix, "err", err)
}

// add takes an entry into memory.
func (q *Queue) add(e *Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all[e.ID] != nil {
		return
	}
	l := q.lanes[e.Destination]
	if l == nil {
		l = &lane{to: e.Destination, pos: -1}
		q.lanes[e.Destination] = l
	}
	q.arrived++
	r := &record{id: e.ID, due: e.Due.UnixMicro(), expires: uint32(min(e.Expires.Unix(), math.MaxUint32)), arrival: q.arrived, lane: l}
	q.all[e.ID] = r
	l.entries++
	q.waitLocked(r)
}

// waitLocked puts a record back into its lane.
func (q *Queue) waitLocked(r *record) {
	heap.Push(&r.lane.waiting, r)
	q.orderLocked(r.lane)
	q.wake()
}

// orderLocked puts a lane into its place.
func (q *Queue) orderLocked(l *lane) {
	switch {
	case len(l.waiting) == 0 && l.pos >= 0:
		heap.Remove(&q.order, l.pos)
	case len(l.waiting) > 0 && l.pos < 0:
		heap.Push(&q.order, l)
	case l.pos >= 0:
		heap.Fix(&q.order, l.pos)
	}
	if l.entries == 0 {
		delete(q.lanes, l.to)
	}
}

func (q *Queue) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// Changed returns the channel that gets a value after something became due
// earlier than before. It holds one; there is one reader.
func (q *Queue) Changed() <-chan struct{} { return q.changed }

// Envelope is a message to be queued for one destination.
type Envelope struct {
	From   address.Addr
	To     []address.Addr // 1 to MaxRecipients, all of one domain
	Silent bool
	// Lifetime is how long delivery is tried; 0 means that of Options.
	Lifetime time.Duration
}

// Put stores a message, size octets of body, for each of the envelopes, and returns
// when all of it is durable. Each envelope becomes an entry, due at once; the body
// is written once. Either all entries are there or none.
//
// Errors: fault.Invalid for an envelope without recipients, with too many or with
// two domains; fault.Busy when the disk fails, ctx is done or the queue is closed.
func (q *Queue) Put(ctx context.Context, body io.ReaderAt, size int64, envelopes ...Envelope) ([]ID, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.Wrap(fault.Busy, err, "queue: put")
	}
	q.mu.Lock()
	closed := q.closed
	q.mu.Unlock()
	if closed {
		return nil, fault.New(fault.Busy, "queue: closed")
	}
	now := q.Now()
	list := make([]*Entry, len(envelopes))
	ids := make([]ID, len(envelopes))
	for i, v := range envelopes {
		e := &Entry{ID: newID(), From: v.From, Silent: v.Silent, Queued: now, Due: now}
		if len(v.To) == 0 || len(v.To) > MaxRecipients {
			return nil, fault.Newf(fault.Invalid, "queue: an entry has 1 to %d recipients", MaxRecipients)
		}
		e.Destination = v.To[0].Domain()
		for _, a := range v.To {
			if a.Domain() != e.Destination || a.IsZero() {
				return nil, fault.New(fault.Invalid, "queue: an entry has one destination")
			}
			e.To = append(e.To, Recipient{Addr: a})
		}
		lifetime := v.Lifetime
		if lifetime <= 0 {
			lifetime = q.Lifetime
		}
		e.Expires = now.Add(min(lifetime, maxLifetime))
		list[i], ids[i] = e, e.ID
		if len(envelopes) > 1 {
			e.Group = ids[0]
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	if err := q.put(body, size, list); err != nil {
		return nil, kinded(err, "queue: put")
	}
	return ids, nil
}

// put writes entries and takes them into memory; on an error it leaves none.
func (q *Queue) put(body io.ReaderAt, size int64, list []*Entry) (err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, e := range list { // metas first
			_ = q.dir.remove(e.ID.String() + newSuffix)
			_ = q.dir.remove(e.ID.String() + metaSuffix)
		}
		for _, e := range list {
			_ = q.dir.remove(e.ID.String() + bodySuffix)
		}
	}()
	first := list[0].ID.String() + bodySuffix
	f, err := q.copy(first, body, size)
	if err != nil {
		return err
	}
	written := []file{f}
	for i, e := range list {
		if name := e.ID.String() + bodySuffix; i > 0 && q.dir.link(first, name) != nil {
			// Not every file system has links.
			_ = q.dir.remove(name)
			if f, err = q.copy(name, body, size); err != nil {
				break
			}
			written = append(written, f)
		}
		if f, err = q.prepareMeta(e); err != nil {
			break
		}
		if written = append(written, f); len(written) >= maxOpen {
			if err = syncAll(written); err != nil {
				return err
			}
			written = written[:0]
		}
	}
	if err := errors.Join(err, syncAll(written)); err != nil {
		return err
	}
	for _, e := range list {
		if err := q.dir.rename(e.ID.String()+newSuffix, e.ID.String()+metaSuffix); err != nil {
			return err
		}
	}
	if err := q.syncDir.wait(); err != nil {
		return err
	}
	for _, e := range list {
		q.add(e)
	}
	return nil
}

// maxOpen is how many files of one message are open at a time.
const maxOpen = 32

// syncAll syncs and closes files, all at once: what a file system has to do for
// one sync it can often do for many.
func syncAll(list []file) error {
	if len(list) == 1 {
		return errors.Join(list[0].Sync(), list[0].Close())
	}
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, f := range list {
		wg.Go(func() { errs[i] = errors.Join(f.Sync(), f.Close()) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// copy writes a body, which is to be synced and closed.
func (q *Queue) copy(name string, body io.ReaderAt, size int64) (file, error) {
	f, err := q.dir.create(name)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.NewSectionReader(body, 0, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// create writes a small file that must not exist; it is to be synced and closed.
func (q *Queue) create(name string, b []byte) (file, error) {
	f, err := q.dir.create(name)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(b); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// prepareMeta writes a meta file beside its place; it is to be synced and closed.
func (q *Queue) prepareMeta(e *Entry) (file, error) {
	b, err := encode(e)
	if err != nil {
		return nil, err
	}
	name := e.ID.String() + newSuffix
	f, err := q.create(name, b)
	if !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	if err := q.dir.remove(name); err != nil { // left by a write that failed
		return nil, err
	}
	return q.create(name, b)
}

func (q *Queue) writeMeta(e *Entry) error {
	f, err := q.prepareMeta(e)
	if err != nil {
		return err
	}
	if err := syncAll([]file{f}); err != nil {
		return err
	}
	return q.dir.rename(e.ID.String()+newSuffix, e.ID.String()+metaSuffix)
}

func newID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// derived is the ID of something that was made of a file with another name.
func derived(name, destination string, n int) ID {
	h := sha256.Sum256([]byte(name + "\x00" + destination + "\x00" + strconv.Itoa(n)))
	id := ID(h[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id
}

// Next takes up the entry that has been due for longest among those whose
// destination allow takes; allow is called with the queue locked and must only read
// memory. The entry is the caller's until Done, Retry, Release or SetAside.
//
// When there is none, the entry is nil, and at is when the next one becomes due, zero
// when none will: entries that allow kept back are not counted.
func (q *Queue) Next(allow func(address.Domain) bool) (e *Entry, at time.Time) {
	for {
		id, at, ok := q.pick(allow)
		if !ok {
			return nil, at
		}
		e, err := q.read(id)
		if err == nil {
			return e, time.Time{}
		}
		q.breakTaken(id, err)
	}
}

func (q *Queue) pick(allow func(address.Domain) bool) (id ID, at time.Time, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.Now().UnixMicro()
	var passed []*lane
	defer func() {
		for _, l := range passed {
			heap.Push(&q.order, l)
		}
	}()
	for len(q.order) > 0 {
		l := q.order[0]
		if due := l.due(); due > now {
			return ID{}, time.UnixMicro(due), false
		}
		if !allow(l.to) {
			heap.Pop(&q.order)
			passed = append(passed, l)
			continue
		}
		r := l.waiting[0]
		q.takeLocked(r)
		return r.id, time.Time{}, true
	}
	return ID{}, time.Time{}, false
}

// Take takes up a certain entry that nobody has. Errors: fault.NotFound, fault.Busy
// when somebody has it.
func (q *Queue) Take(id ID) (*Entry, error) {
	q.mu.Lock()
	r := q.all[id]
	switch {
	case r == nil:
		q.mu.Unlock()
		return nil, fault.New(fault.NotFound, "no such queue entry")
	case r.pos == taken:
		q.mu.Unlock()
		return nil, fault.New(fault.Busy, "this queue entry is being delivered")
	}
	q.takeLocked(r)
	q.mu.Unlock()
	e, err := q.read(id)
	if err != nil {
		q.breakTaken(id, err)
		return nil, fault.Wrap(fault.NotFound, err, "queue: take")
	}
	return e, nil
}

func (q *Queue) takeLocked(r *record) {
	heap.Remove(&r.lane.waiting, int(r.pos))
	q.taken++
	q.orderLocked(r.lane)
}

// read reads an entry's meta file.
func (q *Queue) read(id ID) (*Entry, error) {
	b, err := q.dir.read(id.String()+metaSuffix, maxMeta)
	if err != nil {
		return nil, err
	}
	e, err := decode(id, b, q.Lifetime, q.came(id.String()))
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if r := q.all[id]; r != nil {
		e.Due = time.UnixMicro(max(r.due, r.lane.hold))
	}
	return e, nil
}

// breakTaken sets aside a taken entry whose files cannot be read. When the file
// itself is there and the disk fails, the entry waits a minute instead.
func (q *Queue) breakTaken(id ID, why error) {
	if ofDisk(why) {
		q.Logger.Error("an entry of the queue cannot be read now", "err", why)
		q.mu.Lock()
		defer q.mu.Unlock()
		if r := q.all[id]; r != nil {
			r.due = q.Now().Add(time.Minute).UnixMicro()
			q.giveBackLocked(r)
		}
		return
	}
	q.breakFile(id.String(), why)
	q.forget(id)
}

// forget removes a record from memory.
func (q *Queue) forget(id ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.all[id]
	if r == nil {
		return
	}
	delete(q.all, id)
	if r.pos == taken {
		q.taken--
	} else {
		heap.Remove(&r.lane.waiting, int(r.pos))
	}
	r.lane.entries--
	q.orderLocked(r.lane)
}

// giveBackLocked ends the taking of r.
func (q *Queue) giveBackLocked(r *record) {
	if r.pos != taken {
		return
	}
	q.taken--
	q.waitLocked(r)
}

// Body is the message of an entry. Close it.
type Body struct {
	file
	size int64
}

// Size returns the length in octets.
func (b *Body) Size() int64 { return b.size }

// Body opens the message of an entry. Errors: fault.NotFound when it is gone, so
// that the entry can only be set aside; else fault.Busy.
func (q *Queue) Body(id ID) (*Body, error) {
	f, err := q.dir.open(id.String() + bodySuffix)
	if err != nil {
		return nil, kinded(err, "queue: open a body")
	}
	i, err := f.Stat()
	if err != nil {
		return nil, kinded(errors.Join(err, f.Close()), "queue: open a body")
	}
	return &Body{f, i.Size()}, nil
}

// Done removes a taken entry: nothing is left to do. The error, of kind fault.Busy,
// says that it will be found again at the next start.
func (q *Queue) Done(id ID) error {
	err := q.discard(id.String())
	q.forget(id)
	return kinded(err, "queue: done")
}

// Retry gives a taken entry back with what was learnt: its recipients that are not
// done, tries, error and the time it is due. The change is durable when Retry
// returns nil. On an error, of kind fault.Busy, the entry is due at that time as well, but a
// restart finds it as it was.
func (q *Queue) Retry(e *Entry) error {
	q.mu.Lock()
	r := q.all[e.ID]
	drop := r != nil && r.drop
	q.mu.Unlock()
	if r == nil {
		return fault.New(fault.NotFound, "no such queue entry")
	}
	if drop || len(e.To) == 0 {
		return q.Done(e.ID)
	}
	err := q.write(e)
	q.mu.Lock()
	if r.drop {
		q.mu.Unlock()
		return q.Done(e.ID)
	}
	defer q.mu.Unlock()
	r.due = e.Due.UnixMicro()
	q.giveBackLocked(r)
	return kinded(err, "queue: retry")
}

// Keep makes what was learnt about a taken entry durable without giving it back, as
// before something that must not happen twice. Errors: fault.NotFound when the
// operator removed it, fault.Busy when the disk fails.
func (q *Queue) Keep(e *Entry) error {
	q.mu.Lock()
	r := q.all[e.ID]
	gone := r == nil || r.drop
	q.mu.Unlock()
	if gone {
		return fault.New(fault.NotFound, "no such queue entry")
	}
	return kinded(q.write(e), "queue: keep")
}

// write makes an entry's meta file durable.
func (q *Queue) write(e *Entry) error {
	if err := q.writeMeta(e); err != nil {
		return err
	}
	return q.syncDir.wait()
}

// Release gives a taken entry back as it was, for one that was not tried. It is
// due at once.
func (q *Queue) Release(id ID) {
	q.mu.Lock()
	r := q.all[id]
	if r == nil || !r.drop {
		if r != nil {
			q.giveBackLocked(r)
		}
		q.mu.Unlock()
		return
	}
	q.mu.Unlock()
	_ = q.Done(id)
}

// SetAside keeps an entry that nobody can do anything with, as Open does with
// unreadable ones: under another name, with a note, counted.
func (q *Queue) SetAside(id ID, why error) {
	q.breakFile(id.String(), why)
	q.forget(id)
}

// Hold keeps the entries of a destination from being due before t. It is not
// written to disk. An earlier t lifts a later hold.
func (q *Queue) Hold(to address.Domain, t time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.lanes[to]; l != nil {
		l.hold = t.UnixMicro()
		q.orderLocked(l)
		q.wake()
	}
}

// Wake makes the entries of a destination due now, all when to is "", and returns how
// many were waiting. It is not written to disk.
func (q *Queue) Wake(to address.Domain) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if to != "" {
		return q.wakeLocked(q.lanes[to])
	}
	n := 0
	for _, l := range q.lanes {
		n += q.wakeLocked(l)
	}
	return n
}

func (q *Queue) wakeLocked(l *lane) int {
	if l == nil || len(l.waiting) == 0 {
		return 0
	}
	now := q.Now().UnixMicro()
	l.hold = 0
	// They keep their order by being due in the past.
	shift := int64(0)
	for _, r := range l.waiting {
		shift = max(shift, r.due-now)
	}
	for _, r := range l.waiting {
		r.due -= shift
	}
	q.orderLocked(l)
	q.wake()
	return len(l.waiting)
}

// WakeOne makes one entry due now. Errors: fault.NotFound; fault.Busy when it is being
// delivered.
func (q *Queue) WakeOne(id ID) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.all[id]
	switch {
	case r == nil:
		return fault.New(fault.NotFound, "no such queue entry")
	case r.pos == taken:
		return fault.New(fault.Busy, "this queue entry is being delivered")
	}
	r.lane.hold = 0
	r.due = q.Now().UnixMicro()
	heap.Fix(&r.lane.waiting, int(r.pos))
	q.orderLocked(r.lane)
	q.wake()
	return nil
}

// Expired returns up to n waiting entries of a destination whose time is over.
func (q *Queue) Expired(to address.Domain, n int) []ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[to]
	if l == nil {
		return nil
	}
	now := uint32(q.Now().Unix())
	var ids []ID
	for _, r := range l.waiting {
		if r.expires <= now {
			if ids = append(ids, r.id); len(ids) == n {
				break
			}
		}
	}
	return ids
}

// Close makes Put fail from now on. Nothing is left to write.
func (q *Queue) Close(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return nil
}

// Stats are numbers of the moment.
type Stats struct {
	Entries      int // waiting and taken
	Taken        int // being delivered
	Destinations int
	Broken       int // set aside
}

// Stats returns the numbers.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{Entries: len(q.all), Taken: q.taken, Broken: q.broken}
	for _, l := range q.lanes {
		if l.entries > 0 {
			s.Destinations++
		}
	}
	return s
}

// Depths returns how many entries each destination has.
func (q *Queue) Depths() map[address.Domain]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := make(map[address.Domain]int, len(q.lanes))
	for to, l := range q.lanes {
		if l.entries > 0 {
			m[to] = l.entries
		}
	}
	return m
}
