package page

import (
	"errors"
	"strings"
	"testing"
)

// values are those of the tests.
func values() map[string]any {
	return map[string]any{
		"MailDomain": "[203.0.113.5]", "Language": "fa", "RegistrationOpen": true, "TurnEnabled": false, "DefaultQuota": int64(1 << 30),
		"SSURL": "ss://YWVz@203.0.113.5:8388", "Empty": "", "Bad": "javascript:alert(1)", "Mark": `</script>"'<b>`,
		"Custom": map[string]any{"Slug": "bob", "URL": "openpgp4fpr:ABCD#a=b", "Name": "Bob <b>"},
		"List":   []any{"a", "b"},
	}
}

func known(path string) bool {
	_, ok := find(values(), strings.Split(path, "."))
	return ok
}

var pages = Reader{Known: known, QR: func(s string) string { return "data:image/png;base64," + s }}

func render(src string) (string, *Template, error) {
	p, err := pages.Parse([]byte(src))
	if err != nil {
		return "", nil, err
	}
	out, err := p.Render(values())
	return string(out), p, err
}

func TestBothDialectsSayTheSame(t *testing.T) {
	for _, x := range []struct{ name, golang, jinja, want string }{
		{"variable", "a{{.MailDomain}}b", "a{{ MailDomain }}b", "a[203.0.113.5]b"},
		{"variable with a dot", "{{ .MailDomain }}", "{{ .MailDomain }}{% if Empty %}{% endif %}", "[203.0.113.5]"},
		{"path", "{{.Custom.Slug}}", "{{ Custom.Slug }}", "bob"},
		{"text is escaped", "<p>{{.Custom.Name}}</p>", "<p>{{ Custom.Name }}</p>", "<p>Bob &lt;b&gt;</p>"},
		{"if", "{{if .RegistrationOpen}}yes{{else}}no{{end}}", "{% if RegistrationOpen %}yes{% else %}no{% endif %}", "yes"},
		{"if not", "{{if not .RegistrationOpen}}yes{{else}}no{{end}}", "{% if not RegistrationOpen %}yes{% else %}no{% endif %}", "no"},
		{"if not, of what is empty", "{{if not .SSURL}}none{{end}}{{if not .Empty}}empty{{end}}", "{% if not SSURL %}none{% endif %}{% if not Empty %}empty{% endif %}", "empty"},
		{"equal", `{{if eq .Language "en"}}1{{else if eq .Language "fa"}}2{{else}}3{{end}}`, `{% if Language == "en" %}1{% elif Language == 'fa' %}2{% else %}3{% endif %}`, "2"},
		{"not equal", `{{if ne .Language "en"}}1{{end}}`, `{% if Language != "en" %}1{% endif %}`, "1"},
		{"and, or", `{{if and .RegistrationOpen (or .TurnEnabled (eq .Language "fa"))}}1{{end}}`, `{% if RegistrationOpen and (TurnEnabled or Language == "fa") %}1{% endif %}`, "1"},
		{"upper", "{{upper .Language}}{{.Language | upper}}", "{{ Language | upper }}{{ upper(Language) }}", "FAFA"},
		{"cleanDomain", "{{cleanDomain .MailDomain}}", "{{ MailDomain|clean_domain }}", "203.0.113.5"},
		{"formatBytes", "{{formatBytes .DefaultQuota}}", "{{ DefaultQuota|format_bytes }}", "1G"},
		{"names of the other dialect", "{{clean_domain .MailDomain}}{{.DefaultQuota | format_bytes}}", "{{ MailDomain|cleanDomain }}{{ DefaultQuota|formatBytes }}", "203.0.113.51G"},
		{"safeHTML", `{{safeHTML "<b>x</b>"}}`, `{{ "<b>x</b>"|safe_html }}`, "<b>x</b>"},
		{"safeURL", `<a href="{{safeURL .SSURL}}">`, `<a href="{{ SSURL|safe_url }}">`, `<a href="ss://YWVz@203.0.113.5:8388">`},
		{"a link that is one already", `<a href="{{.SSURL}}">`, `<a href="{{ SSURL }}">`, `<a href="ss://YWVz@203.0.113.5:8388">`},
		{"a link in one of two cases", `<a href='{{if .TurnEnabled}}x{{else}}{{.Custom.URL}}{{end}}'>`, `<a href='{% if TurnEnabled %}x{% else %}{{ Custom.URL }}{% endif %}'>`, `<a href='openpgp4fpr:ABCD#a=b'>`},
		{"a link in a link", `<img src="/qr?data={{.Custom.URL}}">`, `<img src="/qr?data={{ Custom.URL }}">`, `<img src="/qr?data=openpgp4fpr%3aABCD%23a%3db">`},
		{"a link of no scheme that is allowed", `<a href="{{.Bad}}">`, `<a href="{{ Bad }}">`, `<a href="#">`},
		{"a link of a scheme that runs", `<a href="{{safeURL "javascript:alert(1)"}}">`, `<a href="{{ "javascript:alert(1)"|safe_url }}">`, `<a href="#">`},
		{"a value in a script", `<script>var x = {{.Mark}};</script>`, `<script>var x = {{ Mark }};</script>{% if Empty %}{% endif %}`, `<script>var x = "\u003c/script\u003e\"'\u003cb\u003e";</script>`},
		{"a value in a quoted text of a script", `<script>var x = "{{.MailDomain}}";</script>`, `<script>var x = "{{ MailDomain }}";</script>`, `<script>var x = "[203.0.113.5]";</script>`},
		{"a switch in a script", `<script>var x = {{.RegistrationOpen}};</script>`, `<script>var x = {{ RegistrationOpen }};</script>`, `<script>var x =  true ;</script>`},
		{"blanks taken away", "a \n{{- .Language -}}\n b", "a \n{{- Language -}}\n b", "afab"},
		{"a part of a text", `{{slice .Custom.Name 0 1 | printf "%s" | upper}}`, `{{ Custom.Name[0:1] | upper }}`, "B"},
		{"a text in backticks", "<script>let a = `${u}@{{.MailDomain | cleanDomain}}`, b = \"{{.Empty}}\" || \"{{.Language}}\";</script>", "<script>let a = `${u}@{{ MailDomain | cleanDomain }}`, b = \"{{ Empty }}\" || \"{{ Language }}\";</script>",
			"<script>let a = `${u}@203.0.113.5`, b = \"\" || \"fa\";</script>"},
		{"a switch in words", `<script>let a = ("{{if .TurnEnabled}}true{{else}}false{{end}}" === "true");</script>`, `<script>let a = ("{% if TurnEnabled %}true{% else %}false{% endif %}" === "true");</script>`, `<script>let a = ("false" === "true");</script>`},
		{"a link in a handler", `<div onclick="copy('{{.SSURL}}')">{{.SSURL}}</div>`, `<div onclick="copy('{{ SSURL }}')">{{ SSURL }}</div>`, `<div onclick="copy('ss:\/\/YWVz@203.0.113.5:8388')">ss://YWVz@203.0.113.5:8388</div>`},
		{"an attribute in two cases", `<html lang="{{.Language}}" dir="{{if eq .Language "fa"}}rtl{{else}}ltr{{end}}">`, `<html lang="{{ Language }}" dir="{% if Language == "fa" %}rtl{% else %}ltr{% endif %}">`, `<html lang="fa" dir="rtl">`},
		{"a picture", `<img src="{{.Language | qr}}">`, `<img src="{{ Language|qr }}">`, `<img src="data:image/png;base64,fa">`},
		{"comments", "a{{/* .Nobody */}}b{{.Empty}}", "a{# Nobody #}b{{ Empty }}", "ab"},
		{"braces in words", `{{"{{"}} {{"}}"}}`, `{% raw %}{{ }}{% endraw %}`, "{{ }}"},
		{"persian", "سلام {{.Language}}\u200c…", "سلام {{ Language }}\u200c…", "سلام fa\u200c…"},
		{"a mark of the byte order", "\ufeffa{{.Language}}", "\ufeffa{{ Language }}", "afa"},
	} {
		for dialect, src := range map[string]string{"go": x.golang, "minijinja": x.jinja} {
			got, p, err := render(src)
			if err != nil || got != x.want {
				t.Errorf("%s, %s: %q gives %q, %v, want %q", x.name, dialect, src, got, err, x.want)
			} else if len(p.Unknown) > 0 {
				t.Errorf("%s, %s: %q: unknown %v", x.name, dialect, src, p.Unknown)
			}
		}
	}
}

