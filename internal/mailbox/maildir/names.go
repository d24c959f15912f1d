package maildir

import (
	"path/filepath"
	"strings"
	"unicode/utf8"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// Limits of mailbox names.
const (
	maxNameBytes = 255
	maxLevels    = 16
)

// cleanName checks a mailbox name and gives INBOX its one spelling.
func cleanName(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fault.New(fault.Invalid, "Mailbox name "+why)
	}
	if strings.EqualFold(name, mailbox.Inbox) {
		return mailbox.Inbox, nil
	}
	switch {
	case name == "":
		return bad("is empty")
	case !utf8.ValidString(name):
		return bad("is not valid UTF-8")
	case len(encodeName(name)) > maxNameBytes:
		return bad("is too long")
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f {
			return bad("has a control character")
		}
	}
	levels := strings.Split(name, string(mailbox.Delimiter))
	if len(levels) > maxLevels {
		return bad("has too many levels")
	}
	for _, l := range levels {
		if l == "" || l == "." || l == ".." {
			return bad("has an empty or relative level")
		}
	}
	if len(levels) > 1 && strings.EqualFold(levels[0], mailbox.Inbox) {
		levels[0] = mailbox.Inbox
		return strings.Join(levels, string(mailbox.Delimiter)), nil
	}
	return name, nil
}

// encodeName makes one directory name of a mailbox name, reversibly: what has
// a meaning to file systems is written in percent form.
func encodeName(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '/' || c == '\\' || c == '%' || c == ':' || c < ' ' || c == 0x7f || c == '.' && i == 0 {
			b.WriteByte('%')
			b.WriteByte("0123456789ABCDEF"[c>>4])
			b.WriteByte("0123456789ABCDEF"[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// decodeName reverses encodeName. Names that earlier servers wrote without
// percent forms come back as they are.
func decodeName(dir string) string {
	if !strings.Contains(dir, "%") {
		return dir
	}
	var b strings.Builder
	for i := 0; i < len(dir); i++ {
		if dir[i] == '%' && i+2 < len(dir) {
			hi, lo := unhex(dir[i+1]), unhex(dir[i+2])
			if hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 2
				continue
			}
		}
		b.WriteByte(dir[i])
	}
	return b.String()
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// Directories. An address is safe as a file name: its normal form has neither
// slashes nor a leading dot.

func (s *Store) accountDir(a address.Addr) string {
	return filepath.Join(s.mail, a.Wire())
}

// AccountDir returns the directory of a's mail, for operators to look at. It
// may not exist.
func (s *Store) AccountDir(a address.Addr) string { return s.accountDir(a) }

func (s *Store) boxDir(b mailbox.Box) string {
	if b.Name == mailbox.Inbox {
		return filepath.Join(s.accountDir(b.Account), "Maildir")
	}
	return filepath.Join(s.accountDir(b.Account), "folders", encodeName(b.Name), "Maildir")
}
