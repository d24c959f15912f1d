package mailboxtest

import (
	"bytes"
	"sync"
	"time"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// arrivals makes what Add takes.
func (s *suite) arrivals(texts ...string) []mailbox.Arrival {
	s.Helper()
	var list []mailbox.Arrival
	for _, t := range texts {
		b := s.body(t)
		s.Cleanup(func() { b.Close() })
		list = append(list, mailbox.Arrival{Body: b})
	}
	return list
}

func testAdd(s *suite) {
	b := s.box(mailbox.Inbox)
	s.deliver("before\r\n", b)
	list := s.arrivals("one\r\n", pattern(200<<10), "three\r\n")
	list[1].Flags, list[1].Keywords, list[1].Internal = mailbox.Seen, []string{"b", "a"}, time.Unix(1000, 0)
	list = append(list, mailbox.Arrival{Body: foreignBody{bytes.NewReader([]byte("foreign\r\n"))}})
	old := s.view(b)
	placed, err := s.s.Add(s.ctx, b, list, nil)
	s.must(err)
	v := s.view(b)
	if len(placed) != 4 || v.Len() != 5 {
		s.Fatalf("%d placed, %d in the mailbox", len(placed), v.Len())
	}
	for i, p := range placed {
		if p.Err != nil || p.UIDValidity != v.UIDValidity || v.At(i+1).UID != p.UID {
			s.Errorf("placed %d: %+v, the view has UID %d", i, p, v.At(i+1).UID)
		}
	}
	if m := v.At(2); m.Flags != mailbox.Seen || !same(m.Keywords, []string{"a", "b"}) || m.Internal != 1000 || m.ModSeq <= old.HighestMod {
		s.Errorf("%+v", m)
	}
	if got := s.texts(b); got[1] != "one\r\n" || got[2] != pattern(200<<10) || got[3] != "three\r\n" || got[4] != "foreign\r\n" {
		s.Error("texts differ")
	}
	if placed, err := s.s.Add(s.ctx, b, nil, nil); err != nil || len(placed) != 0 || s.view(b).Len() != 5 {
		s.Errorf("nothing added: %v, %v", placed, err)
	}
}

func testAddReplaces(s *suite) {
	a, b := s.box(mailbox.Inbox), s.made("Drafts")
	x := s.deliver("in inbox\r\n", a)[0]
	y := s.deliver("draft 1\r\n", b)[0]
	// Within one mailbox nobody sees the old and the new one at once.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if v, err := s.s.View(s.ctx, b); err != nil || v.Len() != 1 {
				s.Errorf("seen while replacing: %v", err)
				return
			}
		}
	})
	for range 20 {
		placed, err := s.s.Add(s.ctx, b, s.arrivals("draft 2\r\n"), &mailbox.Ref{Box: b, UID: y})
		s.must(err)
		if placed[0].UID <= y {
			s.Errorf("UID %d after %d", placed[0].UID, y)
		}
		y = placed[0].UID
	}
	close(stop)
	wg.Wait()
	if got := s.texts(b); len(got) != 1 || got[0] != "draft 2\r\n" {
		s.Errorf("%q", got)
	}
	// From one mailbox into another.
	_, err := s.s.Add(s.ctx, b, s.arrivals("sent\r\n"), &mailbox.Ref{Box: a, UID: x})
	s.must(err)
	if got := s.texts(b); len(got) != 2 || got[1] != "sent\r\n" {
		s.Errorf("%q", got)
	}
	if n := s.view(a).Len(); n != 0 {
		s.Errorf("%d messages left", n)
	}
	if u, err := s.s.Usage(s.ctx, a.Account); err != nil || u.Messages != 2 || u.Bytes != int64(len("draft 2\r\nsent\r\n")) {
		s.Errorf("usage %+v, %v", u, err)
	}
}

func testAddRefused(s *suite) {
	a, b := s.box(mailbox.Inbox), s.made("Drafts")
	x := s.deliver("one\r\n", a)[0]
	s.expunge(a, mailbox.All())
	y := s.deliver("two\r\n", a)[0]
	for name, f := range map[string]func() error{
		"no mailbox": func() error {
			_, err := s.s.Add(s.ctx, s.box("nowhere"), s.arrivals("x\r\n", "y\r\n"), &mailbox.Ref{Box: a, UID: y})
			return err
		},
		"no message to replace": func() error {
			_, err := s.s.Add(s.ctx, b, s.arrivals("x\r\n"), &mailbox.Ref{Box: a, UID: x})
			return err
		},
		"no mailbox to replace in": func() error {
			_, err := s.s.Add(s.ctx, b, s.arrivals("x\r\n"), &mailbox.Ref{Box: s.box("nowhere"), UID: y})
			return err
		},
	} {
		s.wantKind(name, f(), fault.NotFound)
	}
	if s.view(b).Len() != 0 || s.view(a).Len() != 1 {
		s.Errorf("%d and %d messages", s.view(a).Len(), s.view(b).Len())
	}
}
