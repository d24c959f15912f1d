package website

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/page"
	"madmail/internal/safefile"
	"madmail/internal/share"
)

// Export writes the built-in tree to a directory, which is made. A file that is there
// and says something else is kept, and an error, unless force is set; nothing is written
// then. It returns the files.
func Export(dest string, force bool) (files []string, err error) {
	type file struct {
		name string
		data []byte
	}
	var list []file
	err = fs.WalkDir(builtin, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(builtin, name)
		list = append(list, file{name, data})
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		there, err := os.ReadFile(filepath.Join(dest, filepath.FromSlash(f.name)))
		if err == nil && !bytes.Equal(there, f.data) && !force {
			return nil, fault.WithHint(fault.Newf(fault.Refused, "%s is there and says something else", filepath.Join(dest, f.name)), "name another directory, or overwrite it with --force")
		}
	}
	for _, f := range list {
		path := filepath.Join(dest, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "make the directory")
		}
		if err := safefile.Write(path, f.data, 0o644); err != nil {
			return nil, err
		}
		files = append(files, f.name)
	}
	return files, nil
}

// Trouble is something about a file of a site.
type Trouble struct {
	File string // below the directory
	Line int    // 0 where there is none
	What string
	// Broken says that the file cannot be shown; else it is worth knowing.
	Broken bool
}

func (t Trouble) String() string {
	if t.Line == 0 {
		return t.File + ": " + t.What
	}
	return fmt.Sprintf("%s:%d: %s", t.File, t.Line, t.What)
}

// maxFiles is how many files of a site are looked at.
const maxFiles = 10_000

// Check reads all files of a site as a visitor would, each page in several situations.
func Check(own Own) (list []Trouble, err error) {
	if own.Refused != "" {
		return nil, errors.New(own.Refused)
	}
	root, err := os.OpenRoot(own.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	n := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if n++; n > maxFiles {
			return fs.SkipAll
		}
		bad := func(err error) error {
			t := Trouble{File: name, What: plainly(err), Broken: true}
			if e := (*page.Error)(nil); errors.As(err, &e) {
				t.Line, t.What = e.Line, e.What
			}
			list = append(list, t)
			return nil
		}
		switch {
		case !shownPath(name) && d != nil && d.IsDir() && name != ".":
			return fs.SkipDir
		case !shownPath(name) || name == ".":
			return err
		case err != nil:
			return bad(err)
		case d.IsDir():
			return nil
		}
		f, dir, err := openFile(root, name)
		if dir {
			return nil
		}
		if err != nil {
			return bad(err)
		}
		defer f.Close()
		if !strings.HasSuffix(name, ".html") {
			return nil
		}
		t, err := readPage(f)
		if err == nil {
			err = trial(t)
		}
		if err != nil {
			return bad(err)
		}
		for _, u := range t.Unknown {
			list = append(list, Trouble{File: name, Line: u.Line, What: "the variable " + u.What + " is not known; it is empty"})
		}
		return nil
	})
	if _, e := root.Stat("index.html"); err == nil && own.Strict && errors.Is(e, fs.ErrNotExist) {
		list = append(list, Trouble{File: "index.html", What: "is missing, and nothing takes its place", Broken: true})
	}
	return list, err
}

// readPage parses a page.
func readPage(f fs.File) (*page.Template, error) {
	text, err := readAll(f)
	if err != nil {
		return nil, err
	}
	return reader.Parse(text)
}

// readAll reads as much of a page as one may have, and one octet more.
func readAll(f io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(f, page.MaxSource+1)) }

// situations are those that a page has to stand.
var situations = func() (list []map[string]any) {
	full := Facts{
		Domain: "example.org", Host: "mx.example.org", Open: true, Quota: 1 << 30, MaxMessage: 100 << 20, IMAPTLS: 993, IMAP: 143, SMTPTLS: 465, SMTP: 587,
		MailDomain: "example.org", MXDomain: "mx.example.org", WebDomain: "example.org", PublicIP: "192.0.2.1", Version: "1", JIT: true, TURN: true,
		IMAPSecurity: "ssl", SMTPSecurity: "starttls", SSURL: "ss://YTpi@192.0.2.1:8388", STUN: "192.0.2.1:3478", Retention: 30 * 24 * time.Hour,
	}
	for lang := range words {
		list = append(list, values(full, lang, view{}), values(Facts{SelfSigned: true}, lang, view{}))
	}
	a := values(full, "en", view{Account: &Account{Email: "a@example.org", Password: "p", Link: "dclogin:a@example.org?p=p&v=1"}, Problem: "x"})
	a["Custom"] = contact(share.Link{Slug: "bob", URL: "openpgp4fpr:ABCD#a=b", Name: "Bob"}, "")
	return append(list, a)
}()

// trial renders a page in each situation.
func trial(t *page.Template) error {
	for _, m := range situations {
		if _, err := t.Render(m); err != nil {
			return err
		}
	}
	return nil
}
