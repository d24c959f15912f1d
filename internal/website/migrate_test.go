package website

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSitesThatBrokeOnTheWay are shown as they were, before a migration and after it
// (known-failures.md 74; #94, #96, #100 and the change of encoding).
func TestSitesThatBrokeOnTheWay(t *testing.T) {
	files := map[string]string{
		"braces.html":   "<style>@media print{#a{b:c}}</style><script>var x={a:{b:1}};if(x){{x=2}}</script><p>{{.MailDomain}}</p>",
		"negation.html": "{{if not .SSURL}}none{{else}}<a href=\"{{.SSURL | safeURL}}\">proxy</a>{{end}}{{if not (eq .Language \"fa\")}}ltr{{end}}",
		"persian.html":  "<p dir=\"rtl\">سلام {{.MailDomain}}\u200c — «پیام»</p>",
		"qr.html":       "<img src=\"/qr?data={{.SSURL}}\"><img src='/qr?data={{.MailDomain | urlquery}}'>",
		"script.html":   "<script>draw(\"/qr?data=\" + encodeURIComponent(\"{{.MailDomain}}\"))</script>",
		"loop.html":     "{{range .Settings}}<p>{{.Name}}</p>{{end}}",
		"v2.html":       "{% if not RegistrationOpen %}closed{% endif %}<img src=\"/qr?data={{ SSURL }}\">{{ MailDomain|upper }}",
		"plain.html":    "<p>/qr?data=x {a}</p>",
		"broken.html":   "{{if .X}}",
		"sub/deep.html": "{{.Version}}",
	}
	s, dir, _ := own(t, files, nil)
	show := func() map[string]string {
		m := make(map[string]string)
		for name := range files {
			w := ask(s, "GET", "/"+name, "")
			if (w.Code != 200) != (name == "broken.html") {
				t.Errorf("%s: %d %q", name, w.Code, w.Body)
			}
			m[name] = w.Body.String()
		}
		return m
	}
	before := show()
	for name, want := range map[string]string{
		"braces.html": "<style>@media print{#a{b:c}}</style><script>var x={a:{b:1}};if(x){{x=2}}</script><p>[192.0.2.1]</p>", "negation.html": `<a href="ss://YTpi@192.0.2.1:8388">proxy</a>ltr`,
		"persian.html": "<p dir=\"rtl\">سلام [192.0.2.1]\u200c — «پیام»</p>", "qr.html": `<img src="/qr?data=ss%3a%2f%2fYTpi%40192.0.2.1%3a8388"><img src='/qr?data=%5B192.0.2.1%5D'>`,
	} {
		if before[name] != want {
			t.Errorf("%s: %q, want %q", name, before[name], want)
		}
	}
	dry, err := Migrate(dir, false)
	if err != nil || len(dry.Migrated) > 0 || len(dry.Backups) > 0 || dry.Pending != 7 {
		t.Fatalf("%v %+v", err, dry)
	}
	for name, text := range files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
			t.Errorf("%s was changed by looking: %v %q", name, err, got)
		}
	}
	m, err := Migrate(dir, true)
	if err != nil || m.Scanned != len(files) {
		t.Fatalf("%v %+v", err, m)
	}
	if want := []string{"braces.html", "negation.html", "persian.html", "qr.html", "script.html", "sub/deep.html"}; !slices.Equal(m.Migrated, want) {
		t.Errorf("migrated %q, want %q", m.Migrated, want)
	}
	if want := []string{"plain.html", "qr.html", "script.html", "v2.html"}; !slices.Equal(m.QR, want) {
		t.Errorf("ask for codes: %q, want %q", m.QR, want)
	}
	if want := []string{"qr.html", "v2.html"}; !slices.Equal(m.QRDrawn, want) {
		t.Errorf("draw codes: %q, want %q", m.QRDrawn, want)
	}
	if len(m.Literal) != 1 || !strings.HasPrefix(m.Literal[0], "braces.html:1: {#a") || len(m.Errors) != 2 || len(m.Backups) != 7 {
		t.Errorf("%+v", m)
	}
	after := show()
	for name := range files {
		switch name {
		case "qr.html", "v2.html":
			if !strings.Contains(after[name], `"data:image/png;base64,`) || strings.Contains(after[name], "/qr?") {
				t.Errorf("%s: %.200q", name, after[name])
			}
		default:
			if after[name] != before[name] {
				t.Errorf("%s shows %q, and showed %q", name, after[name], before[name])
			}
		}
	}
	for _, b := range m.Backups {
		name := strings.TrimSuffix(b, backupSuffix)
		if got, err := os.ReadFile(filepath.Join(dir, b)); err != nil || string(got) != files[name] {
			t.Errorf("%s: %v %q", b, err, got)
		}
	}
	if again, err := Migrate(dir, true); err != nil || again.Pending != 0 || len(again.Backups) > 0 {
		t.Errorf("again: %v %+v", err, again)
	}
}

