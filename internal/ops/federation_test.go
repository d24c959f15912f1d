package ops

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/peers"
	"madmail/internal/queue"
)

func TestRulesFollowThePolicy(t *testing.T) {
	h := newHouse(t)
	if got := h.must("federation", ""); got["policy"] != "ACCEPT" || got["enabled"] != true || !reflect.DeepEqual(got["rules"], []any{}) {
		t.Errorf("%v", got)
	}
	if got := h.must("federation.add", `{"domain":" Evil.Example. ","action":"block"}`); got["domain"] != "evil.example" || got["total"] != 1.0 || got["action"] != "block" {
		t.Errorf("%v", got)
	}
	h.must("federation.add", `{"domain":"[192.0.2.7]"}`)
	if _, err := h.run("federation.add", `{"domain":"friend.example","action":"allow"}`); !fault.Is(err, fault.Refused) || fault.HintOf(err) == "" {
		t.Errorf("allowing where all are allowed: %v", err)
	}
	if got := h.must("federation", `{"policy":"reject","enabled":false}`); got["policy"] != "REJECT" || got["enabled"] != false || len(got["rules"].([]any)) != 2 {
		t.Errorf("%v", got)
	}
	for _, r := range h.must("federation", "")["rules"].([]any) {
		if r := r.(map[string]any); r["action"] != "allow" || r["created_at"] == 0.0 || r["added"] == "" {
			t.Errorf("%v", r)
		}
	}
	if got := h.must("federation.remove", `{"domain":"192.0.2.7"}`); got["remaining"] != 1.0 {
		t.Errorf("%v", got)
	}
	if got := h.must("federation.flush", ""); got["flushed"] != 1.0 {
		t.Errorf("%v", got)
	}
	for op, params := range map[string]string{
		"federation": `{"policy":"maybe"}`, "federation.add": `{"domain":"a b"}`, "federation.dismiss": `{"domain":""}`, "federation.transports-set": `{"domain":"a.example","smtp":"never"}`,
		"endpoints.set": `{"lookup_key":"a.example","target_host":"a b"}`, "queue.show": `{"id":"1"}`, "queue.list": `{"domain":"a b"}`, "queue.purge": `{"sender":"@"}`,
	} {
		if _, err := h.run(op, params); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s %s: %v", op, params, err)
		}
	}
	for op, params := range map[string]string{
		"federation.remove": `{"domain":"none.example"}`, "federation.undismiss": `{"domain":"none.example"}`, "endpoints.remove": `{"lookup_key":"none.example"}`,
		"endpoints.get": `{"lookup_key":"none.example"}`, "queue.show": `{"id":"00000000-0000-0000-0000-000000000000"}`, "queue.retry": `{"id":"00000000-0000-0000-0000-000000000000"}`,
	} {
		if _, err := h.run(op, params); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s %s: %v", op, params, err)
		}
	}
}

func TestDismissalsTransportsAndEndpoints(t *testing.T) {
	h := newHouse(t)
	h.must("federation.dismiss", `{"domain":"gone.example"}`)
	if got := h.must("federation.dismissals", "")["domains"].([]any); len(got) != 1 || got[0].(map[string]any)["domain"] != "gone.example" {
		t.Errorf("%v", got)
	}
	h.must("federation.undismiss", `{"domain":"GONE.example"}`)
	h.must("federation.dismiss", `{"domain":"gone.example"}`)
	if got := h.must("federation.dismiss-flush", ""); got["flushed"] != 1.0 {
		t.Errorf("%v", got)
	}
	h.must("federation.transports-set", `{"domain":"a.example","http":"allow","smtp":"block","relaxed_tls":true}`)
	want := []any{map[string]any{"domain": "a.example", "https": "", "http": "allow", "smtp": "block", "relaxed_tls": true}}
	if got := h.must("federation.transports", "")["transports"]; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	// Known failure 43: keys in capitals match, and a change is dated.
	first := h.must("endpoints.set", `{"lookup_key":"Peer.Example","target_host":"192.0.2.9","comment":"moved"}`)
	if first["lookup_key"] != "peer.example" || first["target_host"] != "192.0.2.9" || first["updated_at"] == nil {
		t.Errorf("%v", first)
	}
	h.must("endpoints.set", `{"lookup_key":"PEER.example","target_host":"192.0.2.10"}`)
	if got := h.must("endpoints.list", "")["entries"].([]any); len(got) != 1 || got[0].(map[string]any)["target_host"] != "192.0.2.10" {
		t.Errorf("%v", got)
	}
	h.must("endpoints.remove", `{"lookup_key":"peer.example"}`)
	if got := h.must("openrelay", `{"Allow":true}`); got["allowed"] != true || got["file_default"] != false || got["db_override"] != true || got["reload_required"] != false {
		t.Errorf("%v", got)
	}
}

