package outbound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const text = "From: <a@our.example>\r\nTo: <b@x.example>\r\nMessage-ID: <m@our.example>\r\n\r\nbody\r\n"

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// call is one use of a transport.
type call struct {
	Target
	to   []string
	body string
	at   time.Time
}

// peerSide is the other servers, as both transports see them.
type peerSide struct {
	mu     sync.Mutex
	calls  []call
	answer func(ctx context.Context, t Target, l *Letter) []Outcome
}

func (p *peerSide) Deliver(ctx context.Context, t Target, l *Letter) []Outcome {
	b, _ := io.ReadAll(l.NewReader())
	c := call{Target: t, body: string(b), at: time.Now()}
	for _, a := range l.To {
		c.to = append(c.to, a.Wire())
	}
	p.mu.Lock()
	p.calls = append(p.calls, c)
	answer := p.answer
	p.mu.Unlock()
	return answer(ctx, t, l)
}

func (p *peerSide) does(f func(ctx context.Context, t Target, l *Letter) []Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// take returns the calls so far and forgets them.
func (p *peerSide) take() []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.calls
	p.calls = nil
	return c
}

// ways returns the calls as "https mx1, smtp mx1".
func (p *peerSide) ways() string {
	var s []string
	for _, c := range p.take() {
		s = append(s, c.By.String()+" "+c.Host)
	}
	return strings.Join(s, ", ")
}

var (
	good        = Outcome{Result: Delivered, Answered: true}
	unreachable = Outcome{Result: Failed, Status: "4.4.1", Reply: "no connection"}
)

// always answers by transport.
func always(https, smtp Outcome) func(context.Context, Target, *Letter) []Outcome {
	return func(_ context.Context, t Target, l *Letter) []Outcome {
		if t.By == peers.SMTP {
			return Every(l, smtp)
		}
		return Every(l, https)
	}
}

type bounce struct {
	to   address.Addr
	text string
	at   time.Time
}

type fixture struct {
	*Worker
	t        *testing.T
	d        *db.DB
	dir      string
	q        *queue.Queue
	policy   *policy.Store
	peers    *peers.Store
	peer     *peerSide
	resolver *fakeResolver

	mu        sync.Mutex
	bounces   []bounce
	delivered []string // texts of all of them
	bounceErr error
	bouncing  func() // before one is delivered
	bounced   func() // after
	signed    []address.Domain
	rewrite   string
}

func (f *fixture) Bounce(_ context.Context, to address.Addr, m []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bouncing != nil {
		f.bouncing()
	}
	if f.bounceErr != nil {
		return f.bounceErr
	}
	f.bounces = append(f.bounces, bounce{to, string(m), time.Now()})
	f.delivered = append(f.delivered, string(m))
	if f.bounced != nil {
		f.bounced()
	}
	return nil
}

// Bounced looks at all that was delivered, also what the test took.
func (f *fixture) Bounced(_ context.Context, _ address.Addr, id string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.delivered, func(s string) bool { return strings.Contains(s, "\r\nMessage-ID: <"+id+">\r\n") }), nil
}

func (f *fixture) told() []bounce {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.bounces
	f.bounces = nil
	return b
}

func (f *fixture) Sign(_ context.Context, d address.Domain, header []byte, body io.Reader) ([]byte, error) {
	b, err := io.ReadAll(body)
	if err != nil || !bytes.HasSuffix(header, []byte("\r\n\r\n")) || !bytes.HasPrefix(b, []byte("body")) {
		return nil, errors.New("not what is to be signed")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signed = append(f.signed, d)
	if _, literal := d.IP(); literal {
		return nil, nil
	}
	return []byte("DKIM-Signature: d=" + string(d) + "\r\n"), nil
}

// setUp makes a worker whose time is that of the bubble; change may alter its options.
func setUp(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), peer: &peerSide{answer: always(good, good)}, resolver: &fakeResolver{mx: make(map[string][]MX), err: make(map[string]error)}}
	var err error
	if f.d, err = db.Open(t.Context(), db.Options{StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if f.q, err = queue.Open(t.Context(), queue.Options{Dir: f.dir}); err != nil {
		t.Fatal(err)
	}
	if f.policy, err = policy.Open(t.Context(), policy.Options{DB: f.d}); err != nil {
		t.Fatal(err)
	}
	if f.peers, err = peers.Open(peers.Options{DB: f.d, Queued: f.q.Depths}); err != nil {
		t.Fatal(err)
	}
	f.build(change)
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		f.d.Close(context.Background())
	})
	return f
}

