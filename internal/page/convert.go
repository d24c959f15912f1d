package page

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
)

// IsGo reports whether a page has templates in Go's dialect.
func (r Reader) IsGo(src []byte) bool {
	text, err := decode(src)
	if err != nil || dialectOf(text, r.Known) != golang {
		return false
	}
	return slices.ContainsFunc(scan(text, golang), func(p part) bool { return p.kind == value && (!p.script || goAction(p.text)) })
}

// Convert writes a page of Go's dialect in Minijinja. literal are braces that are no
// templates: they are marked as such. Not everything that Go's dialect can say can be
// said: loops and definitions are an *Error.
func (r Reader) Convert(src []byte) (out []byte, literal []Place, err error) {
	text, err := decode(src)
	if err != nil {
		return nil, nil, err
	}
	code, _, _, err := translate(text, golang)
	if err != nil {
		return nil, nil, err
	}
	t := parse.New(name)
	t.Mode = parse.ParseComments
	trees := make(map[string]*parse.Tree)
	if _, err := t.Parse(code, "{{", "}}", trees, builtins, callable); err != nil {
		return nil, nil, located(err)
	}
	w := &writer{code: code, comments: true}
	for n := range trees {
		if n != name {
			return nil, nil, &Error{0, "defines a template"}
		}
	}
	if t.Root != nil {
		w.list(t.Root)
		if dialectOf(w.out.String(), r.Known) == golang { // comments would be text there
			w = &writer{code: code}
			w.list(t.Root)
		}
	}
	if w.err != nil {
		return nil, nil, w.err
	}
	mark := src[:len(src)-len(text)]
	return append(slices.Clone(mark), w.out.String()...), w.literal, nil
}

// writer writes Minijinja.
type writer struct {
	code     string
	comments bool
	out      strings.Builder
	literal  []Place
	err      error
}

func (w *writer) line(pos parse.Pos) int {
	return 1 + strings.Count(w.code[:min(int(pos), len(w.code))], "\n")
}

func (w *writer) fail(n parse.Node, format string, args ...any) string {
	if w.err == nil {
		w.err = &Error{w.line(n.Position()), fmt.Sprintf(format, args...)}
	}
	return ""
}

func (w *writer) list(l *parse.ListNode) {
	if l == nil {
		return
	}
	for i, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			w.text(n, i+1 < len(l.Nodes))
		case *parse.CommentNode:
			if w.comments && !strings.Contains(n.Text, "#}") {
				w.out.WriteString("{# " + strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(n.Text, "/*"), "*/")) + " #}")
			}
		case *parse.ActionNode:
			if len(n.Pipe.Decl) > 0 {
				w.fail(n, "sets a variable")
			}
			w.out.WriteString("{{ " + w.pipe(n.Pipe) + " }}")
		case *parse.IfNode:
			w.condition(n, "if")
		default:
			w.fail(n, "%s cannot be written in the other dialect", firstLine(n.String()))
		}
	}
}

func (w *writer) condition(n *parse.IfNode, word string) {
	if len(n.Pipe.Decl) > 0 {
		w.fail(n, "sets a variable")
	}
	w.out.WriteString("{% " + word + " " + w.pipe(n.Pipe) + " %}")
	w.list(n.List)
	if e := n.ElseList; e != nil {
		if len(e.Nodes) == 1 {
			if more, ok := e.Nodes[0].(*parse.IfNode); ok {
				w.condition(more, "elif")
				return
			}
		}
		w.out.WriteString("{% else %}")
		w.list(e)
	}
	w.out.WriteString("{% endif %}")
}

var decimal = regexp.MustCompile(`^-?[0-9]+\.[0-9]+$`)

var opening = regexp.MustCompile(`\{[{%#]`)

// text writes a text so that nothing in it opens a template.
func (w *writer) text(n *parse.TextNode, more bool) {
	t := strings.ReplaceAll(string(n.Text), hole, "{")
	at := opening.FindStringIndex(t)
	if at == nil && !(more && strings.HasSuffix(t, "{")) {
		w.out.WriteString(t)
		return
	}
	from := len(t) - 1
	if at != nil {
		from = at[0]
	}
	w.literal = append(w.literal, Place{w.line(n.Pos) + strings.Count(t[:from], "\n"), firstLine(t[from:])})
	if endraw.MatchString(t) {
		w.fail(n, "has the end of a raw part in its text")
	}
	w.out.WriteString("{% raw %}" + t + "{% endraw %}")
}

