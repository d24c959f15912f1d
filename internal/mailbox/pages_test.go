package mailbox

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// filled is a view of n messages with the UIDs 1, 3, 5 and so on.
func filled(n int) *View {
	msgs := make([]Message, n)
	for i := range msgs {
		msgs[i] = Message{UID: UID(2*i + 1), ModSeq: 1, Size: int64(i)}
	}
	return NewView(7, UID(2*n+1), 1, msgs)
}

func TestViewsAtThePageBoundary(t *testing.T) {
	for _, n := range []int{0, 1, pageSize - 1, pageSize, pageSize + 1, 2 * pageSize, 3*pageSize + 5} {
		v := filled(n)
		if v.Len() != n {
			t.Errorf("%d messages are %d", n, v.Len())
		}
		for i := range n {
			if m := v.At(i); m.UID != UID(2*i+1) {
				t.Fatalf("of %d, message %d has UID %d", n, i, m.UID)
			}
			if k, ok := v.Index(UID(2*i + 1)); k != i || !ok {
				t.Fatalf("of %d, Index(%d) = %d, %v", n, 2*i+1, k, ok)
			}
			if k, ok := v.Index(UID(2*i + 2)); k != i+1 || ok {
				t.Fatalf("of %d, Index(%d) = %d, %v", n, 2*i+2, k, ok)
			}
		}
		if k, ok := v.Index(^UID(0)); k != n || ok {
			t.Errorf("of %d, the highest UID is at %d, %v", n, k, ok)
		}
		w := v.With(UID(2*n+2), 2, Message{UID: UID(2*n + 1), ModSeq: 2})
		if w.Len() != n+1 || w.At(n).UID != UID(2*n+1) || v.Len() != n || w.UIDValidity != 7 {
			t.Errorf("of %d, one more makes %d", n, w.Len())
		}
		if w = w.Without(3, []UID{UID(2*n + 1)}); w.Len() != n || w.UIDNext != UID(2*n+2) || w.HighestMod != 3 {
			t.Errorf("of %d, one more and one less makes %d, UIDNEXT %d", n, w.Len(), w.UIDNext)
		}
	}
}

func TestEachVisitsTheSetInOrder(t *testing.T) {
	v := filled(600)
	for _, x := range []struct {
		name string
		set  UIDSet
		want []UID
	}{
		{"none", nil, nil},
		{"one", UIDSet{{3, 3}}, []UID{3}},
		{"a gap", UIDSet{{4, 4}}, nil},
		{"a range with gaps", UIDSet{{2, 6}}, []UID{3, 5}},
		{"over a page", UIDSet{{2*pageSize - 1, 2*pageSize + 1}}, []UID{2*pageSize - 1, 2*pageSize + 1}},
		{"beyond the end", UIDSet{{1199, ^UID(0)}}, []UID{1199}},
		{"after the end", UIDSet{{1200, 1300}, {5000, 6000}}, nil},
		{"several", UIDSet{{1, 1}, {4, 5}, {600, 601}}, []UID{1, 5, 601}},
	} {
		var got []UID
		v.Each(x.set, func(i int, m Message) {
			if v.At(i).UID != m.UID {
				t.Errorf("%s: index %d is not UID %d", x.name, i, m.UID)
			}
			got = append(got, m.UID)
		})
		if d := cmp.Diff(x.want, got); d != "" {
			t.Errorf("%s:\n%s", x.name, d)
		}
	}
	n := 0
	v.Each(All(), func(i int, _ Message) {
		if i != n {
			t.Fatalf("index %d after %d", i, n-1)
		}
		n++
	})
	if n != v.Len() {
		t.Errorf("%d of %d visited", n, v.Len())
	}
}

// TestViewsAreReadWhileTheirSuccessorsAreMade is for the race detector: room
// behind the last message of a page is written while older views are read.
func TestViewsAreReadWhileTheirSuccessorsAreMade(t *testing.T) {
	v := filled(pageSize / 2)
	var wg sync.WaitGroup
	for i := range 3 * pageSize {
		old := v
		wg.Add(1)
		go func() {
			defer wg.Done()
			last := UID(0)
			for i := range old.Len() {
				m := old.At(i)
				if m.UID <= last || m.UID >= old.UIDNext {
					t.Errorf("UID %d after %d, UIDNEXT %d", m.UID, last, old.UIDNext)
					return
				}
				last = m.UID
			}
		}()
		mod := ModSeq(2 + i)
		switch i % 8 {
		case 5:
			m := v.At(v.Len() - 1)
			m.Flags ^= Seen
			m.ModSeq = mod
			v = v.Replaced(mod, []Message{m})
		case 7:
			v = v.Without(mod, []UID{v.At(v.Len() / 2).UID})
		default:
			v = v.With(v.UIDNext+1, mod, Message{UID: v.UIDNext, ModSeq: mod})
		}
	}
	wg.Wait()
}

// TestAMessageCostsAPageNotTheMailbox: no work on the path of a delivery grows
// with the mailbox, but for the list of pages.
func TestAMessageCostsAPageNotTheMailbox(t *testing.T) {
	small, large := filled(pageSize+1), filled(400*pageSize+1)
	shared := func(v, w *View) (n int) {
		for i, p := range v.pages {
			if i < len(w.pages) && w.pages[i] == p {
				n++
			}
		}
		return n
	}
	for _, v := range []*View{small, large} {
		m := Message{UID: v.UIDNext, ModSeq: 2}
		if n := shared(v, v.With(m.UID+1, 2, m)); n != len(v.pages)-1 {
			t.Errorf("With shares %d of %d pages", n, len(v.pages))
		}
		if n := shared(v, v.Replaced(2, []Message{{UID: 3, ModSeq: 2}})); n != len(v.pages)-1 {
			t.Errorf("Replaced shares %d of %d pages", n, len(v.pages))
		}
	}
}

func BenchmarkWith(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(map[int]string{1_000: "1k", 100_000: "100k"}[n], func(b *testing.B) {
			first := filled(n)
			v := first
			b.ReportAllocs()
			for b.Loop() {
				m := Message{UID: v.UIDNext, ModSeq: v.HighestMod + 1}
				v = v.With(m.UID+1, m.ModSeq, m)
				if v.Len() >= n+pageSize {
					v = first // nobody has kept its successors
				}
			}
		})
	}
}

func BenchmarkEachOfAll(b *testing.B) {
	v := filled(10_000)
	b.ReportAllocs()
	for b.Loop() {
		v.Each(All(), func(int, Message) {})
	}
}
