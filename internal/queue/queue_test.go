package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func envelope(t testing.TB, from string, to ...string) Envelope {
	t.Helper()
	v := Envelope{From: addr(t, from)}
	for _, s := range to {
		v.To = append(v.To, addr(t, s))
	}
	return v
}

func open(t testing.TB, o Options) *Queue {
	t.Helper()
	q, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func put(t testing.TB, q *Queue, text string, v ...Envelope) []ID {
	t.Helper()
	ids, err := q.Put(context.Background(), strings.NewReader(text), int64(len(text)), v...)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func all(address.Domain) bool { return true }

func next(t testing.TB, q *Queue) *Entry {
	t.Helper()
	e, at := q.Next(all)
	if e == nil {
		t.Fatalf("nothing is due; next at %v", at)
	}
	return e
}

func text(t testing.TB, q *Queue, id ID) string {
	t.Helper()
	b, err := q.Body(id)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(s)
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range list {
		s = append(s, e.Name())
	}
	return s
}

func TestAGroupMessageIsOneEntryPerDestination(t *testing.T) {
	dir := t.TempDir()
	q := open(t, Options{Dir: dir})
	ids := put(t, q, "hello", envelope(t, "a@x.example", "b@y.example", "c@y.example"), envelope(t, "a@x.example", "d@z.example"))
	if got := names(t, dir); len(got) != 4 {
		t.Fatalf("files: %v", got)
	}
	i, _ := os.Stat(filepath.Join(dir, ids[0].String()+".body"))
	j, _ := os.Stat(filepath.Join(dir, ids[1].String()+".body"))
	if !os.SameFile(i, j) {
		t.Error("the body was written twice")
	}
	for range 2 { // as put, and as found
		e, other := next(t, q), next(t, q)
		if e.ID != ids[0] { // destinations have no order among themselves
			e, other = other, e
		}
		if e.ID != ids[0] || e.Destination != "y.example" || len(e.To) != 2 || e.To[1].Addr != addr(t, "c@y.example") || e.From != addr(t, "a@x.example") {
			t.Errorf("entry: %+v", e)
		}
		if got := text(t, q, e.ID); got != "hello" {
			t.Errorf("body: %q", got)
		}
		if other.ID != ids[1] || other.Group != ids[0] {
			t.Errorf("second entry: %+v", other)
		}
		if e, _ := q.Next(all); e != nil {
			t.Error("an entry was taken up twice")
		}
		q = open(t, Options{Dir: dir})
	}
	if s := q.Stats(); s != (Stats{Entries: 2, Destinations: 2}) {
		t.Errorf("stats: %+v", s)
	}
	for range 2 {
		if err := q.Done(next(t, q).ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("files stay: %v", got)
	}
	if n := len(q.lanes) + len(q.all) + len(q.order); n != 0 {
		t.Errorf("%d records stay in memory", n)
	}
}

func TestRecipientsThatAreDoneAreNotTriedAgain(t *testing.T) {
	dir := t.TempDir()
	q := open(t, Options{Dir: dir})
	put(t, q, "x", envelope(t, "a@x.example", "b@y.example", "c@y.example", "d@y.example"))
	e := next(t, q)
	e.To = []Recipient{{Addr: e.To[1].Addr}, {Addr: e.To[2].Addr, Failure: &Failure{Status: "5.1.1", Reply: "550 no", Remote: "mx"}}}
	e.Tries, e.Error, e.Due, e.Last = 1, "421 later", time.Now().Add(-time.Second), time.Now()
	if err := q.Retry(e); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		e := next(t, q)
		if len(e.To) != 2 || e.To[0].Addr != addr(t, "c@y.example") || e.To[1].Failure == nil || *e.To[1].Failure != (Failure{"5.1.1", "550 no", "mx"}) || e.Tries != 1 || e.Error != "421 later" {
			t.Errorf("entry: %+v", e)
		}
		q = open(t, Options{Dir: dir})
	}
}

func TestEntriesComeWhenTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, Options{Dir: t.TempDir()})
		put(t, q, "1", envelope(t, "a@x.example", "b@y.example"))
		put(t, q, "2", envelope(t, "a@x.example", "b@y.example"))
		put(t, q, "3", envelope(t, "a@x.example", "b@z.example"))
		e := next(t, q)
		if text(t, q, e.ID) != "1" {
			t.Error("the second message overtook the first")
		}
		e.Tries, e.Due = 1, time.Now().Add(time.Minute)
		if err := q.Retry(e); err != nil {
			t.Fatal(err)
		}
		// A destination that is busy delays no other.
		other, at := q.Next(func(d address.Domain) bool { return d != "y.example" })
		if other == nil || other.Destination != "z.example" {
			t.Fatalf("got %+v, %v", other, at)
		}
		q.Release(other.ID)
		q.Hold("z.example", time.Now().Add(30*time.Second))
		if e := next(t, q); text(t, q, e.ID) != "2" {
			t.Error("not the second message")
		}
		none, at := q.Next(all)
		if none != nil || time.Until(at) != 30*time.Second {
			t.Errorf("next is due in %v, want 30s", time.Until(at))
		}
		q.Hold("z.example", time.Time{})
		if e := next(t, q); e.Destination != "z.example" {
			t.Errorf("after the hold: %+v", e)
		}
		if n := q.Wake("y.example"); n != 1 {
			t.Errorf("woke %d", n)
		}
		if e := next(t, q); text(t, q, e.ID) != "1" {
			t.Error("not the first message")
		}
		select {
		case <-q.Changed():
		default:
			t.Error("nobody was told")
		}
	})
}