func (f *fixture) build(change func(*Options)) {
	o := Options{
		Queue: f.q, Policy: f.policy, Peers: f.peers, Resolver: f.resolver, HTTP: f.peer, SMTP: f.peer, Bouncer: f,
		Local:   func(d address.Domain) bool { return d == "our.example" },
		Domain:  func() address.Domain { return "our.example" },
		Rewrite: func() string { f.mu.Lock(); defer f.mu.Unlock(); return f.rewrite },
		Random:  func() float64 { return 0.5 },
	}
	if change != nil {
		change(&o)
	}
	var err error
	if f.Worker, err = New(o); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) send(from string, to ...string) queue.ID {
	f.t.Helper()
	v := queue.Envelope{}
	if from != "" {
		v.From = addr(f.t, from)
	}
	for _, s := range to {
		v.To = append(v.To, addr(f.t, s))
	}
	ids, err := f.q.Put(f.t.Context(), strings.NewReader(text), int64(len(text)), v)
	if err != nil {
		f.t.Fatal(err)
	}
	return ids[0]
}

// pass lets time go by and what happens in it happen.
func (f *fixture) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// settle waits until what is due is done.
func (f *fixture) settle() { f.pass(10 * time.Millisecond) }

// bubble runs a test in fake time.
func bubble(t *testing.T, change func(*Options), test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(setUp(t, change)) })
}

func TestOneLetterForAllRecipientsOfAServer(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.resolver.mx["x.example"] = []MX{{Host: "mx1.x.example"}, {Host: "mx2.x.example"}}
		f.send("a@our.example", "b@x.example", "c@x.example")
		f.settle()
		calls := f.peer.take()
		if len(calls) != 1 || calls[0].By != peers.HTTPS || calls[0].Host != "mx1.x.example" || !slices.Equal(calls[0].to, []string{"b@x.example", "c@x.example"}) || calls[0].body != text {
			t.Fatalf("calls: %+v", calls)
		}
		if s := f.q.Stats(); s.Entries != 0 {
			t.Errorf("queue: %+v", s)
		}
		list, err := f.peers.List(f.t.Context(), 10)
		if err != nil || len(list) != 1 || list[0].Delivered != 1 || list[0].Succeeded != [3]int64{1, 0, 0} || list[0].Failed != [3]int64{} {
			t.Errorf("statistics: %+v, %v", list, err)
		}
		if b := f.told(); len(b) != 0 {
			t.Errorf("told: %v", b)
		}
	})
}

