package delivery

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// origins is a word on other servers, and what it was asked.
type origins struct {
	refuse  address.Domain
	proof   Proof
	err     error
	seen    []Foreign
	text    string
	arrived int
	missed  []Failure
}

func (o *origins) Takes(d address.Domain) error {
	if d != "" && d == o.refuse {
		return fault.New(fault.Refused, "Federation policy rejection")
	}
	return nil
}

func (o *origins) Prove(_ context.Context, m Foreign) (Proof, error) {
	b, err := io.ReadAll(io.NewSectionReader(m.Text, 0, m.Size))
	if err != nil {
		return Proof{}, err
	}
	o.seen, o.text = append(o.seen, m), string(b)
	return o.proof, o.err
}

func (o *origins) Arrived(Foreign) { o.arrived++ }
func (o *origins) Missed(_ context.Context, _ Foreign, _ address.Addr, f []Failure) {
	o.missed = append(o.missed, f...)
}

func (h *house) send(t testing.TB, via Via, from, text string, to ...string) (Result, error) {
	t.Helper()
	e := &Envelope{Via: via}
	if from != "" {
		e.From = addr(t, from)
	}
	for _, a := range to {
		e.To = append(e.To, addr(t, a))
	}
	return h.Accept(t.Context(), e, strings.NewReader(text))
}

