package config

import (
	"path/filepath"
	"strings"

	"madmail/internal/fault"
)

// OldMail is where the first version kept its mail.
type OldMail struct {
	Driver   string // of its index; "" is SQLite
	DSN      string
	Messages string
}

// Paths returns the index and the directory of the bodies as absolute paths.
//
// Errors: fault.Invalid for an index that is not a file.
func (o OldMail) Paths(stateDir string) (index, messages string, err error) {
	switch o.Driver {
	case "", "sqlite3", "sqlite":
	default:
		return "", "", fault.WithHint(fault.Newf(fault.Invalid, "the mail index of the first version is kept by %s", o.Driver), "only imapsql.db, a file of SQLite, can be imported; madmail import-v1 --from-dump makes it from a dump of PostgreSQL")
	}
	index = strings.TrimPrefix(o.DSN, "file:")
	index, _, _ = strings.Cut(index, "?")
	if index == "" {
		index = "imapsql.db"
	}
	if messages = o.Messages; messages == "" {
		messages = "messages"
	}
	for _, p := range []*string{&index, &messages} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(stateDir, *p)
		}
	}
	return index, messages, nil
}
