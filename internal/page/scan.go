package page

import (
	"regexp"
	"slices"
	"strings"
	"text/template/parse"
	"unicode/utf8"
)

// hole stands for a brace of the text while a page is read, so that it opens nothing. No
// page has a NUL.
const hole = "\x00"

// kind says what a part of a page is.
type kind int

const (
	text    kind = iota
	value        // {{ ... }}
	tag          // {% ... %}, of Minijinja
	comment      // {# ... #}, of Minijinja
)

// part is a piece of a page: for a text all of it, else what stands between the braces.
type part struct {
	kind        kind
	text        string
	whole       string // as it is written
	line        int
	script      bool // stands in a script or a style
	open        bool // its end is missing
	left, right bool // takes the blanks before and after it away: {{- and -}}
}

// endraw is what ends a part of Minijinja that is no template, whatever stands in it.
var endraw = regexp.MustCompile(`\{%[-+]?\s*endraw\s*[-+]?%\}`)

// scan cuts a page into its parts.
func scan(s string, d dialect) (parts []part) {
	var in element
	line, began := 1, 0
	comments := strings.LastIndex(s, "#}")
	emit := func(p part, upTo int) {
		p.line, p.whole = line, s[began:upTo]
		parts = append(parts, p)
		line += strings.Count(s[began:upTo], "\n")
		began = upTo
	}
	for i := 0; i < len(s); {
		n := strings.IndexByte(s[i:], '{')
		if n < 0 || i+n+1 >= len(s) {
			break
		}
		in.pass(s[i : i+n])
		i += n
		p := part{kind: opens(s[i:], d, in.script()), script: in.script()}
		if p.kind == comment && comments < i {
			p.kind = text
		}
		size := 1
		if p.kind != text {
			size = p.close(s[i:], d)
		}
		if p.kind == value && p.open && p.script { // and the rest of the page is no part of it
			p.kind, size = text, 2
		}
		if p.kind == text {
			in.pass(s[i : i+size])
			i += size
			continue
		}
		if i > began {
			emit(part{kind: text, text: s[began:i], script: in.script()}, i)
		}
		emit(p, i+size)
		i += size
		if p.kind == tag && word(p.text) == "raw" {
			if at := endraw.FindStringIndex(s[i:]); at != nil {
				in.pass(s[i : i+at[0]])
				i += at[0]
			}
		}
	}
	if began < len(s) {
		emit(part{kind: text, text: s[began:], script: in.script()}, len(s))
	}
	return parts
}

// opens tells what begins with the brace at the start of s.
func opens(s string, d dialect, script bool) kind {
	switch {
	case strings.HasPrefix(s, "{{%") && d == minijinja:
		return text // a style's brace before a tag
	case strings.HasPrefix(s, "{{"):
		return value
	case d == golang:
		return text
	case strings.HasPrefix(s, "{%"):
		return tag
	case strings.HasPrefix(s, "{#"):
		// "{#name" begins a rule in a style: a comment has a blank there.
		if script && (len(s) < 3 || !strings.ContainsRune(" \t\r\n-#", rune(s[2]))) {
			return text
		}
		return comment
	}
	return text
}

// close finds the end of a part that begins s, and returns its size.
func (p *part) close(s string, d dialect) int {
	end := map[kind]string{value: "}}", tag: "%}", comment: "#}"}[p.kind]
	inner := s[2:]
	at := -1
	switch {
	case p.kind == comment:
		at = strings.Index(inner, end)
	case d == golang && strings.HasPrefix(strings.TrimLeft(strings.TrimPrefix(inner, "-"), " \t\r\n"), "/*"):
		if n := strings.Index(inner, "*/"); n >= 0 {
			if m := strings.Index(inner[n:], end); m >= 0 {
				at = n + m
			}
		}
	default:
		if at = outside(inner, end); at < 0 { // what looks like a quote may be none
			at = strings.Index(inner, end)
		}
	}
	if at < 0 || p.script && p.kind == value && leaves(inner[:at]) {
		p.open = true
		return len(s)
	}
	p.trim(inner[:at])
	return at + 4
}

// trim takes the signs off that ask for trimming.
func (p *part) trim(inner string) {
	if len(inner) > 0 && inner[0] == '-' && (len(inner) == 1 || p.kind != value || !digit(inner[1])) {
		p.left, inner = true, inner[1:]
	} else if p.kind == tag && strings.HasPrefix(inner, "+") {
		inner = inner[1:]
	}
	if n := len(inner); n > 0 && inner[n-1] == '-' {
		p.right, inner = true, inner[:n-1]
	} else if p.kind == tag && strings.HasSuffix(inner, "+") {
		inner = inner[:n-1]
	}
	p.text = inner
}