func (h *house) read(t testing.TB, who string) string {
	t.Helper()
	box := mailbox.Box{Account: addr(t, who), Name: mailbox.Inbox}
	v, err := h.store.View(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	if v.Len() == 0 {
		return ""
	}
	c, err := h.store.Open(t.Context(), box, v.At(v.Len()-1).UID)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A signature covers the message as it came; what is stored tells only the result.
func TestForeignMailIsExaminedAsItCame(t *testing.T) {
	for _, size := range []int{500, 30_000} {
		h := build(t, "b@x.org")
		o := &origins{proof: Proof{Field: []byte("X-Authentication-Results: x.org; dkim=pass\r\n")}}
		h.Origins = o
		text := "X-Authentication-Results: x.org; dkim=forged\r\n" + sealed("a@y.org", size)
		for _, via := range []Via{Inbound, Federation} {
			if _, err := h.send(t, via, "a@y.org", text, "b@x.org"); err != nil {
				t.Fatal(err)
			}
			if o.text != text {
				t.Error(via, "was examined in another form")
			}
		}
		if m := o.seen[0]; m.From != "a@y.org" || m.Envelope != addr(t, "a@y.org") || m.Report {
			t.Errorf("%+v", m)
		}
		got := h.read(t, "b@x.org")
		if !strings.HasPrefix(got, "X-Authentication-Results: x.org; dkim=pass\r\nFrom:") || strings.Contains(got, "DKIM-Signature") ||
			strings.Contains(got, "Received:") || strings.Contains(got, "forged") || !strings.HasSuffix(text, got[strings.Index(got, "Content-Type"):]) {
			t.Error("stored:", got[:200])
		}
		if o.arrived != 2 {
			t.Error("arrived:", o.arrived)
		}
	}
}

func TestForeignMailThatIsNotTaken(t *testing.T) {
	h := build(t, "b@x.org")
	o := &origins{refuse: "bad.example"}
	h.Origins = o
	if err := h.Check(t.Context(), &Envelope{Via: Inbound, From: addr(t, "a@bad.example")}, addr(t, "b@x.org")); !fault.Is(err, fault.Refused) {
		t.Error("at RCPT:", err)
	}
	if err := h.Check(t.Context(), &Envelope{Via: Submission, From: addr(t, "a@bad.example")}, addr(t, "b@x.org")); err != nil {
		t.Error("our own users are not asked:", err)
	}
	if _, err := h.send(t, Federation, "a@bad.example", sealed("a@bad.example", 500), "b@x.org"); !fault.Is(err, fault.Refused) || len(o.seen) > 0 {
		t.Error("message:", err)
	}
	for _, kind := range []fault.Kind{fault.Refused, fault.Busy} {
		o.err = fault.New(kind, "unsigned")
		if _, err := h.send(t, Inbound, "a@y.org", sealed("a@y.org", 500), "b@x.org"); !fault.Is(err, kind) {
			t.Error(kind, err)
		}
	}
	if _, err := h.send(t, Inbound, "a@y.org", "From: <a@y.org>\r\n\r\nclear\r\n", "b@x.org"); !fault.Is(err, fault.Unencrypted) {
		t.Error("clear text:", err)
	}
	if got := h.list(t, "b@x.org"); len(got) != 0 || o.arrived != 0 {
		t.Error("stored:", got, o.arrived)
	}
}

// TestOfficesAreNotForStrangers: reserved names get nothing from outside, even when an
// operator made such an account, and nobody outside speaks in the operator's name.
func TestOfficesAreNotForStrangers(t *testing.T) {
	h := build(t, "b@x.org", "postmaster@x.org")
	h.Origins = &origins{}
	for _, via := range []Via{Inbound, Federation} {
		if res, err := h.send(t, via, "a@y.org", sealed("a@y.org", 500), "Postmaster@x.org"); !fault.Is(err, fault.NotFound) {
			t.Error(via, "to an office:", res, err)
		}
		if res, err := h.send(t, via, "a@y.org", sealed("a@y.org", 600), "postmaster@x.org", "b@x.org"); err != nil || res.Local != 1 || len(res.Failed) != 1 {
			t.Error(via, "to an office and to somebody:", res, err)
		}
		if res, err := h.send(t, via, "Admin@x.org", sealed("admin@x.org", 700), "b@x.org"); err != nil || res.Local != 0 {
			t.Error(via, "in the operator's name:", res, err)
		}
	}
	if res, err := h.send(t, Inbound, "admin@y.org", sealed("admin@y.org", 800), "b@x.org"); err != nil || res.Local != 1 {
		t.Error("of the operator of another server:", res, err)
	}
	if got := h.list(t, "postmaster@x.org"); len(got) != 0 {
		t.Error("stored:", got)
	}
	if got := h.list(t, "b@x.org"); len(got) != 2 { // one came by two doors
		t.Error(len(got), "messages for b, want 2")
	}
	if _, err := h.send(t, Submission, "b@x.org", sealed("b@x.org", 500), "postmaster@x.org"); err != nil {
		t.Error("our own users may:", err)
	}
}

// Whoever did not hear the answer sends again, by any door.
func TestRepeatedMailIsStoredOnce(t *testing.T) {
	h := build(t, "b@x.org", "c@x.org")
	h.Origins = &origins{}
	now := time.Unix(1_700_000_000, 0)
	h.Now = func() time.Time { return now }
	text := sealed("a@y.org", 500)
	if res, err := h.send(t, Federation, "a@y.org", text, "b@x.org"); err != nil || res.Local != 1 {
		t.Fatal(res, err)
	}
	// By way of other hosts, signed anew.
	again := "Received: from elsewhere\r\n" + strings.Replace(text, "x=y", "x=z", 1)
	if res, err := h.send(t, Inbound, "a@y.org", again, "b@x.org", "c@x.org"); err != nil || res.Local != 2 {
		t.Fatal(res, err)
	}
	if b, c := len(h.list(t, "b@x.org")), len(h.list(t, "c@x.org")); b != 1 || c != 1 || h.Stats().Repeated != 1 {
		t.Error(b, c, h.Stats())
	}
	if _, err := h.send(t, Federation, "a@y.org", sealed("a@y.org", 501), "b@x.org"); err != nil || len(h.list(t, "b@x.org")) != 2 {
		t.Error("another message:", err)
	}
	now = now.Add(2 * remember)
	if _, err := h.send(t, Federation, "a@y.org", text, "b@x.org"); err != nil || len(h.list(t, "b@x.org")) != 3 {
		t.Error("much later:", err)
	}
}

func TestRepeatsAreBounded(t *testing.T) {
	var r repeats
	now := time.Unix(0, 0)
	var m fingerprint
	for i := range 3 * maxRemember {
		m[0], m[1], m[2] = byte(i), byte(i>>8), byte(i>>16)
		r.add(&m, address.Addr{}, now)
	}
	if len(r.recent)+len(r.older) > 2*maxRemember {
		t.Error(len(r.recent), len(r.older))
	}
	if !r.has(&m, address.Addr{}, now) || r.has(nil, address.Addr{}, now) {
		t.Error("the last one is forgotten")
	}
}

// One unknown member must not stop a group, and its sender is told only when
// that reaches whoever wrote.
func TestOthersGetTheMessage(t *testing.T) {
	for _, c := range []struct {
		name   string
		from   string
		proof  Proof
		missed int
	}{
		{"proven", "a@y.org", Proof{Proven: true}, 1},
		{"not proven", "a@y.org", Proof{}, 0},
		{"forged reverse-path", "a@y.org", Proof{Proven: true, Forged: true}, 0},
		{"null reverse-path", "", Proof{Proven: true}, 0},
	} {
		h := build(t, "b@x.org")
		o := &origins{proof: c.proof}
		h.Origins = o
		res, err := h.send(t, Federation, c.from, sealed("a@y.org", 500), "nobody@x.org", "b@x.org")
		if err != nil || res.Local != 1 || len(o.missed) != c.missed {
			t.Error(c.name, res, err, o.missed)
		}
	}
}

// failing lets deliveries to one account fail for a while.
type failing struct {
	mailbox.Store
	who address.Addr
}

func (f failing) Deliver(ctx context.Context, targets []mailbox.Target, b mailbox.Body) ([]mailbox.Placed, error) {
	placed := make([]mailbox.Placed, len(targets))
	for i, x := range targets {
		if x.Box.Account == f.who {
			placed[i].Err = fault.New(fault.Busy, "full disk")
			continue
		}
		p, err := f.Store.Deliver(ctx, []mailbox.Target{x}, b)
		if err != nil {
			return nil, err
		}
		placed[i] = p[0]
	}
	return placed, nil
}

// What could not be stored for one is put off for all, and nobody gets it twice.
func TestTroubleOfOneIsNeverLost(t *testing.T) {
	h := build(t, "b@x.org", "c@x.org")
	h.Origins = &origins{}
	h.Service.Store = failing{h.store, addr(t, "c@x.org")}
	text := sealed("a@y.org", 500)
	if _, err := h.send(t, Federation, "a@y.org", text, "b@x.org", "c@x.org"); !fault.Is(err, fault.Busy) {
		t.Fatal(err)
	}
	h.Service.Store = h.store
	if _, err := h.send(t, Federation, "a@y.org", text, "b@x.org", "c@x.org"); err != nil {
		t.Fatal(err)
	}
	if b, c := len(h.list(t, "b@x.org")), len(h.list(t, "c@x.org")); b != 1 || c != 1 {
		t.Error(b, c)
	}
}
