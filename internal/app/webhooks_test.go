//go:build unix

package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"madmail/test/load"
)

// TestWebhooksTellOfAccounts: a real server tells a real service what happened, by every
// way that an account is made, and that one is full (thread #74).
func TestWebhooksTellOfAccounts(t *testing.T) {
	events := make(chan map[string]any, 16)
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var m map[string]any
		if err != nil || json.Unmarshal(b, &m) != nil {
			t.Errorf("%s %v", b, err)
		}
		events <- m
	}))
	defer web.Close()
	h := newHouse(t)
	h.start()
	h.login("quietone") // nobody is told before the operator says so
	if e := h.admin("PUT", "/admin/services/webhooks", `{"enabled":true,"url":"`+web.URL+`","secret":"s","event_user_registered":true,"event_quota_exceeded":true}`); e.Status != 200 {
		t.Fatalf("%+v", e)
	}
	if e := h.admin("POST", "/admin/services/webhooks", `{"action":"test"}`); e.Status != 200 || e.fields(t)["status"] != "ok" {
		t.Fatalf("%+v", e)
	}
	next := func(event string, want map[string]any) {
		t.Helper()
		m := <-events
		if m["event"] != event {
			t.Fatalf("%v, want %s", m, event)
		}
		for k, v := range want {
			if m[k] != v {
				t.Errorf("%s: %s is %v, want %v", event, k, m[k], v)
			}
		}
	}
	next("webhook.test", nil)
	h.login("somebody")
	next("user.registered", map[string]any{"username": "somebody@[127.0.0.1]", "source": "jit", "registration_token_used": false})
	h.admin("POST", "/admin/accounts", `{}`)
	next("user.registered", map[string]any{"source": "admin"})
	h.must("tokens.create", `{"Token":"club"}`)
	r, err := h.web().Post(fmt.Sprintf("http://127.0.0.1:%d/new?token=club", h.ports["http"]), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	next("user.registered", map[string]any{"source": "web", "registration_token_used": true})

	h.must("quota.set", `{"username":"somebody","max_bytes":100}`)
	s, err := h.target().NewSender("quietone")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Send([]string{"somebody@[127.0.0.1]"}, load.Message("quietone@[127.0.0.1]", 1500)); err == nil {
		t.Error("a full mailbox takes mail")
	}
	next("user.quota_exceeded", map[string]any{"username": "somebody@[127.0.0.1]", "max_bytes": 100.0, "path": "smtp.submission"})
	if m := h.admin("GET", "/admin/services/webhooks", `{}`).fields(t); m["secret_configured"] != true || m["secret"] != nil || m["dropped_events"] != 0.0 {
		t.Errorf("%v", m)
	}
}
