// Package maildir implements mailbox.Store on Maildir files, a UID index per
// mailbox and one journal for the whole store.
//
// # On disk
//
// Below the state directory:
//
//	mail/<address>/Maildir/{cur,new,tmp}              INBOX
//	mail/<address>/folders/<name>/Maildir/{cur,new,tmp}  other mailboxes
//	mail/<address>/**/Maildir/chatmail-uidlist        index (see uidlist.go)
//	mail/<address>/mailboxes.json                     subscriptions, special uses
//	mail/.trash-<random>                              accounts being removed
//	spool/<random>                                    bodies over 64 KiB, while needed
//	journal/seg-<n>, journal/checkpoint               the journal (see journal.go)
//	journal/measured                                  sizes, after a clean stop (see measured.go)
//
// # How a change happens
//
// One goroutine, the sequencer, takes all operations that are waiting, plans
// each (gives UIDs and modification sequences, appends a record to the batch)
// and makes the batch durable with one write and one fdatasync. A second one,
// the materialiser, then publishes the new views, calls the hooks and answers,
// while the sequencer already syncs the next batch.
//
// A new message is held in memory and in the journal until the next
// checkpoint, within 30 s: only what is still there then becomes a file. Most
// messages never do, because clients fetch and delete them at once, and making
// and removing a file costs more than everything else together. The
// checkpoint runs in the background: it writes files and index lines, syncs
// the file system once, and frees journal space.
//
// So the order of planning is the order of everything, there is no lock over
// several mailboxes, and the cost of a sync is shared by all who wait for it.
// After a crash Open replays the records that no checkpoint covers; replaying
// twice does no harm.
//
// All methods may be called from many goroutines.
package maildir

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/latency"
	"madmail/internal/mailbox"
	"madmail/internal/task"
)

// Options configure a store. Only Dir is required.
type Options struct {
	// Dir is the state directory. It must be held by a lock: a store trusts
	// that nobody else runs on it.
	Dir    string
	Logger *slog.Logger
	// Changed is called after each change of a mailbox became visible, and with no
	// name after each change of an account's list of mailboxes.
	Changed func(mailbox.Box)
	// Used is told by how many bytes and messages an account grew or shrank.
	// After Hydrate the sum of all calls is what is on disk.
	Used func(a address.Addr, bytes, messages int64)
	// Spelled reads the name of a directory that another server made, which kept what
	// clients sent; false when it is no such name. nil takes names as they are.
	Spelled func(dir string) (name string, ok bool)

	Inline       int           // largest body kept in memory and in the journal; 64 KiB
	SegmentSize  int64         // of the journal; 16 MiB
	Segments     int           // at most; 6
	MaxBoxes     func() int    // mailboxes per account; 200
	MaxLoaded    int           // mailboxes kept in memory with all messages; 8192
	HeadCache    int           // header blocks kept in memory, in octets; 16 MiB
	Checkpoint   time.Duration // how long work may wait for a checkpoint; 30 s
	RecheckAfter time.Duration // how long a view is believed without a look at the directory; 2 s

	Now  func() time.Time
	hook func(op, path string) error // for tests: see disk
}

