package mailbox

import (
	"slices"
	"strings"
)

// Apply applies a STORE to one message, whatever its ModSeq, and reports whether
// flags or keywords differ from before.
func (c FlagChange) Apply(m Message) (Message, bool) {
	flags, kw := m.Flags, m.Keywords
	switch c.Op {
	case SetFlags:
		flags, kw = c.Flags, Keywords(c.Keywords)
	case AddFlags:
		flags |= c.Flags
		if len(c.Keywords) > 0 {
			kw = Keywords(slices.Concat(kw, c.Keywords))
		}
	case RemoveFlags:
		flags &^= c.Flags
		if len(c.Keywords) > 0 {
			kw = without(kw, c.Keywords)
		}
	}
	if flags == m.Flags && slices.Equal(kw, m.Keywords) {
		return m, false
	}
	m.Flags, m.Keywords = flags, kw
	return m, true
}

// Keywords sorts keywords and drops those that differ in case only; the
// spelling that was there first stays (RFC 3501 section 2.3.2: keywords are
// atoms, case does not matter). The result is nil when there are none.
func Keywords(kw []string) []string {
	if len(kw) == 0 {
		return nil
	}
	out := slices.Clone(kw)
	slices.SortStableFunc(out, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return slices.CompactFunc(out, strings.EqualFold)
}

func without(kw, drop []string) []string {
	var out []string
	for _, k := range kw {
		if !slices.ContainsFunc(drop, func(d string) bool { return strings.EqualFold(k, d) }) {
			out = append(out, k)
		}
	}
	return out
}
