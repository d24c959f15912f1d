package page

import (
	"errors"
	"fmt"
	"html/template"
	"math"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	gotext "text/template"

	"madmail/internal/units"
)

// budget is the work that a rendering may still do.
type budget struct {
	left int
	qr   func(string) string
}

var (
	errTooMuch = errors.New("is too much work: a loop without an end?")
	errTooBig  = fmt.Errorf("makes a value of more than %d octets", maxValue)
)

func (b *budget) spend(n int) error {
	if b.left -= n; b.left < 0 {
		return errTooMuch
	}
	return nil
}

// out charges what a function returns.
func (b *budget) out(s string) (string, error) {
	if len(s) > maxValue {
		return "", errTooBig
	}
	return s, b.spend(len(s) + 100)
}

// schemes are those of links that a page may make of a value.
var schemes = map[string]bool{"dclogin": true, "dcaccount": true, "openpgp4fpr": true, "ss": true, "mailto": true, "https": true, "http": true}

// SafeURL is a link as it may stand in a page: one of a scheme that clients know, or a
// relative one. Everything else is "#".
func SafeURL(s string) template.URL {
	u := strings.TrimSpace(s)
	scheme, _, ok := strings.Cut(u, ":")
	if ok && !strings.ContainsAny(scheme, "/?#") && !schemes[strings.ToLower(scheme)] {
		return "#"
	}
	return template.URL(u)
}

// CleanDomain is a domain without the brackets of an address.
func CleanDomain(s string) string {
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "["), "]")
}

// FormatBytes prints a number of octets for people; what no disk holds is no limit.
func FormatBytes(v any) string {
	n, ok := number(v)
	switch {
	case !ok:
		return ""
	case n >= 1<<62:
		return "∞"
	}
	return units.FormatSize(int64(n))
}

func number(v any) (float64, bool) {
	r := reflect.ValueOf(v)
	switch {
	case r.CanInt():
		return float64(r.Int()), true
	case r.CanUint():
		return float64(r.Uint()), true
	case r.CanFloat():
		f := r.Float()
		return f, !math.IsNaN(f) && !math.IsInf(f, 0) && f < 1<<63 && f > -1<<63
	case r.Kind() == reflect.String:
		n, err := strconv.ParseInt(strings.TrimSpace(r.String()), 10, 64)
		return float64(n), err == nil
	}
	return 0, false
}

// str is a value as text.
func str(v any) string {
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Invalid, reflect.Map, reflect.Slice:
		return ""
	case reflect.String:
		return r.String()
	}
	return fmt.Sprint(v)
}

func truth(v any) bool {
	ok, _ := gotext.IsTrue(v)
	return ok
}

// get follows a path; there is nothing where it leads nowhere.
func get(from any, path ...string) any {
	v, _ := find(from, path)
	return v
}

func find(v any, path []string) (any, bool) {
	for _, name := range path {
		var ok bool
		switch m := v.(type) {
		case map[string]any:
			v, ok = m[name]
		case map[string]string:
			v, ok = m[name]
		}
		if !ok || v == nil {
			return "", false
		}
	}
	return v, true
}

// same compares by what is printed; a number and a text that says it are the same.
func same(a, b any) bool {
	if x, ok := a.(bool); ok {
		if y, ok := b.(bool); ok {
			return x == y
		}
	}
	return str(a) == str(b)
}

