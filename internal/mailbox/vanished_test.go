package mailbox

import (
	"math/rand/v2"
	"testing"
)

// TestVanishedTellsEveryExpunge plays random histories and checks what a client
// is told that was away since a random point: everything that went meanwhile,
// and nothing that is still there or was never given.
func TestVanishedTellsEveryExpunge(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		v := NewView(7, 1, 1, nil)
		type past struct {
			mod  ModSeq
			live map[UID]bool
		}
		live := map[UID]bool{}
		var history []past
		for range 120 {
			snapshot := map[UID]bool{}
			for u := range live {
				snapshot[u] = true
			}
			history = append(history, past{v.HighestMod, snapshot})
			mod := v.HighestMod + 1
			switch k := r.IntN(10); {
			case k < 5:
				u := v.UIDNext
				v = v.With(u+1, mod, Message{UID: u, ModSeq: mod})
				live[u] = true
			case k < 6 && v.Len() > 0:
				m := v.At(r.IntN(v.Len()))
				m.ModSeq = mod
				v = v.Replaced(mod, []Message{m})
			case v.Len() > 0:
				var gone []UID
				from := r.IntN(v.Len())
				for i := from; i < min(v.Len(), from+1+r.IntN(3)); i++ {
					gone = append(gone, v.At(i).UID)
					delete(live, v.At(i).UID)
				}
				v = v.Without(mod, gone)
			}
		}
		for _, h := range history {
			for _, known := range []UIDSet{All(), {{3, 20}, {30, 31}}} {
				told := v.Vanished(h.mod, known)
				for u := range h.live {
					if !live[u] && known.Contains(u) && !told.Contains(u) {
						t.Fatalf("seed %d: %d went after %d and is not told in %v", seed, u, h.mod, told)
					}
				}
				for _, g := range told {
					for u := g.First; u <= g.Last; u++ {
						if live[u] || u >= v.UIDNext || !known.Contains(u) {
							t.Fatalf("seed %d: %d is told and should not be: %v", seed, u, told)
						}
					}
				}
			}
		}
		if got := v.Vanished(v.HighestMod, All()); got != nil {
			t.Fatalf("seed %d: told %v to a client that knows all", seed, got)
		}
	}
}

func TestARecentExpungeIsToldExactly(t *testing.T) {
	v := NewView(1, 5, 9, []Message{{UID: 2}, {UID: 4}}) // 1 and 3 went long ago
	w := v.Without(10, []UID{4})
	if got := w.Vanished(9, All()); len(got) != 1 || got[0] != (UIDRange{4, 4}) {
		t.Errorf("after 9: %v, want 4", got)
	}
	if got := w.Vanished(8, All()); len(got) != 2 || got[0] != (UIDRange{1, 1}) || got[1] != (UIDRange{3, 4}) {
		t.Errorf("after 8: %v, want 1,3:4", got)
	}
}

func TestIntersect(t *testing.T) {
	got := UIDSet{{1, 5}, {8, 9}, {20, 30}}.Intersect(UIDSet{{2, 3}, {5, 8}, {25, 40}})
	want := UIDSet{{2, 3}, {5, 5}, {8, 8}, {25, 30}}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}