func (o *Options) fill() error {
	if o.Dir == "" {
		return errors.New("maildir: Options.Dir is empty")
	}
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&o.Inline, 64<<10)
	set(&o.Segments, 5)
	if o.MaxBoxes == nil {
		o.MaxBoxes = func() int { return 200 }
	}
	set(&o.MaxLoaded, 8192)
	set(&o.HeadCache, 16<<20)
	if o.SegmentSize == 0 {
		o.SegmentSize = 8 << 20
	}
	if o.SegmentSize < 4*int64(o.Inline) || o.Segments < 2 {
		return fmt.Errorf("maildir: %d segments of %d octets are too small", o.Segments, o.SegmentSize)
	}
	if o.Checkpoint == 0 {
		o.Checkpoint = 30 * time.Second
	}
	if o.RecheckAfter == 0 {
		o.RecheckAfter = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(mailbox.Box) {}
	}
	if o.Used == nil {
		o.Used = func(address.Addr, int64, int64) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Store is a mailbox.Store on Maildir. Make one with Open.
type Store struct {
	opt   Options
	log   *slog.Logger
	disk  *disk
	mail  string
	spool string

	mu     sync.RWMutex // guards the field below
	boxes  map[mailbox.Box]*box
	loaded atomic.Int64 // mailboxes with all messages in memory
	heads  heads

	// The sequencer's.
	j        journal
	batch    []*op
	floor    uint32              // UIDVALIDITY of a new mailbox is at least this
	spooled  map[uint64][]string // spool files named by records of an epoch
	reqs     chan *op
	mat      chan *work
	synced   chan syncResult
	syncing  bool // a checkpoint runs in the background
	internal pending

	dirtyMu sync.Mutex // guards the field below
	dirty   map[*box]bool
	full    atomic.Bool // the last checkpoint failed: no new mail

	moves sync.RWMutex // held shared while a message file is renamed; Still takes it whole

	latency latencies

	group    task.Group
	closed   atomic.Bool
	hydrated atomic.Bool
	settled  bool          // the sequencer ended, and all is in its place
	hurry    atomic.Bool   // the last checkpoint has no time left
	durable  chan struct{} // closed when no operation is under way any more
	gate     sync.RWMutex  // held shared while an operation is handed over; Close takes it whole
	stats    counters
}

type syncResult struct {
	epoch uint64
	err   error
}

// box is what the store knows of one mailbox.
type box struct {
	key mailbox.Box
	dir string

	// The sequencer's.
	known    bool // the fields below were read from disk
	validity uint32
	next     mailbox.UID
	mod      mailbox.ModSeq
	planned  *mailbox.View // ahead of view by what is in flight; nil when not loaded
	stamp    stamp         // of the measurement at the start

	// The materialiser's; the sequencer's while nothing is in flight.
	count  int   // messages
	bytes  int64 // as told to the Used hook
	failed []mailbox.UID

	mu       sync.Mutex // guards the fields below, the files, and storing into view
	held     map[mailbox.UID]held
	lines    []byte         // index lines for the next checkpoint
	nlines   int            // lines in the index, dead ones included
	doneNext mailbox.UID    // next UID as applied
	doneMod  mailbox.ModSeq // modseq as applied
	stale    bool           // the index's first line is behind
	half     bool           // writing failed midway: held messages may have files

	// Everybody's.
	inflight atomic.Int32 // operations planned and not yet applied
	plans    atomic.Int64 // operations planned, ever
	writes   atomic.Int64 // times that held messages were written
	view     atomic.Pointer[mailbox.View]
	names    atomic.Pointer[map[mailbox.UID]string] // files not named by us
	flushing atomic.Bool                            // files are being written: their directories' times are ours
	mtimes   atomic.Pointer[[2]int64]               // of new/ and cur/ after our last change
	checked  atomic.Int64                           // unix nanoseconds
	used     atomic.Int64                           // unix nanoseconds
}

// op is one operation on its way through the store.
type op struct {
	plan  func() error // in the sequencer
	apply func()       // in the materialiser
	boxes []*box       // whose inflight was raised
	after []func()     // hooks, called when everything is visible
	err   error
	done  chan struct{}
}

// work is what the sequencer hands to the materialiser.
type work struct {
	ops     []*op
	epoch   uint64        // checkpoint everything up to here, when not 0
	barrier chan struct{} // closed when reached
}

// pending holds operations the store gives itself.
type pending struct {
	mu   sync.Mutex // guards the field below
	ops  []*op
	wake chan struct{}
}

type counters struct {
	syncs, batches, ops, delivered, bytes, checkpoints, replayed atomic.Int64
}

// Stats are counts since Open.
type Stats struct {
	Syncs       int64 // fdatasync calls of the journal
	Operations  int64
	Delivered   int64 // copies
	Bytes       int64 // of delivered copies
	Checkpoints int64
	Replayed    int64 // records at Open
	Loaded      int64 // mailboxes in memory now
}

// Operations of Latencies.
const (
	opView = iota
	opOpen
	opDeliver
	opAdd
	opChange
	opExpunge
	opUsage
	operations
)

var operationNames = [operations]string{"view", "open", "deliver", "add", "change", "expunge", "usage"}

type latencies [operations]latency.Histogram

// Latencies return how long each kind of operation took since Open.
func (s *Store) Latencies() map[string]latency.Counts {
	m := make(map[string]latency.Counts, operations)
	for i, name := range operationNames {
		m[name] = s.latency[i].Read()
	}
	return m
}

// Stats returns the counts.
func (s *Store) Stats() Stats {
	return Stats{
		Syncs: s.stats.syncs.Load(), Operations: s.stats.ops.Load(), Delivered: s.stats.delivered.Load(),
		Bytes: s.stats.bytes.Load(), Checkpoints: s.stats.checkpoints.Load(), Replayed: s.stats.replayed.Load(),
		Loaded: s.loaded.Load(),
	}
}

const (
	maxBatch      = 512
	maxBatchBytes = 2 << 20
)

// Open opens or makes the store below opt.Dir, and replays what a crash left
// in the journal. Call Hydrate next, and Close at the end.
func Open(ctx context.Context, opt Options) (*Store, error) {
	if err := opt.fill(); err != nil {
		return nil, err
	}
	s := &Store{
		heads:   heads{max: opt.HeadCache / 2},
		opt:     opt,
		log:     opt.Logger,
		disk:    &disk{hook: opt.hook},
		mail:    filepath.Join(opt.Dir, "mail"),
		spool:   filepath.Join(opt.Dir, "spool"),
		boxes:   make(map[mailbox.Box]*box),
		spooled: make(map[uint64][]string),
		dirty:   make(map[*box]bool),
		reqs:    make(chan *op, maxBatch),
		mat:     make(chan *work),
		synced:  make(chan syncResult, 1),
		durable: make(chan struct{}),
	}
	s.internal.wake = make(chan struct{}, 1)
	s.j = journal{disk: s.disk, dir: filepath.Join(opt.Dir, "journal"), size: opt.SegmentSize, max: opt.Segments}
	for _, d := range []string{s.mail, s.spool, s.j.dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, trouble(err, "make directories")
		}
	}
	s.readFloor()
	err := s.recover(ctx)
	if err == nil {
		err = s.j.reserve(min(3, opt.Segments))
	}
	if err != nil {
		return nil, errors.Join(err, s.j.close())
	}
	s.group.Panicked = func(name string, v any, stack []byte) {
		s.log.Error("the store panicked", "part", name, "panic", fmt.Sprint(v), "stack", string(stack))
		s.closed.Store(true)
	}
	s.group.Go("sequencer", s.sequence)
	s.group.Go("materialiser", s.materialise)
	return s, nil
}