func TestEntriesFoundAtStartWaitAMoment(t *testing.T) {
	dir := t.TempDir()
	put(t, open(t, Options{Dir: dir}), "x", envelope(t, "a@x.example", "b@y.example"))
	now := time.Now()
	q := open(t, Options{Dir: dir, Delay: 10 * time.Second, Now: func() time.Time { return now }})
	if e, at := q.Next(all); e != nil || at.Sub(now) < 9*time.Second {
		t.Errorf("due at once: %v, %v", e, at)
	}
	put(t, q, "new", envelope(t, "a@x.example", "b@y.example"))
	if e := next(t, q); text(t, q, e.ID) != "new" {
		t.Error("a new message waits")
	}
}

func TestWhatCannotBeReadIsSetAside(t *testing.T) {
	// Known failure 4: damaged files were deleted.
	const id = "0190a0a0-0000-4000-8000-00000000000"
	good := `{"id":"` + id + `0","mail_from":"a@x.example","rcpt_to":"b@y.example","tries_count":2,"queued_at_unix":1700000000,"last_attempt_unix":1700000060,"next_attempt_unix":1700000120,"last_error":null}`
	for name, meta := range map[string]string{
		"empty":            "",
		"cut off":          good[:40],
		"no recipient":     strings.Replace(good, "b@y.example", "", 1),
		"bad sender":       strings.Replace(good, "a@x.example", "a@", 1),
		"of another entry": strings.Replace(good, id+"0", id+"1", 1),
		"time in the past": strings.Replace(good, "1700000000", "-1", 1),
		"time too far":     strings.Replace(good, "1700000120", "9223372036854775807", 1),
		"two destinations": strings.Replace(good, "}", `,"recipients":[{"rcpt_to":"b@y.example"},{"rcpt_to":"b@z.example"}]}`, 1),
		"no body":          good,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, id+"0.meta", meta)
			if name != "no body" {
				write(t, dir, id+"0.body", "body")
				old := time.Now().Add(-2 * time.Hour)
				if err := os.Chtimes(filepath.Join(dir, id+"0.body"), old, old); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 2 {
				q := open(t, Options{Dir: dir})
				if s := q.Stats(); s != (Stats{Broken: 1}) {
					t.Fatalf("start %d: %+v", i, s)
				}
				b, err := q.Broken(10)
				if err != nil || len(b) != 1 || b[0].Name != id+"0" || b[0].Note == "" || strings.Contains(b[0].Note, "example") {
					t.Errorf("start %d: broken: %+v, %v", i, b, err)
				}
			}
			if got, err := os.ReadFile(filepath.Join(dir, id+"0.meta_broken")); err != nil || string(got) != meta {
				t.Errorf("kept %q, %v", got, err)
			}
			if name != "no body" {
				if _, err := os.Stat(filepath.Join(dir, id+"0.body")); err != nil {
					t.Error("the body of a damaged entry is gone")
				}
			}
		})
	}
}

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheSecondPredecessorsFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	const id = "0190a0a0-0000-4000-8000-000000000001"
	write(t, dir, id+".meta", `{"id":"`+id+`","mail_from":"A@X.example","rcpt_to":"b@[192.0.2.1]","tries_count":2,"queued_at_unix":1700000000,"last_attempt_unix":1700000060,"next_attempt_unix":1700000120,"last_error":"timed out"}`)
	write(t, dir, id+".body", "body")
	write(t, dir, "named-by-hand.meta", `{"id":"named-by-hand","mail_from":"","rcpt_to":"b@y.example","tries_count":0,"queued_at_unix":1700000000,"last_attempt_unix":0,"next_attempt_unix":0,"last_error":null}`)
	write(t, dir, "named-by-hand.body", "other")
	// Early releases did not write when an entry came, and a stop may leave half a body.
	const early, half = "0190a0a0-0000-4000-8000-000000000002", "0190a0a0-0000-4000-8000-000000000003.body.new"
	write(t, dir, early+".meta", `{"id":"`+early+`","mail_from":"a@x.example","rcpt_to":"c@y.example","tries_count":0,"last_attempt_unix":0,"next_attempt_unix":0}`)
	write(t, dir, early+".body", "early")
	write(t, dir, half, "ha")
	q := open(t, Options{Dir: dir, Lifetime: time.Hour})
	got := make(map[string]*Entry)
	for range 3 {
		e := next(t, q)
		got[text(t, q, e.ID)] = e
	}
	if e := got["early"]; e == nil || time.Since(e.Queued) > time.Hour || e.Expires.Sub(e.Queued) != time.Hour {
		t.Errorf("entry: %+v", e)
	}
	if _, err := os.Stat(filepath.Join(dir, half)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a body: %v", err)
	}
	e := got["body"]
	if e == nil || e.ID.String() != id || e.Destination != "[192.0.2.1]" || e.Tries != 2 || e.Error != "timed out" || e.Silent ||
		e.Expires.Sub(e.Queued) != time.Hour || e.Queued.Unix() != 1700000000 || e.From.Wire() != "a@x.example" {
		t.Errorf("entry: %+v", e)
	}
	if e := got["other"]; e == nil || !e.From.IsZero() {
		t.Errorf("entry: %+v", e)
	}
	q = open(t, Options{Dir: dir})
	if s := q.Stats(); s.Entries != 3 || s.Broken != 0 {
		t.Errorf("at the second start: %+v", s)
	}
}

