package smtp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandLines(t *testing.T) {
	for _, c := range []struct {
		line string
		want Command
		ok   bool
	}{
		{"EHLO [127.0.0.1]", Command{"EHLO", "[127.0.0.1]"}, true},
		{"quit", Command{"QUIT", ""}, true},
		{"Data ", Command{"DATA", ""}, true},
		{"MAIL FROM:<a@b>  SIZE=3 ", Command{"MAIL", "FROM:<a@b>  SIZE=3"}, true},
		{"", Command{}, false},
		{" NOOP", Command{}, false},
		{"N0OP", Command{}, false},
		{"NOOP \x00", Command{}, false},
		{"NOOP \xff", Command{}, false},
		{strings.Repeat("A", 40), Command{}, false},
	} {
		got, err := ParseCommand(c.line)
		if (err == nil) != c.ok || got != c.want {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
	}
}

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		arg, prefix, path string
		params            []Param
		ok                bool
	}{
		{"FROM:<alice@[127.0.0.1]> BODY=8BITMIME SMTPUTF8", "FROM:", "alice@[127.0.0.1]", []Param{{"BODY", "8BITMIME"}, {"SMTPUTF8", ""}}, true},
		{"from: <a@b>", "FROM:", "a@b", nil, true},
		{"FROM:<>", "FROM:", "", nil, true},
		{"TO:<@relay,@other:a@b>", "TO:", "a@b", nil, true},
		{`TO:<"a > b"@c>`, "TO:", `"a > b"@c`, nil, true},
		{"TO:<a@b> size=1", "TO:", "a@b", []Param{{"SIZE", "1"}}, true},
		{"TO:a@b", "TO:", "", nil, false},
		{"TO:<a@b", "TO:", "", nil, false},
		{"TO:<a b@c>", "TO:", "", nil, false},
		{"TO:<a@b>x", "TO:", "", nil, false},
		{"TO:<<a@b>>", "TO:", "", nil, false},
		{"TO:<@relay>", "TO:", "", nil, false},
		{"FROM:<a@b>", "TO:", "", nil, false},
		{"", "TO:", "", nil, false},
	} {
		path, params, err := ParsePath(c.arg, c.prefix)
		if (err == nil) != c.ok || path != c.path || c.ok && !cmp.Equal(params, c.params) {
			t.Errorf("%q: %q, %v, %v", c.arg, path, params, err)
		}
	}
}

func TestSizesOver32BitsAndOver64(t *testing.T) {
	for v, want := range map[string]int64{"0": 0, "5000000000": 5000000000, "99999999999999999999": 1<<63 - 1} {
		if n, err := ParseSize(v); err != nil || n != want {
			t.Errorf("%s: %d, %v", v, n, err)
		}
	}
	for _, v := range []string{"", "-1", "1K", "123456789012345678901"} {
		if _, err := ParseSize(v); err == nil {
			t.Errorf("%q accepted", v)
		}
	}
}

func TestRepliesCannotBeBrokenByTheirText(t *testing.T) {
	got := string(Reply{Code: 550, Enhanced: "5.1.1", Text: []string{"a\r\nb", "c"}}.Append(nil))
	if got != "550-5.1.1 a??b\r\n550 5.1.1 c\r\n" {
		t.Errorf("%q", got)
	}
}

// lines is a LineSource over a buffered reader.
type lines struct{ *bufio.Reader }

func (l lines) ReadSlice() ([]byte, error) {
	b, err := l.Reader.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		err = nil
	}
	if len(b) > 0 {
		return b, nil
	}
	return nil, err
}

