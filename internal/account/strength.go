package account

import (
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The least length, in characters, and strength, in bits, of a password that
// is stored with a fast hash.
const (
	strongLength = 20
	strongBits   = 100
)

func strong(password []byte) bool {
	return utf8.RuneCount(password) >= strongLength && Strength(password) >= strongBits
}

type class uint8

const (
	lower class = iota
	upper
	digit
	other
)

var classBits = [...]float64{lower: math.Log2(26), upper: math.Log2(26), digit: math.Log2(10), other: math.Log2(33)}

func classOf(r rune) class {
	switch {
	case unicode.IsLower(r):
		return lower
	case unicode.IsUpper(r):
		return upper
	case unicode.IsDigit(r):
		return digit
	}
	return other
}

// commonPairs are the pairs of letters that make up most of English text and
// much of its neighbours.
var commonPairs = func() (set [26][26]bool) {
	for _, p := range strings.Fields(`th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de
		se le sa si ar ve ra ld ur ro ri io ic ll ne me li ch el co ma om ce la ta ns ho ca us ec ac ot ss wo be wa rs ut tr
		il no ee ge am ly di mo so un oo ow ai ey rd ty ay ad sh pa pe ie em po id ir ni ag im ct tt pl ry ba ap ke ol fo bl do`) {
		set[p[0]-'a'][p[1]-'a'] = true
	}
	return set
}()

// Strength estimates, in bits, how much guessing a password would take. It is
// cautious rather than exact, since it decides which passwords get a fast
// hash:
//
//   - each character counts as much as its class holds: 26 letters of a case,
//     10 digits, 33 others; characters beyond ASCII count as their class;
//   - a change of class adds 3 bits, which is about what the choice of class is
//     worth in random text of letters and digits;
//   - the second letter of a common pair counts 2 bits, as in words;
//   - a character that goes on repeating ("aaa"), counting ("abc", "321") or
//     copying three characters from before counts nothing;
//   - a sign that was used before counts 1 bit: it separates words. Neither
//     it nor what follows a sign is a change of class.
//
// Random letters and digits reach 100 bits with about 19 characters. What
// people think of does not in 20, and four words do not.
func Strength(password []byte) float64 {
	var bits float64
	var last [2]rune // the two before
	var lastClass class
	// Slices, not maps: this runs at every login, on a few dozen characters.
	triples := make([][3]rune, 0, 64)
	signs := make([]rune, 0, 16)
	n := 0
	for _, r := range string(password) {
		c := classOf(r)
		fold := unicode.ToLower(r)
		triple := [3]rune{last[0], last[1], fold}
		seen := slices.Contains(triples, triple)
		gain := classBits[c]
		switch step := fold - last[1]; {
		case n >= 2 && step == last[1]-last[0] && step >= -1 && step <= 1, n >= 2 && seen:
			gain = 0
		case n >= 1 && isLetter(fold) && isLetter(last[1]) && commonPairs[last[1]-'a'][fold-'a']:
			gain = 2
		case c == other:
			if slices.Contains(signs, r) {
				gain = 1
			} else {
				signs = append(signs, r)
			}
		}
		if n >= 1 && c != lastClass && lastClass != other && gain > 1 {
			gain += 3
		}
		if n >= 2 && !seen {
			triples = append(triples, triple)
		}
		bits += gain
		last, lastClass = [2]rune{last[1], fold}, c
		n++
	}
	return bits
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' }