func TestTheFirstPredecessorsFilesAreConverted(t *testing.T) {
	dir := t.TempDir()
	fill := func() {
		write(t, dir, "5e1f.meta", `{"MsgMeta":{"ID":"5e1f"},"From":"a@x.example","To":["b@y.example","c@z.example","d@y.example"],"FailedRcpts":["e@y.example"],
			"TemporaryFailedRcpts":null,"RcptErrs":{},"TriesCount":{"b@y.example":3},"FirstAttempt":"2026-11-01T10:00:00.5Z","LastAttempt":"2026-11-01T10:15:00Z"}`)
		write(t, dir, "5e1f.header", "Subject: x\r\n\r\n")
		write(t, dir, "5e1f.body", "body\r\n")
	}
	fill()
	now := time.Date(2026, 11, 1, 11, 0, 0, 0, time.UTC)
	o := Options{Dir: dir, Now: func() time.Time { return now }}
	check := func(q *Queue) {
		t.Helper()
		if s := q.Stats(); s != (Stats{Entries: 2, Destinations: 2}) {
			t.Fatalf("stats: %+v", s)
		}
		for range 2 {
			e := next(t, q)
			if text(t, q, e.ID) != "Subject: x\r\n\r\nbody\r\n" || e.Queued.UnixMilli() != 1793527200500 {
				t.Errorf("entry: %+v, %q", e, text(t, q, e.ID))
			}
			if want := map[address.Domain]int{"y.example": 2, "z.example": 1}[e.Destination]; len(e.To) != want {
				t.Errorf("%s: recipients: %v", e.Destination, e.To)
			}
		}
		if got := names(t, dir); len(got) != 4 {
			t.Errorf("files: %v", got)
		}
	}
	check(open(t, o))
	check(open(t, o))
	fill() // as if interrupted before the old files went
	check(open(t, o))
}