func TestOnlyMinijinja(t *testing.T) {
	for src, want := range map[string]string{
		`{% if SSURL is defined %}1{% endif %}{% if Nobody is not defined %}2{% endif %}`: "12",
		`{{ "yes" if RegistrationOpen else "no" }}{{ Nobody | default("x") }}`:            "yesx",
		`{{ "a" ~ Language ~ 'b' }}`:                                                                "afab",
		"{{ Language\n| upper }}":                                                                   "FA",
		"{%- if RegistrationOpen -%} x {%- endif -%} y":                                             "xy",
		`{{ 'it\'s' }}{{ "a\"b" }}{{ "c\\d" }}`:                                                     `it&#39;sa&#34;bc\d`,
		"{{ 3 }}{{ 1.5 }}{{ true }}{{ none }}":                                                      "31.5true",
		"{% raw %}{{ a {% {# {%- endraw -%}\n{{ Language }}}}":                                      "{{ a {% {# fa}}",
		"{% raw %}{% if x %}{{ y }}{# z #}{% endraw %}":                                             "{% if x %}{{ y }}{# z #}",
		"{%if RegistrationOpen%}1{%endif%}":                                                         "1",
		"{% if RegistrationOpen %}{{.Language}}{{end}}":                                             "fa", // both dialects in a page
		"{{if .RegistrationOpen}}{{ Language }}{% endif %}":                                         "fa",
		"{{ Language[1] }}{{ Language[:1] }}{{ Language[0:] }}{{ Language[5:9] }}{{ 'سلام'[1:2] }}": "affaل",
		"{{ DefaultQuota > 5 }}":                                                                    "true",
	} {
		if got, _, err := render(src); err != nil || got != want {
			t.Errorf("%q gives %q, %v, want %q", src, got, err, want)
		}
	}
}

