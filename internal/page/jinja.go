package page

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The expressions of Minijinja that we read: variables, texts, numbers, or, and, not,
// comparisons, ~, x if y else z, [from:to], filters, calls and the tests "is defined" and "is none".

// expression is one in Go's dialect.
type expression struct {
	code  string
	first string // the first variable in it
}

// maxDepth is how deep expressions may nest.
const maxDepth = 100

// jinja translates an expression.
func jinja(s string) (expression, error) {
	r := &reader{rest: s}
	r.next()
	code := r.choice()
	if r.err == nil && r.token != "" {
		r.fail("%q is not expected", r.token)
	}
	return expression{code, r.first}, r.err
}

// reader reads an expression. It keeps the first error.
type reader struct {
	rest  string
	token string // "" at the end
	kind  byte   // of the token: w for a word, s for a text, n for a number, else a sign
	blank bool   // stands before the token
	depth int
	first string
	err   error
}

func (r *reader) fail(format string, args ...any) string {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.token, r.rest = "", ""
	return `""`
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }

// next reads the next token.
func (r *reader) next() {
	rest := strings.TrimLeft(r.rest, " \t\r\n")
	r.blank, r.rest = len(rest) < len(r.rest), rest
	if r.token, r.kind = "", 0; r.rest == "" {
		return
	}
	n := 1
	switch c := r.rest[0]; {
	case letter(c):
		for n < len(r.rest) && (letter(r.rest[n]) || digit(r.rest[n])) {
			n++
		}
		r.kind = 'w'
	case digit(c) || c == '-' && len(r.rest) > 1 && digit(r.rest[1]):
		for n < len(r.rest) && (digit(r.rest[n]) || r.rest[n] == '.') {
			n++
		}
		r.kind = 'n'
	case c == '"' || c == '\'':
		r.quoted(c)
		return
	default:
		for _, two := range []string{"==", "!=", "<=", ">="} {
			if strings.HasPrefix(r.rest, two) {
				n = 2
			}
		}
		if c >= utf8.RuneSelf {
			_, n = utf8.DecodeRuneInString(r.rest)
		}
		r.kind = '+'
	}
	r.token, r.rest = r.rest[:n], r.rest[n:]
}

// quoted reads a text. The token is what it says, as Go quotes it.
func (r *reader) quoted(quote byte) {
	var b strings.Builder
	for i := 1; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c == quote:
			r.token, r.kind, r.rest = strconv.Quote(b.String()), 's', r.rest[i+1:]
			return
		case c == '\\' && i+1 < len(r.rest):
			i++
			b.WriteByte(map[byte]byte{'n': '\n', 't': '\t', 'r': '\r'}[r.rest[i]] | zero(r.rest[i]))
		default:
			b.WriteByte(c)
		}
	}
	r.fail("a text without its end")
}

// zero is c, unless it stands for another sign behind a backslash.
func zero(c byte) byte {
	if c == 'n' || c == 't' || c == 'r' {
		return 0
	}
	return c
}

func (r *reader) is(word string) bool { return r.token == word && r.kind != 's' }

func (r *reader) take(word string) bool {
	if !r.is(word) {
		return false
	}
	r.next()
	return true
}

// deeper reads a part of an expression, if it is not too deep.
func (r *reader) deeper(read func() string) string {
	if r.depth++; r.depth > maxDepth {
		return r.fail("an expression that is nested too deep")
	}
	s := read()
	r.depth--
	return s
}

func (r *reader) choice() string {
	return r.deeper(func() string {
		yes := r.or()
		if !r.take("if") {
			return yes
		}
		condition, no := r.or(), `""`
		if r.take("else") {
			no = r.choice()
		}
		return "(either " + condition + " " + yes + " " + no + ")"
	})
}

func (r *reader) or() string {
	s := r.and()
	for r.take("or") {
		s = "(or " + s + " " + r.and() + ")"
	}
	return s
}

func (r *reader) and() string {
	s := r.not()
	for r.take("and") {
		s = "(and " + s + " " + r.not() + ")"
	}
	return s
}

func (r *reader) not() string {
	if r.take("not") {
		return "(not " + r.deeper(r.not) + ")"
	}
	return r.comparison()
}

