package logging

import "strings"

// Frame is a line of a protocol as it may be logged: words that are not of the
// vocabulary (upper case) are left out, so that no name, address or text of anybody is
// in it. Numbers and punctuation stay. The first words, keep of them, stay as they are.
func Frame(line string, keep int, vocabulary map[string]bool) string {
	var b strings.Builder
	line = strings.ToValidUTF8(line, "?")
	for line != "" {
		n := strings.IndexFunc(line, func(r rune) bool { return !word(r) })
		if n < 0 {
			n = len(line)
		}
		if n == 0 {
			r := line[0]
			if r < ' ' || r > '~' {
				r = '?'
			}
			b.WriteByte(r)
			line = line[1:]
			continue
		}
		w := line[:n]
		line = line[n:]
		if keep--; keep >= 0 || vocabulary[strings.ToUpper(w)] || strings.Trim(w, "0123456789") == "" && len(w) <= 10 {
			b.WriteString(w)
		} else {
			b.WriteString("***")
		}
		if b.Len() > 500 {
			b.WriteString(" ...")
			break
		}
	}
	return b.String()
}

// word reports whether a rune is inside a word. Letters of all scripts are.
func word(r rune) bool {
	return r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z' || r == '_' || r == '-' || r > 127
}
