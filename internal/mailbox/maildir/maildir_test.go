package maildir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func inbox(t testing.TB, s string) mailbox.Box {
	return mailbox.Box{Account: addr(t, s), Name: mailbox.Inbox}
}

// meter keeps what the Used hook was told.
type meter struct {
	mu sync.Mutex // guards the field below
	m  map[string]int64
}

func (m *meter) add(a address.Addr, bytes, _ int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = make(map[string]int64)
	}
	m.m[a.Wire()] += bytes
}

func (m *meter) of(a address.Addr) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.m[a.Wire()]
}

func open(t testing.TB, opt Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func body(t testing.TB, s *Store, data string) mailbox.Body {
	t.Helper()
	w, err := s.NewBody(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	b, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tryDeliver(s *Store, b mailbox.Body, boxes ...mailbox.Box) ([]mailbox.Placed, error) {
	var to []mailbox.Target
	for _, x := range boxes {
		to = append(to, mailbox.Target{Box: x})
	}
	return s.Deliver(context.Background(), to, b)
}

func deliver(t testing.TB, s *Store, data string, boxes ...mailbox.Box) []mailbox.Placed {
	t.Helper()
	b := body(t, s, data)
	defer b.Close()
	p, err := tryDeliver(s, b, boxes...)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range p {
		if x.Err != nil {
			t.Fatal(x.Err)
		}
	}
	return p
}

// contents reads a mailbox: UID to text.
func contents(t testing.TB, s *Store, b mailbox.Box) map[mailbox.UID]string {
	t.Helper()
	v, err := s.View(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[mailbox.UID]string)
	for i := range v.Len() {
		c, err := s.Open(context.Background(), b, v.At(i).UID)
		if err != nil {
			t.Fatalf("open %d: %v", v.At(i).UID, err)
		}
		data, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(data)) != v.At(i).Size {
			t.Errorf("UID %d: %d octets, the index says %d", v.At(i).UID, len(data), v.At(i).Size)
		}
		all[v.At(i).UID] = string(data)
	}
	return all
}

// du sums the message files of an account, as du would.
func du(t testing.TB, dir string, a address.Addr) (n int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "mail", a.Wire()), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if base := filepath.Base(filepath.Dir(p)); base == "new" || base == "cur" {
			st, err := d.Info()
			if err != nil {
				return err
			}
			n += st.Size()
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return n
}

func TestMailSurvivesReopen(t *testing.T) {
	dir := t.TempDir()
	var m meter
	s := open(t, Options{Dir: dir, Used: m.add})
	a, b := inbox(t, "alice@example.org"), inbox(t, "bob@[127.0.0.1]")
	big := strings.Repeat("0123456789abcdef\r\n", 10000)
	deliver(t, s, "one\r\n", a, b)
	deliver(t, s, big, a)
	first := deliver(t, s, "three\r\n", b)[0]
	if _, err := s.Change(t.Context(), a, mailbox.All(), mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen, Keywords: []string{"$Ä,x"}}); err != nil {
		t.Fatal(err)
	}
	if gone, err := s.Expunge(t.Context(), b, mailbox.UIDSet{{First: 1, Last: 1}}, false); err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	before, err := s.View(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	var m2 meter
	s = open(t, Options{Dir: dir, Used: m2.add})
	if n := s.Stats().Replayed; n != 0 {
		t.Errorf("%d records replayed after a clean stop", n)
	}
	if err := s.Hydrate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, s, a); len(got) != 2 || got[1] != "one\r\n" || got[2] != big {
		t.Errorf("alice has %d messages", len(got))
	}
	if got := contents(t, s, b); len(got) != 1 || got[first.UID] != "three\r\n" {
		t.Errorf("bob has %v", got)
	}
	after, err := s.View(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if after.UIDValidity != before.UIDValidity || after.UIDNext != before.UIDNext || after.HighestMod != before.HighestMod {
		t.Errorf("before %d %d %d, after %d %d %d", before.UIDValidity, before.UIDNext, before.HighestMod, after.UIDValidity, after.UIDNext, after.HighestMod)
	}
	if x := after.At(0); x.Flags != mailbox.Seen || len(x.Keywords) != 1 || x.Keywords[0] != "$Ä,x" {
		t.Errorf("flags %v, keywords %q", x.Flags, x.Keywords)
	}
	for _, x := range []mailbox.Box{a, b} {
		want := du(t, dir, x.Account)
		if m.of(x.Account) != want || m2.of(x.Account) != want {
			t.Errorf("usage %d, after reopen %d; on disk %d", m.of(x.Account), m2.of(x.Account), want)
		}
	}
	if p := deliver(t, s, "four\r\n", b)[0]; p.UID <= first.UID {
		t.Errorf("UID %d after %d", p.UID, first.UID)
	}
}

// TestNothingAcknowledgedIsLostWhereverItStops stops the file system at every
// step of a history, in turn, and opens what is left. Every acknowledged
// message must be there with its UID, nothing expunged may come back, and the
// usage must be what is on disk.
func TestNothingAcknowledgedIsLostWhereverItStops(t *testing.T) {
	stop := errors.New("the machine stopped")
	steps := 0
	run := func(t *testing.T, limit int, lose bool) bool {
		dir := t.TempDir()
		var n atomic.Int64
		opt := Options{Dir: dir, SegmentSize: 256 << 10, Inline: 1 << 10, Segments: 3}
		opt.hook = func(op, path string) error {
			if n.Add(1) > int64(limit) {
				return stop
			}
			return nil
		}
		a, b := inbox(t, "a@x.org"), inbox(t, "b@x.org")
		acked := map[mailbox.Box]map[mailbox.UID]string{a: {}, b: {}}
		gone := map[mailbox.Box]map[mailbox.UID]bool{a: {}, b: {}}
		validity := map[mailbox.Box]uint32{}
		s, err := Open(context.Background(), opt)
		if err == nil {
			history(s, a, b, acked, gone, validity)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_ = s.Close(ctx)
		}
		done := n.Load() <= int64(limit)
		steps = max(steps, int(n.Load()))
		if lose && !done {
			// Power went: what was never synced is gone.
			if err := os.RemoveAll(filepath.Join(dir, "mail")); err != nil {
				t.Fatal(err)
			}
		}
		var m meter
		s = open(t, Options{Dir: dir, SegmentSize: 256 << 10, Inline: 1 << 10, Segments: 3, Used: m.add})
		if err := s.Hydrate(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		for _, x := range []mailbox.Box{a, b} {
			got := contents(t, s, x)
			for uid, want := range acked[x] {
				if got[uid] != want {
					t.Errorf("stopped after %d steps: UID %d is %.20q, want %.20q", limit, uid, got[uid], want)
				}
			}
			for uid := range gone[x] {
				if _, ok := got[uid]; ok {
					t.Errorf("stopped after %d steps: expunged UID %d is back", limit, uid)
				}
			}
			v, err := s.View(context.Background(), x)
			if err != nil {
				t.Fatal(err)
			}
			if x == a {
				n := 0
				for uid, text := range got {
					if i, _ := v.Index(uid); strings.Contains(text, "added ") {
						n++
						if m := v.At(i); m.SavedAt() < 1e9 || m.Internal != 1 {
							t.Errorf("stopped after %d steps: %+v", limit, m)
						}
					}
				}
				_, old := contents(t, s, b)[7]
				if n != 0 && n != 3 || n == 3 && old {
					t.Errorf("stopped after %d steps: %d of 3 messages were added, and what they replace is there: %v", limit, n, old)
				}
			}
			if want := validity[x]; want != 0 && v.UIDValidity != want {
				t.Errorf("stopped after %d steps: UIDVALIDITY %d, was %d", limit, v.UIDValidity, want)
			}
			if used, want := m.of(x.Account), du(t, dir, x.Account); used != want {
				t.Errorf("stopped after %d steps: usage %d, on disk %d", limit, used, want)
			}
		}
		return done
	}
	for limit := 0; limit < 2000; limit++ {
		if run(t, limit, false) || t.Failed() {
			break
		}
	}
	if steps < 60 {
		t.Errorf("the history had %d steps only", steps)
	}
	// The journal alone must bring everything back, while no checkpoint has
	// moved its records out: cut at the first steps of the history.
	for _, limit := range []int{20, 25, 30, 35} {
		run(t, limit, true)
	}
}

// history plays a few of everything and notes what was acknowledged.
func history(s *Store, a, b mailbox.Box, acked map[mailbox.Box]map[mailbox.UID]string, gone map[mailbox.Box]map[mailbox.UID]bool, validity map[mailbox.Box]uint32) {
	ctx := context.Background()
	put := func(text string, boxes ...mailbox.Box) {
		w, err := s.NewBody(ctx)
		if err != nil {
			return
		}
		if _, err := io.WriteString(w, text); err != nil {
			w.Abort()
			return
		}
		body, err := w.Seal()
		if err != nil {
			return
		}
		defer body.Close()
		placed, _ := tryDeliver(s, body, boxes...)
		for i, p := range placed {
			if p.Err == nil {
				acked[boxes[i]][p.UID] = text
				validity[boxes[i]] = p.UIDValidity
			}
		}
	}
	big := strings.Repeat("large ", 2000)
	for i := range 6 {
		put(fmt.Sprintf("message %d\r\n", i), a, b)
		put(fmt.Sprintf("%d %s", i, big), b)
	}
	_, _ = s.Change(ctx, a, mailbox.UIDSet{{First: 2, Last: 3}}, mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen})
	expunge := func(x mailbox.Box, set mailbox.UIDSet) {
		uids, err := s.Expunge(ctx, x, set, false)
		if err != nil {
			for uid := range acked[x] { // unknown: may be there or not
				if set.Contains(uid) {
					delete(acked[x], uid)
				}
			}
			return
		}
		for _, uid := range uids {
			delete(acked[x], uid)
			gone[x][uid] = true
		}
	}
	expunge(a, mailbox.UIDSet{{First: 1, Last: 2}})
	expunge(b, mailbox.UIDSet{{First: 2, Last: 2}, {First: 5, Last: 6}})
	if c, err := s.Copy(ctx, b, a, mailbox.UIDSet{{First: 1, Last: 1}, {First: 4, Last: 4}}); err == nil {
		for i := range c.From {
			acked[a][c.To[i]] = acked[b][c.From[i]]
		}
	}
	c, err := s.Move(ctx, b, a, mailbox.UIDSet{{First: 3, Last: 3}})
	for i := range c.From {
		acked[a][c.To[i]] = acked[b][c.From[i]]
		delete(acked[b], c.From[i])
		gone[b][c.From[i]] = true
	}
	if err != nil {
		delete(acked[b], 3)
	}
	add := func(old mailbox.UID, texts ...string) {
		var list []mailbox.Arrival
		for _, text := range texts {
			w, err := s.NewBody(ctx)
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, text)
			body, err := w.Seal()
			if err != nil {
				return
			}
			defer body.Close()
			list = append(list, mailbox.Arrival{Body: body, Internal: time.Unix(1, 0)})
		}
		placed, err := s.Add(ctx, a, list, &mailbox.Ref{Box: b, UID: old})
		for i, p := range placed {
			acked[a][p.UID] = texts[i]
		}
		if err == nil {
			gone[b][old] = true
		}
		delete(acked[b], old) // or unknown
	}
	add(7, "added 1\r\n", big+"added 2\r\n", "added 3\r\n")
	_, _ = s.Usage(ctx, a.Account)
	_ = s.CreateBox(ctx, mailbox.Box{Account: a.Account, Name: "x"}, "")
	_ = s.RemoveBox(ctx, mailbox.Box{Account: a.Account, Name: "x"}) // empties the journal
	put("last\r\n", a, b)
	_, _ = s.Change(ctx, a, mailbox.UIDSet{{First: 5, Last: 6}}, mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Flagged})
	_, _ = s.Copy(ctx, a, b, mailbox.UIDSet{{First: 6, Last: 6}})
	expunge(a, mailbox.UIDSet{{First: 3, Last: 3}})
}

