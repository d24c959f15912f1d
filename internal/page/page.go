// Package page reads the templates that sites of earlier versions are written in, and
// renders them.
//
// There are two dialects, and each file is in one of them: that of Go's html/template,
// and a subset of Minijinja. The second is translated into the first, line by line, so
// both are escaped by context: what stands in a script, a link or a style is written so
// that it stays one value there. A variable that is not known is empty.
//
// A template cannot do much: it sees the values that it is handed and calls the
// functions below. What it may take in work, memory and output is bounded.
package page

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/template/parse"
	"unicode/utf8"
)

// Limits.
const (
	MaxSource = 1 << 20 // octets of a template
	MaxOutput = 4 << 20 // octets that one makes
	maxWork   = 16 << 20
	maxValue  = 1 << 20 // octets that a function returns
	stepCost  = 1000    // work of a turn of a loop, or of a template called

	pictureCost = 256 << 10 // work of a QR code
)

// Error is a mistake in a template. Line is 0 where it is not known.
type Error struct {
	Line int
	What string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.What
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.What)
}

// Place is something in a line.
type Place struct {
	Line int
	What string
}

// Template is a page that was read. It may be used by many goroutines.
type Template struct {
	// Unknown are the variables that are in no table: they are empty.
	Unknown []Place
	// Literal are double braces in scripts and styles that were left as they are.
	Literal []Place
	// Dynamic reports whether there is anything but text.
	Dynamic bool

	plain []byte // all of it, when it is not dynamic
	qr    func(string) string
	names map[string]bool
	trees map[string]*parse.Tree
	ready sync.Pool // of *instance
}

// instance is a template with functions that count for one rendering at a time.
type instance struct {
	budget
	t *template.Template
}

// name is what errors call every template.
const name = "page"

// Reader reads pages.
type Reader struct {
	// Known tells of a variable, a path such as "Custom.Slug", whether there is one.
	Known func(path string) bool
	// QR draws a text and returns the URL of the picture, "" for what cannot be drawn.
	QR func(text string) string
}

// Parse reads a page. The error is an *Error.
func (r Reader) Parse(src []byte) (*Template, error) {
	text, err := decode(src)
	if err != nil {
		return nil, err
	}
	d := dialectOf(text, r.Known)
	code, literal, dynamic, err := translate(text, d)
	if err != nil {
		return nil, err
	}
	p := &Template{qr: r.QR, Literal: literal, Dynamic: dynamic, names: make(map[string]bool)}
	if !dynamic {
		p.plain = []byte(strings.ReplaceAll(code, hole, "{"))
		return p, nil
	}
	p.trees, err = parseGo(code)
	if err != nil {
		return nil, err
	}
	w := &rewriter{known: r.Known, t: p}
	for n, tree := range p.trees {
		if tree.Root == nil {
			tree.Root = &parse.ListNode{NodeType: parse.NodeList}
		}
		w.lines = code
		w.list(tree.Root, "", n == name, "")
		if n != name {
			tree.Root.Nodes = slices.Insert(tree.Root.Nodes, 0, step(tree.Root.Pos))
		}
	}
	slices.SortStableFunc(p.Unknown, func(a, b Place) int { return a.Line - b.Line })
	first, err := p.instance()
	if err != nil {
		return nil, err
	}
	p.ready.Put(first)
	return p, nil
}

// decode checks that a file is text.
func decode(src []byte) (string, error) {
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	switch {
	case len(src) > MaxSource:
		return "", &Error{0, fmt.Sprintf("is larger than %d octets", MaxSource)}
	case !utf8.Valid(src):
		for i := 0; i < len(src); {
			r, n := utf8.DecodeRune(src[i:])
			if r == utf8.RuneError && n == 1 {
				return "", &Error{1 + bytes.Count(src[:i], []byte("\n")), "is not UTF-8"}
			}
			i += n
		}
	case bytes.IndexByte(src, 0) >= 0:
		return "", &Error{1 + bytes.Count(src[:bytes.IndexByte(src, 0)], []byte("\n")), "has a NUL"}
	}
	return string(src), nil
}

// parseGo parses Go's dialect. Its name is name.
func parseGo(code string) (map[string]*parse.Tree, error) {
	trees := make(map[string]*parse.Tree)
	t := parse.New(name)
	if _, err := t.Parse(code, "{{", "}}", trees, builtins, callable); err != nil {
		e := located(err)
		if line := unclosed(code); line > 0 && e.What == "unexpected EOF" {
			e = &Error{line, "a block that begins here has no end"}
		}
		return nil, e
	}
	if trees[name] == nil { // only definitions
		trees[name] = t
	}
	return trees, nil
}

// unclosed is the line in which a block begins that does not end, or 0.
func unclosed(code string) int {
	var open []int
	for _, p := range scan(code, golang) {
		if p.kind != value {
			continue
		}
		switch word(p.text) {
		case "if", "range", "with", "define", "block":
			open = append(open, p.line)
		case "end":
			open = open[:max(0, len(open)-1)]
		}
	}
	if len(open) == 0 {
		return 0
	}
	return open[len(open)-1]
}