func (r *reader) comparison() string {
	s := r.concat()
	for {
		name := map[string]string{"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}[r.token]
		if name == "" || r.kind == 's' {
			return s
		}
		r.next()
		s = "(" + name + " " + s + " " + r.concat() + ")"
	}
}

func (r *reader) concat() string {
	s := r.filtered()
	for r.take("~") {
		s = "(print " + s + " " + r.filtered() + ")"
	}
	return s
}

// filtered reads an operand, its filters and its test.
func (r *reader) filtered() string {
	s := r.operand()
	for r.err == nil {
		if r.is("[") {
			s = r.subscript(s)
			continue
		}
		if !r.take("|") {
			break
		}
		name := r.token
		if r.kind != 'w' {
			return r.fail("a filter has no name")
		}
		r.next()
		args := ""
		if r.take("(") {
			args = r.arguments()
		}
		s = r.call(name, " "+s+args)
	}
	if r.take("is") {
		not := r.take("not")
		switch {
		case r.is("defined") && strings.HasPrefix(s, "(get "):
			s = "(has " + strings.TrimPrefix(s, "(get ")
		case r.is("undefined") && strings.HasPrefix(s, "(get "):
			s, not = "(has "+strings.TrimPrefix(s, "(get "), !not
		case r.is("none"):
			s = `(eq ` + s + ` "")`
		default:
			return r.fail("the test %q is not known", r.token)
		}
		r.next()
		if not {
			s = "(not " + s + ")"
		}
	}
	return s
}

// subscript reads [n] and [from:to], of which each may be left out.
func (r *reader) subscript(s string) string {
	r.next()
	from, to := "0", "-1"
	if !r.is(":") && !r.is("]") {
		from = r.number()
	}
	if r.take(":") {
		if !r.is("]") {
			to = r.number()
		}
	} else if n, err := strconv.Atoi(from); err == nil {
		to = strconv.Itoa(n + 1)
	}
	if r.err == nil && !r.take("]") {
		return r.fail("] is missing")
	}
	return "(part " + s + " " + from + " " + to + ")"
}

// number reads a whole number of 0 or more.
func (r *reader) number() string {
	t := r.token
	if n, err := strconv.Atoi(t); r.kind != 'n' || err != nil || n < 0 {
		return r.fail("%q is no place in a text", t)
	}
	r.next()
	return t
}

// call is a function with its arguments.
func (r *reader) call(name, args string) string {
	switch name {
	case "get", "has", "step", "items", "either", "link", "part":
		return r.fail("%q is not known", name)
	}
	if _, ok := callable[name]; !ok && (name != "not" && name != "and" && name != "or" && name != "len") {
		return r.fail("the filter %q is not known", name)
	}
	return "(" + name + args + ")"
}

// arguments reads those of a call, behind the bracket.
func (r *reader) arguments() (args string) {
	for !r.take(")") {
		if args != "" && !r.take(",") {
			return r.fail("a bracket is missing")
		}
		args += " " + r.choice()
		if r.err != nil {
			return ""
		}
	}
	return args
}

func (r *reader) operand() string {
	t := r.token
	switch {
	case r.err != nil:
		return `""`
	case t == "":
		return r.fail("a value is missing")
	case r.kind == 's':
		r.next()
		return t
	case r.kind == 'n':
		r.next()
		if _, err := strconv.ParseFloat(t, 64); err != nil {
			return r.fail("%q is not a number", t)
		}
		return t
	case t == "(":
		r.next()
		s := r.choice()
		if r.err == nil && !r.take(")") {
			return r.fail("a bracket is missing")
		}
		return "(" + s + ")"
	case t == ".": // as Go's dialect has it
		r.next()
		if r.kind != 'w' {
			return r.fail("a name is missing behind the dot")
		}
	case r.kind != 'w':
		return r.fail("%q is not expected", t)
	}
	return r.variable()
}

// variable reads a name, with what it is called with or what is asked of it.
func (r *reader) variable() string {
	n := r.token
	r.next()
	switch n {
	case "true", "True":
		return "true"
	case "false", "False":
		return "false"
	case "none", "None":
		return `""`
	case "and", "or", "not", "if", "else", "is", "in", "elif", "endif":
		return r.fail("%q is not expected", n)
	}
	if r.is("(") {
		r.next()
		args := r.arguments()
		if r.err != nil {
			return `""`
		}
		return r.call(n, args)
	}
	path := []string{n}
	for !r.blank && r.take(".") {
		if r.kind != 'w' {
			return r.fail("a name is missing behind the dot")
		}
		path = append(path, r.token)
		r.next()
	}
	if r.first == "" {
		r.first = strings.Join(path, ".")
	}
	code := "(get $"
	for _, p := range path {
		code += " " + strconv.Quote(p)
	}
	return code + ")"
}