// TestAFullDiskRefusesDeliveriesAndLosesNothing fails every growing call.
func TestAFullDiskRefusesDeliveriesAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	var full atomic.Bool
	var m meter
	s := open(t, Options{Dir: dir, Used: m.add, Checkpoint: 20 * time.Millisecond, hook: func(op, path string) error {
		switch op {
		case "create", "link", "append", "spool", "replace", "mkdir", "newseg":
			if full.Load() {
				return syscall.ENOSPC
			}
		}
		return nil
	}})
	a, b := inbox(t, "a@x.org"), inbox(t, "b@x.org")
	deliver(t, s, "before\r\n", a)
	if got := contents(t, s, a); len(got) != 1 {
		t.Fatal(got)
	}
	full.Store(true)
	acked := map[mailbox.UID]string{}
	// What the journal can hold is still taken, until a checkpoint finds out.
	until(t, "deliveries are refused", func() bool {
		x := body(t, s, "while full\r\n")
		p, err := tryDeliver(s, x, a)
		if err == nil {
			acked[p[0].UID] = "while full\r\n"
		} else if !fault.Is(err, fault.Busy) {
			t.Fatalf("delivery on a full disk: %v, want busy", err)
		}
		return err != nil
	})
	w, err := s.NewBody(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); !fault.Is(err, fault.Busy) {
		t.Errorf("spooling on a full disk: %v, want busy", err)
	}
	w.Abort()
	if got := contents(t, s, a); len(got) != 1+len(acked) || got[1] != "before\r\n" {
		t.Errorf("reading on a full disk: %v", got)
	}
	if gone, err := s.Expunge(t.Context(), a, mailbox.UIDSet{{First: 1, Last: 1}}, false); err != nil || len(gone) != 1 {
		t.Errorf("deleting on a full disk: %v, %v", gone, err)
	}
	if got := contents(t, s, a); len(got) != len(acked) {
		t.Errorf("after deleting on a full disk: %v", got)
	}
	full.Store(false)
	until(t, "deliveries are taken again", func() bool {
		p, err := tryDeliver(s, body(t, s, "after\r\n"), a, b)
		if err == nil {
			acked[p[0].UID] = "after\r\n"
		}
		return err == nil
	})
	check := func(when string) {
		t.Helper()
		got := contents(t, s, a)
		if len(got) != len(acked) {
			t.Errorf("%s: %d messages, %d were acknowledged", when, len(got), len(acked))
		}
		for uid, text := range acked {
			if got[uid] != text {
				t.Errorf("%s: UID %d is %q, want %q", when, uid, got[uid], text)
			}
		}
	}
	check("with room again")
	closeStore(t, s)
	if used, want := m.of(a.Account), du(t, dir, a.Account); used != want {
		t.Errorf("usage %d, on disk %d", used, want)
	}
	s = open(t, Options{Dir: dir})
	check("after reopen")
}