func TestOldOrphansGoAtStart(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, newID().String()+".body", "old")
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, names(t, dir)[0]), old, old); err != nil {
		t.Fatal(err)
	}
	young := newID().String()
	write(t, dir, young+".body", "young")
	write(t, dir, newID().String()+".meta.new", "{")
	write(t, dir, "README", "not ours")
	q := open(t, Options{Dir: dir})
	if got := names(t, dir); !slices.Equal(got, []string{young + ".body", "README"}) && !slices.Equal(got, []string{"README", young + ".body"}) {
		t.Errorf("files: %v", got)
	}
	if s := q.Stats(); s != (Stats{}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestWhatTheOperatorDoes(t *testing.T) {
	dir := t.TempDir()
	q := open(t, Options{Dir: dir})
	put(t, q, "one", envelope(t, "a@x.example", "b@y.example"))
	put(t, q, "two", envelope(t, "a@x.example", "b@z.example"))
	put(t, q, "three", envelope(t, "c@x.example", "b@y.example", "d@y.example"))
	list, total, err := q.List(t.Context(), Filter{}, 1, 1)
	if err != nil || total != 3 || len(list) != 1 || list[0].Size != 3 || list[0].Taken {
		t.Errorf("list: %+v, %d, %v", list, total, err)
	}
	list, total, err = q.List(t.Context(), Filter{Destination: "y.example", To: addr(t, "d@y.example")}, 0, 10)
	if err != nil || total != 1 || len(list) != 1 || list[0].Size != 5 {
		t.Errorf("list by recipient: %+v, %d, %v", list, total, err)
	}
	taken := next(t, q)
	if err := q.WakeOne(taken.ID); !fault.Is(err, fault.Busy) {
		t.Errorf("wake an entry in flight: %v", err)
	}
	if err := q.Remove(taken.ID); err != nil {
		t.Error(err)
	}
	taken.Due = time.Now()
	if err := q.Retry(taken); err != nil { // the try that was running failed
		t.Error(err)
	}
	if _, err := q.Get(taken.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("a removed entry is tried again: %v", err)
	}
	if n, err := q.Purge(t.Context(), Filter{From: addr(t, "c@x.example")}); n != 1 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	if n, err := q.Purge(t.Context(), Filter{}); n != 1 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	if err := q.Remove(taken.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("remove what is gone: %v", err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("files stay: %v", got)
	}
}

func TestBadEnvelopesAreRefused(t *testing.T) {
	dir := t.TempDir()
	q := open(t, Options{Dir: dir})
	many := Envelope{From: addr(t, "a@x.example")}
	for i := range MaxRecipients + 1 {
		many.To = append(many.To, addr(t, fmt.Sprintf("u%d@y.example", i)))
	}
	for name, v := range map[string]Envelope{
		"nobody": {}, "two destinations": envelope(t, "a@x.example", "b@y.example", "b@z.example"), "too many": many, "null recipient": {To: []address.Addr{{}}},
	} {
		if _, err := q.Put(t.Context(), strings.NewReader(""), 0, v); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many.To = many.To[1:]
	put(t, q, "x", many)
	if e := next(t, open(t, Options{Dir: dir})); len(e.To) != MaxRecipients {
		t.Errorf("%d recipients", len(e.To))
	}
	q.Close(t.Context())
	if _, err := q.Put(t.Context(), strings.NewReader(""), 0, envelope(t, "a@x.example", "b@y.example")); !fault.Is(err, fault.Busy) {
		t.Errorf("after close: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, Options{Dir: dir}).Put(ctx, strings.NewReader(""), 0, envelope(t, "a@x.example", "b@y.example")); !fault.Is(err, fault.Busy) {
		t.Errorf("with a context that ended: %v", err)
	}
	if _, err := open(t, Options{Dir: t.TempDir()}).Put(t.Context(), strings.NewReader("short"), 6, envelope(t, "a@x.example", "b@y.example")); !fault.Is(err, fault.Busy) {
		t.Errorf("a body that ends early: %v", err)
	}
}

var errDisk = errors.New("the disk fails")

// failing is a directory whose nth operation fails, and with it all later ones when
// the machine dies there.
type failing struct {
	directory
	mu    sync.Mutex
	left  int
	die   bool
	steps int
}

func (f *failing) step(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps++
	f.left--
	if f.left == 0 || f.left < 0 && f.die {
		return &os.PathError{Op: op, Path: name, Err: errDisk}
	}
	return nil
}

func (f *failing) create(name string) (file, error) {
	if err := f.step("create", name); err != nil {
		return nil, err
	}
	h, err := f.directory.create(name)
	if err != nil {
		return nil, err
	}
	return &failingFile{h, f, name}, nil
}

func (f *failing) open(name string) (file, error) {
	if err := f.step("open", name); err != nil {
		return nil, err
	}
	return f.directory.open(name)
}

func (f *failing) link(from, to string) error {
	if err := f.step("link", to); err != nil {
		return err
	}
	return f.directory.link(from, to)
}

func (f *failing) rename(from, to string) error {
	if err := f.step("rename", to); err != nil {
		return err
	}
	return f.directory.rename(from, to)
}

func (f *failing) remove(name string) error {
	if err := f.step("remove", name); err != nil {
		return err
	}
	return f.directory.remove(name)
}

func (f *failing) read(name string, limit int64) ([]byte, error) {
	if err := f.step("read", name); err != nil {
		return nil, err
	}
	return f.directory.read(name, limit)
}

func (f *failing) syncDir() error {
	if err := f.step("sync", "."); err != nil {
		return err
	}
	return f.directory.syncDir()
}

type failingFile struct {
	file
	f    *failing
	name string
}

func (f *failingFile) Write(p []byte) (int, error) {
	if err := f.f.step("write", f.name); err != nil {
		n, _ := f.file.Write(p[:len(p)/2]) // half of it arrives
		return n, err
	}
	return f.file.Write(p)
}

func (f *failingFile) Sync() error {
	if err := f.f.step("fsync", f.name); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *failingFile) Close() error {
	err := f.f.step("close", f.name)
	return errors.Join(err, f.file.Close())
}

// TestNothingAcceptedIsLostWhereverTheDiskFails lets each operation of a whole life fail in
// turn, once as one that failed and once as the last the machine did.
func TestNothingAcceptedIsLostWhereverTheDiskFails(t *testing.T) {
	two := []Envelope{envelope(t, "a@x.example", "b@y.example", "c@y.example"), envelope(t, "a@x.example", "d@z.example")}
	for _, die := range []bool{false, true} {
		for n := 1; ; n++ {
			dir := t.TempDir()
			f := &failing{directory: directory(dir), left: n, die: die}
			want := make(map[ID]string) // accepted and not done
			gone := make(map[ID]bool)
			q, err := Open(t.Context(), Options{files: f})
			if err == nil {
				for i := range 2 {
					body := fmt.Sprintf("body %d", i)
					ids, err := q.Put(t.Context(), strings.NewReader(body), int64(len(body)), two...)
					if err == nil {
						for _, id := range ids {
							want[id] = body
						}
					} else if !fault.Is(err, fault.Busy) {
						t.Fatalf("step %d: put: %v", n, err)
					}
				}
				for i := range 3 {
					e, _ := q.Next(all)
					if e == nil {
						continue
					}
					switch i {
					case 0:
						if q.Done(e.ID) == nil {
							gone[e.ID] = true
						}
						delete(want, e.ID) // and when not: it may come again
					case 1:
						e.To = e.To[len(e.To)-1:]
						e.Tries++
						_ = q.Retry(e) // the entry stays either way
					case 2:
						q.Release(e.ID)
					}
				}
			}
			again := open(t, Options{Dir: dir})
			for id, body := range want {
				i, err := again.Get(id)
				if err != nil {
					t.Fatalf("die %v, step %d: an accepted entry is lost: %v", die, n, err)
				}
				if got := text(t, again, id); got != body {
					t.Fatalf("die %v, step %d: body %q, want %q", die, n, got, body)
				}
				if len(i.To) == 0 {
					t.Fatalf("die %v, step %d: no recipients", die, n)
				}
			}
			for id := range gone {
				if _, err := again.Get(id); err == nil {
					t.Fatalf("die %v, step %d: a finished entry is back", die, n)
				}
			}
			if s := again.Stats(); s.Broken != 0 {
				t.Fatalf("die %v, step %d: %d broken files: %v", die, n, s.Broken, names(t, dir))
			}
			if f.steps < n { // none failed
				break
			}
		}
	}
}

// TestTheFirstPredecessorsMessagesSurviveAnInterruptedConversion does the same for conversions.
func TestTheFirstPredecessorsMessagesSurviveAnInterruptedConversion(t *testing.T) {
	for n := 1; ; n++ {
		dir := t.TempDir()
		write(t, dir, "5e1f.meta", `{"From":"a@x.example","To":["b@y.example","c@z.example"],"TriesCount":{},"FirstAttempt":"2026-11-01T10:00:00Z"}`)
		write(t, dir, "5e1f.header", "Subject: x\r\n\r\n")
		write(t, dir, "5e1f.body", "body\r\n")
		f := &failing{directory: directory(dir), left: n, die: true}
		_, _ = Open(t.Context(), Options{files: f})
		q := open(t, Options{Dir: dir})
		if s := q.Stats(); s != (Stats{Entries: 2, Destinations: 2}) {
			t.Fatalf("step %d: %+v, %v", n, s, names(t, dir))
		}
		if f.steps < n {
			break
		}
	}
}

func TestManyPutsShareDirectorySyncs(t *testing.T) {
	q := open(t, Options{Dir: t.TempDir()})
	var mu sync.Mutex
	rounds := 0
	release := make(chan struct{})
	inner := q.syncDir.sync
	q.syncDir.sync = func() error {
		mu.Lock()
		rounds++
		first := rounds == 1
		mu.Unlock()
		if first {
			<-release
		}
		return inner()
	}
	var wg sync.WaitGroup
	v := envelope(t, "a@x.example", "b@y.example")
	const n = 20
	for range n {
		wg.Go(func() { put(t, q, "x", v) })
	}
	waitFor := func() int { // until all but the first wait for the second round
		list, _ := os.ReadDir(q.Dir)
		metas := 0
		for _, e := range list {
			if strings.HasSuffix(e.Name(), metaSuffix) {
				metas++
			}
		}
		return metas
	}
	for waitFor() < n {
		runtime.Gosched()
	}
	close(release)
	wg.Wait()
	if rounds > n/2 {
		t.Errorf("%d syncs for %d messages", rounds, n)
	}
}

// TestMemoryOfADeadServersBacklogIsFlat measures what a large queue costs.
func TestMemoryOfADeadServersBacklogIsFlat(t *testing.T) {
	q := open(t, Options{Dir: t.TempDir()})
	const n = 100_000
	v := envelope(t, "a@x.example", "b@y.example")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	now := time.Now()
	for range n { // as load does, without the files
		q.add(&Entry{ID: newID(), From: v.From, To: []Recipient{{Addr: v.To[0]}}, Destination: "y.example", Queued: now, Expires: now, Due: now})
	}
	used := heap() - before
	t.Logf("%d octets per entry", used/n)
	if used/n > 160 {
		t.Errorf("%d octets per entry in memory", used/n)
	}
	if ids := q.Expired("y.example", 10); len(ids) != 10 {
		t.Errorf("%d expired", len(ids))
	}
	runtime.KeepAlive(q)
}

func nothing() time.Time { return time.Time{} }

func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"id":"","mail_from":"a@x.example","rcpt_to":"b@y.example","tries_count":2,"queued_at_unix":1700000000,"last_attempt_unix":1700000060,"next_attempt_unix":1700000120,"last_error":"e"}`))
	f.Add([]byte(`{"mail_from":"<>","recipients":[{"rcpt_to":"b@y.example","failure":{"reply":"550"}},{"rcpt_to":"c@y.example"}],"queued_at_unix":1,"queued_at_unix_ms":1500,"max_lifetime":9,"dsn":false}`))
	f.Add([]byte(`{"From":"a@x.example","To":["b@y.example"],"TriesCount":{},"FirstAttempt":"2026-11-01T10:00:00Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id := derived("fuzz", "", 0)
		if list, err := decodeV1("x", b, time.Hour, time.Unix(1e9, 0)); err == nil {
			for _, e := range list {
				again(t, e)
			}
		}
		if e, err := decode(id, b, time.Hour, nothing); err == nil {
			again(t, e)
		}
	})
}

// again writes an entry and reads it.
func again(t *testing.T, e *Entry) {
	b, err := encode(e)
	if err != nil {
		t.Fatal(err)
	}
	d, err := decode(e.ID, b, time.Hour, nothing)
	if err != nil {
		t.Fatalf("%s\n%v", b, err)
	}
	c, err := encode(d)
	if err != nil || !bytes.Equal(b, c) {
		t.Fatalf("%s\n%s\n%v", b, c, err)
	}
}

func BenchmarkPut(b *testing.B) {
	q := open(b, Options{Dir: b.TempDir()})
	v := envelope(b, "a@x.example", "b@y.example")
	body := strings.Repeat("x", 2048)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			put(b, q, body, v)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	q := open(b, Options{Dir: dir})
	v := envelope(b, "a@x.example", "b@y.example")
	for range 1000 {
		put(b, q, "x", v)
	}
	for b.Loop() {
		open(b, Options{Dir: dir})
	}
}