// Close finishes what is under way, makes it durable and marks the store
// clean, so that the next Open has nothing to replay. Where the deadline of ctx
// does not leave the time for that, the next Open replays the rest: that is no
// error. An error means that operations are still under way.
func (s *Store) Close(ctx context.Context) error {
	s.gate.Lock()
	if s.closed.Swap(true) {
		s.gate.Unlock()
		return nil
	}
	close(s.reqs)
	s.gate.Unlock()
	last, cancel := sooner(ctx, 10)
	defer cancel()
	err := s.group.Wait(last)
	if err != nil {
		s.hurry.Store(true)
		up, cancel := sooner(ctx, 2)
		defer cancel()
		err = s.group.Wait(up)
	}
	if err != nil {
		select {
		case <-s.durable:
			s.log.Warn(leftToReplay)
			return nil // the disk does not answer; the files stay open with it
		default:
			return err
		}
	}
	if s.settled && s.hydrated.Load() {
		// Without it the next start measures all.
		if err := s.keepMeasured(ctx); err != nil {
			s.log.Warn("what was measured could not be kept", "err", err)
		}
	}
	return s.j.close()
}

// sooner brings the deadline of ctx forward, by one part of the time that is left.
func sooner(ctx context.Context, parts time.Duration) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end.Add(-time.Until(end)/parts))
}

const leftToReplay = "there is no time for the last checkpoint; the next start replays the journal"

// errHurry ends a checkpoint for which there is no time.
var errHurry = errors.New("maildir: the store is closing")

var errClosed = fault.New(fault.Busy, "The server is stopping")

// do hands an operation over and waits for its end. An operation that was
// handed over is not given up: its outcome is known when do returns.
func (s *Store) do(ctx context.Context, o *op) error {
	o.done = make(chan struct{})
	s.gate.RLock()
	if s.closed.Load() {
		s.gate.RUnlock()
		return errClosed
	}
	select {
	case s.reqs <- o:
		s.gate.RUnlock()
	case <-ctx.Done():
		s.gate.RUnlock()
		return fault.Wrap(fault.Busy, ctx.Err(), "maildir: wait for the store")
	}
	<-o.done
	return o.err
}

// self gives the store an operation of its own, without waiting.
func (s *Store) self(o *op) {
	o.done = make(chan struct{})
	s.internal.mu.Lock()
	s.internal.ops = append(s.internal.ops, o)
	s.internal.mu.Unlock()
	select {
	case s.internal.wake <- struct{}{}:
	default:
	}
}

func (p *pending) take() []*op {
	p.mu.Lock()
	defer p.mu.Unlock()
	ops := p.ops
	p.ops = nil
	return ops
}