// functions are what templates may call, under the names of both dialects.
func functions(b *budget) template.FuncMap {
	onText := func(f func(string) string) func(any) (string, error) {
		return func(v any) (string, error) {
			if err := b.spend(len(str(v))); err != nil {
				return "", err
			}
			return b.out(f(str(v)))
		}
	}
	joined := func(f func(...any) string) func(...any) (string, error) {
		return func(v ...any) (string, error) {
			n := 0
			for i := range v {
				s := str(v[i])
				if n += len(s); n > maxValue {
					return "", errTooBig
				}
				if reflect.ValueOf(v[i]).Kind() == reflect.String || s == "" {
					v[i] = s // without its type, which printing by verbs would show
				}
			}
			if err := b.spend(n); err != nil {
				return "", err
			}
			return b.out(f(v...))
		}
	}
	safeURL := func(v any) (template.URL, error) {
		s, err := b.out(str(v))
		return SafeURL(s), err
	}
	safeHTML := func(v any) (template.HTML, error) {
		s, err := b.out(str(v))
		return template.HTML(s), err // the operator wrote so
	}
	equal := func(v any, others ...any) (bool, error) {
		for _, o := range others {
			if err := b.spend(len(str(v)) + len(str(o))); err != nil {
				return false, err
			}
			if same(v, o) {
				return true, nil
			}
		}
		return false, nil
	}
	clean := onText(CleanDomain)
	size := func(v any) (string, error) { return b.out(FormatBytes(v)) }
	return template.FuncMap{
		"qr": func(v any) (template.URL, error) {
			if err := b.spend(pictureCost); err != nil || b.qr == nil || str(v) == "" {
				return "", err
			}
			u, err := b.out(b.qr(str(v)))
			return template.URL(u), err
		},
		"get": get, "has": func(from any, path ...string) bool { _, ok := find(from, path); return ok },
		"link": func(v any) (any, error) {
			if s, ok := v.(string); ok {
				return safeURL(s)
			}
			return v, nil
		},
		"part": func(v any, from, to int) (string, error) { // -1 is the end
			runes := []rune(str(v))
			from = min(max(from, 0), len(runes))
			if to < 0 || to > len(runes) {
				to = len(runes)
			}
			return b.out(string(runes[from:max(from, to)]))
		},
		"step":  func() (string, error) { return "", b.spend(stepCost) },
		"items": items,
		"upper": onText(strings.ToUpper), "lower": onText(strings.ToLower), "trim": onText(strings.TrimSpace), "urlencode": onText(url.QueryEscape),
		"e": onText(func(s string) string { return s }), "escape": onText(func(s string) string { return s }), // the context decides
		"safeURL": safeURL, "safe_url": safeURL, "safeHTML": safeHTML, "safe_html": safeHTML, "safe": safeHTML,
		"cleanDomain": clean, "clean_domain": clean, "formatBytes": size, "format_bytes": size,
		"length": func(v any) int {
			switch r := reflect.ValueOf(v); r.Kind() {
			case reflect.Map, reflect.Slice:
				return r.Len()
			}
			return len([]rune(str(v)))
		},
		"default": func(v, otherwise any) any {
			if truth(v) {
				return v
			}
			return otherwise
		},
		"either": func(condition, yes, no any) any {
			if truth(condition) {
				return yes
			}
			return no
		},
		"eq": equal,
		"ne": func(v, o any) (bool, error) {
			is, err := equal(v, o)
			return !is, err
		},
		"print": joined(func(v ...any) string { return fmt.Sprint(v...) }), "println": joined(func(v ...any) string { return fmt.Sprintln(v...) }),
		"html": joined(gotext.HTMLEscaper), "js": joined(gotext.JSEscaper), "urlquery": joined(gotext.URLQueryEscaper),
		"printf": func(format any, v ...any) (string, error) {
			f := str(format)
			if wide(f) {
				return "", errors.New("printf takes widths of up to three digits, and no *")
			}
			if len(f) > 10_000 {
				return "", errors.New("a format is too long")
			}
			return joined(func(v ...any) string { return fmt.Sprintf(f, v...) })(v...)
		},
	}
}

// callable are the functions by their names, for those who read only.
var callable = functions(&budget{})

// wide reports whether a format asks for more room than anybody needs.
func wide(format string) bool {
	digits, verb := 0, false
	for _, c := range []byte(format) {
		switch {
		case c == '%':
			verb, digits = !verb, 0
		case !verb:
		case c >= '0' && c <= '9':
			if digits++; digits > 3 {
				return true
			}
		case c == '*':
			return true
		case c == '.' || c == '+' || c == '-' || c == ' ' || c == '#' || c == '[' || c == ']':
			digits = 0
		default:
			verb = false
		}
	}
	return false
}

// items is what a loop goes over: lists and tables, and nothing for the rest.
func items(v any) any {
	switch reflect.ValueOf(v).Kind() {
	case reflect.Map, reflect.Slice:
		return v
	}
	return []any(nil)
}