// TestLiteralBracesSurvive is what broke sites on an upgrade (known-failures.md 74, #100).
func TestLiteralBracesSurvive(t *testing.T) {
	for _, src := range []string{
		"<style>@media print{#menu{display:none}}a{color:red}</style>{{.Language}}",
		"<style>@media print{#menu{display:none}}a[b='#}']{}</style>{% if Empty %}{% endif %}",
		"<script>var a={b:{c:1}};if(a){{a=2}}</script>{{.Language}}",
		"<script>var a={b:{c:1}};if(a){{a=2}}</script>{{ Language }}",
		"<script>f({{x:1,y:2}})</script>{{ Language }}",
		"<script>f(`${{a:1}.a}`)</script>{{.Language}}",
		"<script>var t = '{{ message }}'</script>{{.Language}}",
		"<SCRIPT type='x'>{{#each}}{{/each}}</SCRIPT>{{ Language }}",
		"<script>var a = {{\n</script>{{.Language}}",
		"<script>var a = {{\n</script>{{ Language }}",
		"<style>a{{% if RegistrationOpen %}color:red{% endif %}}</style>",
		"a { b {% c",
	} {
		got, _, err := render(src)
		want := strings.NewReplacer("{{.Language}}", "fa", "{{ Language }}", "fa", "{% if Empty %}{% endif %}", "", "{% if RegistrationOpen %}", "", "{% endif %}", "").Replace(src)
		if err != nil || got != want {
			t.Errorf("%q gives %q, %v, want %q", src, got, err, want)
		}
	}
}

func TestAPageWithoutTemplatesIsLeftAsItIs(t *testing.T) {
	for _, src := range []string{"", "<!-- a comment --><a href=x\"y>", "}} %} #} { {{", "<p>\r\n\t{x}</p>"} {
		got, p, err := render(src)
		if src == "}} %} #} { {{" {
			if err == nil {
				t.Errorf("%q: no error", src)
			}
			continue
		}
		if err != nil || got != src || p.Dynamic {
			t.Errorf("%q gives %q, %v", src, got, err)
		}
	}
}

func TestUnknownVariablesAreEmptyAndTold(t *testing.T) {
	for src, want := range map[string][]Place{
		"a\n{{.Nobody}}b":                                              {{2, "Nobody"}},
		"a\n\n{{ Nobody }}b{{ Nobody }}":                               {{3, "Nobody"}},
		"{{.Custom.Age}}":                                              {{1, "Custom.Age"}},
		"{% if X.Y.Z %}c{% endif %}":                                   {{1, "X.Y.Z"}},
		"{{with .Custom}}{{.Age}}{{end}}":                              {{1, "Custom.Age"}},
		"{{if eq .Nobody 5}}x{{end}}":                                  {{1, "Nobody"}},
		"{{range .Nobody}}x{{end}}":                                    {{1, "Nobody"}},
		"{{range .List}}{{$.Nobody}}{{end}}\n{{(index .List 0).Deep}}": {{1, "Nobody"}},
		"{# a\n\n #}{{ Nobody }}":                                      {{3, "Nobody"}},
		"{%- if Empty -%}\n\n{%- endif %}{{ Nobody }}":                 {{3, "Nobody"}},
	} {
		got, p, err := render(src)
		if err != nil {
			t.Errorf("%q: %v", src, err)
			continue
		}
		if strings.ContainsAny(got, "<x") || strings.Contains(got, "no value") {
			t.Errorf("%q gives %q", src, got)
		}
		if len(p.Unknown) != len(want) || p.Unknown[0] != want[0] {
			t.Errorf("%q: unknown %v, want %v", src, p.Unknown, want)
		}
	}
}

