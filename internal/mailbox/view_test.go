package mailbox

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func list(v *View) []Message {
	var all []Message
	for i := range v.Len() {
		all = append(all, v.At(i))
	}
	return all
}

// TestViewsFollowAPlainSlice plays random changes on a view and on a slice.
func TestViewsFollowAPlainSlice(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		v := NewView(1, 1, 0, nil)
		var model []Message
		next, mod := UID(1), ModSeq(0)
		for range 25 {
			old, before := v, list(v)
			mod++
			switch rnd.IntN(3) {
			case 0:
				var add []Message
				for range 1 + rnd.IntN(300) {
					add = append(add, Message{UID: next, Size: int64(next), ModSeq: mod})
					next += UID(1 + rnd.IntN(2))
				}
				v = v.With(next, mod, add...)
				model = append(model, add...)
			case 1:
				var ch []Message
				for i := range model {
					if rnd.IntN(10) == 0 {
						model[i].Flags ^= Seen
						model[i].ModSeq = mod
						ch = append(ch, model[i])
					}
				}
				v = v.Replaced(mod, ch)
			case 2:
				var gone []UID
				var keep []Message
				p := rnd.IntN(4)
				for _, m := range model {
					if rnd.IntN(4) < p {
						gone = append(gone, m.UID)
						if rnd.IntN(5) == 0 {
							gone = append(gone, m.UID+1000000)
						}
						continue
					}
					keep = append(keep, m)
				}
				sortUIDs(gone)
				v = v.Without(mod, gone)
				model = keep
			}
			if d := cmp.Diff(model, list(v)); d != "" && len(model)+v.Len() > 0 {
				t.Fatalf("model and view differ (-model +view):\n%s", d)
			}
			if d := cmp.Diff(before, list(old)); d != "" {
				t.Fatalf("an old view changed:\n%s", d)
			}
			var rebuilt []Message
			gone := map[int]bool{}
			changed := map[int]Message{}
			var added []Message
			v.Diff(old, func(d Difference) {
				switch d.Kind {
				case Gone:
					gone[d.Index] = true
				case FlagsChanged:
					changed[d.Index] = d.Message
				case Added:
					added = append(added, d.Message)
				}
			})
			for i, m := range before {
				if n, ok := changed[i]; ok {
					m = n
				}
				if !gone[i] {
					rebuilt = append(rebuilt, m)
				}
			}
			if rebuilt = append(rebuilt, added...); len(rebuilt) != len(model) || len(model) > 0 && !cmp.Equal(rebuilt, model) {
				t.Fatalf("the differences lead to %d messages, want %d", len(rebuilt), len(model))
			}
			for range 5 {
				uid := UID(rnd.IntN(int(next) + 2))
				i, ok := v.Index(uid)
				want, found := 0, false
				for want < len(model) && model[want].UID < uid {
					want++
				}
				found = want < len(model) && model[want].UID == uid
				if i != want || ok != found {
					t.Fatalf("Index(%d) = %d, %v; want %d, %v", uid, i, ok, want, found)
				}
			}
		}
	}
}

func sortUIDs(u []UID) {
	for i := 1; i < len(u); i++ {
		for j := i; j > 0 && u[j] < u[j-1]; j-- {
			u[j], u[j-1] = u[j-1], u[j]
		}
	}
}

func TestUIDSetJoinsAndFinds(t *testing.T) {
	var s UIDSet
	for _, u := range []UID{1, 2, 3, 7, 5, 6, 10, 2} {
		s = s.Add(u)
	}
	if d := cmp.Diff(UIDSet{{1, 3}, {5, 7}, {10, 10}}, s); d != "" {
		t.Error(d)
	}
	for u, want := range map[UID]bool{0: false, 1: true, 3: true, 4: false, 5: true, 7: true, 8: false, 10: true, 11: false} {
		if s.Contains(u) != want {
			t.Errorf("Contains(%d) = %v", u, !want)
		}
	}
	top := ^UID(0)
	if d := cmp.Diff(UIDSet{{1, top}}, UIDSet{{top, 9}, {1, 8}}.Normal()); d != "" {
		t.Error(d)
	}
}
