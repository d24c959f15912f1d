package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// The block syntax of earlier versions (operator specification 2.3): a name and
// arguments on a line, a block in braces behind them, variables, the environment,
// snippets and imports. This file knows the syntax; legacy.go knows what the
// names mean.

// Limits of a file, after variables and imports took their places.
const (
	maxNesting  = 255
	maxExpanded = 4 << 20 // octets
	importCost  = 256     // octets that an import counts as
)

// directive is one line and the block that belongs to it.
type directive struct {
	file   string
	line   int
	name   string
	args   []string
	block  []directive
	braces bool // there is a block, maybe an empty one
}

func (d *directive) problem(what, hint string) Problem {
	return Problem{File: d.file, Line: d.line, Key: d.name, What: what, Hint: hint}
}

type token struct {
	text   string
	line   int
	quoted bool
	end    bool // of a line, or of the file; text is empty
	from   int  // where it stands in the file, behind a byte order mark
	to     int
}

func (t token) brace(s string) bool { return t.text == s && !t.quoted && !t.end }

// lexBlocks cuts a file into tokens. Each line ends with an end token.
func lexBlocks(file string, data []byte, env func(string) string) (list []token, bad *Problem) {
	s := strings.TrimPrefix(string(data), "\ufeff")
	line := 1
	fail := func(line int, what, hint string) ([]token, *Problem) {
		return nil, &Problem{File: file, Line: line, What: what, Hint: hint}
	}
	if !utf8.ValidString(s) {
		return fail(1, "is not UTF-8", "save the file as UTF-8")
	}
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '\n':
			list = append(list, token{line: line, end: true, from: i, to: i + 1})
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '\\' && strings.HasPrefix(strings.TrimPrefix(s[i+1:], "\r"), "\n"):
			i = i + 2 + strings.IndexByte(s[i+1:], '\n')
			line++
		case c == '#':
			if n := strings.IndexByte(s[i:], '\n'); n >= 0 {
				i += n
			} else {
				i = len(s)
			}
		case c == '"':
			var b strings.Builder
			j, began := i+1, line
			for ; j < len(s) && s[j] != '"'; j++ {
				if s[j] == '\\' && j+1 < len(s) && s[j+1] == '"' {
					j++
				}
				if s[j] == '\n' {
					line++
				}
				b.WriteByte(s[j])
			}
			if j == len(s) {
				return fail(began, "a quoted text without its end", `add the closing "`)
			}
			list = append(list, token{text: expandEnv(b.String(), env), line: began, quoted: true, from: i, to: j + 1})
			i = j + 1
		default:
			n := strings.IndexAny(s[i:], " \t\r\n")
			if n < 0 {
				n = len(s) - i
			}
			text := s[i : i+n]
			if n > 1 && text[n-1] == '\\' && strings.HasPrefix(strings.TrimPrefix(s[i+n:], "\r"), "\n") {
				text, n = text[:n-1], n-1 // the next line goes on
			}
			value := expandEnv(text, env)
			list = append(list, token{text: value, line: line, quoted: value != text, from: i, to: i + len(text)}) // a brace from there is text
			i += n
		}
	}
	return append(list, token{line: line, end: true, from: len(s), to: len(s)}), nil
}

// expandEnv replaces {env:NAME}. A name that is not set is empty, and a form
// without its end stays as it is.
func expandEnv(s string, env func(string) string) string {
	if !strings.Contains(s, "{env:") {
		return s
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "{env:")
		name, after, closed := strings.Cut(rest, "}")
		if !ok || !closed {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(before)
		b.WriteString(env(name))
		s = after
	}
}

// blockParser makes directives of tokens.
type blockParser struct {
	file   string
	tokens []token
	bad    *Problem
}