// pipe writes a pipeline: what comes before the bar is the last argument of what
// comes behind it.
func (w *writer) pipe(p *parse.PipeNode) string {
	s := ""
	for i, c := range p.Cmds {
		var args []string
		f, call := c.Args[0].(*parse.IdentifierNode)
		rest := c.Args
		if call {
			rest = rest[1:]
		}
		for _, a := range rest {
			args = append(args, w.arg(a))
		}
		if i > 0 {
			args = append(args, s)
		}
		switch {
		case call:
			s = w.call(c, f.Ident, args)
		case len(args) == 1:
			s = args[0]
		default:
			w.fail(c, "%s is no call", firstLine(c.String()))
		}
	}
	return s
}

// filters are functions of one value by their names in Minijinja.
var filters = map[string]string{
	"upper": "upper", "lower": "lower", "trim": "trim", "safeURL": "safe_url", "safe_url": "safe_url", "safeHTML": "safe_html", "safe_html": "safe_html",
	"cleanDomain": "clean_domain", "clean_domain": "clean_domain", "formatBytes": "format_bytes", "format_bytes": "format_bytes", "len": "length",
	"urlquery": "urlencode", "html": "escape", "qr": "qr",
}

var comparisons = map[string]string{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

func (w *writer) call(n parse.Node, f string, args []string) string {
	simple := func(s string) string {
		if strings.Contains(s, " ") && !strings.HasPrefix(s, `"`) {
			return "(" + s + ")"
		}
		return s
	}
	for i := range args {
		args[i] = simple(args[i])
	}
	switch {
	case f == "slice" && len(args) == 3:
		return args[0] + "[" + args[1] + ":" + args[2] + "]"
	case f == "printf" && len(args) == 2 && args[0] == `"%s"`:
		return args[1]
	case f == "not" && len(args) == 1:
		return "not " + args[0]
	case (f == "and" || f == "or") && len(args) > 0:
		return strings.Join(args, " "+f+" ")
	case f == "eq" && len(args) > 2:
		for i := 1; i < len(args); i++ {
			args[i] = args[0] + " == " + args[i]
		}
		return strings.Join(args[1:], " or ")
	case comparisons[f] != "" && len(args) == 2:
		return args[0] + " " + comparisons[f] + " " + args[1]
	case filters[f] != "" && len(args) == 1:
		return args[0] + "|" + filters[f]
	}
	return w.fail(n, "%s cannot be written in the other dialect", firstLine(n.String()))
}

func (w *writer) arg(a parse.Node) string {
	switch n := a.(type) {
	case *parse.FieldNode:
		return w.variable(n, n.Ident)
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			return w.variable(n, n.Ident[1:])
		}
	case *parse.StringNode:
		if !strings.ContainsAny(n.Text, "\\\n\t\r") {
			if !strings.Contains(n.Text, `"`) {
				return `"` + n.Text + `"`
			}
			if !strings.Contains(n.Text, "'") && len(n.Text) > 1 { // '"' would be a number in Go's dialect
				return "'" + n.Text + "'"
			}
		}
	case *parse.NumberNode:
		if decimal.MatchString(n.Text) {
			return n.Text
		}
		if n.IsInt && !n.IsComplex && !strings.ContainsAny(n.Text, ".eEpP") {
			return strconv.FormatInt(n.Int64, 10)
		}
	case *parse.BoolNode:
		return n.String()
	case *parse.PipeNode:
		if len(n.Decl) == 0 {
			return w.pipe(n)
		}
	}
	return w.fail(a, "%s cannot be written in the other dialect", firstLine(a.String()))
}

// variable writes a path, unless it is a word of the other dialect.
func (w *writer) variable(n parse.Node, ident []string) string {
	s := strings.Join(ident, ".")
	if x, err := jinja(s); err != nil || x.first != s || control(s) || callable[ident[0]] != nil || builtins[ident[0]] != nil {
		return w.fail(n, "%q is no variable in the other dialect", s)
	}
	return s
}
