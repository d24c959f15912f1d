package adminrpc

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/caller"
	"madmail/internal/fault"
)

// runner knows no action.
type runner struct{}

func (runner) Run(context.Context, string, json.RawMessage) (any, error) {
	return nil, fault.New(fault.NotFound, "no such action")
}

func door(t testing.TB) *Server {
	t.Helper()
	s, err := New(Options{Ops: runner{}, Token: func() (string, error) { return "secret", nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTheTable: names are unique, every method is described.
func TestTheTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range Resources() {
		for _, name := range append([]string{r.Name}, r.Aliases...) {
			if seen[name] || !strings.HasPrefix(name, "/admin/") {
				t.Errorf("%s: twice, or not below /admin", name)
			}
			seen[name] = true
		}
		for i, m := range r.Methods {
			if m.Doc == "" || !strings.HasSuffix(m.Doc, ".") || m.run == nil || m.Reply == "" && m.Method == "GET" {
				t.Errorf("%s %s is not described", m.Method, r.Name)
			}
			if slices.ContainsFunc(r.Methods[:i], func(o Method) bool { return o.Method == m.Method }) {
				t.Errorf("%s %s: twice", m.Method, r.Name)
			}
			if m.Changes != (m.Method != "GET") {
				t.Errorf("%s %s: Changes is %v", m.Method, r.Name, m.Changes)
			}
		}
	}
}

func TestALimitedAddressIsForgottenAfterAWhile(t *testing.T) {
	s := door(t)
	now := time.Unix(1_700_000_000, 0)
	s.Now = func() time.Time { return now }
	ask := func(token string) int {
		r := httptest.NewRequest(http.MethodPost, "/api/admin", strings.NewReader(`{"resource":"/admin/x","headers":{"Authorization":"Bearer `+token+`"}}`))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		var e Reply
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		return e.Status
	}
	for range caller.MaxFailures {
		ask("wrong")
	}
	if got := ask("secret"); got != 401 {
		t.Error("shut out:", got)
	}
	now = now.Add(caller.Window)
	if got := ask("secret"); got != 404 {
		t.Error("a minute later:", got)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"method":"GET","resource":"/admin/status","headers":{"Authorization":"Bearer secret"},"body":{}}`))
	f.Add([]byte(`{"resource":"/admin/accounts","method":"patch","headers":{"authorization":"Bearer secret"},"body":{"action":"import","users":[{"username":"a"}]}}`))
	f.Add([]byte(`{"resource":"/admin/settings/smtp_port","method":"POST","headers":{"Authorization":"Bearer secret"},"body":{"action":"set","value":"99999999999"}}`))
	f.Add([]byte(`{"x":[[[[{}]]]],"resource":`))
	s := door(f)
	s.Now = func() time.Time { return time.Unix(1_700_000_000, 0) }
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := httptest.NewRequest(http.MethodPost, "/api/admin", strings.NewReader(string(raw)))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		var e Reply
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Status < 200 || e.Status == 500 || w.Code != 200 || (e.Error == nil) != (e.Status < 400) {
			t.Errorf("%q: %d %s %v", raw, w.Code, w.Body, err)
		}
		opening(raw)
	})
}