// sequence is the sequencer.
func (s *Store) sequence() {
	defer close(s.mat)
	tick := time.NewTicker(s.opt.Checkpoint)
	defer tick.Stop()
	retry := time.NewTicker(min(s.opt.Checkpoint, time.Second))
	defer retry.Stop()
	for {
		select {
		case o, ok := <-s.reqs:
			if !ok {
				s.finish()
				return
			}
			s.take(o)
			s.drain()
		case <-s.internal.wake:
		case r := <-s.synced:
			s.checkpointed(r)
		case <-tick.C:
			s.periodic()
		case <-retry.C:
			if s.full.Load() {
				s.periodic()
			}
		}
		for _, o := range s.internal.take() {
			s.take(o)
		}
		s.flush()
		s.evict()
	}
}

// drain takes whatever else is waiting, up to the size of a batch.
func (s *Store) drain() {
	for len(s.batch) < maxBatch && len(s.j.buf) < maxBatchBytes {
		select {
		case o, ok := <-s.reqs:
			if !ok {
				return // sequence sees it too
			}
			s.take(o)
		default:
			return
		}
	}
}

// take plans an operation into the batch.
func (s *Store) take(o *op) {
	s.stats.ops.Add(1)
	mark := len(s.j.buf)
	if err := o.plan(); err != nil {
		s.j.buf = s.j.buf[:min(mark, len(s.j.buf))]
		o.err = err
		s.settle(o)
		close(o.done)
		return
	}
	s.batch = append(s.batch, o)
}

// settle lowers the in-flight counts that an operation raised.
func (s *Store) settle(o *op) {
	for _, b := range o.boxes {
		b.inflight.Add(-1)
	}
	o.boxes = nil
}

// record appends a record to the batch.
func (s *Store) record(r *record) {
	at := s.j.begin()
	s.j.buf = r.appendTo(s.j.buf)
	s.j.end(at)
}

// holds notes that o has planned a change of b.
func (o *op) holds(b *box) {
	b.inflight.Add(1)
	b.plans.Add(1)
	o.boxes = append(o.boxes, b)
}

// flush makes the batch durable and hands it to the materialiser.
func (s *Store) flush() {
	if len(s.batch) == 0 {
		return
	}
	batch := s.batch
	s.batch = nil
	if err := s.commit(); err != nil {
		s.log.Error("journal write failed", "err", err)
		s.fail(batch, trouble(err, "write the journal"))
		return
	}
	s.mat <- &work{ops: batch}
}

// commit writes the records, in a fresh segment when the present one is full.
func (s *Store) commit() error {
	if len(s.j.buf) == 0 {
		return nil
	}
	if !s.j.room() {
		if s.j.cur != nil {
			s.rotate()
		}
		if err := s.nextSegment(); err != nil {
			s.j.buf = s.j.buf[:0]
			return err
		}
	}
	s.stats.batches.Add(1)
	s.stats.syncs.Add(1)
	return s.j.commit()
}

// nextSegment opens a segment, waiting for a checkpoint to free one.
func (s *Store) nextSegment() error {
	err := s.j.open()
	if !errors.Is(err, errJournalFull) {
		return err
	}
	if !s.syncing {
		s.startCheckpoint(s.j.epoch)
	}
	s.checkpointed(<-s.synced)
	return s.j.open()
}

// fail answers a batch that did not become durable. What was planned for its
// mailboxes is forgotten; UIDs given out stay used.
func (s *Store) fail(batch []*op, err error) {
	s.barrier()
	for _, o := range batch {
		for _, b := range o.boxes {
			if b.planned != nil {
				b.planned = b.view.Load()
			}
		}
		s.settle(o)
		o.err = err
		close(o.done)
	}
}

// barrier waits until everything handed to the materialiser is applied.
func (s *Store) barrier() {
	w := &work{barrier: make(chan struct{})}
	s.mat <- w
	<-w.barrier
}

// quiet makes sure that nothing is in flight for b, so that its files can be read.
func (s *Store) quiet(b *box) {
	if b.inflight.Load() > 0 {
		s.flush()
		s.barrier()
	}
}

// rotate ends the present segment and asks for a checkpoint of it.
func (s *Store) rotate() {
	epoch := s.j.cur.epoch
	s.j.cur = nil
	if !s.syncing {
		s.startCheckpoint(epoch)
	}
}

func (s *Store) startCheckpoint(epoch uint64) {
	s.syncing = true
	s.mat <- &work{epoch: epoch}
}

