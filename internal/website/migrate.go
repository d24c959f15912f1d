package website

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// backupSuffix ends the name of a page as it was before it was converted.
const backupSuffix = ".go-template.bak"

// Migration is what was found in a site, and what was done about it. Files are named
// below the directory.
type Migration struct {
	Scanned  int      `json:"scanned"`
	GoStyle  []string `json:"go_style_files"`  // pages in the dialect of the first version
	Migrated []string `json:"migrated"`        // those that were converted
	QR       []string `json:"qr_legacy_files"` // files that ask for /qr?data=
	QRDrawn  []string `json:"qr_migrated"`     // those of them whose pages draw it now
	// Nothing has to be copied or added: /qr is served, and pages can draw codes.
	QRScript bool     `json:"qrcode_js_copied"`
	QRHelper bool     `json:"main_js_qr_helper_added"`
	Literal  []string `json:"literal_brace_warnings"` // braces that are no templates, and are marked as such
	Backups  []string `json:"backups"`
	Errors   []string `json:"errors"` // pages that are left as they are, and why
	// Pending is how many files are to be changed, or were.
	Pending int `json:"-"`
}

// legacyQR is how a page asks for the picture of a value.
var legacyQR = regexp.MustCompile(`(["'])/qr\?data=\{\{-?\s*([^{}]+?)\s*-?\}\}(["'])`)

// NoMigration is one that found nothing.
func NoMigration() Migration {
	return Migration{GoStyle: []string{}, Migrated: []string{}, QR: []string{}, QRDrawn: []string{}, Literal: []string{}, Backups: []string{}, Errors: []string{}}
}

// Migrate converts the pages of the first version in a site to the dialect of the second
// one, and lets pages draw the QR codes that they asked /qr for. Without write it only
// tells what it would find. A page is converted only when it shows the same afterwards in
// all situations that it has to stand; what it was is kept beside it.
func Migrate(dir string, write bool) (m Migration, err error) {
	m = NoMigration()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return m, fault.Wrap(fault.Invalid, err, "www_dir")
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			m.Errors = append(m.Errors, name+": "+plainly(err))
			return nil
		case name != "." && !shownPath(name):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular() || !strings.HasSuffix(name, ".html") && !strings.HasSuffix(name, ".js"):
			return nil
		}
		if m.Scanned++; m.Scanned > maxFiles {
			return fault.Newf(fault.Invalid, "%s has more than %d pages", dir, maxFiles)
		}
		if err := m.file(root, dir, name, write); err != nil {
			m.Errors = append(m.Errors, name+": "+plainly(err))
		}
		return nil
	})
	return m, err
}

// file migrates one file.
func (m *Migration) file(root *os.Root, dir, name string, write bool) error {
	f, _, err := openFile(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	text, err := readAll(f)
	if err != nil {
		return err
	}
	asks := bytes.Contains(text, []byte("/qr?data="))
	if asks {
		m.QR = append(m.QR, name)
	}
	if !strings.HasSuffix(name, ".html") {
		return nil
	}
	now := text
	isGo := reader.IsGo(text)
	if isGo {
		m.GoStyle = append(m.GoStyle, name)
		if now, err = m.convert(name, text); err != nil {
			return err
		}
	}
	drawn := drawn(now)
	draws := !bytes.Equal(drawn, now)
	if draws && works(drawn) != nil {
		draws, drawn = false, now // /qr goes on to be served
	}
	if bytes.Equal(drawn, text) {
		return nil
	}
	if m.Pending++; !write {
		return nil
	}
	if err := m.keep(root, dir, name, text, info.Mode().Perm()); err != nil {
		return err
	}
	if err := safefile.Write(filepath.Join(dir, filepath.FromSlash(name)), drawn, info.Mode().Perm()); err != nil {
		return err
	}
	if isGo {
		m.Migrated = append(m.Migrated, name)
	}
	if draws {
		m.QRDrawn = append(m.QRDrawn, name)
	}
	return nil
}

// convert converts a page and compares what both forms show.
func (m *Migration) convert(name string, text []byte) ([]byte, error) {
	out, literal, err := reader.Convert(text)
	if err != nil {
		return nil, err
	}
	for _, l := range literal {
		m.Literal = append(m.Literal, fmt.Sprintf("%s:%d: %s", name, l.Line, l.What))
	}
	before, err := reader.Parse(text)
	if err != nil {
		return nil, err
	}
	after, err := reader.Parse(out)
	if err != nil {
		return nil, err
	}
	for _, s := range situations {
		a, err := before.Render(s)
		if err != nil {
			return nil, err
		}
		b, err := after.Render(s)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(a, b) {
			return nil, errors.New("would show something else in the other dialect, and works as it is")
		}
	}
	return out, nil
}

// drawn is a page of the second dialect whose pictures of values are drawn in it.
func drawn(text []byte) []byte {
	return legacyQR.ReplaceAllFunc(text, func(whole []byte) []byte {
		p := legacyQR.FindSubmatch(whole)
		value := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(p[2])), "|urlencode"))
		if !bytes.Equal(p[1], p[3]) || strings.ContainsAny(value, `"'`) {
			return whole
		}
		return fmt.Appendf(nil, "%s{{ %s|qr }}%s", p[1], value, p[3])
	})
}

// works tells why a page cannot be shown.
func works(text []byte) error {
	t, err := reader.Parse(text)
	if err != nil {
		return err
	}
	return trial(t)
}

// keep writes what a page was beside it, under a name that is free.
func (m *Migration) keep(root *os.Root, dir, name string, text []byte, mode fs.FileMode) error {
	backup := name + backupSuffix
	if old, err := root.ReadFile(backup); err == nil && !bytes.Equal(old, text) {
		return fmt.Errorf("%s is there already: move it away", backup)
	}
	if err := safefile.Write(filepath.Join(dir, filepath.FromSlash(backup)), text, mode); err != nil {
		return err
	}
	m.Backups = append(m.Backups, backup)
	return nil
}
