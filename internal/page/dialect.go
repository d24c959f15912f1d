package page

import (
	"fmt"
	"strings"
)

// dialect is how a page is written.
type dialect int

const (
	golang dialect = iota
	minijinja
)

// tags are those of Minijinja by which its pages are known. We read the first ones.
var tags = map[string]bool{
	"if": true, "elif": true, "else": true, "endif": true, "raw": true, "endraw": true,
	"for": false, "endfor": false, "set": false, "endset": false, "include": false, "extends": false, "block": false, "endblock": false, "macro": false,
	"endmacro": false, "import": false, "from": false, "with": false, "endwith": false, "autoescape": false, "endautoescape": false, "filter": false,
	"endfilter": false, "call": false, "endcall": false, "do": false,
}

// dialectOf tells how a page is written: it is Minijinja when it has one of its tags, or
// a value that only Minijinja understands.
func dialectOf(s string, known func(string) bool) dialect {
	for _, p := range scan(s, minijinja) {
		switch p.kind {
		case tag:
			if _, ok := tags[word(p.text)]; ok && !p.open {
				return minijinja
			}
		case value:
			if p.open || goAction(p.text) {
				continue
			}
			code, err := jinja(p.text)
			if err == nil && (!p.script || known(code.first)) {
				return minijinja
			}
		}
	}
	return golang
}

func word(s string) string {
	f := strings.Fields(s)
	if len(f) == 0 {
		return ""
	}
	return f[0]
}

// translate makes Go's dialect of a page, line by line. Braces of the text become
// holes. dynamic reports whether there is anything but text.
func translate(s string, d dialect) (code string, literal []Place, dynamic bool, err error) {
	var b strings.Builder
	parts := scan(s, d)
	raw := false
	put := func(t string) { b.WriteString(strings.ReplaceAll(t, "{", hole)) }
	// lines keeps the count of lines where something is left out.
	lines := func(t string) {
		if n := strings.Count(t, "\n"); n > 0 {
			b.WriteString("{{/*" + strings.Repeat("\n", n) + "*/}}")
		}
	}
	leave := func(p part) { // as it is
		literal = append(literal, Place{p.line, firstLine(p.whole)})
		put(p.whole)
	}
	for i, p := range parts {
		if raw && (p.kind != tag || word(p.text) != "endraw") {
			put(p.whole)
			continue
		}
		if p.open {
			return "", nil, false, &Error{p.line, fmt.Sprintf("%q has no end", p.whole[:2])}
		}
		switch p.kind {
		case text:
			t := p.text
			if n := strings.Index(t, "{{"); n >= 0 {
				literal = append(literal, Place{p.line + strings.Count(t[:n], "\n"), firstLine(t[n:])})
			}
			if d == minijinja { // Go's trims by itself
				if i > 0 && parts[i-1].kind != text && parts[i-1].right {
					cut := strings.TrimLeft(t, " \t\r\n")
					lines(t[:len(t)-len(cut)])
					t = cut
				}
				if i+1 < len(parts) && parts[i+1].kind != text && parts[i+1].left {
					cut := strings.TrimRight(t, " \t\r\n")
					put(cut)
					lines(t[len(cut):])
					continue
				}
			}
			put(t)
		case comment:
			lines(p.text)
			dynamic = true
		case tag:
			c, e := p.statement()
			if e != nil {
				return "", nil, false, &Error{p.line, e.Error()}
			}
			raw = word(p.text) == "raw"
			dynamic = true
			if c != "" {
				b.WriteString("{{" + c + strings.Repeat("\n", strings.Count(p.text, "\n")) + "}}")
			} else {
				lines(p.text)
			}
		case value:
			if d == golang {
				if p.script && !goAction(p.text) {
					leave(p)
					continue
				}
				b.WriteString(p.whole)
				dynamic = true
				continue
			}
			c := p.text
			if !control(c) {
				v, e := jinja(c)
				switch {
				case e == nil:
					c = v.code + strings.Repeat("\n", strings.Count(p.text, "\n"))
				case goAction(c): // pages of the second version may have both
				case p.script:
					leave(p)
					continue
				default:
					return "", nil, false, &Error{p.line, e.Error()}
				}
			}
			b.WriteString("{{" + c + "}}")
			dynamic = true
		}
	}
	if raw {
		return "", nil, false, &Error{0, "{% raw %} has no {% endraw %}"}
	}
	return b.String(), literal, dynamic, nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return s
}

// statement translates a tag; "" for one that is nothing in Go.
func (p part) statement() (string, error) {
	name := word(p.text)
	rest := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(p.text), name))
	switch {
	case name == "if" || name == "elif":
		c, err := jinja(rest)
		if err != nil {
			return "", err
		}
		return map[string]string{"if": "if ", "elif": "else if "}[name] + c.code, nil
	case !tags[name]:
		return "", fmt.Errorf("the tag %q is not known", name)
	case rest != "":
		return "", fmt.Errorf("%q stands behind %s", firstLine(rest), name)
	}
	return map[string]string{"else": "else", "endif": "end"}[name], nil
}
