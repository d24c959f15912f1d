package outbound_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/outbound"
	"madmail/internal/outbound/httpsend"
	"madmail/internal/outbound/smtpsend"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
)

const text = "From: <a@our.example>\r\n\r\n.body\r\n"

// relay is another server with three doors.
type relay struct {
	https, http *httptest.Server
	smtp        *smtp.Server
	listener    net.Listener // of smtp, which does not know it before it serves
	ports       map[peers.Transport]int
	roots       *x509.CertPool
	done        chan struct{}
	got         chan string // way, recipients and body
}

func (r *relay) handler(way string) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err == nil {
			r.got <- fmt.Sprint(way, q.Header["X-Mail-To"], string(b))
		}
	}
}

func (r *relay) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{r: r}, nil }

type session struct {
	r  *relay
	to []string
}

func (s *session) Reset()                                    { s.to = nil }
func (s *session) Logout() error                             { return nil }
func (s *session) Mail(string, *smtp.MailOptions) error      { return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error { s.to = append(s.to, to); return nil }
func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil {
		s.r.got <- fmt.Sprint("smtp", s.to, string(b))
	}
	return err
}

func startRelay(t testing.TB) *relay {
	t.Helper()
	r := &relay{ports: make(map[peers.Transport]int), got: make(chan string, 10_000), done: make(chan struct{})}
	quiet := log.New(io.Discard, "", 0)
	r.https = httptest.NewUnstartedServer(r.handler("https"))
	r.https.Config.ErrorLog = quiet
	r.https.StartTLS()
	t.Cleanup(r.https.Close)
	r.http = httptest.NewServer(r.handler("http"))
	t.Cleanup(r.http.Close)
	r.smtp = smtp.NewServer(r)
	r.smtp.Domain = "mx.example"
	r.smtp.ErrorLog = quiet
	r.smtp.TLSConfig = &tls.Config{Certificates: r.https.TLS.Certificates}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.listener = ln
	go func() { defer close(r.done); _ = r.smtp.Serve(ln) }() // ends with shut
	t.Cleanup(func() { r.shut(peers.SMTP); <-r.done })
	r.roots = x509.NewCertPool()
	r.roots.AddCert(r.https.Certificate())
	for by, l := range map[peers.Transport]net.Listener{peers.HTTPS: r.https.Listener, peers.HTTP: r.http.Listener, peers.SMTP: ln} {
		r.ports[by] = l.Addr().(*net.TCPAddr).Port
	}
	return r
}

// shut closes a door: nobody answers there any more.
func (r *relay) shut(by peers.Transport) {
	switch by {
	case peers.HTTPS:
		r.https.Close()
	case peers.HTTP:
		r.http.Close()
	case peers.SMTP:
		_ = r.listener.Close()
		r.smtp.Close()
	}
}

type names struct{}

