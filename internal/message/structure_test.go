package message

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"madmail/internal/fault"
)

var update = flag.Bool("update", false, "rewrite the .want files")

// crlfFile reads a message of testdata, which is kept with bare line feeds.
func crlfFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s (run with -update, then read the difference)\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}

func structure(t testing.TB, msg []byte) *Part {
	t.Helper()
	p, err := ParseStructure(bytes.NewReader(msg), int64(len(msg)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func printEnvelope(b *strings.Builder, indent string, e Envelope) {
	text := func(name string, t Text) {
		if t.Set {
			fmt.Fprintf(b, "%s  %s %q\n", indent, name, t.Value)
		}
	}
	text("date", e.Date)
	text("subject", e.Subject)
	for _, l := range []struct {
		name string
		list []Address
	}{{"from", e.From}, {"sender", e.Sender}, {"reply-to", e.ReplyTo}, {"to", e.To}, {"cc", e.Cc}, {"bcc", e.Bcc}} {
		for _, a := range l.list {
			switch a.Mark {
			case GroupStart:
				fmt.Fprintf(b, "%s  %s group %q\n", indent, l.name, a.Mailbox)
			case GroupEnd:
				fmt.Fprintf(b, "%s  %s end\n", indent, l.name)
			default:
				fmt.Fprintf(b, "%s  %s %q route %q mailbox %q host %q\n", indent, l.name, a.Name, a.Route, a.Mailbox, a.Host)
			}
		}
	}
	text("in-reply-to", e.InReplyTo)
	text("message-id", e.MessageID)
}

// printPart writes everything that is known of a part, and what its number
// gives when it is asked for by number.
func printPart(b *strings.Builder, msg []byte, root, p *Part, path []int) {
	indent := strings.Repeat("  ", len(path))
	number := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(path)), "."), "[]")
	fmt.Fprintf(b, "%s[%s] %s/%s %s, %d lines\n", indent, number, p.Type, p.Subtype, p.Encoding, p.Lines)
	for _, x := range p.Params {
		fmt.Fprintf(b, "%s  %s=%q\n", indent, x.Name, x.Value)
	}
	for _, x := range []struct {
		name string
		t    Text
	}{{"id", p.ID}, {"description", p.Description}, {"md5", p.MD5}, {"location", p.Location}} {
		if x.t.Set {
			fmt.Fprintf(b, "%s  %s %q\n", indent, x.name, x.t.Value)
		}
	}
	if p.Disposition != "" {
		fmt.Fprintf(b, "%s  disposition %s %q\n", indent, p.Disposition, p.DispositionParams)
	}
	if p.Language != nil {
		fmt.Fprintf(b, "%s  language %q\n", indent, p.Language)
	}
	for _, k := range []struct {
		name string
		kind SectionKind
	}{{"", Whole}, {".MIME", MIMEOnly}, {".HEADER", HeaderOnly}, {".TEXT", TextOnly}} {
		off, size, ok := root.Section(path, k.kind)
		if !ok {
			continue
		}
		text := string(msg[off : off+size])
		if len(text) > 70 {
			text = text[:40] + "…" + text[len(text)-25:]
		}
		fmt.Fprintf(b, "%s  BODY[%s%s] %d octets %q\n", indent, number, k.name, size, text)
	}
	if p.Envelope != nil {
		fmt.Fprintf(b, "%s  envelope\n", indent)
		printEnvelope(b, indent+"  ", *p.Envelope)
	}
	children := p.Parts
	if m := p.Message; m != nil {
		fmt.Fprintf(b, "%s  holds %s/%s %s\n", indent, m.Type, m.Subtype, m.Encoding)
		if children = m.Parts; len(children) == 0 {
			children = []*Part{m}
		}
	}
	for i, c := range children {
		printPart(b, msg, root, c, append(path[:len(path):len(path)], i+1))
	}
}

