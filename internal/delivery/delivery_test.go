package delivery

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/maildir"
	"madmail/internal/quota"
)

type people map[address.Addr]bool // value: blocked

func (p people) Exists(a address.Addr) bool  { _, ok := p[a]; return ok }
func (p people) Blocked(a address.Addr) bool { return p[a] }

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

type house struct {
	*Service
	store *maildir.Store
	quota *quota.Cache
}

const limit = 100_000

func build(t testing.TB, who ...string) *house {
	t.Helper()
	p := people{}
	for _, w := range who {
		p[addr(t, strings.TrimPrefix(w, "!"))] = strings.HasPrefix(w, "!")
	}
	q := quota.New(func(address.Addr) int64 { return limit })
	st, err := maildir.Open(context.Background(), maildir.Options{Dir: t.TempDir(), Used: q.Add})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s, err := New(Options{
		Store: st, Quota: q, Accounts: p,
		Local:   func(d address.Domain) bool { return d == "x.org" },
		MaxSize: func(Via) int64 { return 50_000 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return &house{s, st, q}
}

// sealed makes a PGP/MIME message of about size octets.
func sealed(from string, size int) string {
	data := append([]byte{0xC0 | 18, 255, 0, byte(size >> 16), byte(size >> 8), byte(size)}, 1)
	data = append(data, make([]byte, size-1)...)
	b := base64.StdEncoding.EncodeToString(data)
	var lines strings.Builder
	for len(b) > 64 {
		lines.WriteString(b[:64] + "\r\n")
		b = b[64:]
	}
	lines.WriteString(b + "\r\n")
	return "Received: from a\r\nFrom: <" + from + ">\r\nSubject: secret plan\r\nDKIM-Signature: v=1;\r\n\tx=y\r\nMessage-ID: <1@localhost>\r\n" +
		"Content-Type: multipart/encrypted; boundary=b\r\n\r\n--b\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n" +
		"--b\r\nContent-Type: application/octet-stream\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\n" + lines.String() + "-----END PGP MESSAGE-----\r\n--b--\r\n"
}

func (h *house) list(t testing.TB, who string) []string {
	t.Helper()
	box := mailbox.Box{Account: addr(t, who), Name: mailbox.Inbox}
	v, err := h.store.View(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i := range v.Len() {
		c, err := h.store.Open(t.Context(), box, v.At(i).UID)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return all
}

func envelope(t testing.TB, via Via, from string, to ...string) *Envelope {
	e := &Envelope{Via: via, From: addr(t, from)}
	if via == Submission {
		e.Identity = e.From
	}
	for _, x := range to {
		e.To = append(e.To, addr(t, x))
	}
	return e
}

func TestAMessageReachesEveryRecipientThatExists(t *testing.T) {
	h := build(t, "a@x.org", "b@x.org", "c@x.org", "!blocked@x.org")
	e := envelope(t, Submission, "a@x.org", "b@x.org", "gone@x.org", "c@x.org", "blocked@x.org", "a@x.org")
	for _, oneByte := range []bool{false, true} {
		r := io.Reader(strings.NewReader(sealed("A@X.org", 300)))
		if oneByte {
			r = iotest.OneByteReader(r)
		}
		res, err := h.Accept(t.Context(), e, r)
		if err != nil || res.Local != 3 || len(res.Failed) != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	for _, who := range []string{"a@x.org", "b@x.org", "c@x.org"} {
		got := h.list(t, who)
		if len(got) != 2 {
			t.Fatalf("%s has %d messages", who, len(got))
		}
		for _, m := range got {
			want := strings.NewReplacer("Received: from a\r\n", "", "DKIM-Signature: v=1;\r\n\tx=y\r\n", "", "Subject: secret plan", "Subject: [...]").Replace(sealed("A@X.org", 300))
			if m != want {
				t.Errorf("%s has %q, want %q", who, m, want)
			}
		}
	}
	if used, n, _ := h.quota.Usage(addr(t, "b@x.org")); n != 2 || used == 0 {
		t.Errorf("usage %d octets, %d messages", used, n)
	}
}

// TestMailForATagGoesToTheNameBeforeIt, where the file of the first version wanted it,
// and to nobody twice.
func TestMailForATagGoesToTheNameBeforeIt(t *testing.T) {
	h := build(t, "a@x.org", "b@x.org", "b+list@x.org", "!blocked@x.org")
	for _, on := range []bool{false, true} {
		h.Tags = func() bool { return on }
		e := envelope(t, Federation, "f@y.org", "b+one+two@x.org", "b+one@x.org", "b@x.org", "b+list@x.org", "a+@x.org", "+a@x.org", "blocked+x@x.org", "gone+x@x.org")
		if on { // b+one@x.org stands for b@x.org, which is named; b+one is nobody
			e.To = append(e.To, addr(t, "a+news@x.org"))
		}
		res, err := h.Accept(t.Context(), e, strings.NewReader(sealed("f@y.org", 300)))
		if want := map[bool]int{false: 2, true: 3}[on]; err != nil || res.Local != want {
			t.Errorf("%v: %+v, %v; want %d copies", on, res, err, want)
		}
	}
	for who, want := range map[string]int{"a@x.org": 1, "b@x.org": 2, "b+list@x.org": 2} {
		if n := len(h.list(t, who)); n != want {
			t.Errorf("%s has %d messages, want %d", who, n, want)
		}
	}
}

// TestEveryDoorAsksTheSameGate: each ingress gives each message the same verdict, but
// for what the rules of direction say. Number 40 of the known failures passed whatever
// had the words of PGP/MIME in it.
func TestEveryDoorAsksTheSameGate(t *testing.T) {
	good := sealed("a@x.org", 300)
	literal := strings.Replace(sealed("a@x.org", 300), "0v8A", "y/8A", 1) // packet 11 for packet 18
	if literal == good {
		t.Fatal("no other packet was made")
	}
	join := "From: <a@x.org>\r\nSecure-Join: vc-request\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSecure-Join: vc-request\r\n--b--\r\n"
	report := "From: Mailer-Daemon@y.org\r\nAuto-Submitted: auto-replied\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\r\nfailed\r\n--b--\r\n"
	messages := []struct {
		name, text string
		out, in    bool // passes on the way out, and in
	}{
		{"encrypted", good, true, true},
		{"clear", "From: <a@x.org>\r\n\r\nhello\r\n", false, false},
		{"words of PGP/MIME", "From: <a@x.org>\r\nContent-Type: text/plain; x=\"application/pgp-encrypted\"\r\n\r\napplication/pgp-encrypted\r\n-----BEGIN PGP MESSAGE-----\r\n", false, false},
		{"not what it says", literal, false, false},
		{"one part", good[:strings.Index(good, "--b\r\nContent-Type: application/octet")] + "--b--\r\n", false, false},
		{"old handshake", join, true, true},
		{"report", report, false, true},
	}
	for via := range Via(len(rules)) {
		for _, m := range messages {
			for _, off := range []bool{false, true} {
				h := build(t, "a@x.org", "b@x.org")
				h.NoSecureJoin = func() bool { return off }
				e := envelope(t, via, "a@x.org", "b@x.org")
				if rules[via].bound {
					e.Identity = e.From
				}
				want := m.in
				switch {
				case rules[via].exempt:
					want = true
				case off && m.name == "old handshake":
					want = false
				case rules[via].outgoing:
					want = m.out
				}
				text := m.text
				var err error
				if via == Append {
					_, err = h.Append(t.Context(), mailbox.Target{Box: mailbox.Box{Account: e.From, Name: mailbox.Inbox}}, strings.NewReader(text), int64(len(text)))
				} else {
					if rules[via].bound {
						text = strings.Replace(text, "Mailer-Daemon@y.org", "a@x.org", 1)
					}
					_, err = h.Accept(t.Context(), e, strings.NewReader(text))
				}
				if want && err != nil || !want && !fault.Is(err, fault.Unencrypted) {
					t.Errorf("%v, %s, handshake refused %v: %v; want accepted %v", via, m.name, off, err, want)
				}
				if !want && fault.UserText(err) != "Encryption Needed: Invalid Unencrypted Mail" {
					t.Errorf("%v, %s: %q", via, m.name, fault.UserText(err))
				}
			}
		}
	}
}

func TestRefusalsLeaveNothingBehind(t *testing.T) {
	good := sealed("a@x.org", 300)
	clear := "From: <a@x.org>\r\nSubject: hi\r\n\r\nhello\r\n"
	for _, c := range []struct {
		name string
		e    *Envelope
		msg  string
		kind fault.Kind
	}{
		{"clear text", envelope(t, Submission, "a@x.org", "b@x.org"), clear, fault.Unencrypted},
		{"clear text from outside", envelope(t, Inbound, "z@other.org", "b@x.org"), clear, fault.Unencrypted},
		{"clear text by HTTP", envelope(t, Federation, "z@other.org", "b@x.org"), clear, fault.Unencrypted},
		{"From of another", envelope(t, Submission, "b@x.org", "a@x.org"), good, fault.Invalid},
		{"two From fields", envelope(t, Submission, "a@x.org", "b@x.org"), "From: <a@x.org>\r\n" + good, fault.Invalid},
		{"no From", envelope(t, Inbound, "a@x.org", "b@x.org"), strings.Replace(good, "From:", "X-From:", 1), fault.Invalid},
		{"NUL", envelope(t, Submission, "a@x.org", "b@x.org"), strings.Replace(good, "secret", "sec\x00ret", 1), fault.Invalid},
		{"bare LF", envelope(t, Submission, "a@x.org", "b@x.org"), strings.Replace(good, "\r\n--b\r\n", "\n--b\r\n", 1), fault.Invalid},
		{"too big", envelope(t, Submission, "a@x.org", "b@x.org"), sealed("a@x.org", 45_000), fault.TooBig},
		{"nobody there", envelope(t, Submission, "a@x.org", "no@x.org", "blocked@x.org"), good, fault.NotFound},
		{"loop", envelope(t, Inbound, "a@x.org", "b@x.org"), strings.Repeat("Received: x\r\n", 51) + good, fault.Refused},
		{"no recipients", envelope(t, Submission, "a@x.org"), good, fault.Invalid},
		{"empty", envelope(t, Submission, "a@x.org", "b@x.org"), "", fault.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := build(t, "a@x.org", "b@x.org", "!blocked@x.org")
			_, err := h.Accept(t.Context(), c.e, strings.NewReader(c.msg))
			if !fault.Is(err, c.kind) || err == nil {
				t.Errorf("error %v (%v), want %v", err, fault.KindOf(err), c.kind)
			}
			for _, who := range []string{"a@x.org", "b@x.org"} {
				if got := h.list(t, who); len(got) != 0 {
					t.Errorf("%s has %d messages", who, len(got))
				}
				if used, _, _ := h.quota.Usage(addr(t, who)); used != 0 {
					t.Errorf("%s uses %d octets", who, used)
				}
			}
		})
	}
}

func TestABrokenReaderDropsTheMessage(t *testing.T) {
	h := build(t, "a@x.org", "b@x.org")
	boom := errors.New("connection lost")
	msg := sealed("a@x.org", 300)
	_, err := h.Accept(t.Context(), envelope(t, Submission, "a@x.org", "b@x.org"), io.MultiReader(strings.NewReader(msg), iotest.ErrReader(boom)))
	if !errors.Is(err, boom) || len(h.list(t, "b@x.org")) != 0 {
		t.Errorf("%v, %d messages", err, len(h.list(t, "b@x.org")))
	}
}

func TestAFullMailboxAmongOthersDoesNotStopTheMessage(t *testing.T) {
	h := build(t, "a@x.org", "b@x.org", "full@x.org")
	h.quota.Add(addr(t, "full@x.org"), limit-10, 1)
	e := envelope(t, Submission, "a@x.org", "full@x.org")
	if _, err := h.Accept(t.Context(), e, strings.NewReader(sealed("a@x.org", 300))); !fault.Is(err, fault.Full) {
		t.Errorf("only a full recipient: %v", err)
	}
	e = envelope(t, Submission, "a@x.org", "full@x.org", "b@x.org", "no@x.org")
	res, err := h.Accept(t.Context(), e, strings.NewReader(sealed("a@x.org", 300)))
	if err != nil || res.Local != 1 || len(res.Failed) != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	if !h.quota.HasRoom(addr(t, "full@x.org"), 10) {
		t.Error("a reservation was kept")
	}
}

// TestAnAccountsOwnLimitHoldsAtEveryDoor: requirement of imap-acct appendlimit.
func TestAnAccountsOwnLimitHoldsAtEveryDoor(t *testing.T) {
	h := build(t, "a@x.org", "b@x.org")
	small := addr(t, "b@x.org")
	h.AppendLimit = func(a address.Addr) int64 {
		if a == small {
			return 2000
		}
		return 0
	}
	for _, via := range []Via{Submission, Inbound, Federation} {
		from := "a@x.org"
		if via != Submission {
			from = "a@y.org"
		}
		if _, err := h.Accept(t.Context(), envelope(t, via, from, "b@x.org"), strings.NewReader(sealed(from, 3000))); !fault.Is(err, fault.TooBig) {
			t.Errorf("%s: %v", via, err)
		}
		if res, err := h.Accept(t.Context(), envelope(t, via, from, "a@x.org", "b@x.org"), strings.NewReader(sealed(from, 3000))); err != nil || res.Local != 1 ||
			len(res.Failed) != 1 || !fault.Is(res.Failed[0].Err, fault.TooBig) {
			t.Errorf("%s, one of two: %+v, %v", via, res, err)
		}
		if res, err := h.Accept(t.Context(), envelope(t, via, from, "b@x.org"), strings.NewReader(sealed(from, 300))); err != nil || res.Local != 1 {
			t.Errorf("%s, a short message: %+v, %v", via, res, err)
		}
	}
	text := sealed("b@x.org", 3000)
	box := mailbox.Target{Box: mailbox.Box{Account: small, Name: mailbox.Inbox}}
	if _, err := h.Append(t.Context(), box, strings.NewReader(text), int64(len(text))); !fault.Is(err, fault.TooBig) {
		t.Errorf("append: %v", err)
	}
	if used, _, _ := h.quota.Usage(small); len(h.list(t, "b@x.org")) != 3 || len(h.list(t, "a@x.org")) != 3 || used > 3*2000 {
		t.Errorf("%d octets in %d messages", used, len(h.list(t, "b@x.org")))
	}
}

func TestOnlyOurDomainsAreTaken(t *testing.T) {
	h := build(t, "a@x.org")
	for via := Submission; via <= Notice; via++ {
		e := envelope(t, via, "a@x.org")
		if err := h.Check(t.Context(), e, addr(t, "nobody@x.org")); err != nil {
			t.Errorf("%v: an address of ours was refused early: %v", via, err)
		}
		if err := h.Check(t.Context(), e, addr(t, "b@elsewhere.org")); !fault.Is(err, fault.Refused) {
			t.Errorf("%v: another domain: %v", via, err)
		}
	}
}

func TestSeveralMessagesAreTakenTogetherOrNotAtAll(t *testing.T) {
	h := build(t, "a@x.org")
	box := mailbox.Box{Account: addr(t, "a@x.org"), Name: mailbox.Inbox}
	var list []mailbox.Arrival
	for i := range 2 {
		msg := sealed("somebody@else.org", 300+i)
		a, err := h.Spool(t.Context(), mailbox.Target{Box: box, Flags: mailbox.Seen}, strings.NewReader(msg), int64(len(msg)))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		list = append(list, a)
	}
	if got := h.list(t, "a@x.org"); len(got) != 0 {
		t.Errorf("%d messages before Commit", len(got))
	}
	nowhere := box
	nowhere.Name = "nowhere"
	if _, err := h.Commit(t.Context(), nowhere, list, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("no mailbox: %v", err)
	}
	placed, err := h.Commit(t.Context(), box, list, nil)
	if err != nil || len(placed) != 2 || placed[1].UID != 2 {
		t.Fatal(placed, err)
	}
	if _, err := h.Commit(t.Context(), box, list[:1], &mailbox.Ref{Box: box, UID: 1}); err != nil {
		t.Fatal(err)
	}
	if got := h.list(t, "a@x.org"); len(got) != 2 || len(got[0]) <= len(got[1]) {
		t.Errorf("%d messages", len(got))
	}
}

func TestAppendKeepsTheMessageAsItIsAndAsksTheGate(t *testing.T) {
	h := build(t, "a@x.org")
	msg := sealed("somebody@else.org", 300)
	to := mailbox.Target{Box: mailbox.Box{Account: addr(t, "a@x.org"), Name: mailbox.Inbox}, Flags: mailbox.Seen}
	p, err := h.Append(t.Context(), to, strings.NewReader(msg), int64(len(msg)))
	if err != nil || p.UID != 1 {
		t.Fatal(p, err)
	}
	if got := h.list(t, "a@x.org"); len(got) != 1 || got[0] != msg {
		t.Errorf("%q", got)
	}
	clear := "From: a@x.org\r\n\r\nhello\r\n"
	if _, err := h.Append(t.Context(), to, strings.NewReader(clear), int64(len(clear))); !fault.Is(err, fault.Unencrypted) {
		t.Errorf("clear text: %v", err)
	}
	if _, err := h.Append(t.Context(), to, strings.NewReader(msg), limit); !fault.Is(err, fault.TooBig) {
		t.Errorf("too big: %v", err)
	}
}