func (names) LookupMX(context.Context, string) ([]outbound.MX, error) { return nil, nil }
func (names) LookupAddr(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// bounces are the notifications to our own users.
type bounces chan string

func (b bounces) Bounce(_ context.Context, _ address.Addr, m []byte) error {
	b <- string(m)
	return nil
}

func (b bounces) Bounced(context.Context, address.Addr, string) (bool, error) { return false, nil }

type ours struct {
	q       *queue.Queue
	policy  *policy.Store
	peers   *peers.Store
	bounces bounces
}

// startOurs is our side: everything as in the server, but for names and ports.
func startOurs(t testing.TB, r *relay) *ours {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(context.Background()) })
	o := &ours{bounces: make(bounces, 10)}
	if o.q, err = queue.Open(t.Context(), queue.Options{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if o.policy, err = policy.Open(t.Context(), policy.Options{DB: d}); err != nil {
		t.Fatal(err)
	}
	if o.peers, err = peers.Open(peers.Options{DB: d, Queued: o.q.Depths}); err != nil {
		t.Fatal(err)
	}
	dialer := &outbound.Dialer{Resolver: names{}}
	h, err := httpsend.New(httpsend.Options{Dialer: dialer, Roots: r.roots, HTTPSPort: r.ports[peers.HTTPS], HTTPPort: r.ports[peers.HTTP]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	s, err := smtpsend.New(smtpsend.Options{Dialer: dialer, Roots: r.roots, Port: r.ports[peers.SMTP], Hostname: func() string { return "our.example" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w, err := outbound.New(outbound.Options{
		Queue: o.q, Policy: o.policy, Peers: o.peers, Resolver: names{}, HTTP: h, SMTP: s, Bouncer: o.bounces,
		Local: func(d address.Domain) bool { return d == "our.example" }, Domain: func() address.Domain { return "our.example" },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	// What is named by the operator may be this machine.
	for domain, target := range map[string]string{"name.example": "example.com", "192.0.2.1": "127.0.0.1", "other.example": "mx.example.org"} {
		if err := o.policy.SetOverride(t.Context(), domain, target, ""); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func (o *ours) send(t testing.TB, to ...string) {
	t.Helper()
	v := queue.Envelope{}
	for i, s := range append([]string{"a@our.example"}, to...) {
		a, err := address.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			v.From = a
		} else {
			v.To = append(v.To, a)
		}
	}
	if _, err := o.q.Put(context.Background(), strings.NewReader(text), int64(len(text)), v); err != nil {
		t.Fatal(err)
	}
}

func receive(t testing.TB, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("nothing arrived")
		return ""
	}
}

func TestFederationWithDoorsShutInTurn(t *testing.T) {
	for _, c := range []struct {
		name, to string
		shut     []peers.Transport
		want     string
	}{
		{"all open", "name.example", nil, "https"},
		{"HTTPS shut", "name.example", []peers.Transport{peers.HTTPS}, "smtp"},
		{"only HTTPS", "name.example", []peers.Transport{peers.HTTP, peers.SMTP}, "https"},
		{"address, all open", "[192.0.2.1]", nil, "https"},
		{"address, HTTPS shut", "[192.0.2.1]", []peers.Transport{peers.HTTPS}, "http"},
		{"address, only SMTP", "[192.0.2.1]", []peers.Transport{peers.HTTPS, peers.HTTP}, "smtp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startRelay(t)
			for _, by := range c.shut {
				r.shut(by)
			}
			o := startOurs(t, r)
			o.send(t, "b@"+c.to, "c@"+c.to)
			want := c.want + fmt.Sprint([]string{"b@" + c.to, "c@" + c.to}) + text
			if got := receive(t, r.got); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestAWrongCertificateIsNeverSentTo(t *testing.T) {
	r := startRelay(t)
	o := startOurs(t, r)
	o.send(t, "b@other.example") // the certificate is for example.com
	o.send(t, "b@name.example")
	receive(t, r.got)
	for {
		list, _, err := o.q.List(t.Context(), queue.Filter{Destination: "other.example"}, 0, 1)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		if list[0].Tries == 1 && !list[0].Taken {
			if !strings.Contains(list[0].Error, "certificate") {
				t.Errorf("the reason shown is %q", list[0].Error)
			}
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	if len(r.got) != 0 {
		t.Errorf("it got %q", <-r.got)
	}
}

// BenchmarkFederation sends to one server by one transport, two at a time.
func BenchmarkFederation(b *testing.B) {
	for _, c := range []struct {
		name string
		shut []peers.Transport
	}{{"https", nil}, {"smtp", []peers.Transport{peers.HTTPS}}} {
		b.Run(c.name, func(b *testing.B) {
			r := startRelay(b)
			for _, by := range c.shut {
				r.shut(by)
			}
			o := startOurs(b, r)
			o.send(b, "b@name.example")
			receive(b, r.got)
			b.ResetTimer()
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range b.N/4 + 1 {
						o.send(b, "b@name.example")
					}
				})
			}
			for range 4 * (b.N/4 + 1) {
				receive(b, r.got)
			}
			wg.Wait()
		})
	}
}