func TestStructureOfMessages(t *testing.T) {
	names, err := filepath.Glob("testdata/*.in")
	if err != nil || len(names) == 0 {
		t.Fatal("no messages", err)
	}
	for _, name := range names {
		msg := crlfFile(t, name)
		root := structure(t, msg)
		var b strings.Builder
		h, err := ReadHeader(bytes.NewReader(msg), int64(len(msg)))
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("envelope\n")
		printEnvelope(&b, "", ScanHeader(h).Envelope())
		printPart(&b, msg, root, root, nil)
		if len(root.Parts) == 0 {
			printPart(&b, msg, root, root, []int{1})
		}
		golden(t, strings.TrimSuffix(name, ".in")+".want", b.String())
		if off, size, ok := root.Section(nil, Whole); !ok || off != 0 || size != int64(len(msg)) {
			t.Errorf("%s: BODY[] is %d octets from %d, the message has %d", name, size, off, len(msg))
		}
		if off, size, _ := root.Section(nil, HeaderOnly); string(msg[off:off+size]) != string(h) {
			t.Errorf("%s: BODY[HEADER] differs from ReadHeader", name)
		}
	}
}

func TestSectionsThatDoNotExist(t *testing.T) {
	root := structure(t, crlfFile(t, "testdata/03-nested.in"))
	for _, c := range []struct {
		path []int
		kind SectionKind
	}{
		{nil, MIMEOnly}, {[]int{0}, Whole}, {[]int{-1}, Whole}, {[]int{5}, Whole}, {[]int{1, 1}, Whole}, {[]int{2, 1}, MIMEOnly},
		{[]int{1}, HeaderOnly}, {[]int{1}, TextOnly}, {[]int{4}, HeaderOnly}, {[]int{3, 3}, Whole}, {[]int{4, 2, 2}, Whole},
		{[]int{4, 2, 1, 1}, Whole}, {[]int{1 << 40}, Whole}, {[]int{1}, SectionKind(9)},
	} {
		if off, size, ok := root.Section(c.path, c.kind); ok {
			t.Errorf("%v kind %d: %d octets from %d", c.path, c.kind, size, off)
		}
	}
	plain := structure(t, []byte("Subject: x\r\n\r\nbody"))
	if _, _, ok := plain.Section([]int{1, 1}, Whole); ok {
		t.Error("a text has a part 1.1")
	}
	if _, _, ok := plain.Section([]int{2}, Whole); ok {
		t.Error("a text has a part 2")
	}
}

func TestLineEndsOfABoundaryBelongToIt(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"CRLF", "\r\n--b\r\n\r\nx\r\n--b--\r\n", "x"},
		{"blank line kept", "\r\n--b\r\n\r\nx\r\n\r\n--b--\r\n", "x\r\n"},
		{"bare LF", "\n--b\n\nx\n--b--\n", "x"},
		{"at once", "--b\r\n\r\n--b--\r\n", ""},
		{"white space behind", "--b \t\r\n\r\nx\r\n--b-- \r\n", "x"},
		{"longer line is no delimiter", "--b\r\n\r\nx\r\n--bb\r\n--b--c\r\n--b--\r\n", "x\r\n--bb\r\n--b--c"},
		{"delimiter in mid-line", "--b\r\n\r\nx--b--\r\n--b--\r\n", "x--b--"},
		{"no line end at the end", "--b\r\n\r\nx\r\n--b--", "x"},
		{"unfinished", "--b\r\n\r\nx\r\n", "x\r\n"},
		{"long line", "--b\r\n\r\n" + strings.Repeat("x", 3*readerBuffer-1) + "\r\n--b--\r\n", strings.Repeat("x", 3*readerBuffer-1)},
		{"long line, CR last in the buffer", "--b\r\n\r\n" + strings.Repeat("x", 2*readerBuffer) + "\r\n--b--\r\n", strings.Repeat("x", 2*readerBuffer)},
		{"long line that looks like a delimiter", "--b\r\n\r\n" + strings.Repeat("x", readerBuffer) + "--b\r\n--b--", strings.Repeat("x", readerBuffer) + "--b"},
	} {
		head := "Content-Type: multipart/mixed; boundary=b\r\n\r\n"
		for pad := range 4 { // so that the line end falls on every side of the buffer's
			msg := []byte("X: " + strings.Repeat("y", pad) + "\r\n" + head + c.body)
			root := structure(t, msg)
			off, size, ok := root.Section([]int{1}, Whole)
			if !ok || string(msg[off:off+size]) != c.want || len(root.Parts) != 1 {
				t.Errorf("%s: %d parts, %d octets, want 1 with %d", c.name, len(root.Parts), size, len(c.want))
			}
		}
	}
}