func TestTheQueueIsShownAndEmptied(t *testing.T) {
	h := newHouse(t)
	put := func(from string, to ...string) string {
		e := queue.Envelope{}
		if from != "" {
			e.From = addr(t, from)
		}
		for _, r := range to {
			e.To = append(e.To, addr(t, r))
		}
		ids, err := h.queue.Put(t.Context(), bytes.NewReader([]byte("x\r\n")), 3, e)
		if err != nil {
			t.Fatal(err)
		}
		return ids[0].String()
	}
	id := put("alice@example.org", "bob@peer.example", "carol@peer.example")
	put("", "dave@other.example")
	if got := h.must("queue.status", ""); got["count"] != 2.0 || got["destinations"] != 2.0 || got["oldest_expires"] == nil {
		t.Errorf("%v", got)
	}
	if got := h.must("queue.list", `{"domain":"peer.example"}`); got["count"] != 1.0 || got["entries"].([]any)[0].(map[string]any)["id"] != id {
		t.Errorf("%v", got)
	}
	e := h.must("queue.show", `{"id":"`+id+`"}`)
	if e["mail_from"] != "alice@example.org" || e["rcpt_to"] != "bob@peer.example" || len(e["recipients"].([]any)) != 2 || e["body_bytes"] != 3.0 || e["last_error"] != nil {
		t.Errorf("%v", e)
	}
	if got := h.must("queue.retry", ""); got["retried"] != 2.0 {
		t.Errorf("%v", got)
	}
	if got := h.must("queue.remove", `{"id":"`+id+`"}`); got["deleted"] != true {
		t.Errorf("%v", got)
	}
	put("alice@example.org", "bob@peer.example")
	if got := h.must("queue.purge", `{"sender":"alice"}`); got["deleted"] != 1.0 {
		t.Errorf("%v", got)
	}
	if got := h.must("queue.purge", ""); got["deleted"] != 1.0 {
		t.Errorf("%v", got)
	}
	if got := h.must("queue.list", ""); got["count"] != 0.0 || !reflect.DeepEqual(got["entries"], []any{}) {
		t.Errorf("%v", got)
	}
}

// TestPeersAreCountedNow: known failure 38, the numbers are not those of half a
// minute ago.
func TestPeersAreCountedNow(t *testing.T) {
	h := newHouse(t)
	d, err := address.ParseDomain("peer.example")
	if err != nil {
		t.Fatal(err)
	}
	h.peers.Tried(d, peers.HTTPS, false)
	h.peers.Tried(d, peers.SMTP, true)
	h.peers.Sent(d, 300*time.Millisecond)
	h.peers.Sent(d, 100*time.Millisecond)
	h.peers.Received(d)
	got := h.must("federation.peers", "")["traffic"].([]any)[0].(map[string]any)
	for key, want := range map[string]any{"domain": "peer.example", "failed_https": 1.0, "success_smtp": 1.0, "successful_deliveries": 2.0, "mean_latency_ms": 200.0,
		"inbound_deliveries": 1.0, "failed": 1.0, "sent": 2.0} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if got["last_active"] == 0.0 {
		t.Error("nothing is dated")
	}
}