func TestTheOrderOfWays(t *testing.T) {
	notHere := ClassifyHTTP("mx", http.StatusNotFound, nil, "", time.Time{})
	refused := Outcome{Result: Refused, Status: "5.1.1", Reply: "550 5.1.1 no", Answered: true}
	for _, c := range []struct {
		name        string
		to          string
		https, smtp Outcome
		want        string
		left, told  int
	}{
		{"first host", "b@x.example", good, good, "https mx1", 0, 0},
		{"HTTPS closed", "b@x.example", unreachable, good, "https mx1, smtp mx1", 0, 0},
		{"not a relay's web server", "b@x.example", notHere, good, "https mx1, smtp mx1", 0, 0},
		{"all closed", "b@x.example", unreachable, unreachable, "https mx1, smtp mx1, https mx2, smtp mx2", 1, 0},
		{"refused by SMTP", "b@x.example", unreachable, refused, "https mx1, smtp mx1", 0, 1},
		{"refused by both", "b@x.example", ClassifyHTTP("mx", 403, nil, "", time.Time{}), refused, "https mx1, smtp mx1", 0, 1},
		{"a refusal that SMTP does not share", "b@x.example", ClassifyHTTP("mx", 403, nil, "", time.Time{}), good, "https mx1, smtp mx1", 0, 0},
		{"a refusal that SMTP cannot confirm", "b@x.example", ClassifyHTTP("mx", 403, nil, "", time.Time{}), unreachable, "https mx1, smtp mx1", 1, 0},
		{"too big for the web server", "b@x.example", ClassifyHTTP("mx", 413, nil, "", time.Time{}), good, "https mx1, smtp mx1", 0, 0},
		{"mailbox full", "b@x.example", ClassifyHTTP("mx", 507, nil, "", time.Time{}), good, "https mx1", 1, 0},
		{"later by HTTP", "b@x.example", ClassifyHTTP("mx", 400, []byte("451 later"), "", time.Time{}), good, "https mx1", 1, 0},
		{"web server in trouble", "b@x.example", ClassifyHTTP("mx", 502, nil, "", time.Time{}), good, "https mx1, smtp mx1", 0, 0},
		{"later by SMTP", "b@x.example", unreachable, Outcome{Result: Later, Answered: true}, "https mx1, smtp mx1", 1, 0},
		{"an address", "b@[192.0.2.1]", unreachable, good, "https 192.0.2.1, http 192.0.2.1, smtp 192.0.2.1", 0, 0},
		{"an address that answers by HTTPS", "b@[192.0.2.1]", notHere, good, "https 192.0.2.1, smtp 192.0.2.1", 0, 0},
		{"no MX", "b@y.example", good, good, "https y.example", 0, 0},
		{"null MX", "b@null.example", good, good, "", 0, 1},
		{"no such domain", "b@gone.example", good, good, "", 0, 1},
		{"no DNS", "b@dark.example", good, good, "", 1, 0},
		{"address beyond ASCII", "ä@x.example", good, good, "smtp mx1", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				// Known failure 3: mail for relays whose MX is another host never arrived.
				f.resolver.mx["x.example"] = []MX{{Host: "mx1"}, {Host: "mx2."}}
				f.resolver.mx["null.example"] = []MX{{Host: ""}}
				f.resolver.err["gone.example"] = fault.New(fault.NotFound, "no such name")
				f.resolver.err["dark.example"] = fault.New(fault.Busy, "no server answers")
				f.peer.does(always(c.https, c.smtp))
				f.send("a@our.example", c.to)
				f.settle()
				if got := f.peer.ways(); got != c.want {
					t.Errorf("ways: %s, want %s", got, c.want)
				}
				if n := f.q.Stats().Entries; n != c.left {
					t.Errorf("%d entries are left, want %d", n, c.left)
				}
				if n := len(f.told()); n != c.told {
					t.Errorf("%d notifications, want %d", n, c.told)
				}
			})
		})
	}
}

func TestRecipientsAreSettledOneByOne(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(func(_ context.Context, w Target, l *Letter) []Outcome {
			if w.By != peers.SMTP {
				return Every(l, unreachable)
			}
			outs := make([]Outcome, len(l.To))
			for i, a := range l.To {
				switch a.Local() {
				case "gone":
					outs[i] = ClassifySMTP("mx", Recipient, 550, "5.1.1 No such user")
				case "busy":
					outs[i] = ClassifySMTP("mx", Recipient, 450, "4.2.0 Later")
				default:
					outs[i] = ClassifySMTP("mx", End, 250, "OK")
				}
			}
			return outs
		})
		id := f.send("a@our.example", "ok@x.example", "gone@x.example", "busy@x.example")
		f.settle()
		b := f.told()
		if len(b) != 1 || b[0].to != addr(t, "a@our.example") {
			t.Fatalf("told: %+v", b)
		}
		for _, want := range []string{"Final-Recipient: rfc822; gone@x.example\r\nAction: failed\r\nStatus: 5.1.1\r\n", "550 5.1.1 No such user", "Message-ID: <m@our.example>", "Remote-MTA: dns; mx"} {
			if !strings.Contains(b[0].text, want) {
				t.Errorf("the notification lacks %q:\n%s", want, b[0].text)
			}
		}
		if strings.Contains(b[0].text, "busy@") {
			t.Error("the notification names one that is tried again")
		}
		i, err := f.q.Get(id)
		if err != nil || len(i.To) != 1 || i.To[0].Addr != addr(t, "busy@x.example") || i.Tries != 1 || i.Error != "450 4.2.0 Later" {
			t.Errorf("entry: %+v, %v", i, err)
		}
		f.peer.take()
		f.pass(time.Minute)
		if c := f.peer.take(); len(c) != 1 || c[0].By != peers.SMTP || !slices.Equal(c[0].to, []string{"busy@x.example"}) { // what went well comes first
			t.Errorf("second try: %+v", c)
		}
	})
}