// leaves reports whether what begins in a script ends outside of it.
func leaves(s string) bool {
	s = strings.ToLower(s)
	return strings.Contains(s, "</script") || strings.Contains(s, "</style")
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// outside is where end stands first, not counting quoted texts. A quote that does not
// end is none.
func outside(s, end string) int {
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], end) {
			return i
		}
		if c := s[i]; c == '"' || c == '\'' || c == '`' {
			for j := i + 1; j < len(s) && (s[j] != '\n' || c == '`'); j++ {
				if s[j] == '\\' && c != '`' {
					j++
				} else if s[j] == c {
					i = j
					break
				}
			}
		}
	}
	return -1
}

// element follows whether a place is in a script or a style.
type element struct {
	name string // "script" or "style" when in one
	tag  string // the tag that is open: "script", "style"
	tail string // the end of what passed, where a tag may begin
}

func (e *element) script() bool { return e.name != "" }

// maxTagName is the length of "</script" and a sign.
const maxTagName = len("</script") + 1

// pass goes over text.
func (e *element) pass(s string) {
	if s == "" {
		return
	}
	t := strings.ToLower(e.tail + s)
	done := 0 // what of t is understood
	for {
		rest := t[done:]
		switch {
		case e.tag != "":
			n := strings.IndexByte(rest, '>')
			if n < 0 {
				e.tail = ""
				return
			}
			e.name, e.tag = e.tag, ""
			done += n + 1
			continue
		case e.name != "":
			n := strings.Index(rest, "</"+e.name)
			if n >= 0 {
				done += n + len("</"+e.name)
				e.name = ""
				continue
			}
		default:
			at, found := -1, ""
			for _, name := range []string{"script", "style"} {
				if n := tagAt(rest, name); n >= 0 && (at < 0 || n < at) {
					at, found = n, name
				}
			}
			if at >= 0 {
				done += at + 1 + len(found)
				e.tag = found
				continue
			}
		}
		e.tail = rest[max(0, len(rest)-maxTagName):]
		if n := strings.LastIndexByte(e.tail, '<'); n >= 0 {
			e.tail = e.tail[n:]
		} else {
			e.tail = ""
		}
		return
	}
}

// tagAt is where a tag of that name begins, or -1.
func tagAt(s, name string) int {
	for from := 0; ; {
		n := strings.Index(s[from:], "<"+name)
		if n < 0 {
			return -1
		}
		end := from + n + 1 + len(name)
		if end < len(s) && strings.ContainsRune(" \t\r\n>/", rune(s[end])) {
			return from + n
		}
		from = end
	}
}

// goAction reports whether an action is one of Go's dialect.
func goAction(inner string) bool {
	if control(inner) {
		return true
	}
	if w := strings.TrimSpace(inner); w != "" && strings.IndexFunc(w, func(r rune) bool { return r >= utf8.RuneSelf || !letter(byte(r)) && !digit(byte(r)) }) < 0 && letter(w[0]) && w != "true" && w != "false" {
		return false // a variable of the other dialect: no function goes without a value
	}
	t := parse.New(name)
	_, err := t.Parse("{{"+inner+"}}", "{{", "}}", make(map[string]*parse.Tree), builtins, callable)
	if err != nil {
		return strings.Contains(err.Error(), "undefined variable")
	}
	for _, n := range t.Root.Nodes {
		if a, ok := n.(*parse.ActionNode); ok && slices.ContainsFunc(a.Pipe.Cmds, calledValue) {
			return false
		}
	}
	return true
}

// calledValue reports whether a command gives arguments to what is no function.
func calledValue(c *parse.CommandNode) bool {
	_, function := c.Args[0].(*parse.IdentifierNode)
	return len(c.Args) > 1 && !function
}

// control reports whether an action is one of those around which Go's blocks are.
func control(inner string) bool {
	word := strings.TrimLeft(inner, " \t\r\n")
	if n := strings.IndexFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }); n >= 0 {
		word = word[:n]
	}
	switch word {
	case "if", "else", "end", "range", "with", "define", "template", "block", "break", "continue":
		return true
	}
	return false
}
