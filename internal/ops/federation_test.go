package ops

import (
	"strings"
	"testing"

	"madmail/internal/address"
	"madmail/internal/queue"
)

// TestTheQueueCanBeSeenAndChanged lists, shows, retries and removes entries.
func TestTheQueueCanBeSeenAndChanged(t *testing.T) {
	h := newHouse(t)
	put := func(from, to string) string {
		t.Helper()
		ids, err := h.queue.Put(t.Context(), strings.NewReader("From: x\r\n\r\nx\r\n"), 14, queue.Envelope{From: parse(t, from), To: parseAll(t, to)})
		if err != nil {
			t.Fatal(err)
		}
		return ids[0].String()
	}
	a := put("alice@example.org", "x@one.example y@one.example")
	put("bob@example.org", "z@two.example")
	must := func(op, params string) map[string]any {
		t.Helper()
		m, err := h.run(op, params)
		if err != nil {
			t.Fatal(op, err)
		}
		return m
	}
	if m := must("queue.status", "{}"); m["count"] != 2.0 || m["destinations"] != 2.0 || m["max_tries"] != 3.0 {
		t.Error(m)
	}
	m := must("queue.list", `{"Domain":"one.example"}`)
	if list := m["entries"].([]any); m["count"] != 1.0 || len(list) != 1 || len(list[0].(map[string]any)["recipients"].([]any)) != 2 {
		t.Error(m)
	}
	if m := must("queue.show", `{"ID":"`+a+`"}`); m["mail_from"] != "alice@example.org" || m["body_bytes"] != 14.0 {
		t.Error(m)
	}
	if m := must("queue.why", `{"domain":"two.example"}`); m["waiting"] != 1.0 || m["policy"] != "send" {
		t.Error(m)
	}
	if m := must("queue.retry", "{}"); m["due"] != 2.0 {
		t.Error(m)
	}
	if m := must("queue.remove", `{"ID":"`+a+`"}`); m["deleted"] != true {
		t.Error(m)
	}
	if _, err := h.run("queue.show", `{"ID":"`+a+`"}`); err == nil {
		t.Error("a removed entry is shown")
	}
	if m := must("queue.purge", `{"Sender":"alice@example.org"}`); m["deleted"] != 0.0 {
		t.Error(m)
	}
	if m := must("queue.purge", `{"Recipient":"z@two.example"}`); m["deleted"] != 1.0 {
		t.Error(m)
	}
}

func parseAll(t *testing.T, list string) (all []address.Addr) {
	t.Helper()
	for _, s := range strings.Fields(list) {
		all = append(all, parse(t, s))
	}
	return all
}

func parse(t *testing.T, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