// TestAServerThatIsAwayForAQuarterOfAnHourGetsItsMail is known failure 4: the
// predecessor dropped it after ten minutes, in silence.
func TestAServerThatIsAwayForAQuarterOfAnHourGetsItsMail(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(unreachable, unreachable))
		f.send("a@our.example", "b@x.example")
		f.pass(15 * time.Minute)
		if f.q.Stats().Entries != 1 {
			t.Fatal("the message is gone")
		}
		if d := f.Trouble(); d["x.example"] != "no connection" {
			t.Errorf("trouble: %v", d)
		}
		f.peer.take()
		f.peer.does(always(good, good))
		f.pass(10 * time.Minute)
		if f.q.Stats().Entries != 0 || len(f.told()) != 0 || len(f.Trouble()) != 0 {
			t.Errorf("left: %+v, trouble %v", f.q.Stats(), f.Trouble())
		}
		list, err := f.peers.List(f.t.Context(), 1)
		if err != nil || len(list) != 1 || list[0].Latency < 15*time.Minute || list[0].Delivered != 1 || list[0].Failed[peers.HTTPS] == 0 || list[0].Failed[peers.SMTP] != list[0].Failed[peers.HTTPS] {
			t.Errorf("statistics: %+v, %v", list, err) // known failure 38: latency was 0
		}
	})
}

func TestWhatWaitsGoesOutWhenTheServerIsBack(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(unreachable, unreachable))
		for range 20 {
			f.send("a@our.example", "b@x.example")
		}
		f.pass(2 * time.Hour)
		n := len(f.peer.take())
		// 20 messages are not 20 times as many tries: one is made for all.
		if n > 100 {
			t.Errorf("%d tries in two hours", n)
		}
		f.peer.does(always(good, good))
		f.Alive("x.example") // mail came from there
		f.settle()
		if s := f.q.Stats(); s.Entries != 0 {
			t.Errorf("left: %+v", s)
		}
	})
}

func TestAMessageIsGivenUpInTimeWithOneNotification(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(unreachable, unreachable))
		start := time.Now()
		f.send("a@our.example", "b@x.example", "c@x.example")
		f.pass(23 * time.Hour)
		if len(f.told()) != 0 || f.q.Stats().Entries != 1 {
			t.Fatal("given up early")
		}
		f.pass(70 * time.Minute)
		b := f.told()
		if len(b) != 1 || f.q.Stats().Entries != 0 {
			t.Fatalf("told %d times, %+v", len(b), f.q.Stats())
		}
		if at := b[0].at.Sub(start); at < 24*time.Hour {
			t.Errorf("given up after %v", at)
		}
		for _, want := range []string{"b@x.example", "c@x.example", "Status: 5.4.7", "no connection"} {
			if !strings.Contains(b[0].text, want) {
				t.Errorf("the notification lacks %q", want)
			}
		}
	})
}

func TestAManyThousandTimesDeadServerIsGivenUpToo(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(unreachable, unreachable))
		v := queue.Envelope{From: addr(t, "a@our.example"), To: []address.Addr{addr(t, "b@x.example")}, Lifetime: time.Hour}
		list := make([]queue.Envelope, 500)
		for i := range list {
			list[i] = v
		}
		if _, err := f.q.Put(f.t.Context(), strings.NewReader(text), int64(len(text)), list...); err != nil {
			t.Fatal(err)
		}
		f.pass(90 * time.Minute)
		if s := f.q.Stats(); s.Entries != 0 || len(f.told()) != 500 {
			t.Errorf("left: %+v", s)
		}
	})
}

func TestWhoIsTold(t *testing.T) {
	refused := Outcome{Result: Refused, Status: "5.1.1", Reply: "550 no", Answered: true}
	for _, c := range []struct {
		name, from string
		silent     bool
		want       int
	}{
		{"one of ours", "a@our.example", false, 1},
		{"a stranger", "a@elsewhere.example", false, 0},
		{"nobody: no notification answers one", "", false, 0},
		{"one who does not want it", "a@our.example", true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.peer.does(always(unreachable, refused))
				v := queue.Envelope{To: []address.Addr{addr(t, "b@x.example")}, Silent: c.silent}
				if c.from != "" {
					v.From = addr(t, c.from)
				}
				if _, err := f.q.Put(f.t.Context(), strings.NewReader(text), int64(len(text)), v); err != nil {
					t.Fatal(err)
				}
				f.settle()
				if n := len(f.told()); n != c.want || f.q.Stats().Entries != 0 {
					t.Errorf("%d notifications, %+v", n, f.q.Stats())
				}
			})
		})
	}
}

