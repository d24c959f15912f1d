//go:build unix

package app

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"madmail/test/dnstest"
	"madmail/test/load"
)

// likeTheFirst brings a message as the first version does: a body of no known length,
// whatever certificate, a redirect followed, HTTPS and then HTTP; only 200 is success.
// It returns the way that worked, "" when that leaves SMTP.
func (h *house) likeTheFirst(from string, text []byte, to ...string) string {
	h.t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	for _, door := range [][2]string{{"https", "http_tls"}, {"http", "http"}} {
		body := io.MultiReader(bytes.NewReader(text)) // as a pipe: chunked, and read once
		r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("%s://127.0.0.1:%d/mxdeliv", door[0], h.ports[door[1]]), body)
		if err != nil {
			h.t.Fatal(err)
		}
		r.Header.Set("X-Mail-From", from)
		for _, a := range to {
			r.Header.Add("X-Mail-To", a)
		}
		resp, err := c.Do(r)
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return door[0]
		}
	}
	return ""
}

// TestTheFirstVersionNeverTakesARefusalForSuccess: to it everything but 200 means "try
// the next way", and 200 that the message is here.
func TestTheFirstVersionNeverTakesARefusalForSuccess(t *testing.T) {
	h := named(t, "one.example", dnstest.New(t, ""))
	r, err := h.at("one.example").Login("bobbobbob")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	bob := "bobbobbob@one.example"
	text := func(n int) []byte { return load.Message("frank@[192.0.2.9]", n) }
	clear := []byte("From: <frank@[192.0.2.9]>\r\nTo: <" + bob + ">\r\nSubject: x\r\n\r\nin the clear\r\n")
	stored := 0
	for _, x := range []struct {
		name, want string
		setting    [2]string
		line       [2]string
		text       []byte
		to         []string
		nobody     bool
	}{
		{name: "one recipient", want: "https", text: text(1100), to: []string{bob}},
		{name: "a domain in capitals", want: "https", text: text(1200), to: []string{"bobbobbob@ONE.example"}},
		{name: "several, one of them unknown", want: "https", text: text(1300), to: []string{"nobodyhere@one.example", bob}},
		{name: "a tag", want: "https", text: text(1310), to: []string{"bobbobbob+x@one.example"}, nobody: true},
		{name: "a tag that is taken off", want: "https", line: [2]string{"strip_plus_tags", "true"}, text: text(1320), to: []string{"bobbobbob+x@one.example"}},
		{name: "a large one", want: "https", text: text(3_000_000), to: []string{bob}},
		{name: "in the clear", text: clear, to: []string{bob}},
		{name: "no recipients", text: text(1400)},
		{name: "camouflage", want: "https", line: [2]string{"camouflage", "true"}, text: text(1500), to: []string{bob}},
		{name: "camouflage, in the clear", line: [2]string{"camouflage", "true"}, text: clear, to: []string{bob}},
		{name: "federation is off", setting: [2]string{"__FEDERATION_ENABLED__", "false"}, text: text(1600), to: []string{bob}},
		{name: "federation is off, under camouflage", setting: [2]string{"__FEDERATION_ENABLED__", "false"}, line: [2]string{"camouflage", "true"}, text: text(1700), to: []string{bob}},
		{name: "nothing is taken", setting: [2]string{"__FEDERATION_POLICY__", "REJECT"}, text: text(1800), to: []string{bob}},
	} {
		if x.line[0] != "" {
			h.lines[x.line[0]] = x.line[1]
			h.write()
			h.must("reload", "")
		}
		if x.setting[0] != "" {
			h.must("settings.set", fmt.Sprintf(`{"name":%q,"value":%q}`, x.setting[0], x.setting[1]))
		}
		if got := h.likeTheFirst("frank@[192.0.2.9]", x.text, x.to...); got != x.want {
			t.Errorf("%s: %q, want %q", x.name, got, x.want)
		}
		if x.want != "" && !x.nobody {
			stored++
		}
		if lines, err := r.Do("STATUS INBOX (MESSAGES)"); err != nil || !strings.Contains(strings.Join(lines, " "), fmt.Sprintf("MESSAGES %d)", stored)) {
			t.Errorf("%s: want %d messages: %q, %v", x.name, stored, lines, err)
		}
		if x.line[0] != "" {
			delete(h.lines, x.line[0])
			h.write()
			h.must("reload", "")
		}
		if x.setting[0] != "" {
			h.must("settings.reset", fmt.Sprintf(`{"name":%q}`, x.setting[0]))
		}
	}
}
