package mailboxtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"madmail/internal/mailbox"
)

// crew runs goroutines and keeps the first error of each.
type crew struct {
	wg   sync.WaitGroup
	mu   sync.Mutex // guards the field below
	errs []error
}

func (c *crew) start(f func() error) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		if err := f(); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.errs = append(c.errs, err)
		}
	}()
}

func (c *crew) wait() error {
	c.wg.Wait()
	return errors.Join(c.errs...)
}

// put delivers text without ending the test, for goroutines.
func put(ctx context.Context, st mailbox.Store, text string, b mailbox.Box) (mailbox.UID, error) {
	w, err := st.NewBody(ctx)
	if err != nil {
		return 0, err
	}
	defer w.Abort()
	if _, err := w.Write([]byte(text)); err != nil {
		return 0, err
	}
	body, err := w.Seal()
	if err != nil {
		return 0, err
	}
	defer body.Close()
	placed, err := st.Deliver(ctx, []mailbox.Target{{Box: b}}, body)
	if err != nil {
		return 0, err
	}
	return placed[0].UID, placed[0].Err
}

// testDeliverersAndLister is known failure A1: messages that were accepted
// while a listing ran were never listed. A client fetches forward only, so a
// message is lost as soon as it appears below a UID that was shown before.
func testDeliverersAndLister(s *suite) {
	const deliverers, each = 20, 50
	b := s.box(mailbox.Inbox)
	var c crew
	var delivered atomic.Int64
	for d := range deliverers {
		c.start(func() error {
			for i := range each {
				text := fmt.Sprintf("%d of %d\r\n", i, d)
				uid, err := put(s.ctx, s.s, text, b)
				if err != nil {
					return err
				}
				// It is visible when Deliver returns.
				v, err := s.s.View(s.ctx, b)
				if err != nil {
					return err
				}
				if _, ok := v.Index(uid); !ok {
					return fmt.Errorf("UID %d was acknowledged and is not in the view that ends before %d", uid, v.UIDNext)
				}
				delivered.Add(1)
			}
			return nil
		})
	}
	c.start(func() error { return list(s, b, deliverers*each) })
	if err := c.wait(); err != nil {
		s.Fatalf("%v\n%d of %d were delivered", err, delivered.Load(), deliverers*each)
	}
	if n := s.view(b).Len(); n != deliverers*each {
		s.Errorf("%d messages, want %d", n, deliverers*each)
	}
}

// list follows a mailbox as a client does until it has seen want messages.
func list(s *suite, b mailbox.Box, want int) error {
	last := mailbox.UID(0)
	validity := uint32(0)
	texts := make(map[string]bool)
	seen := 0
	for seen < want {
		if err := s.ctx.Err(); err != nil {
			return fmt.Errorf("%d of %d messages were listed: %w", seen, want, err)
		}
		v, err := s.s.View(s.ctx, b)
		if err != nil {
			return err
		}
		if err := soundView(v); err != nil {
			return err
		}
		if validity == 0 {
			validity = v.UIDValidity
		}
		from, _ := v.Index(last + 1)
		switch {
		case v.UIDValidity != validity:
			return fmt.Errorf("UIDVALIDITY went from %d to %d", validity, v.UIDValidity)
		case from != seen:
			return fmt.Errorf("%d messages up to UID %d, %d were listed before", from, last, seen)
		case v.Len() < seen:
			return fmt.Errorf("%d messages, %d were listed before", v.Len(), seen)
		}
		if v.Len() == seen {
			runtime.Gosched()
			continue
		}
		for i := from; i < v.Len(); i++ {
			m := v.At(i)
			c, err := s.s.Open(s.ctx, b, m.UID)
			if err != nil {
				return fmt.Errorf("open UID %d that is listed: %w", m.UID, err)
			}
			data := make([]byte, c.Size())
			_, err = c.ReadAt(data, 0)
			c.Close()
			if int64(len(data)) != m.Size || texts[string(data)] {
				return fmt.Errorf("UID %d reads %q (%v), which was there before or has another size than %d", m.UID, data, err, m.Size)
			}
			texts[string(data)] = true
			last = m.UID
			seen++
		}
	}
	return nil
}

// testConcurrentMoves moves messages round and round: each is always in one
// place, and none is lost or doubled.
func testConcurrentMoves(s *suite) {
	const n = 60
	boxes := []mailbox.Box{s.box(mailbox.Inbox), s.made("a"), s.made("b")}
	var want []string
	for i := range n {
		text := fmt.Sprintf("message %d\r\n", i)
		s.deliver(text, boxes[i%3])
		want = append(want, text)
	}
	var c crew
	for w := range 6 {
		from, to := boxes[w%3], boxes[(w+1+w/3)%3]
		c.start(func() error {
			for range 40 {
				v, err := s.s.View(s.ctx, from)
				if err != nil {
					return err
				}
				var some mailbox.UIDSet
				for i := w % 2; i < v.Len(); i += 2 {
					some = some.Add(v.At(i).UID)
				}
				// What another has moved meanwhile is ignored.
				res, err := s.s.Move(s.ctx, from, to, some)
				if err != nil {
					return err
				}
				if len(res.From) != len(res.To) {
					return fmt.Errorf("moved %v to %v", res.From, res.To)
				}
			}
			return nil
		})
	}
	s.must(c.wait())
	var got []string
	for _, b := range boxes {
		got = append(got, s.texts(b)...)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !same(got, want) {
		s.Errorf("%d messages after moving, want %d", len(got), len(want))
	}
	u, err := s.s.Usage(s.ctx, boxes[0].Account)
	s.must(err)
	if u.Messages != n {
		s.Errorf("usage counts %d messages, want %d", u.Messages, n)
	}
}

// testConcurrentChanges lets goroutines add keywords, deliver and expunge at once.
func testConcurrentChanges(s *suite) {
	const workers, each = 8, 20
	b := s.box(mailbox.Inbox)
	kept := s.fill(b, 1)[0]
	var c crew
	for w := range workers {
		c.start(func() error {
			for i := range each {
				_, err := s.s.Change(s.ctx, b, set(kept), mailbox.FlagChange{Op: mailbox.AddFlags, Keywords: []string{fmt.Sprintf("k%d-%d", w, i)}})
				if err != nil {
					return err
				}
				uid, err := put(s.ctx, s.s, "comes and goes\r\n", b)
				if err != nil {
					return err
				}
				gone, err := s.s.Expunge(s.ctx, b, set(uid), false)
				if err != nil || !same(gone, []mailbox.UID{uid}) {
					return fmt.Errorf("expunge of UID %d: %v, %v", uid, gone, err)
				}
			}
			return nil
		})
	}
	s.must(c.wait())
	v := s.view(b)
	if !same(uidsOf(v), []mailbox.UID{kept}) {
		s.Errorf("left: %v", uidsOf(v))
	}
	if n := len(s.message(b, kept).Keywords); n != workers*each {
		s.Errorf("%d keywords, want %d", n, workers*each)
	}
	u, err := s.s.Usage(s.ctx, b.Account)
	s.must(err)
	if u.Messages != 1 {
		s.Errorf("usage counts %d messages, want 1", u.Messages)
	}
}