func TestANotificationThatCannotBeDeliveredIsNotForgotten(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.mu.Lock()
		f.bounceErr = fault.New(fault.Busy, "the disk is full")
		f.mu.Unlock()
		f.peer.does(always(unreachable, Outcome{Result: Refused, Status: "5.1.1", Reply: "550 no", Remote: "mx", Answered: true}))
		id := f.send("a@our.example", "b@x.example")
		f.settle()
		i, err := f.q.Get(id)
		if err != nil || len(i.To) != 1 || i.To[0].Failure == nil {
			t.Fatalf("entry: %+v, %v", i, err)
		}
		f.peer.take()
		f.mu.Lock()
		f.bounceErr = nil
		f.mu.Unlock()
		f.pass(6 * time.Minute)
		if b := f.told(); len(b) != 1 || !strings.Contains(b[0].text, "550 no") || f.q.Stats().Entries != 0 {
			t.Errorf("told: %+v, %+v", b, f.q.Stats())
		}
		if c := f.peer.take(); len(c) != 0 {
			t.Errorf("a refused message was sent again: %+v", c)
		}
		// A sender who is gone is not waited for.
		f.mu.Lock()
		f.bounceErr = fault.New(fault.NotFound, "no such user")
		f.mu.Unlock()
		f.send("gone@our.example", "b@x.example")
		f.settle()
		if f.q.Stats().Entries != 0 {
			t.Error("waits for a sender who is gone")
		}
	})
}

// TestNobodyIsToldTwice ends the server right before and right after a notification
// is delivered: what the disk holds at that moment is all that the next one has.
func TestNobodyIsToldTwice(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after %v", after), func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				moment := t.TempDir()
				snapshot := func() {
					if err := os.CopyFS(moment, os.DirFS(f.dir)); err != nil {
						t.Error(err)
					}
				}
				f.mu.Lock()
				if after {
					f.bounced = snapshot
				} else {
					f.bouncing = snapshot
				}
				f.mu.Unlock()
				later := Outcome{Result: Later, Status: "4.2.1", Reply: "450 4.2.1 Later", Answered: true}
				no := Outcome{Result: Refused, Status: "5.1.1", Reply: "550 no", Answered: true}
				f.peer.does(func(_ context.Context, w Target, l *Letter) []Outcome {
					if w.By != peers.SMTP {
						return Every(l, unreachable)
					}
					outs := Every(l, later)
					outs[0] = no
					return outs
				})
				f.send("a@our.example", "gone@x.example", "b@x.example")
				f.settle()
				if n := len(f.told()); n != 1 {
					t.Fatalf("%d notifications", n)
				}
				if err := f.Stop(context.Background()); err != nil {
					t.Fatal(err)
				}
				f.mu.Lock()
				f.bouncing, f.bounced = nil, nil
				if !after {
					f.delivered = nil // it never came so far
				}
				f.mu.Unlock()
				f.dir = moment
				var err error
				if f.q, err = queue.Open(t.Context(), queue.Options{Dir: moment}); err != nil {
					t.Fatal(err)
				}
				f.build(nil)
				f.Resume(t.Context())
				want := 1
				if after {
					want = 0
				}
				if n := len(f.told()); n != want {
					t.Errorf("%d notifications from the next server, want %d", n, want)
				}
				list, _, err := f.q.List(t.Context(), queue.Filter{}, 0, 10)
				if err != nil || len(list) != 1 || len(list[0].To) != 1 || list[0].To[0].Addr != addr(t, "b@x.example") || list[0].Notice != "" {
					t.Fatalf("left: %+v, %v", list, err)
				}
				f.peer.take()
				f.peer.does(always(good, good))
				if err := f.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				f.pass(3 * time.Minute)
				if c := f.peer.take(); len(c) != 1 || len(c[0].to) != 1 || len(f.told()) != 0 || f.q.Stats().Entries != 0 {
					t.Errorf("the other recipient: %+v, %+v", c, f.q.Stats())
				}
			})
		})
	}
}

// TestWhatTheOperatorRemovesIsNotTold removes an entry while its last try is under way.
func TestWhatTheOperatorRemovesIsNotTold(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(func(_ context.Context, _ Target, l *Letter) []Outcome {
			list, _, err := f.q.List(context.Background(), queue.Filter{}, 0, 1)
			if err == nil && len(list) == 1 {
				err = f.q.Remove(list[0].ID)
			}
			if err != nil {
				t.Error(err)
			}
			return Every(l, Outcome{Result: Refused, Status: "5.1.1", Reply: "550 no", Answered: true})
		})
		f.send("a@our.example", "b@x.example")
		f.settle()
		if n := len(f.told()); n != 0 || f.q.Stats().Entries != 0 {
			t.Errorf("%d notifications, %+v", n, f.q.Stats())
		}
	})
}

