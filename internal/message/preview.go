package message

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxPreview bounds a preview, in characters (RFC 8970 section 3.1 asks for 200
// and allows 256).
const MaxPreview = 200

// previewText is how many octets of a text are looked at for a preview: those
// above may be quotations.
const previewText = 16 << 10

// Preview returns the beginning of the text of the message whose structure p is
// and whose octets are r: of its first text/plain part that is no attachment,
// without quotations, on one line. It is empty when there is nothing to show,
// and for what is encrypted.
func (p *Part) Preview(r io.ReaderAt) (string, error) {
	var text *Part
	p.Leaves(func(leaf *Part) bool {
		if leaf.Type == "text" && leaf.Subtype == "plain" && leaf.Disposition != "attachment" {
			text = leaf
		}
		// What is within another message is not what this one says.
		return text == nil && leaf.Message == nil
	})
	if text == nil || p.Type == "multipart" && p.Subtype == "encrypted" {
		return "", nil
	}
	raw := make([]byte, previewText)
	n, err := io.ReadFull(ToUTF8(text.Body(r), text.Param("charset")), raw)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	raw = raw[:n]
	if i := strings.Index(string(raw), armor); i >= 0 {
		raw = raw[:i]
	}
	var b strings.Builder
	left := MaxPreview
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, ">") {
			continue
		}
		if line == "--" { // a signature follows (RFC 3676 section 4.3)
			break
		}
		if left = addLine(&b, line, left); left == 0 {
			break
		}
	}
	return b.String(), nil
}

// armor begins what is encrypted within a text (RFC 9580 section 6.2).
const armor = "-----BEGIN PGP MESSAGE-----"

// addLine appends the words of a line, up to left characters, and returns how
// many are left.
func addLine(b *strings.Builder, line string, left int) int {
	for w := range strings.FieldsFuncSeq(line, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		if b.Len() > 0 {
			if left < 2 {
				return 0
			}
			b.WriteByte(' ')
			left--
		}
		for i := 0; i < len(w); {
			if left == 0 {
				return 0
			}
			r, n := utf8.DecodeRuneInString(w[i:])
			b.WriteRune(r) // what is no UTF-8 becomes U+FFFD
			left--
			i += n
		}
	}
	return left
}