func TestDataEndsAtCRLFDotCRLFOnly(t *testing.T) {
	for _, c := range []struct {
		in, out string
		err     error
		rest    string
	}{
		{"a\r\n.\r\nQUIT\r\n", "a\r\n", nil, "QUIT\r\n"},
		{".\r\n", "", nil, ""},
		{"..\r\n.a\r\n...\r\n.\r\n", ".\r\na\r\n..\r\n", nil, ""},
		{"a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n", ErrBareEOL, ""},
		{"a\n.\r\n", "a\n", ErrBareEOL, ""},
		{"a\r.\r\nb\r\n.\r\n", "a\r.\r\nb\r\n", ErrBareEOL, ""},
		{"a\r\n.\r", "", io.ErrUnexpectedEOF, ""},
		{"QUIT\r\n", "", io.ErrUnexpectedEOF, ""},
		{"", "", io.ErrUnexpectedEOF, ""},
		{strings.Repeat("x", 50) + "\r\n.\r\n", strings.Repeat("x", 50) + "\r\n", nil, ""},
		{strings.Repeat("x", 31) + "\r\ny\r\n.\r\n", strings.Repeat("x", 31) + "\r\ny\r\n", nil, ""},
		{strings.Repeat("x", 31) + "\ry\r\n.\r\n", strings.Repeat("x", 31) + "\ry\r\n", ErrBareEOL, ""},
	} {
		br := bufio.NewReaderSize(strings.NewReader(c.in), 16)
		got, err := io.ReadAll(NewDataReader(lines{br}, 1000))
		if !errors.Is(err, c.err) {
			t.Errorf("%q: error %v, want %v", c.in, err, c.err)
		}
		if err != io.ErrUnexpectedEOF && string(got) != c.out {
			t.Errorf("%q: read %q, want %q", c.in, got, c.out)
		}
		if rest, _ := io.ReadAll(br); c.err == nil && string(rest) != c.rest {
			t.Errorf("%q: %q left over, want %q", c.in, rest, c.rest)
		}
	}
}

func TestATooBigMessageCanBeReadToItsEnd(t *testing.T) {
	br := bufio.NewReader(strings.NewReader(strings.Repeat("0123456789\r\n", 100) + ".\r\nNOOP\r\n"))
	d := NewDataReader(lines{br}, 600)
	_, err := io.ReadAll(d)
	if !errors.Is(err, ErrTooBig) {
		t.Fatal(err)
	}
	if err := d.Drain(1 << 20); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(br); string(rest) != "NOOP\r\n" {
		t.Errorf("left over: %q", rest)
	}
	d = NewDataReader(lines{bufio.NewReader(strings.NewReader(strings.Repeat("0123456789\r\n", 100) + ".\r\n"))}, 6)
	if err := d.Drain(100); !errors.Is(err, ErrTooBig) {
		t.Errorf("draining without bound: %v", err)
	}
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{"MAIL FROM:<a@b> SIZE=1", "RCPT TO:<\"x\"@[1.2.3.4]>", "BDAT 10 LAST", "AUTH PLAIN AGEAYg=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := ParseCommand(line)
		if err != nil {
			return
		}
		_, _, _ = ParsePath(c.Arg, "FROM:")
		_, _, _ = ParsePath(c.Arg, "TO:")
		if n, _, err := ParseChunk(c.Arg); err == nil && n < 0 {
			t.Fatal("negative chunk")
		}
	})
}

func FuzzData(f *testing.F) {
	f.Add([]byte("a\r\n..b\r\n.\r\n"), uint8(16))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		read := func(n int) (string, error) {
			b, err := io.ReadAll(NewDataReader(lines{bufio.NewReaderSize(bytes.NewReader(in), n)}, 1<<20))
			return string(b), err
		}
		a, aerr := read(1 << 16)
		b, berr := read(16 + int(size))
		if aerr != berr || aerr == nil && a != b {
			t.Fatalf("buffer of %d: %q, %v; whole %q, %v", 16+int(size), b, berr, a, aerr)
		}
		if aerr == nil {
			i := bytes.Index(append([]byte("\r\n"), in...), []byte("\r\n.\r\n"))
			if want := strings.ReplaceAll("\r\n"+string(in[:max(0, i)]), "\r\n.", "\r\n")[2:]; a != want {
				t.Fatalf("%q read as %q, want %q", in, a, want)
			}
		}
	})
}