func TestOneDeadServerDelaysNoOther(t *testing.T) {
	// Known failure 35.
	bubble(t, nil, func(f *fixture) {
		stuck := make(chan struct{})
		f.peer.does(func(ctx context.Context, w Target, l *Letter) []Outcome {
			if w.Domain != "ok.example" {
				select {
				case <-stuck:
				case <-ctx.Done():
				}
				return Every(l, unreachable)
			}
			return Every(l, good)
		})
		f.send("a@our.example", "b@ok.example")
		f.settle()
		f.peer.take()
		for i := range 40 { // more dead servers than workers
			for range 5 {
				f.send("a@our.example", fmt.Sprintf("b@dead%d.example", i))
			}
		}
		f.settle()
		per := make(map[address.Domain]int)
		for _, c := range f.peer.take() {
			per[c.Domain]++
		}
		for d, n := range per {
			if n > 2 {
				t.Errorf("%d in flight to %s", n, d)
			}
		}
		if len(per) == 0 || f.q.Stats().Taken > 12 {
			t.Errorf("%d destinations, %+v", len(per), f.q.Stats())
		}
		for range 10 {
			f.send("a@our.example", "b@ok.example")
		}
		f.settle()
		n := 0
		for _, c := range f.peer.take() {
			if c.Domain == "ok.example" {
				n++
			}
		}
		if n != 10 {
			t.Errorf("%d of 10 messages got through", n)
		}
		close(stuck)
		f.settle()
		f.pass(time.Minute)
		if s := f.q.Stats(); s.Taken != 0 {
			t.Errorf("after the time-outs: %+v", s)
		}
		f.Worker.mu.Lock()
		defer f.Worker.mu.Unlock()
		if f.inFlight != 0 || f.doubtful != 0 || f.unknown != 0 {
			t.Errorf("counts: %d %d %d", f.inFlight, f.doubtful, f.unknown)
		}
	})
}

func TestADestinationHasTwoInFlight(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		var now, most atomic.Int32
		f.peer.does(func(_ context.Context, _ Target, l *Letter) []Outcome {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return Every(l, good)
		})
		for range 10 {
			f.send("a@our.example", "b@x.example")
		}
		f.pass(6 * time.Second)
		if most.Load() != 2 || f.q.Stats().Entries != 0 {
			t.Errorf("%d in flight, %+v", most.Load(), f.q.Stats())
		}
	})
}

func TestAFirmRefusalIsBelievedAtTheThirdTry(t *testing.T) {
	// relay-interop 1.9: a 5xx in the body of a 400, and port 25 closed.
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(ClassifyHTTP("mx", 400, []byte("550 5.1.1 no such user"), "", time.Time{}), unreachable))
		f.send("a@our.example", "b@x.example")
		f.pass(90 * time.Second)
		if len(f.told()) != 0 {
			t.Fatal("told after two tries")
		}
		f.pass(time.Minute)
		if b := f.told(); len(b) != 1 || !strings.Contains(b[0].text, "550 5.1.1 no such user") || f.q.Stats().Entries != 0 {
			t.Errorf("told: %v, %+v", b, f.q.Stats())
		}
	})
}

func TestABadSignatureIsBelievedAfterSixHours(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(unreachable, ClassifySMTP("mx", End, 554, "5.7.1 No valid DKIM signature found")))
		f.send("a@our.example", "b@x.example")
		f.pass(5 * time.Hour)
		if len(f.told()) != 0 {
			t.Fatal("told too early")
		}
		f.pass(2 * time.Hour)
		if b := f.told(); len(b) != 1 || !strings.Contains(b[0].text, "No valid DKIM") {
			t.Errorf("told: %v", b)
		}
	})
}

func TestAServerMayAskForTime(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(ClassifyHTTP("mx", 503, nil, "1800", time.Time{}), unreachable))
		f.send("a@our.example", "b@x.example")
		f.pass(29 * time.Minute)
		if n := len(f.peer.take()); n != 2 {
			t.Errorf("%d tries in 29 minutes", n)
		}
		f.pass(2 * time.Minute)
		if n := len(f.peer.take()); n != 2 {
			t.Errorf("%d tries after it", n)
		}
	})
}