func TestMistakesHaveALine(t *testing.T) {
	for src, want := range map[string]string{
		"a\n{{if .Language}}":                                     "line 2: ",
		"a\n\n{{.Language":                                        `line 3: "{{" has no end`,
		"{{.Language}}\n{{nofunction .X}}":                        `line 2: `,
		"\n{% for x in y %}{% endfor %}":                          `line 2: the tag "for" is not known`,
		"\n{% if %}{% endif %}":                                   "line 2: a value is missing",
		"\n{% if X %}":                                            "line 2: a block that begins here has no end",
		"{% if X %}\n{% endfor %}":                                `line 2: the tag "endfor"`,
		"{% if X %}{% else %}\n{% else %}{% endif %}":             "line 2: ",
		"{% raw %}":                                               "{% raw %} has no {% endraw %}",
		"{% if X | nofilter %}{% endif %}":                        `line 1: the filter "nofilter" is not known`,
		"{% if X %}{% endif %}{% if X\n":                          `line 1: "{%" has no end`,
		"{% if X == %}{% endif %}":                                "line 1: a value is missing",
		"{% if step() %}{% endif %}":                              "line 1: ",
		"{% endif %}":                                             "line 1: unexpected {{end}}",
		"a\n\xff":                                                 "line 2: is not UTF-8",
		"a\n\x00":                                                 "line 2: has a NUL",
		"\n\n<a href=\"{{if .Language}}x{{else}}\">{{end}}":       "line 3: ",
		"\n{{index .List 7}}":                                     "line 2: ",
		"{% if " + strings.Repeat("(", 200) + " %}{% endif %}":    "line 1: an expression that is nested too deep",
		"{% if " + strings.Repeat("not ", 200) + " %}{% endif %}": "line 1: an expression that is nested too deep",
		strings.Repeat("x", MaxSource+1):                          "is larger than",
	} {
		_, _, err := render(src)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", src, err, want)
		}
	}
}

// TestARenderingIsBounded is about work, not about time.
func TestARenderingIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, src := range []string{
		`{{define "a"}}{{template "a" .}}{{end}}{{template "a" .}}`,
		`{{define "a"}}{{template "a" .}}{{template "a" .}}{{end}}{{template "a" .}}`,
		"{{range 1000000000}}" + long + "{{end}}{{range .Big}}{{range $.Big}}" + long + "{{end}}{{end}}",
		"{{range .Big}}{{range $.Big}}{{range $.Big}}{{$x := 1}}{{end}}{{end}}{{end}}",
		"{{$x := .Long}}{{range .Big}}{{$x = print $x $x}}{{end}}",
		`{{printf "%1000000d" 1}}`, `{{printf "%*d" 1000000 1}}`,
		"{{$x := .Long}}{{range .Big}}{{$x = js (html $x)}}{{$x = urlquery $x}}{{end}}",
	} {
		p, err := Reader{Known: func(string) bool { return true }}.Parse([]byte(src))
		if err != nil {
			t.Fatalf("%q: %v", src, err)
		}
		var big []any
		for range 1000 {
			big = append(big, "<")
		}
		out, err := p.Render(map[string]any{"Big": big, "Long": strings.Repeat("<", 1000)})
		if err == nil {
			t.Errorf("%q makes %d octets", src, len(out))
		}
		// The next one has all its room.
		if _, err := p.Render(map[string]any{}); err != nil && !strings.Contains(src, "define") && !strings.Contains(src, "printf") {
			t.Errorf("%q, without a list: %v", src, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"{{.A}}", "{{ A }}", "{% if A == 'b' %}c{% elif not D %}{% else %}{% endif %}", "{% raw %}{{ x }}{% endraw %}", "{# c #}", "<style>a{#b{c:d}}</style>{% if x %}{% endif %}",
		"<script>var a={{b:1}}</script>{{ c | upper | default('x') }}", "{{- a -}}", "{{/* c */}}", "{{range .L}}{{.}}{{end}}", "{{define \"a\"}}{{end}}", "{{`}}`}}", "{{ 'a' ~ b }}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := pages.Parse([]byte(s))
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.What == "" || e.Line < 0 || e.Line > 1+strings.Count(s, "\n") {
				t.Fatalf("%q: %#v", s, err)
			}
			return
		}
		out, err := p.Render(values())
		if err == nil && strings.Contains(string(out), hole) {
			t.Fatalf("%q gives %q", s, out)
		}
		if !p.Dynamic && string(out) != strings.TrimPrefix(s, "\ufeff") {
			t.Fatalf("%q has no templates and gives %q", s, out)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Line > 1+strings.Count(s, "\n")) {
			t.Fatalf("%q: %v", s, err)
		}
		n := 0
		for _, part := range scan(s, minijinja) {
			n += len(part.whole)
		}
		if n != len(s) {
			t.Fatalf("%q: parts of %d octets", s, n)
		}
	})
}
