package httpsend

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/outbound"
	"madmail/internal/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// got is a request as the peer saw it.
type got struct {
	method, path, host string
	from               []string
	to                 []string
	body               string
	length             int64
	header             http.Header
	proto              int
}

// relay is the other side.
type relay struct {
	*httptest.Server
	port int

	mu     sync.Mutex
	got    []got
	answer http.HandlerFunc
}

func (s *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.got = append(s.got, got{r.Method, r.URL.EscapedPath(), r.Host, r.Header["X-Mail-From"], r.Header["X-Mail-To"], string(b), r.ContentLength, r.Header, r.ProtoMajor})
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
	}
}

func (s *relay) take() []got {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.got
	s.got = nil
	return g
}

func (s *relay) answers(f http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

func start(t *testing.T, secure bool) *relay {
	t.Helper()
	s := &relay{}
	s.Server = httptest.NewUnstartedServer(s)
	s.EnableHTTP2 = true
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	s.port = s.Listener.Addr().(*net.TCPAddr).Port
	return s
}

type loopback struct{}

func (loopback) LookupMX(context.Context, string) ([]outbound.MX, error) { return nil, nil }
func (loopback) LookupAddr(_ context.Context, host string) ([]netip.Addr, error) {
	if host == "gone.example" {
		return nil, fault.New(fault.NotFound, "no such name")
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func client(t *testing.T, o Options) *Client {
	t.Helper()
	o.Dialer = &outbound.Dialer{Resolver: loopback{}}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func letter(t testing.TB, body, from string, to ...string) *outbound.Letter {
	t.Helper()
	m, err := outbound.NewMessage(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	l := &outbound.Letter{Message: m}
	if from != "" {
		if l.From, err = address.Parse(from); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range to {
		a, err := address.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		l.To = append(l.To, a)
	}
	return l
}

const text = "From: <a@our.example>\r\n\r\n.body\r\n"

func TestARequestIsWhatRelaysExpect(t *testing.T) {
	s := start(t, true)
	c := client(t, Options{Roots: roots(s)})
	way := outbound.Target{By: peers.HTTPS, Host: "example.com", Port: s.port, Named: true} // the name in httptest's certificate
	outs := c.Deliver(t.Context(), way, letter(t, text, "a@our.example", "b@x.example", "c@x.example"))
	if len(outs) != 2 || outs[0].Result != outbound.Delivered || outs[1] != outs[0] || outs[0].Remote != "example.com" {
		t.Fatalf("%+v", outs)
	}
	g := s.take()
	if len(g) != 1 {
		t.Fatalf("%d requests", len(g)) // known failure 34: one for each recipient
	}
	r := g[0]
	if r.method != "POST" || r.path != "/mxdeliv" || len(r.from) != 1 || r.from[0] != "a@our.example" || fmt.Sprint(r.to) != "[b@x.example c@x.example]" || r.body != text || r.length != int64(len(text)) || r.proto != 2 {
		t.Errorf("%+v", r)
	}
	for _, h := range []string{"User-Agent", "Accept-Encoding", "Content-Type"} {
		if _, there := r.header[h]; there && h != "Content-Type" {
			t.Errorf("a header %s: %v", h, r.header[h])
		}
	}
	// The null sender is told by leaving the line out.
	c.Deliver(t.Context(), way, letter(t, text, "", "b@x.example"))
	if g := s.take(); len(g) != 1 || g[0].from != nil {
		t.Errorf("null sender: %+v", g)
	}
	way.Path = "/in%2Fmail"
	c.Deliver(t.Context(), way, letter(t, text, "", "b@x.example"))
	if g := s.take(); len(g) != 1 || g[0].path != "/in%2Fmail" {
		t.Errorf("another path: %+v", g)
	}
}

func roots(s *relay) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(s.Certificate())
	return p
}

// TestCertificatesAreChecked is known failure 36.
func TestCertificatesAreChecked(t *testing.T) {
	s := start(t, true)
	known, unknown := client(t, Options{Roots: roots(s)}), client(t, Options{Roots: x509.NewCertPool()})
	s.Config.ErrorLog = nil
	for _, c := range []struct {
		name   string
		client *Client
		way    outbound.Target
		want   outbound.Result
	}{
		{"right name", known, outbound.Target{Host: "example.com"}, outbound.Delivered},
		{"wrong name", known, outbound.Target{Host: "mx.example.org"}, outbound.Failed},
		{"unknown authority", unknown, outbound.Target{Host: "example.com"}, outbound.Failed},
		{"any", unknown, outbound.Target{Host: "mx.example.org", TLS: outbound.TLS{Level: outbound.AnyCert}}, outbound.Delivered},
		{"an address", unknown, outbound.Target{Host: "127.0.0.1", TLS: outbound.TLS{Level: outbound.Opportunistic}}, outbound.Delivered},
	} {
		c.way.Port, c.way.Named = s.port, true
		outs := c.client.Deliver(t.Context(), c.way, letter(t, text, "a@our.example", "b@x.example"))
		if outs[0].Result != c.want {
			t.Errorf("%s: %+v", c.name, outs[0])
		}
		if n := len(s.take()); n > 0 && c.want == outbound.Failed {
			t.Errorf("%s: the peer got it", c.name)
		}
	}
}

func TestPlainHTTP(t *testing.T) {
	s := start(t, false)
	c := client(t, Options{HTTPPort: s.port})
	outs := c.Deliver(t.Context(), outbound.Target{By: peers.HTTP, Host: "127.0.0.1", Named: true}, letter(t, text, "a@our.example", "b@x.example"))
	if outs[0].Result != outbound.Delivered || len(s.take()) != 1 {
		t.Errorf("%+v", outs)
	}
}

func TestManyRecipientsTakeSeveralRequests(t *testing.T) {
	s := start(t, false)
	c := client(t, Options{HTTPPort: s.port})
	var to []string
	for i := range 200 {
		to = append(to, fmt.Sprintf("u%d@x.example", i))
	}
	way := outbound.Target{By: peers.HTTP, Host: "127.0.0.1", Named: true}
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Header["X-Mail-To"][0] == "u80@x.example" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	outs := c.Deliver(t.Context(), way, letter(t, text, "a@our.example", to...))
	var sizes []int
	for _, g := range s.take() {
		sizes = append(sizes, len(g.to))
	}
	if fmt.Sprint(sizes) != "[80 80 40]" || len(outs) != 200 || outs[0].Result != outbound.Delivered || outs[80].Result != outbound.Doubtful || outs[160].Result != outbound.Delivered {
		t.Errorf("%v, %d outcomes", sizes, len(outs))
	}
	// Long names fill the header room first.
	to = to[:0]
	for i := range 120 {
		to = append(to, fmt.Sprintf("u%d@%s.example", i, strings.Repeat(strings.Repeat("x", 60)+".", 3)+"x"))
	}
	for range 2 {
		c.Deliver(t.Context(), way, letter(t, text, "a@our.example", to...))
		for _, g := range s.take() {
			n := 0
			for _, a := range g.to {
				n += len("X-Mail-To: \r\n") + len(a)
			}
			if n > maxHeader {
				t.Errorf("%d octets of header", n)
			}
		}
	}
	// What did not reach the peer is not tried again for the rest.
	s.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	outs = c.Deliver(t.Context(), way, letter(t, text, "a@our.example", to...))
	if n := len(s.take()); n != 1 || outs[119].Result != outbound.Failed {
		t.Errorf("%d requests, %+v", n, outs[119])
	}
}

func TestAnswersOfAllKinds(t *testing.T) {
	s := start(t, false)
	c := client(t, Options{HTTPPort: s.port})
	for _, a := range []struct {
		name   string
		answer http.HandlerFunc
		want   outbound.Result
		after  time.Duration
	}{
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, outbound.Failed, 0},
		{"body", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "451 4.3.0 later", 400) }, outbound.Later, 0},
		{"retry", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(503)
		}, outbound.Failed, time.Minute},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			b := bytes.Repeat([]byte("x"), 64<<10)
			for r.Context().Err() == nil {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, outbound.Failed, 0},
		{"hang up", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		}, outbound.Failed, 0},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte("\x00\x01\x02 what?\r\n\r\n"))
				conn.Close()
			}
		}, outbound.Failed, 0},
	} {
		s.answers(a.answer)
		outs := c.Deliver(t.Context(), outbound.Target{By: peers.HTTP, Host: "127.0.0.1", Named: true}, letter(t, text, "a@our.example", "b@x.example"))
		if outs[0].Result != a.want || outs[0].After != a.after || strings.ContainsAny(outs[0].Reply, "\r\n\x00") {
			t.Errorf("%s: %+v", a.name, outs[0])
		}
		for _, g := range s.take() {
			if g.path != "/mxdeliv" {
				t.Errorf("%s: followed to %s", a.name, g.path)
			}
		}
	}
}

func TestASilentPeerEndsWithTheContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // it accepts, by the kernel, and says nothing
	c := client(t, Options{Timeout: 50 * time.Millisecond})
	way := outbound.Target{By: peers.HTTP, Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port, Named: true}
	if outs := c.Deliver(t.Context(), way, letter(t, text, "", "b@x.example")); outs[0].Result != outbound.Failed {
		t.Errorf("after the time limit: %+v", outs[0])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if outs := c.Deliver(ctx, way, letter(t, text, "", "b@x.example")); outs[0].Result != outbound.Failed {
		t.Errorf("after the context: %+v", outs[0])
	}
}

func TestPlacesThatMailMustNotGo(t *testing.T) {
	s := start(t, false)
	c := client(t, Options{HTTPPort: s.port})
	for _, host := range []string{"127.0.0.1", "lo.example", "gone.example"} {
		outs := c.Deliver(t.Context(), outbound.Target{By: peers.HTTP, Host: host}, letter(t, text, "", "b@x.example"))
		if outs[0].Result != outbound.Failed || outs[0].Answered || len(s.take()) != 0 {
			t.Errorf("%s: %+v", host, outs[0])
		}
	}
	outs := c.Deliver(t.Context(), outbound.Target{By: peers.HTTP, Host: "127.0.0.1", Named: true}, letter(t, text, "", "ä@x.example"))
	if outs[0].Result != outbound.Failed || len(s.take()) != 0 {
		t.Errorf("address beyond ASCII: %+v", outs[0])
	}
}

func TestConnectionsAreKept(t *testing.T) {
	s := start(t, true)
	var mu sync.Mutex
	conns := make(map[string]bool)
	s.answers(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		conns[r.RemoteAddr] = true
	})
	c := client(t, Options{Roots: roots(s)})
	for range 10 {
		c.Deliver(t.Context(), outbound.Target{By: peers.HTTPS, Host: "example.com", Port: s.port, Named: true}, letter(t, text, "", "b@x.example"))
	}
	if len(conns) != 1 {
		t.Errorf("%d connections", len(conns))
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no dialer is fine")
	}
}