func TestThePolicyIsAskedAgainAtEachTry(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.peer.does(always(unreachable, unreachable))
		f.send("a@our.example", "b@x.example")
		f.send("a@our.example", "b@y.example")
		f.settle()
		if err := errors.Join(f.policy.AddDismissal(f.t.Context(), "x.example"), f.policy.AddRule(f.t.Context(), "y.example")); err != nil {
			t.Fatal(err)
		}
		f.pass(2 * time.Minute)
		b := f.told()
		if f.q.Stats().Entries != 0 || len(b) != 1 || !strings.Contains(b[0].text, "b@y.example") || !strings.Contains(b[0].text, "Federation policy rejection") {
			t.Errorf("left: %+v, told %v", f.q.Stats(), b)
		}
	})
}

func TestOverridesLeadElsewhere(t *testing.T) {
	for _, c := range []struct {
		domain, target, want string
		port                 int
		level                Level
	}{
		{"x.example", "other.example", "https other.example, smtp other.example", 0, Verified},
		{"x.example", "other.example:8443", "https other.example, smtp other.example", 8443, Verified},
		{"x.example", "192.0.2.9", "https 192.0.2.9, smtp 192.0.2.9", 0, AnyCert},
		{"x.example", "http://192.0.2.9:8080/in", "http 192.0.2.9, smtp 192.0.2.9", 8080, AnyCert},
		{"x.example", "https://other.example/in", "https other.example, smtp other.example", 0, Verified},
		{"x.example", "smtp://other.example:2525", "smtp other.example", 2525, Verified},
		{"192.0.2.1", "other.example", "https other.example, http other.example, smtp other.example", 0, Opportunistic},
	} {
		bubble(t, nil, func(f *fixture) {
			if err := f.policy.SetOverride(f.t.Context(), c.domain, c.target, ""); err != nil {
				t.Fatal(err)
			}
			f.peer.does(always(unreachable, unreachable))
			f.send("a@our.example", "b@"+c.domain)
			f.settle()
			calls := f.peer.take()
			var ways []string
			for _, w := range calls {
				ways = append(ways, w.By.String()+" "+w.Host)
			}
			if strings.Join(ways, ", ") != c.want {
				t.Errorf("%s: %v, want %s", c.target, ways, c.want)
				return
			}
			if w := calls[0]; w.Port != c.port || w.TLS.Level != c.level || !w.Named || (w.Path == "/in") != strings.HasSuffix(c.target, "/in") {
				t.Errorf("%s: %+v", c.target, w)
			}
			if last := calls[len(calls)-1]; last.Port != 0 && !strings.HasPrefix(c.target, "smtp") {
				t.Errorf("%s: SMTP port %d", c.target, last.Port)
			}
		})
	}
}

func TestAnEndpointForEverybody(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.resolver.mx["x.example"] = []MX{{Host: "mx1"}, {Host: "mx2"}}
		f.resolver.err["gone.example"] = fault.New(fault.NotFound, "no such name")
		f.mu.Lock()
		f.rewrite = "exchange.example"
		f.mu.Unlock()
		f.peer.does(always(unreachable, unreachable))
		f.send("a@our.example", "b@x.example")
		f.settle()
		if got := f.peer.ways(); got != "https exchange.example, smtp mx1, smtp mx2" {
			t.Errorf("ways: %s", got)
		}
		f.peer.does(always(good, unreachable))
		f.send("a@our.example", "b@gone.example") // the exchange knows it
		f.settle()
		if got := f.peer.ways(); got != "https exchange.example" {
			t.Errorf("ways: %s", got)
		}
	})
}

type fakeTrust struct{}

func (fakeTrust) TLS(_ context.Context, _ address.Domain, host string, _ int) (TLS, error) {
	if host == "forged" {
		return TLS{}, fault.New(fault.Refused, "not in the policy")
	}
	return TLS{Level: Verified}, nil
}