func TestNestingAndPartsAreBounded(t *testing.T) {
	var deep strings.Builder
	for i := range 200 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	for name, msg := range map[string]string{
		"multiparts": deep.String(),
		"messages":   strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 200),
	} {
		depth := 0
		for p := structure(t, []byte(msg)); p != nil; depth++ {
			switch {
			case p.Message != nil:
				p = p.Message
			case len(p.Parts) > 0:
				p = p.Parts[0]
			default:
				if p.Subtype != "octet-stream" {
					t.Errorf("%s: the innermost is %s/%s", name, p.Type, p.Subtype)
				}
				p = nil
			}
		}
		if depth != MaxNesting {
			t.Errorf("%s: %d levels, want %d", name, depth, MaxNesting)
		}
	}
	wide := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\n", 3*MaxParts) + "--b--\r\n"
	if p := structure(t, []byte(wide)); len(p.Parts) != MaxParts-1 {
		t.Errorf("%d parts beside the message itself, want %d", len(p.Parts), MaxParts-1)
	}
}

// filler is a message without end, of one repeated line.
type filler struct {
	head string
	line string
}

func (f filler) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		at := off + int64(i)
		if at < int64(len(f.head)) {
			p[i] = f.head[at]
		} else {
			p[i] = f.line[(at-int64(len(f.head)))%int64(len(f.line))]
		}
	}
	return len(p), nil
}

func TestMemoryDoesNotGrowWithTheMessage(t *testing.T) {
	const head = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
	for _, line := range []string{
		"an ordinary line of text, as long as lines of base64 are in messages\r\n",
		"no line end ", "\r\n", "--c\r\n",
	} {
		used := func(size int64) uint64 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := ParseStructure(filler{head, line}, size); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			return after.TotalAlloc - before.TotalAlloc
		}
		if small, large := used(100<<10), used(20<<20); large > small+16<<10 {
			t.Errorf("%.10q…: 20 MiB took %d octets, 100 KiB %d", line, large, small)
		}
	}
}

func TestHostileHeadersKeepMemoryBounded(t *testing.T) {
	many := func(s string) string { return strings.Repeat(s, 30<<20/len(s)) }
	for name, msg := range map[string]string{
		"a header without end":     "Content-Type: " + many("x"),
		"addresses":                "Content-Type: message/rfc822\r\n\r\nTo: " + many("a@b,"),
		"parameters":               "Content-Type: a/b" + many(";a=b"),
		"split parameters":         "Content-Type: a/b" + many(";a*0=b"),
		"languages":                "Content-Language: " + many("a,"),
		"fields":                   many("a:\r\n"),
		"parts with long headers":  "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + many("--b\r\nContent-ID: "+strings.Repeat("x", 100<<10)+"\r\n\r\n"),
		"parts with many of these": "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + many("--b\r\nContent-Type: a/b"+strings.Repeat(";a=b", 900)+"\r\n\r\n"),
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		p := structure(t, []byte(msg))
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(p)
		runtime.KeepAlive(msg)
		if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 48<<20 {
			t.Errorf("%s: %d octets are kept", name, kept)
		}
	}
}

type failing struct{ at int64 }

var errDisk = errors.New("disk on fire")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return 0, errDisk
	}
	copy(p, bytes.Repeat([]byte("a: b\r\n"), len(p)/6+1))
	return len(p), nil
}

func TestReadErrorsAreToldFromBadMessages(t *testing.T) {
	if _, err := ParseStructure(failing{}, 100); !errors.Is(err, errDisk) || !fault.Is(err, fault.Internal) {
		t.Errorf("structure: %v", err)
	}
	if _, err := ReadHeader(failing{firstRead}, 1<<20); !errors.Is(err, errDisk) || !fault.Is(err, fault.Internal) {
		t.Errorf("header: %v", err)
	}
	short := strings.NewReader("a: b\r\n\r\n")
	if _, err := ParseStructure(short, 100); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("structure of a short file: %v", err)
	}
	if _, err := ReadHeader(short, 100); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("header of a short file: %v", err)
	}
}

