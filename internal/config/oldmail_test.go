package config

import (
	"os"
	"path/filepath"
	"testing"

	"madmail/internal/fault"
)

func TestWhereTheFirstVersionKeptItsMail(t *testing.T) {
	for _, x := range []struct {
		old             OldMail
		index, messages string
	}{
		{OldMail{}, "/state/imapsql.db", "/state/messages"},
		{OldMail{Driver: "sqlite3", DSN: "mail.db", Messages: "bodies"}, "/state/mail.db", "/state/bodies"},
		{OldMail{DSN: "file:/srv/index.db?mode=rw", Messages: "/srv/bodies"}, "/srv/index.db", "/srv/bodies"},
	} {
		index, messages, err := x.old.Paths("/state")
		if err != nil || index != x.index || messages != x.messages {
			t.Errorf("%+v: %s, %s, %v", x.old, index, messages, err)
		}
	}
	if _, _, err := (OldMail{Driver: "postgres", DSN: "host=db"}).Paths("/state"); !fault.Is(err, fault.Invalid) {
		t.Errorf("PostgreSQL: %v", err)
	}
	file := filepath.Join(t.TempDir(), "madmail.conf")
	if err := os.WriteFile(file, []byte("storage.imapsql m {\n\tdsn other.db\n\tmsg_store fs /srv/bodies\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil || c.OldMail != (OldMail{DSN: "other.db", Messages: "/srv/bodies"}) {
		t.Errorf("read %+v, %v", c, err)
	}
}