// builtins are Go's own functions that stay as they are. The parser wants names only.
var builtins = map[string]any{"and": true, "or": true, "not": true, "len": true, "index": true, "slice": true, "call": true, "lt": true, "le": true, "gt": true, "ge": true}

// Uses reports whether a template names a variable.
func (p *Template) Uses(variable string) bool { return p.names[variable] }

func (p *Template) instance() (*instance, error) {
	i := &instance{t: template.New(name), budget: budget{qr: p.qr}}
	i.t.Funcs(functions(&i.budget))
	for n, tree := range p.trees {
		t, err := i.t.AddParseTree(n, tree.Copy())
		if err != nil {
			return nil, located(err)
		}
		if n == name {
			i.t = t
		}
	}
	return i, nil
}

// Render makes the page of values: strings, booleans, numbers, template.URL, maps and
// slices of these. The error is an *Error.
func (p *Template) Render(data map[string]any) ([]byte, error) {
	if !p.Dynamic {
		return p.plain, nil
	}
	i, _ := p.ready.Get().(*instance)
	if i == nil {
		var err error
		if i, err = p.instance(); err != nil {
			return nil, err
		}
	}
	defer p.ready.Put(i)
	i.left = maxWork
	var out bounded
	if err := i.t.Execute(&out, data); err != nil {
		return nil, located(err)
	}
	return out.Bytes(), nil
}

// bounded is a buffer that can be full.
type bounded struct{ bytes.Buffer }

var errTooLarge = fmt.Errorf("makes more than %d octets", MaxOutput)

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxOutput {
		return 0, errTooLarge
	}
	return b.Buffer.Write(p)
}

var place = regexp.MustCompile(`^(?:html/template|template): ?` + name + `:(\d+)(?::\d+)?: (?:executing "[^"]*" at <.*?>: )?`)

// located finds the line in an error of Go's.
func located(err error) *Error {
	var ours *Error
	if errors.As(err, &ours) {
		return ours
	}
	if errors.Is(err, errTooLarge) {
		return &Error{0, errTooLarge.Error()}
	}
	text := strings.ReplaceAll(err.Error(), hole, "{")
	e := &Error{What: text}
	if m := place.FindStringSubmatchIndex(text); m != nil {
		e.Line, _ = strconv.Atoi(text[m[2]:m[3]]) // digits
		e.What = text[m[1]:]
	}
	var context *template.Error
	if errors.As(err, &context) && context.Line > 0 {
		e.Line, e.What = context.Line, context.Description
	}
	e.What = strings.TrimPrefix(strings.TrimPrefix(e.What, "html/template:"+name+": "), "template: "+name+": ")
	if len(e.What) > 300 {
		e.What = strings.ToValidUTF8(e.What[:300], "") + "..."
	}
	return e
}

// rewriter makes a parsed template lenient and bounded: a variable becomes a call that
// finds nothing where there is none, and loops are counted.
type rewriter struct {
	known func(string) bool
	t     *Template
	lines string // the code, for line numbers
}

func (w *rewriter) line(pos parse.Pos) int {
	return 1 + strings.Count(w.lines[:min(int(pos), len(w.lines))], "\n")
}

func step(pos parse.Pos) parse.Node {
	v := &parse.VariableNode{NodeType: parse.NodeVariable, Pos: pos, Ident: []string{"$_"}}
	return &parse.ActionNode{NodeType: parse.NodeAction, Pos: pos, Pipe: &parse.PipeNode{
		NodeType: parse.NodePipe, Pos: pos, Decl: []*parse.VariableNode{v}, Cmds: []*parse.CommandNode{command(pos, parse.NewIdentifier("step").SetPos(pos))},
	}}
}

func command(pos parse.Pos, args ...parse.Node) *parse.CommandNode {
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: pos, Args: args}
}

func pipe(pos parse.Pos, line int, cmds ...*parse.CommandNode) *parse.PipeNode {
	return &parse.PipeNode{NodeType: parse.NodePipe, Pos: pos, Line: line, Cmds: cmds}
}

// linkAttribute is the end of a text behind which a link begins.
var linkAttribute = regexp.MustCompile(`(?i)\s(?:href|src|action|formaction|poster|cite|data)\s*=\s*["']?$`)

