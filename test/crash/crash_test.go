// Package crash kills the real binary at random points under load and checks
// that it kept its word: what was answered OK is there after the restart.
package crash

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

const password = "tEvx4GmQz8bYw2KpLr7sNd5u"

// rounds is how often the server is killed. CRASH_ROUNDS says otherwise.
func rounds(t *testing.T) int {
	s := os.Getenv("CRASH_ROUNDS")
	if s == "" {
		return 3
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1000 {
		t.Fatalf("CRASH_ROUNDS=%q is not between 1 and 1000", s)
	}
	return n
}

// box is what the clients know of one account's INBOX.
type box struct {
	user string

	mu       sync.Mutex
	validity int
	next     int             // highest UIDNEXT that was seen
	ids      map[int]string  // UID to Message-ID
	promised map[string]bool // Message-IDs that were answered 250
	gone     map[int]bool    // UIDs whose expunge was answered OK
	going    map[int]bool    // UIDs whose expunge was asked for
	flagged  map[int]bool    // UIDs whose flag was answered OK
}

// round is one life of the server.
type round struct {
	t      *testing.T
	target load.Target
	boxes  []*box
	n      *counter
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}

// message makes a message with an identity of its own.
func message(from string, n, size int) (id string, text []byte) {
	id = fmt.Sprintf("%08x-12fe-4376-814d-2991a9b69913@localhost", n)
	return "<" + id + ">", bytes.Replace(load.Message(from, size), []byte("04478418-12fe-4376-814d-2991a9b69913@localhost"), []byte(id), 1)
}

// send submits until the server is gone.
func (r *round) send(rnd *rand.Rand, user string) {
	s, err := r.target.NewSender(user)
	if err != nil {
		return
	}
	defer s.Close()
	for {
		to := slices.Clone(r.boxes)
		rnd.Shuffle(len(to), func(i, j int) { to[i], to[j] = to[j], to[i] })
		to = to[:1+rnd.IntN(3)]
		var rcpts []string
		for _, b := range to {
			rcpts = append(rcpts, b.user+"@"+r.target.Domain)
		}
		size := 1200 + rnd.IntN(3000)
		if rnd.IntN(20) == 0 {
			size = 60_000 + rnd.IntN(200_000) // over what fits into the journal
		}
		id, text := message(user+"@"+r.target.Domain, r.n.next(), size)
		if _, err := s.Send(rcpts, text); err != nil {
			return
		}
		for _, b := range to {
			b.mu.Lock()
			b.promised[id] = true
			b.mu.Unlock()
		}
	}
}

// register makes accounts until the server is gone, and returns those that were
// let in.
func (r *round) register(prefix string) (made []string) {
	for i := 0; ; i++ {
		user := fmt.Sprintf("%s%04d", prefix, i)
		c, err := r.target.Login(user)
		if err != nil {
			return made
		}
		c.Close()
		made = append(made, user)
	}
}

var (
	number   = regexp.MustCompile(`^\* OK \[(UIDVALIDITY|UIDNEXT) (\d+)\]`)
	envelope = regexp.MustCompile(`^\* \d+ FETCH \(UID (\d+) FLAGS \(([^)]*)\) ENVELOPE \(.*"(<[^"]*>)"\)\)$`)
)

// look selects and lists a mailbox and checks it against what was known. It
// returns an error when the connection ends, and fails the test when the server
// contradicts itself.
func (r *round) look(b *box, c *load.Reader) (flags map[int]string, err error) {
	lines, err := c.Do("SELECT INBOX")
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range lines {
		if p := number.FindStringSubmatch(l); p != nil {
			n, _ := strconv.Atoi(p[2])
			switch {
			case p[1] == "UIDNEXT":
				if n < b.next {
					r.t.Errorf("%s: UIDNEXT %d after %d", b.user, n, b.next)
				}
				b.next = n
			case b.validity != 0 && b.validity != n:
				r.t.Errorf("%s: UIDVALIDITY %d, was %d", b.user, n, b.validity)
			default:
				b.validity = n
			}
		}
	}
	lines, err = c.Do("UID FETCH 1:* (FLAGS ENVELOPE)")
	if err != nil {
		return nil, err
	}
	flags = map[int]string{}
	for _, l := range lines {
		p := envelope.FindStringSubmatch(l)
		if p == nil {
			continue // another client's change
		}
		uid, _ := strconv.Atoi(p[1])
		flags[uid] = p[2]
		if old := b.ids[uid]; old != "" && old != p[3] {
			r.t.Errorf("%s: UID %d is %s and was %s", b.user, uid, p[3], old)
		}
		b.ids[uid] = p[3]
		if b.gone[uid] {
			r.t.Errorf("%s: UID %d is there again", b.user, uid)
		}
	}
	return flags, nil
}

// read lists, flags and expunges until the server is gone.
func (r *round) read(rnd *rand.Rand, b *box) {
	c, err := r.target.Login(b.user)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		flags, err := r.look(b, c)
		if err != nil {
			return
		}
		uids := slices.Sorted(maps.Keys(flags))
		if len(uids) == 0 {
			continue
		}
		uid := uids[rnd.IntN(len(uids))]
		if _, err := c.Do(fmt.Sprintf(`UID STORE %d +FLAGS (\Flagged)`, uid)); err != nil {
			return
		}
		b.set(b.flagged, uid)
		if rnd.IntN(3) == 0 {
			uid := uids[rnd.IntN(len(uids))]
			b.set(b.going, uid)
			if _, err := c.Do(fmt.Sprintf(`UID STORE %d +FLAGS.SILENT (\Deleted)`, uid)); err != nil {
				return
			}
			if _, err := c.Do(fmt.Sprintf("UID EXPUNGE %d", uid)); err != nil {
				return
			}
			b.set(b.gone, uid)
		}
	}
}

