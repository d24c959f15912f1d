package mailbox

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSetsAgreeWithAPlainMap builds sets in any order and compares membership.
func TestSetsAgreeWithAPlainMap(t *testing.T) {
	const top = 60
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		var s UIDSet
		want := make(map[UID]bool)
		for range rnd.IntN(80) {
			u := UID(1 + rnd.IntN(top))
			s = s.Add(u)
			want[u] = true
			if !wellFormed(s) {
				t.Fatalf("adding %d made %v", u, s)
			}
		}
		for u := UID(0); u <= top+1; u++ {
			if s.Contains(u) != want[u] {
				t.Fatalf("%v: Contains(%d) = %v", s, u, !want[u])
			}
		}
	}
}

// TestNormalMakesAnyRangesASet gives Normal what a client may write.
func TestNormalMakesAnyRangesASet(t *testing.T) {
	const top = 40
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		var given UIDSet
		want := make(map[UID]bool)
		for range rnd.IntN(8) {
			a, b := UID(1+rnd.IntN(top)), UID(1+rnd.IntN(top))
			given = append(given, UIDRange{a, b})
			for u := min(a, b); u <= max(a, b); u++ {
				want[u] = true
			}
		}
		wrote := slices.Clone(given)
		s := given.Normal()
		if !wellFormed(s) {
			t.Fatalf("%v became %v", wrote, s)
		}
		for u := UID(0); u <= top+1; u++ {
			if s.Contains(u) != want[u] {
				t.Fatalf("%v became %v: Contains(%d) = %v", wrote, s, u, !want[u])
			}
		}
	}
}

func TestSetsReachTheHighestUID(t *testing.T) {
	top := ^UID(0)
	s := UIDSet(nil).Add(top - 1).Add(top)
	if d := cmp.Diff(UIDSet{{top - 1, top}}, s); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(UIDSet{{1, 1}, {top - 1, top}}, s.Add(1)); d != "" {
		t.Error(d)
	}
	if all := All(); !all.Contains(1) || !all.Contains(top) || all.Contains(0) {
		t.Errorf("All is %v", all)
	}
}

// wellFormed reports whether ranges are sorted, disjoint and do not touch.
func wellFormed(s UIDSet) bool {
	for i, r := range s {
		if r.First == 0 || r.First > r.Last || i > 0 && uint64(r.First) <= uint64(s[i-1].Last)+1 {
			return false
		}
	}
	return true
}