// list rewrites what stands in a block. dot is the path of what "." is, known says that
// this is a path from the root; before is the text in front of it.
func (w *rewriter) list(l *parse.ListNode, dot string, known bool, before string) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		front := before
		before = ""
		switch n := n.(type) {
		case *parse.TextNode:
			n.Text = bytes.ReplaceAll(n.Text, []byte(hole), []byte("{"))
			before = string(n.Text[max(0, len(n.Text)-40):])
		case *parse.CommentNode:
			before = front
		case *parse.ActionNode:
			w.pipe(n.Pipe, dot, known)
			if len(n.Pipe.Decl) > 0 {
				before = front
			} else if linkAttribute.MatchString(front) { // the second version has no safeURL
				n.Pipe.Cmds = []*parse.CommandNode{command(n.Pos, parse.NewIdentifier("link").SetPos(n.Pos), pipe(n.Pos, n.Line, n.Pipe.Cmds...))}
			}
		case *parse.IfNode:
			w.pipe(n.Pipe, dot, known)
			w.list(n.List, dot, known, front)
			w.list(n.ElseList, dot, known, front)
		case *parse.WithNode:
			inner, ok := path(n.Pipe, dot, known)
			w.pipe(n.Pipe, dot, known)
			w.list(n.List, inner, ok, front)
			w.list(n.ElseList, dot, known, front)
		case *parse.RangeNode:
			w.pipe(n.Pipe, dot, known)
			n.Pipe.Cmds = []*parse.CommandNode{command(n.Pos, parse.NewIdentifier("items").SetPos(n.Pos), pipe(n.Pos, n.Line, n.Pipe.Cmds...))}
			w.list(n.List, "", false, front)
			w.list(n.ElseList, dot, known, front)
			n.List.Nodes = slices.Insert(n.List.Nodes, 0, step(n.Pos))
		case *parse.TemplateNode:
			w.pipe(n.Pipe, dot, known)
		}
	}
}

// path is the path of a pipeline that is one variable.
func path(p *parse.PipeNode, dot string, known bool) (string, bool) {
	if p == nil || len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return "", false
	}
	f, ok := p.Cmds[0].Args[0].(*parse.FieldNode)
	if !ok {
		return "", false
	}
	return join(dot, f.Ident), known
}

func join(dot string, ident []string) string {
	if dot != "" {
		ident = append([]string{dot}, ident...)
	}
	return strings.Join(ident, ".")
}

func (w *rewriter) pipe(p *parse.PipeNode, dot string, known bool) {
	if p == nil {
		return
	}
	for i, c := range p.Cmds {
		for j, a := range c.Args {
			args := w.arg(a, dot, known)
			switch {
			case args == nil:
			case i == 0 && len(c.Args) == 1:
				c.Args = args
			default:
				c.Args[j] = pipe(a.Position(), p.Line, command(a.Position(), args...))
			}
		}
	}
}

// arg returns the call that takes the place of a variable, or nil.
func (w *rewriter) arg(a parse.Node, dot string, known bool) []parse.Node {
	get := func(from parse.Node, ident []string) []parse.Node {
		args := []parse.Node{parse.NewIdentifier("get").SetPos(a.Position()), from}
		for _, s := range ident {
			args = append(args, &parse.StringNode{NodeType: parse.NodeString, Pos: a.Position(), Quoted: strconv.Quote(s), Text: s})
		}
		return args
	}
	switch n := a.(type) {
	case *parse.PipeNode:
		w.named(n, a.Position())
		w.pipe(n, dot, known)
	case *parse.FieldNode:
		if known {
			w.seen(join(dot, n.Ident), n.Pos)
		}
		return get(&parse.DotNode{NodeType: parse.NodeDot, Pos: n.Pos}, n.Ident)
	case *parse.VariableNode:
		if len(n.Ident) > 1 {
			if n.Ident[0] == "$" {
				w.seen(join("", n.Ident[1:]), n.Pos)
			}
			return get(&parse.VariableNode{NodeType: parse.NodeVariable, Pos: n.Pos, Ident: n.Ident[:1]}, n.Ident[1:])
		}
	case *parse.ChainNode:
		from := n.Node
		if p, ok := from.(*parse.PipeNode); ok {
			w.pipe(p, dot, known)
		}
		return get(from, n.Field)
	}
	return nil
}

// named notes a variable of the other dialect: it was translated into a call.
func (w *rewriter) named(p *parse.PipeNode, pos parse.Pos) {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) < 3 {
		return
	}
	args := p.Cmds[0].Args
	if f, ok := args[0].(*parse.IdentifierNode); !ok || f.Ident != "get" {
		return
	}
	if v, ok := args[1].(*parse.VariableNode); !ok || len(v.Ident) != 1 || v.Ident[0] != "$" {
		return
	}
	var ident []string
	for _, a := range args[2:] {
		if s, ok := a.(*parse.StringNode); ok {
			ident = append(ident, s.Text)
		}
	}
	w.seen(strings.Join(ident, "."), pos)
}

func (w *rewriter) seen(path string, pos parse.Pos) {
	first, _, _ := strings.Cut(path, ".")
	w.t.names[first] = true
	if w.known(path) || slices.ContainsFunc(w.t.Unknown, func(p Place) bool { return p.What == path }) {
		return
	}
	w.t.Unknown = append(w.t.Unknown, Place{w.line(pos), path})
}