func (p *blockParser) next() token {
	t := p.tokens[0]
	if len(p.tokens) > 1 { // the last one stays: it ends the file
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *blockParser) done() bool { return len(p.tokens) == 1 }

func (p *blockParser) fail(line int, what, hint string) {
	if p.bad == nil {
		p.bad = &Problem{File: p.file, Line: line, What: what, Hint: hint}
	}
}

// body reads directives up to the closing brace of the block that opened in a
// line, or to the end of the file for depth 0.
func (p *blockParser) body(depth, opened int) (list []directive) {
	for p.bad == nil {
		if p.done() {
			if depth > 0 {
				p.fail(opened, "a block that is not closed", "add a line with }")
			}
			return list
		}
		t := p.next()
		switch {
		case t.end:
		case t.brace("}"):
			p.close(t, depth)
			return list
		case t.brace("{"):
			p.fail(t.line, "a block without a name", "write the name before {")
		default:
			d, closed := p.directive(t, depth)
			list = append(list, d)
			if closed {
				return list
			}
		}
	}
	return list
}

// close checks what stands behind a closing brace.
func (p *blockParser) close(t token, depth int) {
	if depth == 0 {
		p.fail(t.line, "a } that closes nothing", "remove it")
	} else if !p.tokens[0].end {
		p.fail(t.line, "something behind }", "write it on a line of its own")
	}
}

// directive reads the rest of a line and its block. closed says that a brace at
// the end of the line closed the block around it.
func (p *blockParser) directive(name token, depth int) (d directive, closed bool) {
	d = directive{file: p.file, line: name.line, name: name.text}
	for {
		t := p.next()
		switch {
		case t.end:
			return d, false
		case t.brace("}"):
			p.close(t, depth)
			return d, true
		case t.brace("{"):
			d.braces = true
			switch {
			case depth == maxNesting:
				p.fail(t.line, fmt.Sprintf("more than %d blocks inside each other", maxNesting), "take some apart")
			case p.tokens[0].brace("}"):
				p.close(p.next(), depth+1)
			case !p.tokens[0].end:
				p.fail(t.line, "something behind {", "write it on a line of its own")
			default:
				d.block = p.body(depth+1, t.line)
			}
			return d, false
		}
		d.args = append(d.args, t.text)
	}
}

// expander replaces variables, snippets and imports.
type expander struct {
	read     func(path string) ([]byte, error)
	env      func(string) string
	macros   map[string][]string
	snippets map[string][]directive
	size     int // octets so far
	bad      *Problem
}

// parseBlocks reads a file of the block syntax, and those that it imports. read
// is asked for imported files.
func parseBlocks(file string, data []byte, env func(string) string, read func(string) ([]byte, error)) ([]directive, map[string][]string, *Problem) {
	e := &expander{read: read, env: env, macros: make(map[string][]string), snippets: make(map[string][]directive)}
	list := e.file(file, data, 0)
	return list, e.macros, e.bad
}

func (e *expander) fail(d directive, what, hint string) {
	if e.bad == nil {
		p := d.problem(what, hint)
		e.bad = &p
	}
}

func (e *expander) file(file string, data []byte, depth int) []directive {
	tokens, bad := lexBlocks(file, data, e.env)
	if bad == nil {
		p := &blockParser{file: file, tokens: tokens}
		list := p.body(0, 0)
		if bad = p.bad; bad == nil {
			return e.list(list, true, depth)
		}
	}
	if e.bad == nil {
		e.bad = bad
	}
	return nil
}

// list expands directives. top says that variables and snippets may be defined.
func (e *expander) list(list []directive, top bool, depth int) (out []directive) {
	for _, d := range list {
		if e.bad != nil {
			return nil
		}
		macro, isMacro := bracketed(d.name, "$(")
		snippet, isSnippet := bracketed(d.name, "(")
		switch {
		case (isMacro || isSnippet) && !top:
			e.fail(d, "is defined inside a block", "define it outside of all blocks")
		case isMacro && (d.braces || len(d.args) < 2 || d.args[0] != "="):
			e.fail(d, "is not a definition", "write $("+macro+") = value")
		case isMacro:
			e.macros[macro] = e.args(d, d.args[1:])
		case isSnippet && (!d.braces || len(d.args) > 0):
			e.fail(d, "is not a snippet", "write ("+snippet+") and its block in braces")
		case isSnippet:
			e.snippets[snippet] = d.block
		case d.name == "import":
			out = append(out, e.imported(d, top, depth)...)
		case !isName(d.name):
			e.fail(d, "is not a name", "names are of letters, digits, dots, dashes and underscores, and begin with none of the digits")
		default:
			d.args = e.args(d, d.args)
			d.block = e.list(d.block, false, depth)
			e.count(d, len(d.name))
			out = append(out, d)
		}
	}
	return out
}

// count bounds what a few lines may grow to.
func (e *expander) count(d directive, n int) bool {
	if e.size += n + 1; e.size > maxExpanded {
		e.fail(d, "variables and imports make the file too large", "write it out")
	}
	return e.bad == nil
}

func (e *expander) imported(d directive, top bool, depth int) []directive {
	args := e.args(d, d.args)
	switch {
	case len(args) != 1 || d.braces:
		e.fail(d, "needs one name", "write import NAME")
		return nil
	case depth == maxNesting:
		e.fail(d, "imports go in circles", "remove this one")
		return nil
	case !e.count(d, importCost):
		return nil
	}
	if snippet, ok := e.snippets[args[0]]; ok {
		return e.list(snippet, false, depth+1)
	}
	path := args[0]
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(d.file), path)
	}
	data, err := e.read(path)
	if err != nil && os.IsNotExist(err) {
		if more, merr := e.read(path + ".conf"); merr == nil {
			path, data, err = path+".conf", more, nil
		}
	}
	if err != nil {
		e.fail(d, fmt.Sprintf("%q is neither a snippet nor a file that can be read", args[0]), "snippets are defined above where they are imported")
		return nil
	}
	if !e.count(d, len(data)) {
		return nil
	}
	if !top { // its lines are part of a block
		tokens, bad := lexBlocks(path, data, e.env)
		if bad == nil {
			p := &blockParser{file: path, tokens: tokens}
			list := p.body(0, 0)
			if bad = p.bad; bad == nil {
				return e.list(list, false, depth+1)
			}
		}
		e.bad = bad
		return nil
	}
	return e.file(path, data, depth+1)
}

// args replaces $(name): alone by all its values, within a token by its one value.
func (e *expander) args(d directive, args []string) (out []string) {
	for _, a := range args {
		if name, ok := bracketed(a, "$("); ok {
			for _, v := range e.macros[name] {
				if !e.count(d, len(v)) {
					return nil
				}
				out = append(out, v)
			}
			continue
		}
		var b strings.Builder
		for {
			before, rest, ok := strings.Cut(a, "$(")
			name, after, closed := strings.Cut(rest, ")")
			if !ok || !closed {
				b.WriteString(a)
				break
			}
			values := e.macros[name]
			if len(values) > 1 {
				e.fail(d, fmt.Sprintf("$(%s) has %d values and stands inside a word", name, len(values)), "write it as a word of its own")
				return nil
			}
			b.WriteString(before)
			if len(values) == 1 {
				b.WriteString(values[0])
			}
			if a = after; !e.count(d, b.Len()) {
				return nil
			}
		}
		if !e.count(d, b.Len()) {
			return nil
		}
		out = append(out, b.String())
	}
	return out
}

// bracketed returns what stands between prefix and a closing bracket that ends s.
func bracketed(s, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(s, prefix)
	name, closed := strings.CutSuffix(rest, ")")
	return name, ok && closed && isName(name)
}

func isName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '-' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