// On a full disk the owner of a mailbox that nobody has opened yet can read it,
// flag and delete; and what was deleted stays so, although its file was written.
func TestAMailboxOpensOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	var creates, allowed atomic.Int64
	allowed.Store(1 << 30)
	s := open(t, Options{Dir: dir, Checkpoint: time.Hour, hook: func(op, path string) error {
		if op == "create" && strings.HasSuffix(path, ".madmail") && creates.Add(1) > allowed.Load() {
			return syscall.ENOSPC
		}
		return nil
	}})
	a := inbox(t, "a@x.org")
	for i := range 4 {
		deliver(t, s, fmt.Sprintf("%d\r\n", i+1), a)
	}
	allowed.Store(2) // the files of two of them, then no more room
	if got := contents(t, s, a); len(got) != 4 || got[1] != "1\r\n" || got[4] != "4\r\n" {
		t.Fatal(got)
	}
	if gone, err := s.Expunge(t.Context(), a, mailbox.UIDSet{{First: 1, Last: 1}}, false); err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	if _, err := s.Change(t.Context(), a, mailbox.UIDSet{{First: 2, Last: 3}}, mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen}); err != nil {
		t.Fatal(err)
	}
	allowed.Store(1 << 30)
	closeStore(t, s)
	for _, sub := range []string{"new", "cur"} {
		files, err := os.ReadDir(filepath.Join(dir, "mail", "a@x.org", "Maildir", sub))
		if want := map[string]int{"new": 1, "cur": 2}[sub]; err != nil || len(files) != want {
			t.Errorf("%s: %v, %v; want %d files", sub, files, err, want)
		}
	}
	s = open(t, Options{Dir: dir})
	if got := contents(t, s, a); len(got) != 3 || got[2] != "2\r\n" || got[3] != "3\r\n" || got[4] != "4\r\n" {
		t.Error(got)
	}
}