func (b *box) set(m map[int]bool, uid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m[uid] = true
}

// verify checks a mailbox after a restart.
func (r *round) verify(b *box) {
	c, err := r.target.Login(b.user)
	if err != nil {
		r.t.Fatalf("%s cannot log in: %v", b.user, err)
	}
	defer c.Close()
	flags, err := r.look(b, c)
	if err != nil {
		r.t.Fatalf("%s cannot list: %v", b.user, err)
	}
	there := map[string]bool{}
	for uid := range flags {
		there[b.ids[uid]] = true
	}
	asked := map[string]bool{}
	for uid := range b.going {
		asked[b.ids[uid]] = true
	}
	for id := range b.promised {
		if !there[id] && !asked[id] {
			r.t.Errorf("%s: %s was answered 250 and is not there", b.user, id)
		}
	}
	for uid := range b.flagged {
		if f, ok := flags[uid]; ok && !strings.Contains(f, `\Flagged`) {
			r.t.Errorf("%s: UID %d lost the flag that was answered OK", b.user, uid)
		}
	}
}

// quota returns what an account uses as the server sees it, in KiB.
func (r *round) quota(b *box) int {
	c, err := r.target.Login(b.user)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	lines, err := c.Do("GETQUOTAROOT INBOX")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, l := range lines {
		var used, limit int
		if n, _ := fmt.Sscanf(l, `* QUOTA "User quota" (STORAGE %d %d)`, &used, &limit); n == 2 {
			return used
		}
	}
	r.t.Fatalf("no quota in %q", lines)
	return 0
}

// du sums up the message files of an account, in KiB as quotas count.
func du(t *testing.T, dir string) int {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if sub := filepath.Base(filepath.Dir(path)); sub == "new" || sub == "cur" {
			info, err := e.Info()
			if err != nil {
				return err
			}
			sum += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return int((sum + 1023) / 1024)
}

// TestKillUnderLoad kills the server again and again while clients submit,
// register, list, flag and expunge, now and then also while it recovers.
func TestKillUnderLoad(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	srv := testserver.New(t, "default_quota = \"1G\"\n")
	target := load.Target{
		SMTP:   fmt.Sprintf("127.0.0.1:%d", srv.SubmissionTLS),
		IMAP:   fmt.Sprintf("127.0.0.1:%d", srv.IMAPTLS),
		Domain: "[127.0.0.1]", Password: password,
	}
	r := &round{t: t, target: target, n: &counter{}}
	for i := range 4 {
		b := &box{user: fmt.Sprintf("receiver%d", i), ids: map[int]string{}, promised: map[string]bool{},
			gone: map[int]bool{}, going: map[int]bool{}, flagged: map[int]bool{}}
		r.boxes = append(r.boxes, b)
	}
	if err := target.Ensure("receiver%d", len(r.boxes)); err != nil {
		t.Fatal(err)
	}
	total := rounds(t)
	for k := range total {
		var wg sync.WaitGroup
		for i := range 4 {
			own := rand.New(rand.NewPCG(seed, uint64(100*k+i)))
			wg.Go(func() { r.send(own, fmt.Sprintf("sender%04d", i)) })
		}
		for i, b := range r.boxes[:2] {
			own := rand.New(rand.NewPCG(seed, uint64(100*k+10+i)))
			wg.Go(func() { r.read(own, b) })
		}
		var made []string
		wg.Go(func() { made = r.register(fmt.Sprintf("fresh%03dx", k)) })
		<-time.After(time.Duration(50+rnd.IntN(500)) * time.Millisecond) // the random point
		srv.Kill()
		wg.Wait()

		for range rnd.IntN(3) { // while it recovers, too
			srv.Launch()
			<-time.After(time.Duration(rnd.IntN(60)) * time.Millisecond)
			srv.Kill()
		}
		srv.Start()
		for _, b := range r.boxes {
			r.verify(b)
		}
		list := srv.Command("--json", "accounts", "list")
		for _, user := range made {
			if !strings.Contains(list, `"`+user+"@[127.0.0.1]\"") {
				t.Errorf("%s was let in before the crash and has no account after it", user)
			}
		}
		if k%10 == 9 || k == total-1 {
			want := make([]int, len(r.boxes))
			for i, b := range r.boxes {
				want[i] = r.quota(b)
			}
			srv.Stop() // now everything is in files
			for i, b := range r.boxes {
				if got := du(t, filepath.Join(srv.Dir, "mail", b.user+"@[127.0.0.1]")); got != want[i] {
					t.Errorf("%s uses %d KiB on disk, the quota says %d", b.user, got, want[i])
				}
			}
			srv.Start()
			for _, b := range r.boxes {
				r.verify(b)
			}
		}
		if t.Failed() {
			t.Fatalf("in round %d", k)
		}
	}
	sent := 0
	for _, b := range r.boxes {
		sent += len(b.promised)
	}
	if sent < 20*total {
		t.Errorf("only %d deliveries in %d rounds: the load does not run", sent, total)
	}
	t.Logf("%d rounds, %d deliveries kept", total, sent)
}