func TestReadHeader(t *testing.T) {
	field := "X: " + strings.Repeat("y", 94) + "\r\n"
	for _, c := range []struct {
		name string
		msg  string
		want int // length, or -1 for fault.Invalid
	}{
		{"empty", "", 0}, {"blank line", "\r\n", 2}, {"body only", "\r\nbody", 2}, {"bare LF", "a: b\n\nbody", 6},
		{"no blank line", "a: b\r\n", 6}, {"no line end", "a: b", 4}, {"CR at the end", "a: b\r\n\r", 7},
		{"usual", "a: b\r\n\r\nbody\r\n\r\n", 8},
		{"ends with the first read", strings.Repeat("x", firstRead-4) + "\r\n\r\nbody", firstRead},
		{"one octet later", strings.Repeat("x", firstRead-3) + "\r\n\r\nbody", firstRead + 1},
		{"long", strings.Repeat(field, 5000) + "\r\n" + field, 5000*len(field) + 2},
		{"largest", strings.Repeat("x", MaxHeader-4) + "\r\n\r\nbody", MaxHeader},
		{"largest without body", strings.Repeat("x", MaxHeader), MaxHeader},
		{"too large", strings.Repeat("x", MaxHeader-3) + "\r\n\r\nbody", -1},
		{"too large without body", strings.Repeat("x", MaxHeader+1), -1},
		{"endless", strings.Repeat("x", 3<<20), -1},
	} {
		got, err := ReadHeader(strings.NewReader(c.msg), int64(len(c.msg)))
		switch {
		case c.want < 0:
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %d octets, %v", c.name, len(got), err)
			}
		case err != nil || len(got) != c.want || string(got) != c.msg[:c.want]:
			t.Errorf("%s: %d octets, %v; want %d", c.name, len(got), err, c.want)
		}
	}
}

func FuzzStructure(f *testing.F) {
	names, _ := filepath.Glob("testdata/*.in")
	for _, name := range names {
		f.Add(crlfFile(f, name))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		root := structure(t, msg)
		parts := 0
		var check func(p *Part, from, to int64, depth int)
		check = func(p *Part, from, to int64, depth int) {
			parts++
			if p.HeaderOffset < from || p.BodyOffset != p.HeaderOffset+p.HeaderSize || p.HeaderSize < 0 || p.BodySize < 0 ||
				p.HeaderSize+p.BodySize > 0 && p.BodyOffset+p.BodySize > to {
				t.Fatalf("%s/%s lies at %d+%d, %d+%d within %d to %d", p.Type, p.Subtype,
					p.HeaderOffset, p.HeaderSize, p.BodyOffset, p.BodySize, from, to)
			}
			body := msg[p.BodyOffset : p.BodyOffset+p.BodySize]
			if got := int64(bytes.Count(body, []byte("\n"))); got != p.Lines {
				t.Fatalf("%s/%s: %d lines, counted %d", p.Type, p.Subtype, p.Lines, got)
			}
			if p.Type == "" || p.Subtype == "" || p.Encoding == "" || depth > MaxNesting {
				t.Fatalf("%+v at depth %d", p, depth)
			}
			if (p.Type == "multipart") != (len(p.Parts) > 0) || (p.Message != nil) != (p.Envelope != nil) {
				t.Fatalf("%s/%s with %d parts, message %v", p.Type, p.Subtype, len(p.Parts), p.Message)
			}
			at := p.BodyOffset
			for _, c := range p.Parts {
				check(c, at, p.BodyOffset+p.BodySize, depth+1)
				at = c.BodyOffset + c.BodySize
			}
			if p.Message != nil {
				check(p.Message, p.BodyOffset, p.BodyOffset+p.BodySize, depth+1)
			}
		}
		check(root, 0, int64(len(msg)), 1)
		if parts > MaxParts {
			t.Fatalf("%d parts", parts)
		}
		h, err := ReadHeader(bytes.NewReader(msg), int64(len(msg)))
		if err == nil && int64(len(h)) != root.HeaderSize {
			t.Fatalf("ReadHeader gives %d octets, the structure %d", len(h), root.HeaderSize)
		}
	})
}

func BenchmarkStructure(b *testing.B) {
	for _, size := range []int64{3 << 10, 20 << 20} {
		r := filler{"Content-Type: multipart/encrypted; boundary=b\r\n\r\n--b\r\n\r\n", "wcFMA0123456789abcdefghijklmnopqrstuvwxyz+/ABCDEFGHIJKLMNOPQRSTU\r\n"}
		msg := make([]byte, size)
		_, _ = r.ReadAt(msg, 0)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseStructure(bytes.NewReader(msg), size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadHeader(b *testing.B) {
	msg := crlfFile(b, "testdata/01-chat.in")
	r := bytes.NewReader(msg)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadHeader(r, int64(len(msg))); err != nil {
			b.Fatal(err)
		}
	}
}
