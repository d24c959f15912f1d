package maildir

import (
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