func TestCertificatesAreDemandedByName(t *testing.T) {
	bubble(t, func(o *Options) { o.Trust = fakeTrust{} }, func(f *fixture) {
		f.resolver.mx["x.example"] = []MX{{Host: "forged"}, {Host: "mx1"}}
		if err := f.policy.SetTransports(f.t.Context(), "lax.example", policy.Transports{RelaxedTLS: true}); err != nil {
			t.Fatal(err)
		}
		for to, want := range map[string]Level{"x.example": Verified, "[192.0.2.1]": Opportunistic, "_test.example": AnyCert, "lax.example": AnyCert} {
			f.send("a@our.example", "b@"+to)
			f.settle()
			if c := f.peer.take(); len(c) != 1 || c[0].TLS.Level != want || c[0].Host == "forged" {
				t.Errorf("%s: %+v", to, c)
			}
		}
		f.resolver.mx["y.example"] = []MX{{Host: "forged"}}
		f.send("a@our.example", "b@y.example")
		f.settle()
		if c := f.peer.take(); len(c) != 0 || f.q.Stats().Entries != 1 {
			t.Errorf("a host that must not be used: %+v", c)
		}
	})
}

func TestMessagesAreSignedOncePerTry(t *testing.T) {
	// Known failure 2: unsigned mail is refused by the official relays.
	var f *fixture
	synctest.Test(t, func(t *testing.T) {
		signer := &fixture{}
		f = setUp(t, func(o *Options) { o.Signer = signer })
		f.peer.does(always(unreachable, good))
		f.send("a@our.example", "b@x.example")
		f.settle()
		c := f.peer.take()
		if len(c) != 2 || c[0].body != "DKIM-Signature: d=our.example\r\n"+text || c[1].body != c[0].body {
			t.Errorf("calls: %+v", c)
		}
		if len(signer.signed) != 1 {
			t.Errorf("signed %d times", len(signer.signed))
		}
	})
}

type noSigner struct{}

func (noSigner) Sign(context.Context, address.Domain, []byte, io.Reader) ([]byte, error) {
	return nil, fault.New(fault.NotFound, "the key is gone")
}

func TestOurOwnTroubleLosesNoMail(t *testing.T) {
	bubble(t, func(o *Options) { o.Signer = noSigner{} }, func(f *fixture) {
		f.send("a@our.example", "b@x.example")
		f.settle()
		if s := f.q.Stats(); s.Entries != 1 || s.Broken != 0 || len(f.peer.take()) != 0 {
			t.Errorf("%+v", s)
		}
	})
	bubble(t, nil, func(f *fixture) { // a body that is gone
		f.peer.does(always(unreachable, unreachable))
		id := f.send("a@our.example", "b@x.example")
		f.settle()
		if err := os.Remove(f.dir + "/" + id.String() + ".body"); err != nil {
			t.Fatal(err)
		}
		f.pass(2 * time.Minute)
		if s := f.q.Stats(); s.Entries != 0 || s.Broken != 1 {
			t.Errorf("%+v", s)
		}
	})
	bubble(t, nil, func(f *fixture) { // a panic in a transport
		f.peer.does(func(context.Context, Target, *Letter) []Outcome { panic("bug") })
		f.send("a@our.example", "b@x.example")
		f.settle()
		if s := f.q.Stats(); s.Entries != 1 || s.Taken != 0 || len(f.peer.take()) != 1 {
			t.Errorf("%+v", s)
		}
		f.peer.does(always(good, good))
		f.pass(2 * time.Minute)
		if s := f.q.Stats(); s.Entries != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestStoppingBreaksConnectionsAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t, nil)
		f.peer.does(func(ctx context.Context, _ Target, l *Letter) []Outcome {
			<-ctx.Done()
			return Every(l, unreachable)
		})
		id := f.send("a@our.example", "b@x.example")
		f.settle()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Stop(ctx); err != nil {
			t.Error(err)
		}
		i, err := f.q.Get(id)
		if err != nil || i.Taken || i.Tries != 0 || len(i.To) != 1 {
			t.Errorf("entry: %+v, %v", i, err)
		}
		if err := f.Start(t.Context()); !fault.Is(err, fault.Invalid) {
			t.Errorf("started again: %v", err)
		}
		// The next process delivers it.
		if f.q, err = queue.Open(t.Context(), queue.Options{Dir: f.dir}); err != nil {
			t.Fatal(err)
		}
		f.peer.does(always(good, good))
		f.build(nil)
		if err := f.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.settle()
		if s := f.q.Stats(); s.Entries != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("nothing is needed")
	}
	w := &Worker{}
	if err := w.Stop(t.Context()); err != nil {
		t.Errorf("stop before start: %v", err)
	}
}