// until waits for a condition, trying it again and again.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came about that %s", what)
		}
	}
}

func TestHandEditsAreNoticed(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running %v", running), func(t *testing.T) {
			dir := t.TempDir()
			var m meter
			now := atomic.Int64{}
			now.Store(1_800_000_000)
			opt := Options{Dir: dir, Used: m.add, Now: func() time.Time { return time.Unix(now.Load(), 0) }}
			s := open(t, opt)
			a := inbox(t, "a@x.org")
			for i := range 4 {
				deliver(t, s, fmt.Sprintf("message %d\r\n", i), a)
			}
			before := contents(t, s, a)
			if !running {
				closeStore(t, s)
			}
			maildir := filepath.Join(dir, "mail", "a@x.org", "Maildir")
			list, err := os.ReadDir(filepath.Join(maildir, "new"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(maildir, "new", list[1].Name())); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(maildir, "cur", "by.hand:2,FS"), []byte("by hand\r\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if !running {
				m = meter{}
				s = open(t, opt)
				if err := s.Hydrate(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			now.Add(10)
			after := contents(t, s, a)
			if len(after) != 4 || after[5] != "by hand\r\n" {
				t.Errorf("after hand edits: %v", after)
			}
			for uid, text := range after {
				if uid != 5 && before[uid] != text {
					t.Errorf("UID %d was %q and is %q", uid, before[uid], text)
				}
			}
			if used, want := m.of(a.Account), du(t, dir, a.Account); used != want {
				t.Errorf("usage %d, on disk %d", used, want)
			}
			v, err := s.View(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			if i, ok := v.Index(5); !ok || v.At(i).Flags != mailbox.Seen|mailbox.Flagged {
				t.Errorf("flags of the new message: %v", v.At(i).Flags)
			}
		})
	}
}

func TestALostIndexIsRebuiltUnderAnotherUIDVALIDITY(t *testing.T) {
	for _, damage := range []string{"removed", "garbage", "empty", "torn", "zeros"} {
		t.Run(damage, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, Options{Dir: dir})
			a := inbox(t, "a@x.org")
			for i := range 3 {
				deliver(t, s, fmt.Sprintf("message %d\r\n", i), a)
			}
			v, err := s.View(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			closeStore(t, s)
			path := filepath.Join(dir, "mail", "a@x.org", "Maildir", indexName)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			switch damage {
			case "removed":
				err = os.Remove(path)
			case "garbage":
				err = os.WriteFile(path, []byte("\x00\xffgarbage\n1 2 3\n"), 0o600)
			case "empty":
				err = os.Truncate(path, 0)
			case "torn":
				err = os.WriteFile(path, data[:len(data)-7], 0o600)
			case "zeros":
				err = os.WriteFile(path, make([]byte, len(data)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			s = open(t, Options{Dir: dir, Now: func() time.Time { return time.Now().Add(time.Hour) }})
			if err := s.Hydrate(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			got := contents(t, s, a)
			if len(got) != 3 {
				t.Errorf("%d messages after the damage", len(got))
			}
			w, err := s.View(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			if same := w.UIDValidity == v.UIDValidity; same != (damage == "torn") {
				t.Errorf("UIDVALIDITY %d, was %d", w.UIDValidity, v.UIDValidity)
			}
			if p := deliver(t, s, "new\r\n", a); p[0].UID != 4 && damage != "torn" || p[0].UID < 4 {
				t.Errorf("next UID %d", p[0].UID)
			}
		})
	}
}

// TestLayoutOfEarlierServersIsRead opens a Maildir as version 2 leaves it.
func TestLayoutOfEarlierServersIsRead(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "mail", "a@x.org", "Maildir")
	folder := filepath.Join(dir, "mail", "a@x.org", "folders", "Sent", "Maildir")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(root, "new", "uuid-1"), "one\r\n")
	write(filepath.Join(root, "cur", "uuid-2"), "two\r\n")
	write(filepath.Join(root, "cur", "uuid-3:2,FR"), "three\r\n")
	write(filepath.Join(root, indexName), "1 V1 N8\n3 S5 T1700000000 :uuid-1\n5 S5 T1700000001 :uuid-2\n7 S7 T1700000002 :uuid-3\n")
	write(filepath.Join(folder, "new", "x"), "sent\r\n")
	s := open(t, Options{Dir: dir})
	if err := s.Hydrate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	a := inbox(t, "a@x.org")
	if got := contents(t, s, a); len(got) != 3 || got[3] != "one\r\n" || got[5] != "two\r\n" || got[7] != "three\r\n" {
		t.Errorf("%v", got)
	}
	v, err := s.View(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []mailbox.Flags{0, mailbox.Seen, mailbox.Flagged | mailbox.Answered} {
		if got := v.At(i).Flags; got != want {
			t.Errorf("message %d has flags %b, want %b", i, got, want)
		}
	}
	if v.UIDValidity != 1 || v.UIDNext != 8 || v.At(0).Internal != 1700000000 {
		t.Errorf("validity %d, next %d, date %d", v.UIDValidity, v.UIDNext, v.At(0).Internal)
	}
	if got := contents(t, s, mailbox.Box{Account: a.Account, Name: "Sent"}); len(got) != 1 {
		t.Errorf("folder has %v", got)
	}
	if p := deliver(t, s, "new\r\n", a); p[0].UID != 8 {
		t.Errorf("next UID %d, want 8", p[0].UID)
	}
}

func TestTheJournalIsBoundedAndRecycled(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, SegmentSize: 1 << 20, Segments: 3})
	text := strings.Repeat("x", 30<<10)
	var wg sync.WaitGroup
	for g := range 4 {
		a := inbox(t, fmt.Sprintf("u%d@x.org", g))
		wg.Go(func() {
			for range 60 {
				b := body(t, s, text)
				if _, err := tryDeliver(s, b, a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list, err := os.ReadDir(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, e := range list {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	if size > 3<<20+1024 {
		t.Errorf("the journal has %d octets after 7 MB of mail", size)
	}
	if n := s.Stats().Checkpoints; n < 3 {
		t.Errorf("%d checkpoints", n)
	}
	for g := range 4 {
		if got := contents(t, s, inbox(t, fmt.Sprintf("u%d@x.org", g))); len(got) != 60 {
			t.Errorf("mailbox %d has %d messages", g, len(got))
		}
	}
}

func TestADamagedRecordInTheMiddleCostsOnlyItself(t *testing.T) {
	j := &journal{disk: &disk{}, cur: &segment{epoch: 7}}
	for i := range 5 {
		at := j.begin()
		j.buf = append(j.buf, bytes.Repeat([]byte{byte('a' + i)}, 100+i)...)
		j.end(at)
	}
	j.seal()
	data := append(bytes.Clone(j.buf), make([]byte, 4096)...)
	data[2*(recHeader+104)+30] ^= 1
	var got []byte
	r, err := scanRecords(data, 7, func(p []byte) error { got = append(got, p[0]); return nil })
	if err != nil || string(got) != "abde" || r.damaged != 1 || r.records != 4 {
		t.Errorf("read %q, %+v, %v", got, r, err)
	}
	got = nil
	if r, _ := scanRecords(data, 8, func(p []byte) error { got = append(got, p[0]); return nil }); r.records != 0 {
		t.Errorf("records of epoch 7 were taken for epoch 8: %v", got)
	}
}

func TestCostOfADeliveryDoesNotGrowWithTheMailbox(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "mail", "a@x.org", "Maildir")
	for _, d := range []string{"new", "cur", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// An index of 20,000 messages whose files are not looked at.
	data := appendHeader(nil, header{validity: 9, next: 1})
	for i := 1; i <= 20000; i++ {
		data = appendEntry(data, mailbox.Message{UID: mailbox.UID(i), Size: 5, ModSeq: mailbox.ModSeq(i)}, mailbox.UID(i+1), baseOf(9, mailbox.UID(i)))
	}
	if err := os.WriteFile(filepath.Join(root, indexName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Dir: dir})
	p := deliver(t, s, "new\r\n", inbox(t, "a@x.org"))
	if p[0].UID != 20001 || p[0].UIDValidity != 9 {
		t.Errorf("placed %+v", p[0])
	}
	if n := s.Stats().Loaded; n != 0 {
		t.Errorf("a delivery loaded %d mailboxes", n)
	}
}

func TestManyMailboxesStayWithinTheBound(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), MaxLoaded: 20})
	for i := range 100 {
		a := inbox(t, fmt.Sprintf("u%d@x.org", i))
		deliver(t, s, "hello\r\n", a)
		if got := contents(t, s, a); len(got) != 1 {
			t.Fatal(got)
		}
	}
	if n := s.Stats().Loaded; n > 21 {
		t.Errorf("%d mailboxes in memory, bound 20", n)
	}
	for i := range 100 {
		if got := contents(t, s, inbox(t, fmt.Sprintf("u%d@x.org", i))); len(got) != 1 {
			t.Fatal(i, got)
		}
	}
	for i := range 50 {
		_, err := s.View(t.Context(), mailbox.Box{Account: addr(t, "u1@x.org"), Name: fmt.Sprintf("nothing %d", i)})
		if !fault.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
	}
	if n := len(s.boxes); n > 101 {
		t.Errorf("%d mailboxes are remembered, 50 of them do not exist", n)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("1 V7 N0000000003 M4 Gmadmail\n1 S5 T1 M2 FS K$x N2 :a\n2 S5 T1 M3 F N3 :b\n1 X M4 N3 :a\n"))
	f.Add([]byte("1 V1 N8\n3 S5 T1700000000 :uuid-1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ix, err := parseIndex(data)
		if err != nil {
			return
		}
		last := mailbox.UID(0)
		for _, e := range ix.live {
			if e.UID <= last || e.UID >= ix.next && e.UID != ^mailbox.UID(0) || e.Size < 0 || !safeBase(e.base) {
				t.Fatalf("entry %+v after UID %d, next %d", e, last, ix.next)
			}
			last = e.UID
		}
	})
}

func FuzzJournal(f *testing.F) {
	r := record{kind: recDeliver, body: []byte("hi"), boxes: []recBox{{validity: 1, next: 2, mod: 3, msgs: []placed{{mailbox.Message{UID: 1, Keywords: []string{"k"}}, "base"}}}}}
	f.Add(r.appendTo(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := scanRecords(data, 1, func(p []byte) error { _, err := parseRecord(p); return err }); err != nil && !errors.Is(err, errRecord) {
			t.Fatal(err)
		}
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		again, err := parseRecord(r.appendTo(nil))
		if err != nil || len(again.boxes) != len(r.boxes) {
			t.Fatalf("a record does not read back: %v", err)
		}
	})
}

func benchDeliver(b *testing.B, parallel, recipients int) {
	s := open(b, Options{Dir: b.TempDir()})
	data := bytes.Repeat([]byte("0123456789abcde\n"), 96)
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(parallel)
	b.RunParallel(func(pb *testing.PB) {
		id := next.Add(1)
		var to []mailbox.Target
		for i := range recipients {
			to = append(to, mailbox.Target{Box: inbox(b, fmt.Sprintf("u%d-%d@x.org", id, i))})
		}
		for pb.Next() {
			w, _ := s.NewBody(context.Background())
			_, _ = w.Write(data)
			body, _ := w.Seal()
			if _, err := s.Deliver(context.Background(), to, body); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(s.Stats().Syncs)/float64(b.N), "syncs/op")
}

// BenchmarkPairs is the life of most messages: delivered, read, deleted.
func BenchmarkPairs(b *testing.B) {
	s := open(b, Options{Dir: b.TempDir()})
	data := bytes.Repeat([]byte("0123456789abcde\n"), 96)
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	ctx := context.Background()
	b.RunParallel(func(pb *testing.PB) {
		x := inbox(b, fmt.Sprintf("u%d@x.org", next.Add(1)))
		_, _ = s.View(ctx, x)
		for pb.Next() {
			w, _ := s.NewBody(ctx)
			_, _ = w.Write(data)
			body, _ := w.Seal()
			p, err := s.Deliver(ctx, []mailbox.Target{{Box: x}}, body)
			if err != nil {
				b.Error(err)
				return
			}
			c, err := s.Open(ctx, x, p[0].UID)
			if err != nil {
				b.Error(err)
				return
			}
			c.Close()
			set := mailbox.UIDSet{{First: p[0].UID, Last: p[0].UID}}
			_, _ = s.Change(ctx, x, set, mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Deleted})
			_, _ = s.Expunge(ctx, x, mailbox.All(), true)
		}
	})
	b.ReportMetric(float64(s.Stats().Syncs)/float64(b.N), "syncs/op")
}

func BenchmarkDeliver1(b *testing.B)         { benchDeliver(b, 1, 1) }
func BenchmarkDeliver64(b *testing.B)        { benchDeliver(b, 32, 1) }
func BenchmarkDeliverTo50(b *testing.B)      { benchDeliver(b, 1, 50) }
func BenchmarkDeliverTo50From8(b *testing.B) { benchDeliver(b, 8, 50) }

// A file that is renamed while its directory is listed may be in the list under
// neither name: a backup of a mailbox whose flags change would lack the message.
func TestAListMissesNoMessageWhileFlagsChange(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	box := inbox(t, "alice@x.org")
	const count = 300
	for i := range count {
		deliver(t, s, fmt.Sprintf("From: <b@x.org>\r\n\r\n%d\r\n", i), box)
	}
	if err := s.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var changer sync.WaitGroup
	defer changer.Wait()
	defer cancel()
	changer.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			op := []mailbox.ChangeOp{mailbox.AddFlags, mailbox.RemoveFlags}[n%2]
			if _, err := s.Change(context.Background(), box, mailbox.All(), mailbox.FlagChange{Op: op, Flags: mailbox.Seen}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 300 {
		found := make(map[string]bool)
		s.Still(func() {
			for _, sub := range []string{"new", "cur"} {
				list, err := os.ReadDir(filepath.Join(s.boxDir(box), sub))
				if err != nil {
					t.Error(err)
				}
				for _, e := range list {
					base, _, _ := splitName(e.Name())
					found[base] = true
				}
			}
		})
		if len(found) != count {
			t.Fatalf("%d of %d messages", len(found), count)
		}
	}
}
