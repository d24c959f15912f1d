//go:build unix

package app

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"madmail/internal/metrics"
	"madmail/test/load"
	"madmail/test/testport"
)

// TestMetricsOfARealServer: every metric of the table is there before the first
// transaction, counts what happens, and names nobody.
func TestMetricsOfARealServer(t *testing.T) {
	h := newHouse(t)
	h.listen("openmetrics", "127.0.0.1", h.spare)
	h.lines["iroh_enable"], h.lines["turn_enable"], h.lines["turn_secret"] = "true", "true", `"s3cret"`
	free := testport.Ports(t, 3)
	h.lines["iroh_relay_url"] = fmt.Sprintf(`"http://127.0.0.1:%d"`, free[0])
	h.lines["turn_listen_udp"] = fmt.Sprintf(`"127.0.0.1:%d"`, free[1])
	h.lines["ss_addr"], h.lines["ss_password"] = fmt.Sprintf(`"127.0.0.1:%d"`, free[2]), `"our secret"`
	h.write()
	h.start()
	h.must("settings.set", `{"name":"http_proxy_password","value":"a good password"}`)
	h.must("settings.set", `{"name":"http_proxy_enabled","value":"true"}`)
	get := func(path string) (int, string) {
		t.Helper()
		r, err := h.web().Get(fmt.Sprintf("http://127.0.0.1:%d%s", h.spare, path))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	code, text := get("/metrics")
	if code != http.StatusOK {
		t.Fatal(code)
	}
	later := map[string]bool{"maddy_smtp_failed_commands": true}
	for _, m := range metrics.Table {
		if !strings.Contains(text, "\n"+m.Name+"{") && !strings.Contains(text, "\n"+m.Name+" ") && !strings.Contains(text, "\n"+m.Name+"_count") && !later[m.Name] {
			t.Errorf("%s is not there", m.Name)
		}
	}
	if err := pass(t, free[0], h.ports["http"]); err != nil {
		t.Error(err)
	}
	h.login("somebody")
	s, err := h.target().NewSender("alicealice")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Send([]string{"somebody@[127.0.0.1]"}, load.Message("alicealice@[127.0.0.1]", 1500)); err != nil {
		t.Fatal(err)
	}
	h.admin("GET", "/admin/status", "{}")
	if r, err := h.web().Get(fmt.Sprintf("http://127.0.0.1:%d/", h.ports["http"])); err != nil {
		t.Fatal(err)
	} else {
		r.Body.Close()
	}
	h.must("quota.set", `{"username":"somebody","max_bytes":2000}`)
	if _, err := s.Send([]string{"somebody@[127.0.0.1]"}, load.Message("alicealice@[127.0.0.1]", 1500)); err == nil {
		t.Error("a full mailbox takes mail")
	}
	if got := h.mail("x@peer.example", nil, "a@elsewhere.example"); !strings.HasPrefix(got, "550") {
		t.Error(got)
	}
	_, text = get("/metrics")
	for _, want := range []string{
		"\nmadmail_iroh_packets{direction=\"in\"} 1\n", "\nmadmail_iroh_packets{direction=\"out\"} 1\n", "\nmadmail_iroh_accepted{form=\"frames\"} 2\n",
		"\nmadmail_http_requests{part=\"admin\"} 1\n", "\nmadmail_http_requests{part=\"site\"} 1\n", "\nmadmail_quota_default_bytes 1.073741824e+09\n", "\nmadmail_quota_refusals 1\n",
		"\nmadmail_imap_commands{command=\"LOGIN\"} 1\n", "\nmadmail_imap_commands{command=\"other\"} 0\n", "\nmadmail_deliveries{door=\"submission\",result=\"accepted\"} 1\n", "\nmadmail_deliveries{door=\"submission\",result=\"full\"} 1\n",
		"\nmadmail_deliveries{door=\"mxdeliv\",result=\"accepted\"} 0\n", "\nmadmail_store_latency_seconds_count{operation=\"deliver\"} 1\n", "\nmadmail_store_latency_seconds_bucket{operation=\"deliver\",le=\"+Inf\"} 1\n", "\nmadmail_event_drops 0\n",
		"\nmadmail_accounts 2\n", "\nmadmail_copies_stored 1\n", "\nmadmail_imap_sessions 1\n", `maddy_smtp_smtp_completed_transactions{module="submission"} 1`,
		`maddy_smtp_started_transactions{module="smtp"} 1`, `maddy_smtp_failed_commands{command="RCPT",module="smtp",smtp_code="550",smtp_enchcode="5.7.1"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, secret := range []string{"alicealice", "somebody", "peer.example", "elsewhere.example"} {
		if strings.Contains(text, secret) {
			t.Error(secret, "is shown")
		}
	}
	if code, _ := get("/"); code != http.StatusNotFound {
		t.Error(code)
	}
}
