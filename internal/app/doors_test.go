//go:build unix

package app

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"madmail/internal/delivery"
	"madmail/test/load"
	"madmail/test/testport"
)

// talk says lines on a port and returns the code of each answer, that of the greeting
// first. The connection stays open until the test ends.
func (h *house) talk(name string, lines ...string) (codes []string) {
	h.t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports[name]))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	c := textproto.NewConn(conn)
	for _, line := range append([]string{""}, lines...) {
		if line != "" {
			fmt.Fprintf(conn, "%s\r\n", line)
		}
		code, _, err := c.ReadResponse(0)
		if err != nil {
			h.t.Fatalf("%q: %v", line, err)
		}
		codes = append(codes, fmt.Sprint(code))
	}
	return codes
}

// TestEachPortHasItsOwnValues: operator specification 2.5, the blocks smtp and
// submission.
func TestEachPortHasItsOwnValues(t *testing.T) {
	h := newHouse(t)
	for k, v := range map[string]string{
		"smtp_max_message_size": `"20K"`, "smtp_max_header_size": `"3K"`, "smtp_max_line_length": `"500"`, "smtp_max_received": "2", "smtp_limits": `["ip concurrency 2"]`,
		"submission_max_message_size": `"40K"`, "submission_max_recipients": "1", "submission_defer_sender_reject": "false", "submission_insecure_auth": "true",
	} {
		h.lines[k] = v
	}
	h.write()
	h.start()
	r := h.login("somebody")
	if n := h.metadata(r, "/shared/vendor/deltachat/maxsmtprecipients"); n != "1" {
		t.Errorf("clients are told of %s recipients", n)
	}
	r.Close()
	if mx, own := h.maxSize(delivery.Inbound), h.maxSize(delivery.Submission); mx != 20<<10 || own != 40<<10 {
		t.Errorf("sizes %d and %d", mx, own)
	}
	const from, to = "x@a.example.org", "somebody@[127.0.0.1]"
	text := load.Message(from, 1500)
	for _, x := range []struct {
		text []byte
		want string
	}{
		{append([]byte("X-Long: "+strings.Repeat(strings.Repeat("a", 70)+"\r\n ", 50)+"\r\n"), text...), "552"},
		{append([]byte("X-Long: "+strings.Repeat("a", 600)+"\r\n"), text...), "500"},
		{append([]byte(strings.Repeat("Received: from a by b\r\n", 3)), text...), "554"},
		{append(bytes.Clone(text), bytes.Repeat([]byte("some text\r\n"), 2000)...), "552"},
	} {
		if got := h.mail(from, x.text, to); !strings.HasPrefix(got, x.want) {
			t.Errorf("%.20q...: %s, want %s", x.text, got, x.want)
		}
	}
	if got := h.mail(from, text, to); got != "" {
		t.Error("a message within the limits:", got)
	}
	hello, mail := "HELO a.example.org", "MAIL FROM:<"+from+">"
	h.talk("smtp", hello, mail)
	h.talk("smtp", hello, mail)
	if got := h.talk("smtp", hello, mail, "RSET", "NOOP"); !slices.Equal(got, []string{"220", "250", "451", "250", "250"}) {
		t.Error("a third message at a time:", got)
	}
	login := "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00somebody@[127.0.0.1]\x00"+h.target().Password))
	if got := h.talk("submission", hello, login, mail, "MAIL FROM:<somebody@[127.0.0.1]>", "RCPT TO:<"+to+">", "RCPT TO:<other@[127.0.0.1]>"); !slices.Equal(got, []string{"220", "250", "235", "553", "250", "250", "452"}) {
		t.Error("submission without TLS, with a foreign sender and two recipients:", got)
	}
	// What an operator sets while the server runs counts for both.
	h.must("settings.set", `{"name":"max_message_size","value":"30K"}`)
	if mx, own := h.maxSize(delivery.Inbound), h.maxSize(delivery.Submission); mx != 30<<10 || own != 30<<10 {
		t.Errorf("sizes %d and %d after a change", mx, own)
	}
}

// TestServicesOfCallsListenAtSeveralAddresses: TURN, Shadowsocks and the numbers for
// monitoring, too.
func TestServicesOfCallsListenAtSeveralAddresses(t *testing.T) {
	h := newHouse(t)
	free := testport.Ports(t, 3)
	for i, key := range []string{"turn_listen_udp", "ss_addr", "openmetrics_listen"} {
		h.lines[key] = fmt.Sprintf(`["127.0.0.1:%d", "127.0.0.2:%d"]`, free[i], free[i])
	}
	h.lines["turn_enable"], h.lines["turn_secret"], h.lines["ss_password"] = "true", `"s"`, `"a long password"`
	h.write()
	h.start()
	var got []string
	for _, b := range h.Listeners() {
		if !slices.Contains([]string{"turn", "turn_tcp", "shadowsocks", "openmetrics"}, b.Name) {
			continue
		}
		got = append(got, b.Name+" "+b.Addr[:9])
		if b.Net == "tcp" {
			conn, err := net.Dial("tcp", b.Addr)
			if err != nil {
				t.Error(err)
				continue
			}
			conn.Close()
		}
	}
	slices.Sort(got)
	want := []string{
		"openmetrics 127.0.0.1", "openmetrics 127.0.0.2", "shadowsocks 127.0.0.1", "shadowsocks 127.0.0.2",
		"turn 127.0.0.1", "turn 127.0.0.2", "turn_tcp 127.0.0.1", "turn_tcp 127.0.0.2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOnePartLogsMoreThanTheRest: io_debug in a block of the first version raises that
// part alone, and only where anything is logged.
func TestOnePartLogsMoreThanTheRest(t *testing.T) {
	for _, target := range []string{"off", "stderr"} {
		h := newHouse(t)
		path := filepath.Join(h.dir, "madmail.conf")
		text := fmt.Sprintf(`$(primary_domain) = 127.0.0.1
tls self_signed
log %s
smtp tcp://127.0.0.1:%d {
    io_debug
}
imap tcp://127.0.0.1:%d {
}
chatmail tcp://127.0.0.1:%d {
}
`, target, h.ports["smtp"], h.ports["imap"], h.ports["http"])
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		opt := h.options()
		opt.ConfigPath = path
		a, err := New(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		h.App = a
		h.talk("smtp", "EHLO client.example.org", "QUIT")
		if line, err := h.greeting("imap"); err != nil || !strings.HasPrefix(line, "* OK") {
			t.Errorf("%q, %v", line, err)
		}
		h.stop()
		got := h.stderr.String()
		if on := target != "off"; strings.Contains(got, "level=TRACE msg=smtp C=\"EHLO ") != on || strings.Contains(got, "target=imap") || strings.Contains(got, "client.example") || !on && got != "" {
			t.Errorf("log %s: %s", target, got)
		}
	}
}
