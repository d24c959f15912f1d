package page

import (
	"errors"
	"strings"
	"testing"
)

func TestAConvertedPageShowsTheSame(t *testing.T) {
	for src, want := range map[string]string{
		"a {{.MailDomain}} {{ $.Language }} {{.Custom.Slug}}":                                               "a {{ MailDomain }} {{ Language }} {{ Custom.Slug }}",
		"{{if .RegistrationOpen}}1{{else if eq .Language \"fa\"}}2{{else}}3{{end}}":                         `{% if RegistrationOpen %}1{% elif Language == "fa" %}2{% else %}3{% endif %}`,
		"{{if not .RegistrationOpen}}1{{end}}{{if not (eq .Language \"en\")}}2{{end}}":                      `{% if not RegistrationOpen %}1{% endif %}{% if not (Language == "en") %}2{% endif %}`,
		`{{if and .SSURL (or .TurnEnabled .RegistrationOpen)}}x{{end}}{{if eq .Language "a" "fa"}}y{{end}}`: `{% if SSURL and (TurnEnabled or RegistrationOpen) %}x{% endif %}{% if Language == "a" or Language == "fa" %}y{% endif %}`,
		"{{upper .Language}}{{.MailDomain | cleanDomain | upper}}{{formatBytes .DefaultQuota}}":             "{{ Language|upper }}{{ MailDomain|clean_domain|upper }}{{ DefaultQuota|format_bytes }}",
		`<a href="{{safeURL .SSURL}}">{{safeHTML "<b>"}}`:                                                   `<a href="{{ SSURL|safe_url }}">{{ "<b>"|safe_html }}`,
		`{{slice .Custom.Name 0 1 | printf "%s" | upper}}`:                                                  `{{ Custom.Name[0:1]|upper }}`,
		"<script>var m = `${u}@{{.MailDomain | cleanDomain}}`;</script>":                                    "<script>var m = `${u}@{{ MailDomain|clean_domain }}`;</script>",
		`<div onclick="copy('{{.SSURL}}')">{{.SSURL}}</div>`:                                                `<div onclick="copy('{{ SSURL }}')">{{ SSURL }}</div>`,
		"x {{- .Language -}} y":                           "x{{ Language }}y",
		"{{/* why */}}{{.Language}}":                      "{# why #}{{ Language }}",
		"<style>a{#b{}}</style>{{.Language}}":             "{% raw %}<style>a{#b{}}</style>{% endraw %}{{ Language }}",
		"<script>if(a){{b()}}</script>{{.Language}}":      "{% raw %}<script>if(a){{b()}}</script>{% endraw %}{{ Language }}",
		"<script>var a = {b: {{.DefaultQuota}}}</script>": "<script>var a = {b: {{ DefaultQuota }}}</script>",
		"سلام {{.Language}}\u200c":                        "سلام {{ Language }}\u200c",
		`{{"{{"}} {{.Language}}`:                          `{{ "{{" }} {{ Language }}`,
	} {
		out, _, err := pages.Convert([]byte(src))
		if err != nil || string(out) != want {
			t.Errorf("%q: %v, %q, want %q", src, err, out, want)
			continue
		}
		before, _, err1 := render(src)
		after, _, err2 := render(string(out))
		if err1 != nil || err2 != nil || before != after {
			t.Errorf("%q: %v %q, then %v %q", src, err1, before, err2, after)
		}
		if !pages.IsGo([]byte(src)) || pages.IsGo(out) {
			t.Errorf("%q: Go %v, then %v", src, pages.IsGo([]byte(src)), pages.IsGo(out))
		}
	}
	for src, line := range map[string]int{
		"a\n{{range .List}}{{.}}{{end}}": 2, "{{define \"a\"}}{{end}}{{template \"a\"}}": 0, "\n\n{{$x := 1}}": 3, "\n{{printf \"%d\" 1}}": 2, "{{if $x := .Language}}{{$x}}{{end}}": 1, "{{if .Language}}": 1,
	} {
		_, _, err := pages.Convert([]byte(src))
		var e *Error
		if !errors.As(err, &e) || e.Line != line {
			t.Errorf("%q: %v, want line %d", src, err, line)
		}
	}
	_, literal, err := pages.Convert([]byte("{{.Language}}\n<style>\n@media{#a{}}</style>"))
	if err != nil || len(literal) != 1 || literal[0].Line != 3 || !strings.HasPrefix(literal[0].What, "{#a") {
		t.Errorf("%v %v", err, literal)
	}
	for src, is := range map[string]bool{"": false, "<p>{a}": false, "{{ A }}": false, "{% if A %}{% endif %}": false, "{{.A}}": true, "<script>{{ message }}</script>": false} {
		if pages.IsGo([]byte(src)) != is {
			t.Errorf("%q: Go %v", src, !is)
		}
	}
}

func FuzzConvert(f *testing.F) {
	for _, s := range []string{"{{.A}}{#{{if not .B}}c{{else if eq .C \"d\" `e`}}{{end}}", "{{.A | upper | len}}{{/* # */}}", "<script>{{{{.A}}", "{{and .A (or .B 1.5) true}}", "{{- 1 -}} {{\"'\"}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !pages.IsGo([]byte(s)) {
			return
		}
		out, _, err := pages.Convert([]byte(s))
		var e *Error
		if err != nil {
			if !errors.As(err, &e) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		before, _, err := render(s)
		if err != nil {
			return
		}
		if after, _, err := render(string(out)); err != nil || after != before && !strings.Contains(s, "slice") {
			t.Fatalf("%q shows %q; %q shows %q, %v", s, before, out, after, err)
		}
	})
}
