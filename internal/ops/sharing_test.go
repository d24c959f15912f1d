package ops

import (
	"strings"
	"testing"

	"madmail/internal/fault"
)

func TestContactLinks(t *testing.T) {
	h := newHouse(t)
	for _, key := range []string{"entries", "links"} {
		if l, ok := h.must("sharing.list", `{}`)[key].([]any); !ok || len(l) != 0 {
			t.Errorf("%s of an empty list: %v", key, l)
		}
	}
	h.must("sharing.create", `{"slug":"alice","url":"openpgp4fpr:AAAA","name":"Alice"}`)
	for _, op := range []string{"sharing.reserve", "sharing.create"} { // the second as scripts of the first version do
		got := h.must(op, `{"slug":"`+strings.TrimPrefix(op, "sharing.")+`","url":"reserved"}`)
		if got["reserved"] != true || got["url"] != "reserved" || got["name"] != "Reserved" || got["created_at"] == "" {
			t.Errorf("%s: %v", op, got)
		}
	}
	if got := h.must("sharing.edit", `{"slug":"alice","url":"openpgp4fpr:BBBB"}`); got["name"] != "Alice" || got["url"] != "openpgp4fpr:BBBB" || got["reserved"] != nil {
		t.Errorf("%v", got)
	}
	if l := h.must("sharing.list", `{}`)["entries"].([]any); len(l) != 3 {
		t.Errorf("%v", l)
	}
	for _, x := range []struct {
		op, params string
		kind       fault.Kind
		text       string
	}{
		{"sharing.create", `{"slug":"Alice","url":"openpgp4fpr:AAAA"}`, fault.Exists, "the slug is taken"},
		{"sharing.create", `{"slug":"ab","url":"openpgp4fpr:AAAA"}`, fault.Invalid, "3 to 64 letters or digits"},
		{"sharing.create", `{"slug":"bob"}`, fault.Invalid, "must be a Delta Chat invite link"},
		{"sharing.create", `{"url":"openpgp4fpr:AAAA"}`, fault.Invalid, "3 to 64 letters or digits"},
		{"sharing.create", `{"slug":"bob","url":"openpgp4fpr:AAAA","name":"` + strings.Repeat("x", 65) + `"}`, fault.Invalid, "at most 64 characters"},
		{"sharing.reserve", `{}`, fault.Invalid, "3 to 64 letters or digits"},
		{"sharing.edit", `{"slug":"bob","url":"openpgp4fpr:AAAA"}`, fault.NotFound, "slug bob not found"},
		{"sharing.edit", `{"slug":"alice","url":"mailto:alice@example.org"}`, fault.Invalid, "must be a Delta Chat invite link"},
		{"sharing.remove", `{"slug":"bob"}`, fault.NotFound, "slug bob not found"},
	} {
		if _, err := h.run(x.op, x.params); !fault.Is(err, x.kind) || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s %s: %v", x.op, x.params, err)
		}
	}
	if got := h.must("sharing.remove", `{"slug":"alice"}`); got["slug"] != "alice" {
		t.Errorf("%v", got)
	}
}