// periodic checkpoints what has waited long enough.
func (s *Store) periodic() {
	if s.syncing {
		return
	}
	// While checkpoints fail no segment is closed on top: the few that are left
	// serve deletions, which make room.
	if s.j.cur != nil && s.j.cur.used > segHeader && !s.full.Load() {
		s.rotate()
		return
	}
	if l := s.j.live(); len(l) > 0 && l[0] != s.j.cur {
		s.startCheckpoint(lastClosed(l, s.j.cur)) // one that failed before
	}
}

// checkpointed takes the outcome of a checkpoint.
func (s *Store) checkpointed(r syncResult) {
	s.syncing = false
	if errors.Is(r.err, errHurry) {
		return
	}
	s.full.Store(r.err != nil)
	if r.err != nil {
		s.log.Error("checkpoint failed, will be tried again; no mail is taken until then", "err", r.err)
		return
	}
	s.stats.checkpoints.Add(1)
	s.release(r.epoch)
	if l := s.j.live(); len(l) > 0 && l[0] != s.j.cur {
		s.startCheckpoint(lastClosed(l, s.j.cur)) // filled up meanwhile
	}
}

func lastClosed(l []*segment, cur *segment) uint64 {
	epoch := uint64(0)
	for _, s := range l {
		if s != cur {
			epoch = s.epoch
		}
	}
	return epoch
}

// release frees segments and the spool files that only they named.
func (s *Store) release(epoch uint64) {
	s.j.release(epoch)
	for e, names := range s.spooled {
		if e > epoch {
			continue
		}
		for _, n := range names {
			_ = os.Remove(filepath.Join(s.spool, n))
		}
		delete(s.spooled, e)
	}
}

// checkpointNow makes everything planned so far durable in place and empties
// the journal. The sequencer calls it before changes that a replay of older
// records would undo.
func (s *Store) checkpointNow() error {
	s.flush()
	s.barrier()
	if s.syncing {
		s.checkpointed(<-s.synced)
		if s.syncing {
			s.checkpointed(<-s.synced)
		}
	}
	if s.j.cur != nil && s.j.cur.used > segHeader {
		s.j.cur = nil
	}
	l := s.j.live()
	if len(l) == 0 || l[len(l)-1] == s.j.cur && len(l) == 1 {
		return nil
	}
	epoch := lastClosed(l, s.j.cur)
	s.syncing = true
	s.mat <- &work{epoch: epoch}
	r := <-s.synced
	s.syncing = false
	if r.err != nil {
		return r.err
	}
	s.stats.checkpoints.Add(1)
	s.release(epoch)
	return nil
}

// finish is the sequencer's end: everything becomes durable in its place.
func (s *Store) finish() {
	for _, o := range s.internal.take() {
		s.take(o)
	}
	s.flush()
	s.barrier()
	close(s.durable)
	if err := s.checkpointNow(); errors.Is(err, errHurry) {
		s.log.Warn(leftToReplay)
		return
	} else if err != nil {
		s.log.Error("the last checkpoint failed; the journal will be replayed at the next start", "err", err)
		return
	}
	s.settled = true
}

// evict forgets the messages of mailboxes that nobody has looked at lately.
func (s *Store) evict() {
	over := int(s.loaded.Load()) - s.opt.MaxLoaded
	if over <= 0 {
		return
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	// The map's order is random: the oldest of a handful is old enough.
	for range over {
		var oldest *box
		seen := 0
		for _, b := range s.boxes {
			if b.planned == nil || b.inflight.Load() > 0 {
				continue
			}
			if oldest == nil || b.used.Load() < oldest.used.Load() {
				oldest = b
			}
			if seen++; seen == 16 {
				break
			}
		}
		if oldest == nil {
			return
		}
		oldest.planned = nil
		oldest.view.Store(nil)
		oldest.names.Store(nil)
		s.loaded.Add(-1)
	}
}

// lookup returns what the store knows of a mailbox, or nil.
func (s *Store) lookup(key mailbox.Box) *box {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.boxes[key]
}

// forget drops what the store knows of a mailbox.
func (s *Store) forget(b *box) {
	if b.planned != nil {
		b.planned = nil
		s.loaded.Add(-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.boxes, b.key)
}

// box is lookup, making an empty one when there is none.
func (s *Store) box(key mailbox.Box) *box {
	if b := s.lookup(key); b != nil {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &box{key: key, dir: s.boxDir(key)}
	s.boxes[key] = b
	return b
}

func (b *box) index() string { return filepath.Join(b.dir, indexName) }

// Settle puts everything that was acknowledged into its place: the tree below mail/
// is complete afterwards, until the next change.
func (s *Store) Settle(ctx context.Context) error {
	return s.do(ctx, s.structural(true, func() error { return nil }))
}