// TestSitesInTheField is acceptance check 12 of the HTTP specification: each page is shown
// in all languages, before a migration and after it, and says the same.
func TestSitesInTheField(t *testing.T) {
	for _, site := range []string{"first", "second", "both"} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "sites", site))); err != nil {
			t.Fatal(err)
		}
		s, _, log := own(t, nil, func(o *Options) { o.Own = func() Own { return Own{Dir: dir} } })
		show := func() (pages []string) {
			if list, err := Check(Own{Dir: dir, Strict: true}); err != nil || len(list) > 0 {
				t.Errorf("%s: %v %v", site, err, list)
			}
			for lang := range words {
				for _, name := range []string{"/", "/contact_view"} {
					w := ask(s, "GET", name+"?lang="+lang, "")
					if body := w.Body.String(); w.Code != 200 && (site != "both" || name == "/") || strings.Contains(body, "ZgotmplZ") || strings.Contains(body, "{{.") || strings.Contains(body, "{% if") {
						t.Errorf("%s%s in %s: %d %q", site, name, lang, w.Code, body)
					}
				}
			}
			for _, name := range []string{"/", "/contact_view"} {
				pages = append(pages, ask(s, "GET", name+"?lang=fa", "").Body.String())
			}
			return pages
		}
		before := show()
		if site != "both" && (!strings.Contains(before[0], "#menu{display:none}") || !strings.Contains(before[0], `href="ss://YTpi@192.0.2.1:8388"`)) {
			t.Errorf("%s: %s", site, before[0])
		}
		m, err := Migrate(dir, true)
		if err != nil || len(m.Errors) > 0 || (len(m.Migrated) > 0) != (site == "first") {
			t.Errorf("%s: %v %+v", site, err, m)
		}
		after := show()
		for i := range before {
			was, _, _ := strings.Cut(before[i], "<img src=\"/qr")
			is, _, _ := strings.Cut(after[i], "<img src=\"data:")
			if was != is || is == "" {
				t.Errorf("%s, page %d: %q, and was %q", site, i, is, was)
			}
		}
		if log.Len() > 0 {
			t.Errorf("%s: %s", site, log)
		}
	}
}

// TestABackupIsNotOverwritten: the first one is what the operator wrote.
func TestABackupIsNotOverwritten(t *testing.T) {
	_, dir, _ := own(t, map[string]string{"index.html": "{{.MailDomain}} new", "index.html" + backupSuffix: "the old one"}, nil)
	m, err := Migrate(dir, true)
	if err != nil || len(m.Errors) != 1 || len(m.Migrated) > 0 {
		t.Errorf("%v %+v", err, m)
	}
	for name, want := range map[string]string{"index.html": "{{.MailDomain}} new", "index.html" + backupSuffix: "the old one"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %v %q", name, err, got)
		}
	}
}
