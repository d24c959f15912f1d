package smtp

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReplyLines(t *testing.T) {
	for line, want := range map[string]struct {
		code int
		more bool
		text string
	}{
		"250 OK":            {250, false, "OK"},
		"250-SIZE 1000":     {250, true, "SIZE 1000"},
		"354":               {354, false, ""},
		"554 5.7.1 \x1b[2J": {554, false, "5.7.1 ?[2J"},
		"550 \xff\xfe":      {550, false, "??"},
		"550 zażółć":        {550, false, "zażółć"},
	} {
		code, more, text, err := ParseReplyLine(line)
		if err != nil || code != want.code || more != want.more || text != want.text {
			t.Errorf("%q: %d %v %q, %v", line, code, more, text, err)
		}
	}
	for _, bad := range []string{"", "25", "2a0 x", "250x", "150 x", "650 x", " 250 x", "٢٥٠ x", "-50 x"} {
		if _, _, _, err := ParseReplyLine(bad); err != ErrReply {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestEnhancedCodes(t *testing.T) {
	for _, c := range []struct {
		code               int
		text, status, rest string
	}{
		{550, "5.1.1 No such user", "5.1.1", "No such user"}, {550, "5.1.1", "5.1.1", ""}, {450, "5.1.1 x", "", "5.1.1 x"}, {550, "No such user", "", "No such user"},
		{550, "5.1 x", "", "5.1 x"}, {550, "5.1.1111 x", "", "5.1.1111 x"}, {550, "5..1 x", "", "5..1 x"}, {550, "5.a.1 x", "", "5.a.1 x"}, {250, "", "", ""},
	} {
		if status, rest := SplitEnhanced(c.code, c.text); status != c.status || rest != c.rest {
			t.Errorf("%d %q: %q %q", c.code, c.text, status, rest)
		}
	}
}

// TestWhatIsDottedIsUndotted is known failure 34: a line with one dot ended the message.
func TestWhatIsDottedIsUndotted(t *testing.T) {
	for _, m := range []string{"", ".", "..", "\r\n", ".\r\n", "a\r\n.\r\nb\r\n", "a\r\n..\r\n.b", "\r\n.\r\n.\r\n", strings.Repeat(".\r\n", 100), "a\r.b\r\n"} {
		var b bytes.Buffer
		w := NewDotWriter(&b)
		if _, err := io.Copy(struct{ io.Writer }{w}, iotest.OneByteReader(strings.NewReader(m))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		undot(t, m, b.Bytes())
	}
}

func undot(t *testing.T, m string, wire []byte) {
	t.Helper()
	if n := bytes.Count(wire, []byte("\r\n.\r\n")); n > 1 || n == 0 && !bytes.Equal(wire, []byte(".\r\n")) {
		t.Errorf("%q: %q ends %d times", m, wire, n)
	}
	got, err := io.ReadAll(NewDataReader(&splitLines{rest: wire}, 1<<20))
	if err != nil && err != ErrBareEOL {
		t.Errorf("%q: %q: %v", m, wire, err)
	}
	want := m
	if m != "" && !strings.HasSuffix(m, "\r\n") {
		want += "\r\n"
	}
	if string(got) != want {
		t.Errorf("%q: got %q from %q", m, got, wire)
	}
}

type splitLines struct{ rest []byte }

func (l *splitLines) ReadSlice() ([]byte, error) {
	if len(l.rest) == 0 {
		return nil, io.EOF
	}
	n := bytes.IndexByte(l.rest, '\n') + 1
	if n == 0 {
		n = len(l.rest)
	}
	s := l.rest[:n]
	l.rest = l.rest[n:]
	return s, nil
}

func FuzzReplyLine(f *testing.F) {
	f.Add("250-x")
	f.Add("550 5.1.1 no")
	f.Fuzz(func(t *testing.T, line string) {
		code, _, text, err := ParseReplyLine(line)
		if err != nil {
			return
		}
		if code < 200 || code > 599 || strings.ContainsAny(text, "\r\n\x00") {
			t.Errorf("%q: %d %q", line, code, text)
		}
		if status, rest := SplitEnhanced(code, text); status != "" && !strings.HasPrefix(text, status) || len(rest) > len(text) {
			t.Errorf("%q: %q %q", line, status, rest)
		}
	})
}

func FuzzDotWriter(f *testing.F) {
	f.Add("a\r\n.\r\n")
	f.Add("..\r\n\r\n")
	f.Fuzz(func(t *testing.T, m string) {
		m = strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(m, "\r", ""), "\x00", ""), "\n", "\r\n")
		var b bytes.Buffer
		w := NewDotWriter(&b)
		half := len(m) / 2
		_, _ = w.Write([]byte(m[:half]))
		_, _ = w.Write([]byte(m[half:]))
		_ = w.Close()
		undot(t, m, b.Bytes())
	})
}
