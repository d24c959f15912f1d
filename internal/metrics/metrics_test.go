package metrics

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, o Options, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	h, err := Handler(o)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestTheTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range Table {
		if seen[m.Name] || !regexp.MustCompile(`^(maddy|madmail)_[a-z_]+$`).MatchString(m.Name) || !strings.HasSuffix(m.Doc, ".") {
			t.Errorf("%+v", m)
		}
		seen[m.Name] = true
	}
}

func TestTheText(t *testing.T) {
	o := Options{Samples: func() Samples {
		s := make(Samples)
		s.Add("madmail_accounts", 7)
		s.Add("maddy_smtp_failed_commands", 2, "smtp", "RCPT", "550", "5.1.1")
		return s
	}}
	spread := o.Samples
	o.Samples = func() Samples {
		s := spread()
		s.AddSpread("madmail_store_latency_seconds", 0.5, Spread{Count: 3, Buckets: map[float64]uint64{0.1: 2, 1: 3}}, "deliver")
		return s
	}
	text := get(t, o, nil).Body.String()
	for _, want := range []string{
		"# TYPE madmail_accounts gauge\nmadmail_accounts 7\n", `maddy_smtp_failed_commands{command="RCPT",module="smtp",smtp_code="550",smtp_enchcode="5.1.1"} 2`, "go_goroutines",
		`madmail_store_latency_seconds_bucket{operation="deliver",le="0.1"} 2`, `madmail_store_latency_seconds_count{operation="deliver"} 3`, `madmail_store_latency_seconds_sum{operation="deliver"} 0.5`, "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	w := get(t, o, func(r *http.Request) { r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0") })
	if !strings.HasSuffix(w.Body.String(), "# EOF\n") {
		t.Error("not OpenMetrics")
	}
}

func TestThePassword(t *testing.T) {
	o := Options{Samples: func() Samples { return nil }, Username: "metrics", Password: "secret"}
	for password, want := range map[string]int{"": 401, "wrong": 401, "secret": 200} {
		w := get(t, o, func(r *http.Request) {
			if password != "" {
				r.SetBasicAuth("metrics", password)
			}
		})
		if w.Code != want {
			t.Error(password, w.Code)
		}
	}
	h, err := Handler(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*http.Request{httptest.NewRequest("GET", "/", nil), httptest.NewRequest("GET", "/metrics/x", nil)} {
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != 404 {
			t.Error(r.URL, w.Code)
		}
	}
	if _, err := Handler(Options{}); err == nil {
		t.Error("without numbers")
	}
}
