package account

import (
	"slices"
	"unicode"
	"unicode/utf8"

	"madmail/internal/fault"
)

// Policy says what names and passwords new accounts may have, in characters.
// Zero fields get their defaults. Operators are not bound by it, and accounts
// that exist log in whatever it says.
type Policy struct {
	MinName        int // 8
	MaxName        int // 20
	MinPassword    int // 8
	NameLength     int // of generated names, 8; put between MinName and MaxName
	PasswordLength int // of generated passwords, 24; at least MinPassword
}

func (p Policy) complete() Policy {
	set := func(field *int, def int) {
		if *field <= 0 {
			*field = def
		}
	}
	set(&p.MinName, 8)
	set(&p.MaxName, 20)
	set(&p.MinPassword, 8)
	set(&p.NameLength, 8)
	set(&p.PasswordLength, 24)
	p.MaxName = max(p.MaxName, p.MinName)
	p.NameLength = min(max(p.NameLength, p.MinName), p.MaxName)
	p.PasswordLength = max(p.PasswordLength, p.MinPassword)
	return p
}

// maxNewPassword bounds the passwords of accounts made by a login, in bytes.
const maxNewPassword = 256

var reserved = []string{"abuse", "admin", "hostmaster", "mailer-daemon", "postmaster", "root", "webmaster"}

// Reserved reports whether a normalised local part belongs to the server.
func Reserved(local string) bool { return slices.Contains(reserved, local) }

// CheckName judges a normalised local part for a new account. Errors are
// fault.Refused with a text for the user.
func (p Policy) CheckName(local string) error {
	p = p.complete()
	switch n := utf8.RuneCountInString(local); {
	case n < p.MinName:
		return fault.Newf(fault.Refused, "The name is too short: at least %d characters", p.MinName)
	case n > p.MaxName:
		return fault.Newf(fault.Refused, "The name is too long: at most %d characters", p.MaxName)
	case Reserved(local):
		return fault.New(fault.Refused, "The name is reserved")
	}
	for i := 0; i < len(local); i++ {
		c := local[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fault.New(fault.Refused, "The name may have letters, digits, dots, hyphens and underscores, and begins with a letter or digit")
		}
	}
	return nil
}

// CheckPassword judges the password of a new account. Errors are
// fault.Refused with a text for the user.
func (p Policy) CheckPassword(password []byte) error {
	p = p.complete()
	if !utf8.Valid(password) || len(password) > maxNewPassword {
		return fault.New(fault.Refused, "The password is too long or not text")
	}
	if utf8.RuneCount(password) < p.MinPassword {
		return fault.Newf(fault.Refused, "The password is too short: at least %d characters", p.MinPassword)
	}
	for _, r := range string(password) {
		if !unicode.IsPrint(r) {
			return fault.New(fault.Refused, "The password has a control character")
		}
	}
	return nil
}
