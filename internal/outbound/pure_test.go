package outbound

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/peers"
	"madmail/internal/policy"
)

func TestEveryHTTPAnswerHasAMeaning(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		status int
		body   string
		after  string
		want   Outcome // Result, Status, After, Limit, Firm, NoService, TooBig are compared
		reply  string
	}{
		{200, "250 OK", "", Outcome{Result: Delivered, Status: "2.0.0"}, ""},
		{202, "", "", Outcome{Result: Delivered, Status: "2.0.0"}, ""},
		{301, "", "", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		{307, "", "", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		// The official relays: 400 for everything, the code stands in the body.
		{400, "523 Encryption Needed: Invalid Unencrypted Mail\r\n", "", Outcome{Result: Doubtful, Firm: true}, "523 Encryption Needed: Invalid Unencrypted Mail"},
		{400, "550 5.1.1 no such user", "", Outcome{Result: Doubtful, Status: "5.1.1", Firm: true}, "550 5.1.1 no such user"},
		{400, "451 4.3.0 try later", "", Outcome{Result: Later, Status: "4.3.0"}, "451 4.3.0 try later"},
		{400, "421-busy\r\n421 still", "", Outcome{Result: Later}, "421 busy"},
		{400, "554 5.7.1 No valid DKIM signature found", "", Outcome{Result: Later, Status: "5.7.1", Limit: 6 * time.Hour}, ""},
		{400, "554 5.7.1 No DKIM signature found", "", Outcome{Result: Doubtful, Status: "5.7.1", Firm: true}, ""},
		// Any web server.
		{400, "400 Bad Request", "", Outcome{Result: Failed, Status: "5.5.0"}, ""},
		{400, "400 Bad Request: malformed", "", Outcome{Result: Failed, Status: "5.5.0"}, ""},
		{400, "<html>", "", Outcome{Result: Failed, Status: "5.5.0"}, ""},
		{400, "", "", Outcome{Result: Failed, Status: "5.5.0"}, ""},
		{400, "250 OK", "", Outcome{Result: Failed, Status: "5.5.0"}, ""},
		{400, "499 cents", "", Outcome{Result: Failed, Status: "5.5.0"}, ""},
		{401, "550 x", "", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		{405, "", "", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		{403, "Encryption Needed: Invalid Unencrypted Mail\n", "", Outcome{Result: Doubtful, Status: "5.7.1"}, "HTTP 403 Forbidden: Encryption Needed: Invalid Unencrypted Mail"},
		{403, "<html><h1>no</h1>", "", Outcome{Result: Doubtful, Status: "5.7.1"}, "HTTP 403 Forbidden"},
		{404, "404 page not found", "", Outcome{Result: Failed, Status: "5.3.2", NoService: true}, ""},
		{410, "", "", Outcome{Result: Failed, Status: "5.3.2", NoService: true}, ""},
		// The first version, whose service is there.
		{404, "No valid recipients\n", "", Outcome{Result: Failed, Status: "5.1.1"}, "HTTP 404 Not Found: No valid recipients"},
		{408, "", "", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		{413, "", "", Outcome{Result: Doubtful, Status: "5.3.4", TooBig: true}, ""},
		{429, "", "120", Outcome{Result: Failed, Status: "4.3.0", After: 2 * time.Minute}, ""},
		{500, "", "", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		{503, "", "Sun, 01 Nov 2026 12:01:00 GMT", Outcome{Result: Failed, Status: "4.3.0", After: time.Minute}, ""},
		{503, "", "Sun, 01 Nov 2026 11:00:00 GMT", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		{503, "", "999999999", Outcome{Result: Failed, Status: "4.3.0", After: maxAfter}, ""},
		{503, "", "-1", Outcome{Result: Failed, Status: "4.3.0"}, ""},
		{507, "quota", "", Outcome{Result: Later, Status: "4.2.2", Limit: 24 * time.Hour}, ""},
		{599, "", "", Outcome{Result: Failed, Status: "4.3.0"}, ""},
	} {
		got := ClassifyHTTP("mx", c.status, []byte(c.body), c.after, now)
		if c.reply != "" && got.Reply != c.reply {
			t.Errorf("%d %q: reply %q, want %q", c.status, c.body, got.Reply, c.reply)
		}
		if !got.Answered || got.Remote != "mx" || got.Reply == "" {
			t.Errorf("%d %q: %+v", c.status, c.body, got)
		}
		got.Reply, got.Remote, got.Answered = "", "", false
		if got != c.want {
			t.Errorf("%d %q: %+v, want %+v", c.status, c.body, got, c.want)
		}
	}
}

func TestEverySMTPReplyHasAMeaning(t *testing.T) {
	for _, c := range []struct {
		stage Stage
		code  int
		text  string
		want  Result
	}{
		{Greeting, 554, "5.7.1 go away", Failed}, {Greeting, 421, "busy", Failed}, {Greeting, 250, "", Failed}, {Greeting, 454, "", Failed},
		{Mail, 250, "", Failed}, {Mail, 451, "", Later}, {Mail, 550, "", Refused}, {Mail, 530, "5.7.0 Must issue a STARTTLS command first", Failed}, {Mail, 421, "", Failed},
		{Recipient, 450, "4.2.0 Greylisted", Later}, {Recipient, 550, "5.1.1", Refused}, {Recipient, 551, "", Refused}, {Recipient, 421, "", Failed},
		{Data, 250, "", Failed}, {Data, 451, "", Later}, {Data, 554, "no valid recipients", Refused},
		{End, 250, "2.0.0 OK", Delivered}, {End, 200, "", Delivered}, {End, 354, "", Failed}, {End, 451, "", Later}, {End, 421, "", Later}, {End, 552, "5.3.4 big", Refused},
		{End, 554, "5.7.1 No valid DKIM signature found", Later}, {End, 554, "5.7.1 No DKIM signature found", Refused}, {End, 523, "Encryption Needed", Refused},
	} {
		got := ClassifySMTP("mx", c.stage, c.code, c.text)
		if got.Result != c.want || got.Answered != (c.stage != Greeting) {
			t.Errorf("stage %d: %d %s: %+v, want %v", c.stage, c.code, c.text, got, c.want)
		}
	}
	if o := ClassifySMTP("mx", Recipient, 550, "5.1.1 no such user"); o.Status != "5.1.1" || o.Reply != "550 5.1.1 no such user" {
		t.Errorf("%+v", o)
	}
	if o := ClassifySMTP("mx", End, 552, "5.3.4 big"); !o.TooBig {
		t.Errorf("%+v", o)
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(400, []byte("550 5.1.1 x"), "10", "4.2.2 full")
	f.Add(503, []byte("\r\n"), "Sun, 01 Nov 2026 12:01:00 GMT", "")
	f.Fuzz(func(t *testing.T, code int, body []byte, after, text string) {
		o := ClassifyHTTP("mx", code, body, after, time.Unix(1e9, 0))
		if o.After < 0 || o.After > maxAfter || len(o.Reply) > 2*maxReply || strings.ContainsAny(o.Reply, "\r\n\x00") {
			t.Errorf("%+v", o)
		}
		for s := Greeting; s <= End; s++ {
			o := ClassifySMTP("mx", s, 200+((code%400)+400)%400, text)
			if o.Result == Delivered && s != End {
				t.Errorf("%+v", o)
			}
		}
	})
}

func TestWaitsGrowAndAreBounded(t *testing.T) {
	var s Schedule
	var got []string
	for n := 1; n <= 11; n++ {
		got = append(got, s.Wait(n, 0.5).Round(time.Second).String())
	}
	want := "1m0s 1m15s 15m0s 18m45s 23m26s 29m18s 36m37s 45m47s 57m13s 1h0m0s 1h0m0s"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	for _, n := range []int{-5, 0, 1, 1 << 30} {
		low, high := s.Wait(n, 0), s.Wait(n, 0.9999)
		if mid := s.Wait(n, 0.5); low < mid*89/100 || high > mid*111/100 || low >= high || high > 2*time.Hour {
			t.Errorf("%d: %v to %v", n, low, high)
		}
	}
	if w := (Schedule{Tries: 5, Initial: time.Second, Scale: 2}).Wait(4, 0.5); w != 8*time.Second {
		t.Errorf("own numbers: %v", w)
	}
	for n := 1; n < 50; n++ {
		if p := pause(n, 0.5); p < 30*time.Second || p > 5*time.Minute {
			t.Errorf("pause %d: %v", n, p)
		}
	}
}

func TestMessagesGoOutWithCRLF(t *testing.T) {
	for in, want := range map[string]string{
		"A: b\r\n\r\nbody\r\n": "A: b\r\n\r\nbody\r\n",
		"A: b\r\n\r\n":         "A: b\r\n\r\n",
		"A: b\n\nbody\n":       "A: b\r\n\r\nbody\r\n",
		"A: b\r\rbody\r":       "A: b\r\n\r\nbody\r\n",
		"A: b\r\n\r\nbody":     "A: b\r\n\r\nbody\r\n",
		"A: b":                 "A: b\r\n\r\n",
		"A: b\r\n":             "A: b\r\n\r\n",
		"\r\nx\r\r\ny":         "\r\nx\r\n\r\ny\r\n",
		"A: b\n\r\n\n\r":       "A: b\r\n\r\n\r\n\r\n",
		"":                     "\r\n",
	} {
		m, err := NewMessage(bytes.NewReader([]byte(in)), int64(len(in)))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got, err := io.ReadAll(m.NewReader())
		if err != nil || string(got) != want || m.Size() != int64(len(want)) {
			t.Errorf("%q: %q, size %d, %v; want %q", in, got, m.Size(), err, want)
		}
		if m.ragged != (in != want) {
			t.Errorf("%q: ragged %v", in, m.ragged)
		}
	}
	if _, err := NewMessage(strings.NewReader(strings.Repeat("A: b\r\n", 400_000)), 2_400_000); !fault.Is(err, fault.Invalid) {
		t.Errorf("a header without end: %v", err)
	}
	if _, err := NewMessage(strings.NewReader("A"), 2); !fault.Is(err, fault.Busy) {
		t.Errorf("a file that ends early: %v", err)
	}
	m, err := NewMessage(strings.NewReader("A: ä\r\n\r\n"), 9)
	if err != nil || !m.EightBit() {
		t.Errorf("eight bit: %v, %v", m, err)
	}
}

func FuzzMender(f *testing.F) {
	f.Add([]byte("A: b\r\n\r\nx\r\r\n\n"), 3)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		a, err := io.ReadAll(newMender(bytes.NewReader(in)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(newMender(iotest.OneByteReader(bytes.NewReader(in))))
		if err != nil || !bytes.Equal(a, b) {
			t.Fatalf("%q: %q in one piece, %q in many, %v", in, a, b, err)
		}
		if bytes.Count(a, []byte("\r\n")) != bytes.Count(a, []byte("\n")) || bytes.Count(a, []byte("\r")) != bytes.Count(a, []byte("\n")) || !bytes.HasSuffix(a, []byte("\r\n")) {
			t.Fatalf("%q: %q", in, a)
		}
		again := newMender(bytes.NewReader(a))
		if c, err := io.ReadAll(again); err != nil || !bytes.Equal(a, c) || again.mended {
			t.Fatalf("%q is mended to %q", a, c)
		}
	})
}

type fakeResolver struct {
	mx    map[string][]MX
	addrs map[string][]netip.Addr
	err   map[string]error
	gate  chan struct{} // every lookup waits for it, when set
}

func (f *fakeResolver) LookupMX(ctx context.Context, d string) ([]MX, error) {
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, fault.Wrap(fault.Busy, ctx.Err(), "dns")
		}
	}
	return f.mx[d], f.err[d]
}

func (f *fakeResolver) LookupAddr(_ context.Context, h string) ([]netip.Addr, error) {
	return f.addrs[h], f.err[h]
}

func TestDialingPassesOverOurselves(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	lo := netip.MustParseAddr("127.0.0.1")
	r := &fakeResolver{
		addrs: map[string][]netip.Addr{
			"lo.example": {lo}, "none.example": {}, "two.example": {netip.MustParseAddr("::ffff:127.0.0.1"), lo},
			"odd.example": {netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("ff02::1"), netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("255.255.255.255")},
		},
		err: map[string]error{"gone.example": fault.New(fault.NotFound, "no such name")},
	}
	d := &Dialer{Resolver: r}
	for _, c := range []struct {
		host  string
		named bool
		kind  fault.Kind
	}{
		{"lo.example", false, fault.Refused}, {"127.0.0.1", false, fault.Refused}, {"odd.example", false, fault.Refused},
		{"none.example", false, fault.NotFound}, {"gone.example", true, fault.NotFound},
	} {
		if _, err := d.Dial(t.Context(), c.host, port, c.named); !fault.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", c.host, err, c.kind)
		}
	}
	for _, host := range []string{"lo.example", "127.0.0.1", "two.example"} {
		conn, err := d.Dial(t.Context(), host, port, true)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		conn.Close()
	}
	d.Self = func(a netip.AddrPort) bool { return int(a.Port()) == port }
	if _, err := d.Dial(t.Context(), "127.0.0.1", port, true); !fault.Is(err, fault.Refused) {
		t.Errorf("our own port: %v", err)
	}
	ln.Close()
	d.Self = nil
	if _, err := d.Dial(t.Context(), "127.0.0.1", port, true); !fault.Is(err, fault.Busy) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestThePlanForAHost(t *testing.T) {
	h := host{name: "mx.example"}
	now := time.Unix(1e9, 0)
	allow := policy.Transports{HTTPS: policy.Allow, HTTP: policy.Block, SMTP: policy.Allow}
	literal := policy.Transports{HTTPS: policy.Allow, HTTP: policy.Allow, SMTP: policy.Allow}
	letter := func(size int64, to string) *Letter {
		a, err := address.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		return &Letter{To: []address.Addr{a}, Message: &Message{size: size}}
	}
	small, large := letter(1000, "a@x.example"), letter(2_000_000, "a@x.example")
	for _, c := range []struct {
		name string
		h    host
		perm policy.Transports
		l    *Letter
		r    recalled
		want string
	}{
		{"name", h, allow, small, recalled{}, "https smtp"},
		{"literal", h, literal, small, recalled{}, "https http smtp"},
		{"large", h, allow, large, recalled{}, "smtp https"},
		{"large, and taken before", h, allow, large, recalled{taken: 3_000_000}, "https smtp"},
		{"was too big", h, allow, small, recalled{tooBig: 900}, "smtp https"},
		{"led nowhere", h, literal, small, recalled{skipHTTP: now.Add(time.Second)}, "smtp https http"},
		{"led nowhere long ago", h, allow, small, recalled{skipHTTP: now}, "https smtp"},
		{"address beyond ASCII", h, literal, letter(1, "ä@x.example"), recalled{}, "smtp"},
		{"no HTTPS", h, policy.Transports{HTTPS: policy.Block, SMTP: policy.Allow}, small, recalled{}, "smtp"},
		{"nothing", h, policy.Transports{HTTPS: policy.Block, SMTP: policy.Block}, small, recalled{}, ""},
		{"named", host{ways: []Target{{By: peers.HTTP}, {By: peers.SMTP}}}, allow, large, recalled{}, "http smtp"},
		{"named, HTTP blocked", host{ways: []Target{{By: peers.HTTPS}, {By: peers.SMTP}}}, policy.Transports{SMTP: policy.Allow}, small, recalled{}, "smtp"},
	} {
		var got []string
		for _, w := range plan("x.example", c.h, c.perm, c.l, c.r, now) {
			got = append(got, w.By.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestWhatIsLearntAboutHosts(t *testing.T) {
	var r recall
	now := time.Unix(1e9, 0)
	https, smtp := Target{Host: "mx", By: peers.HTTPS}, Target{Host: "mx", By: peers.SMTP}
	r.learn(https, 10, []Outcome{{Result: Failed}}, false, now)
	if v := r.get("mx"); v != (recalled{}) {
		t.Errorf("after a failure: %+v", v)
	}
	r.learn(smtp, 10, []Outcome{{Result: Delivered, Answered: true}}, true, now)
	if v := r.get("mx"); v.skipHTTP != now.Add(skipFor) {
		t.Errorf("after SMTP went well: %+v", v)
	}
	r.learn(smtp, 10, []Outcome{{Result: Failed}}, false, now)
	if v := r.get("mx"); !v.skipHTTP.IsZero() {
		t.Errorf("after SMTP was not reached: %+v", v)
	}
	r.learn(https, 10, []Outcome{{Result: Failed, NoService: true, Answered: true}}, false, now)
	if v := r.get("mx"); v.skipHTTP.IsZero() {
		t.Errorf("no service: %+v", v)
	}
	r.learn(https, 5_000_000, []Outcome{{Result: Delivered, Answered: true}}, false, now)
	if v := r.get("mx"); v.taken != 5_000_000 || !v.skipHTTP.IsZero() {
		t.Errorf("large one taken: %+v", v)
	}
	r.learn(https, 2_000_000, []Outcome{{Result: Doubtful, TooBig: true, Answered: true}}, false, now)
	if v := r.get("mx"); v.tooBig != 2_000_000 || v.taken >= v.tooBig {
		t.Errorf("too big: %+v", v)
	}
	for i := range maxRecalled + 10 {
		r.change(strings.Repeat("x", i%7)+time.Duration(i).String(), func(v *recalled) { v.taken = 1 })
	}
	if len(r.m) > maxRecalled {
		t.Errorf("%d hosts", len(r.m))
	}
}

func TestTLSIsAsStrictAsItsLevel(t *testing.T) {
	if c := (TLS{}).Config("mx", nil); c.InsecureSkipVerify || c.ServerName != "mx" || c.MinVersion != tls.VersionTLS12 {
		t.Errorf("verified: %+v", c)
	}
	if c := (TLS{Level: AnyCert}).Config("mx", nil); !c.InsecureSkipVerify {
		t.Error("any certificate")
	}
	called := false
	c := (TLS{Verify: func(tls.ConnectionState) error { called = true; return nil }}).Config("mx", nil)
	if !c.InsecureSkipVerify || c.VerifyConnection == nil || c.VerifyConnection(tls.ConnectionState{}) != nil || !called {
		t.Error("a verifier of its own")
	}
}
