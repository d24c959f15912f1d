package certs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"madmail/internal/fault"
	"madmail/internal/task"
)

// challengePath is where authorities ask (RFC 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// Answers returns what answers a request of an authority, nil for any other request
// and for a token that is not of an order that runs.
func (a *ACME) Answers(r *http.Request) http.Handler {
	token, ok := strings.CutPrefix(r.URL.Path, challengePath)
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil
	}
	a.mu.Lock()
	text, ok := a.tokens[token]
	a.mu.Unlock()
	if !ok {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, text)
	})
}

// byHTTP solves HTTP-01.
type byHTTP struct{ a *ACME }

// Present implements acmez.Solver.
func (b byHTTP) Present(_ context.Context, c acme.Challenge) error {
	b.a.mu.Lock()
	defer b.a.mu.Unlock()
	b.a.tokens[c.Token] = c.KeyAuthorization
	return nil
}

// CleanUp implements acmez.Solver.
func (b byHTTP) CleanUp(_ context.Context, c acme.Challenge) error {
	b.a.mu.Lock()
	defer b.a.mu.Unlock()
	delete(b.a.tokens, c.Token)
	return nil
}

// serveChallenges answers authorities on l until closing is called, which waits for
// what is under way.
func (a *ACME) serveChallenges(l net.Listener) (closing func()) {
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h := a.Answers(r); h != nil {
				h.ServeHTTP(w, r)
				return
			}
			http.NotFound(w, r)
		}),
		ReadTimeout: requestTime, WriteTimeout: requestTime, MaxHeaderBytes: 16 << 10,
	}
	var g task.Group
	g.Go("challenges", func() { _ = s.Serve(l) })
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
		_ = g.Wait(context.Background()) // Serve has ended
	}
}

// Rehearse does what an authority would do, as far as it can be done from here: it asks
// for a token at the address where this server listens, or, when at is "", sees whether
// the listener of an order can be opened.
func (a *ACME) Rehearse(ctx context.Context, o Order, at string) error {
	if o.HTTP != "" {
		l, err := net.Listen("tcp", o.HTTP)
		if err != nil {
			return taken(o.HTTP, err)
		}
		return l.Close()
	}
	c := acme.Challenge{Token: "rehearsal-" + rand.Text(), KeyAuthorization: rand.Text()}
	b := byHTTP{a}
	if err := b.Present(ctx, c); err != nil {
		return err
	}
	defer func() { _ = b.CleanUp(ctx, c) }() // never fails
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+challengePath+c.Token, nil)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: rehearse")
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := web.Do(req)
	if err != nil {
		return fault.Wrap(fault.Busy, err, "certs: rehearse")
	}
	defer res.Body.Close()
	got, err := io.ReadAll(io.LimitReader(res.Body, 1024))
	if err != nil || string(got) != c.KeyAuthorization {
		return fault.Newf(fault.Busy, "%s answers %s to an authority, and another text", at, res.Status)
	}
	return nil
}

// taken says why challenges cannot be answered.
func taken(addr string, err error) error {
	return fault.WithHint(fault.Wrap(fault.Busy, err, "certs: answer challenges"),
		fmt.Sprintf("another program has %s: let it hand %s to another address, and name that with --http-listen", addr, challengePath))
}

// byTLS solves TLS-ALPN-01 (RFC 8737).
type byTLS struct{ a *ACME }

// Present implements acmez.Solver.
func (b byTLS) Present(_ context.Context, c acme.Challenge) error {
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return err
	}
	b.a.mu.Lock()
	defer b.a.mu.Unlock()
	b.a.hellos[helloName(c)] = cert
	return nil
}

// CleanUp implements acmez.Solver.
func (b byTLS) CleanUp(_ context.Context, c acme.Challenge) error {
	b.a.mu.Lock()
	defer b.a.mu.Unlock()
	delete(b.a.hellos, helloName(c))
	return nil
}

// helloName is the server name that the authority asks for: that of the reverse DNS
// for an address (RFC 8738 section 6).
func helloName(c acme.Challenge) string {
	ip, literal := literalIP(c.Identifier.Value)
	if !literal {
		return strings.ToLower(c.Identifier.Value)
	}
	return reverse(ip)
}

// ForAuthorities lets conf answer TLS-ALPN-01 as well. Everybody else is served as
// before.
func (a *ACME) ForAuthorities(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	conf.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		// RFC 8737 section 3: the authority offers this protocol alone.
		if !slices.Equal(h.SupportedProtos, []string{acmez.ACMETLS1Protocol}) {
			return nil, nil
		}
		a.mu.Lock()
		cert := a.hellos[strings.ToLower(h.ServerName)]
		a.mu.Unlock()
		if cert == nil {
			return nil, nil
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{acmez.ACMETLS1Protocol}, Certificates: []tls.Certificate{*cert}}, nil
	}
	return conf
}
