package maildir

import (
	"sort"
	"strings"

	"madmail/internal/mailbox"
)

// letters are the flags of Maildir file names and index lines, in the order of
// the alphabet as Maildir wants them.
var letters = []struct {
	c byte
	f mailbox.Flags
}{
	{'D', mailbox.Draft}, {'F', mailbox.Flagged}, {'R', mailbox.Answered}, {'S', mailbox.Seen}, {'T', mailbox.Deleted},
}

func appendFlags(b []byte, f mailbox.Flags) []byte {
	for _, l := range letters {
		if f&l.f != 0 {
			b = append(b, l.c)
		}
	}
	return b
}

func parseFlags(s string) (f mailbox.Flags) {
	for i := 0; i < len(s); i++ {
		for _, l := range letters {
			if s[i] == l.c {
				f |= l.f
			}
		}
	}
	return f
}

// fileFlags are the flags that show in the file name. \Deleted does not: it
// is set a moment before the file goes, on nearly every message.
func fileFlags(f mailbox.Flags) mailbox.Flags { return f &^ mailbox.Deleted }

// place returns a message's path below its Maildir.
func place(base string, f mailbox.Flags) string {
	f = fileFlags(f)
	if f == 0 {
		return "new/" + base
	}
	return "cur/" + base + ":2," + string(appendFlags(nil, f))
}

// splitName takes a file name of new/ or cur/ apart.
func splitName(name string) (base string, flags mailbox.Flags, has bool) {
	base, info, ok := strings.Cut(name, ":2,")
	if !ok {
		base, _, _ = strings.Cut(name, ":")
		return base, 0, false
	}
	return base, parseFlags(info), info != ""
}

// joinKeywords and splitKeywords write keywords into an index field.
func joinKeywords(kw []string) string {
	enc := make([]string, len(kw))
	for i, k := range kw {
		var b strings.Builder
		for j := 0; j < len(k); j++ {
			if c := k[j]; c <= ' ' || c == ',' || c == '%' || c == ':' || c >= 127 {
				b.WriteString("%" + string("0123456789ABCDEF"[c>>4]) + string("0123456789ABCDEF"[c&15]))
			} else {
				b.WriteByte(c)
			}
		}
		enc[i] = b.String()
	}
	return strings.Join(enc, ",")
}

func splitKeywords(s string) []string {
	if s == "" {
		return nil
	}
	kw := strings.Split(s, ",")
	for i := range kw {
		kw[i] = decodeName(kw[i])
	}
	return kw
}

// change applies a STORE to one message and reports whether it differs.
func change(m mailbox.Message, c mailbox.FlagChange) (mailbox.Message, bool) {
	flags, kw := m.Flags, m.Keywords
	switch c.Op {
	case mailbox.SetFlags:
		flags, kw = c.Flags, unique(c.Keywords)
	case mailbox.AddFlags:
		flags |= c.Flags
		if len(c.Keywords) > 0 {
			kw = unique(append(append([]string(nil), kw...), c.Keywords...))
		}
	case mailbox.RemoveFlags:
		flags &^= c.Flags
		if len(c.Keywords) > 0 {
			kw = without(kw, c.Keywords)
		}
	}
	if flags == m.Flags && equal(kw, m.Keywords) {
		return m, false
	}
	m.Flags, m.Keywords = flags, kw
	return m, true
}

// unique sorts keywords and drops those that differ in case only (RFC 3501
// section 2.3.2: keywords are atoms, case does not matter).
func unique(kw []string) []string {
	if len(kw) == 0 {
		return nil
	}
	out := append([]string(nil), kw...)
	sort.SliceStable(out, func(i, j int) bool { return strings.ToLower(out[i]) < strings.ToLower(out[j]) })
	n := 1
	for _, k := range out[1:] {
		if !strings.EqualFold(k, out[n-1]) {
			out[n] = k
			n++
		}
	}
	return out[:n]
}

func without(kw, drop []string) []string {
	var out []string
next:
	for _, k := range kw {
		for _, d := range drop {
			if strings.EqualFold(k, d) {
				continue next
			}
		}
		out = append(out, k)
	}
	return out
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
