package imapserver

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The model of a mailbox: what an IMAP server is, in a page.
type modelMessage struct {
	uid     int
	flags   map[string]bool
	changed int // when the flags last changed
	touched int // when somebody last stored flags, changed or not
}

type model struct {
	msgs []modelMessage
	next int
	now  int         // counts operations
	gone map[int]int // UID to the time of its expunge
}

func (m *model) index(uid int) int {
	return slices.IndexFunc(m.msgs, func(x modelMessage) bool { return x.uid == uid })
}

func (m *model) deliver(flags ...string) int {
	m.now++
	x := modelMessage{uid: m.next, flags: map[string]bool{}, changed: m.now, touched: m.now}
	for _, f := range flags {
		x.flags[f] = true
	}
	m.msgs = append(m.msgs, x)
	m.next++
	return x.uid
}

func (m *model) store(uids []int, op byte, flags []string) {
	m.now++
	for _, uid := range uids {
		i := m.index(uid)
		if i < 0 {
			continue
		}
		before := maps.Clone(m.msgs[i].flags)
		if op == '=' {
			m.msgs[i].flags = map[string]bool{}
		}
		for _, f := range flags {
			if op == '-' {
				delete(m.msgs[i].flags, f)
			} else {
				m.msgs[i].flags[f] = true
			}
		}
		m.msgs[i].touched = m.now
		if !maps.Equal(before, m.msgs[i].flags) {
			m.msgs[i].changed = m.now
		}
	}
}

// expunge removes what is deleted; of all when uids is nil.
func (m *model) expunge(uids []int) {
	m.now++
	m.msgs = slices.DeleteFunc(m.msgs, func(x modelMessage) bool {
		if !x.flags[`\Deleted`] || uids != nil && !slices.Contains(uids, x.uid) {
			return false
		}
		m.gone[x.uid] = m.now
		return true
	})
}

func (m *model) String() string {
	var b strings.Builder
	for _, x := range m.msgs {
		fmt.Fprintf(&b, "%d%v ", x.uid, slices.Sorted(maps.Keys(x.flags)))
	}
	return b.String()
}

// mirror is a client: it knows what the server told it, and nothing else.
type mirror struct {
	*client
	t       testing.TB
	name    string
	qresync bool
	msgs    []mirrored
	n       int // tags

	// a moment to ask about later
	mod, at int
}

type mirrored struct {
	uid   int // 0 until fetched
	flags string
	stale bool // flags were not fetched yet
}

var fetchLine = regexp.MustCompile(`^\* (\d+) FETCH \((.*)\)$`)
var flagsItem = regexp.MustCompile(`FLAGS \(([^)]*)\)`)
var uidItem = regexp.MustCompile(`UID (\d+)`)

// run sends a command and believes the answers. quiet says that numbers must
// not shift while it runs.
func (c *mirror) run(quiet bool, format string, args ...any) []string {
	c.t.Helper()
	c.n++
	cmd := fmt.Sprintf(format, args...)
	lines := c.do("t"+strconv.Itoa(c.n), cmd)
	for _, l := range lines {
		switch {
		case strings.HasSuffix(l, " EXISTS"):
			n, _ := strconv.Atoi(strings.Fields(l)[1])
			if n < len(c.msgs) {
				c.t.Fatalf("%s: %s: EXISTS %d with %d messages known", c.name, cmd, n, len(c.msgs))
			}
			for len(c.msgs) < n {
				c.msgs = append(c.msgs, mirrored{stale: true})
			}
		case strings.HasSuffix(l, " EXPUNGE"):
			n, _ := strconv.Atoi(strings.Fields(l)[1])
			if quiet || c.qresync || n < 1 || n > len(c.msgs) {
				c.t.Fatalf("%s: %s: %s", c.name, cmd, l)
			}
			c.msgs = slices.Delete(c.msgs, n-1, n)
		case strings.HasPrefix(l, "* VANISHED "):
			if quiet || !c.qresync {
				c.t.Fatalf("%s: %s: %s", c.name, cmd, l)
			}
			c.vanish(setOf(c.t, l[strings.LastIndexByte(l, ' ')+1:]), strings.Contains(l, "EARLIER"))
		case fetchLine.MatchString(l):
			p := fetchLine.FindStringSubmatch(l)
			n, _ := strconv.Atoi(p[1])
			if n < 1 || n > len(c.msgs) {
				c.t.Fatalf("%s: %s: %s with %d messages known", c.name, cmd, l, len(c.msgs))
			}
			m := &c.msgs[n-1]
			if u := uidItem.FindStringSubmatch(p[2]); u != nil {
				uid, _ := strconv.Atoi(u[1])
				if m.uid != 0 && m.uid != uid {
					c.t.Fatalf("%s: %s: %s, but number %d was UID %d", c.name, cmd, l, n, m.uid)
				}
				m.uid = uid
			}
			if f := flagsItem.FindStringSubmatch(p[2]); f != nil {
				words := strings.Fields(f[1])
				slices.Sort(words)
				m.flags, m.stale = strings.Join(words, " "), false
			}
		}
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, " OK ") {
		c.t.Fatalf("%s: %s: %s", c.name, cmd, last)
	}
	return lines
}

// vanish drops messages by UID. Of those whose UIDs it has not fetched yet, a
// client can tell only that one of a few between two known ones went.
func (c *mirror) vanish(gone map[int]bool, earlier bool) {
	for _, uid := range slices.Sorted(maps.Keys(gone)) {
		after := len(c.msgs) // the first known message with a higher UID
		for i := len(c.msgs) - 1; i >= 0; i-- {
			if u := c.msgs[i].uid; u > uid {
				after = i
			}
		}
		i := slices.IndexFunc(c.msgs, func(m mirrored) bool { return m.uid == uid })
		if i < 0 && !earlier && after > 0 && c.msgs[after-1].uid == 0 {
			i = after - 1
		}
		if i >= 0 {
			c.msgs = slices.Delete(c.msgs, i, i+1)
		} else if !earlier {
			c.t.Fatalf("%s: UID %d vanished, and was never announced", c.name, uid)
		}
	}
}

// learn fetches what the client does not know yet, and what that announces.
func (c *mirror) learn() {
	for {
		i := slices.IndexFunc(c.msgs, func(m mirrored) bool { return m.uid == 0 || m.stale })
		if i < 0 {
			return
		}
		c.run(true, "FETCH %d:* (UID FLAGS)", i+1)
	}
}

// setOf reads a UID set.
func setOf(t testing.TB, s string) map[int]bool {
	out := map[int]bool{}
	for part := range strings.SplitSeq(s, ",") {
		a, b, isRange := strings.Cut(part, ":")
		if !isRange {
			b = a
		}
		lo, err1 := strconv.Atoi(a)
		hi, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil || lo > hi {
			t.Fatalf("set %q", s)
		}
		for i := lo; i <= hi; i++ {
			out[i] = true
		}
	}
	return out
}

func uidList(uids []int) string {
	s := make([]string, len(uids))
	for i, u := range uids {
		s[i] = strconv.Itoa(u)
	}
	return strings.Join(s, ",")
}

// TestRandomHistoriesAgreeWithAModel plays random changes by three clients, one
// plain, one with CONDSTORE, one with QRESYNC, on the server and on the model.
func TestRandomHistoriesAgreeWithAModel(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			playHistory(t, newRand(seed+1), 150)
		})
	}
}

func playHistory(t *testing.T, rnd func(int) int, steps int) {
	d := build(t, STARTTLS, nil)
	m := &model{next: 1, gone: map[int]int{}}
	clients := []*mirror{{name: "plain"}, {name: "condstore"}, {name: "qresync", qresync: true}}
	for _, c := range clients {
		c.t, c.client = t, d.dial(t)
		c.login(alice)
	}
	clients[2].run(true, "ENABLE QRESYNC")
	clients[0].run(true, "SELECT INBOX")
	clients[1].run(true, "SELECT INBOX (CONDSTORE)")
	clients[2].run(true, "SELECT INBOX")
	all := []string{`\Seen`, `\Flagged`, `\Answered`, `\Deleted`, "work", "$Phishing"}
	pick := func() (uids []int) {
		for _, x := range m.msgs {
			if rnd(3) == 0 {
				uids = append(uids, x.uid)
			}
		}
		return uids
	}
	flags := func() (f []string) {
		for _, x := range all {
			if rnd(3) == 0 {
				f = append(f, x)
			}
		}
		return f
	}
	for range steps {
		c := clients[rnd(len(clients))]
		switch rnd(13) {
		case 0, 1:
			m.deliver()
			d.deliver(t, alice, fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", m.next-1))
		case 2:
			f := flags()
			m.deliver(f...)
			c.run(false, "APPEND INBOX (%s) {4+}\r\nA: b", strings.Join(f, " "))
		case 3, 4:
			if uids := pick(); len(uids) > 0 {
				f, op := flags(), "+-="[rnd(3)]
				silent := []string{"", ".SILENT"}[rnd(2)]
				lines := c.run(false, "UID STORE %s %sFLAGS%s (%s)", uidList(uids), strings.TrimPrefix(string(op), "="), silent, strings.Join(f, " "))
				m.store(uids, op, f)
				if silent == "" {
					c.tellsOf(lines, uids, "FLAGS (")
				}
				if silent != "" { // the client knows what it did
					c.learnSilently(uids, op, f)
				}
			}
		case 5:
			// By number: of the messages as this client counts them.
			c.learn()
			if len(c.msgs) > 0 {
				n := rnd(len(c.msgs)) + 1
				uid := c.msgs[n-1].uid
				c.run(true, `STORE %d +FLAGS (\Flagged)`, n)
				m.store([]int{uid}, '+', []string{`\Flagged`})
			}
		case 6:
			c.run(false, "EXPUNGE")
			m.expunge(nil)
		case 7:
			if uids := pick(); len(uids) > 0 {
				c.run(false, "UID EXPUNGE %s", uidList(uids))
				m.expunge(uids)
			}
		case 8:
			c.remember(m)
		case 9:
			c.changedSince(m)
		case 10:
			if c.qresync && c.mod > 0 {
				c.comeBack(m)
			}
		case 11:
			if uids := pick(); len(uids) > 0 {
				c.run(false, "UID COPY %s INBOX", uidList(uids))
				for _, uid := range uids {
					m.deliver(slices.Sorted(maps.Keys(m.msgs[m.index(uid)].flags))...)
				}
			}
		case 12:
			if uids := pick(); c.mod > 0 && len(uids) > 0 {
				c.storeUnchanged(m, uids)
			}
		}
		if rnd(4) == 0 {
			clients[rnd(len(clients))].check(m)
		}
	}
	for _, c := range clients {
		c.check(m)
	}
}

// tellsOf demands a response with an item for each message.
func (c *mirror) tellsOf(lines []string, uids []int, item string) {
	c.t.Helper()
	for _, uid := range uids {
		want := fmt.Sprintf("(UID %d ", uid)
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, want) && strings.Contains(l, item) }) {
			c.t.Fatalf("%s: nothing with %s of UID %d in %q", c.name, item, uid, lines)
		}
	}
}

// learnSilently applies a silent STORE to what the client knows.
func (c *mirror) learnSilently(uids []int, op byte, flags []string) {
	for i := range c.msgs {
		x := &c.msgs[i]
		if x.stale || !slices.Contains(uids, x.uid) {
			continue
		}
		set := map[string]bool{}
		for _, f := range strings.Fields(x.flags) {
			set[f] = op != '='
		}
		for _, f := range flags {
			set[f] = op != '-'
		}
		maps.DeleteFunc(set, func(_ string, on bool) bool { return !on })
		x.flags = strings.Join(slices.Sorted(maps.Keys(set)), " ")
	}
}

// check compares what the client knows after a NOOP with the model, and what
// SEARCH finds.
func (c *mirror) check(m *model) {
	c.t.Helper()
	c.run(false, "NOOP")
	c.learn()
	var got strings.Builder
	var seen []string
	for _, x := range c.msgs {
		fmt.Fprintf(&got, "%d%v ", x.uid, strings.Fields(x.flags))
	}
	for _, x := range m.msgs {
		if x.flags[`\Seen`] && !x.flags["work"] {
			seen = append(seen, strconv.Itoa(x.uid))
		}
	}
	if got.String() != m.String() {
		c.t.Fatalf("%s knows\n%s, the model\n%s", c.name, got.String(), m)
	}
	want := strings.TrimSpace("* SEARCH " + strings.Join(seen, " "))
	if l := c.run(false, "UID SEARCH SEEN UNKEYWORD work"); l[0] != want {
		c.t.Fatalf("%s: %q, want %q", c.name, l, want)
	}
}

// remember notes a mod-sequence and its moment.
func (c *mirror) remember(m *model) {
	c.run(false, "NOOP")
	l := c.run(false, "STATUS INBOX (HIGHESTMODSEQ UIDNEXT MESSAGES)")
	l = slices.DeleteFunc(l, func(s string) bool { return strings.HasPrefix(s, "* OK [HIGHESTMODSEQ ") }) // with the first one
	var mod, next, n int
	if _, err := fmt.Sscanf(l[0], `* STATUS "INBOX" (HIGHESTMODSEQ %d UIDNEXT %d MESSAGES %d)`, &mod, &next, &n); err != nil || next != m.next || n != len(m.msgs) || mod < c.mod {
		c.t.Fatalf("%s: %q after %d, the model has UIDNEXT %d, %d messages", c.name, l, c.mod, m.next, len(m.msgs))
	}
	c.mod, c.at = mod, m.now
}

// changedSince asks what changed since the remembered moment.
func (c *mirror) changedSince(m *model) {
	if c.mod == 0 {
		return
	}
	vanished := ""
	if c.qresync {
		vanished = " VANISHED"
	}
	c.run(false, "NOOP")
	c.learn()
	lines := c.run(false, "UID FETCH 1:* (FLAGS) (CHANGEDSINCE %d%s)", c.mod, vanished)
	c.compare(m, lines)
}

// storeUnchanged stores a flag unless messages changed since the remembered moment.
func (c *mirror) storeUnchanged(m *model, uids []int) {
	lines := c.run(false, `UID STORE %s (UNCHANGEDSINCE %d) +FLAGS.SILENT (\Answered)`, uidList(uids), c.mod)
	failed := map[int]bool{}
	if p := regexp.MustCompile(`\[MODIFIED ([\d,:]+)\]`).FindStringSubmatch(lines[len(lines)-1]); p != nil {
		failed = setOf(c.t, p[1])
	}
	var done []int
	for _, uid := range uids {
		x := m.msgs[m.index(uid)]
		if x.changed > c.at && !failed[uid] || x.touched <= c.at && failed[uid] {
			c.t.Fatalf("%s: UID %d: changed at %d, touched at %d, stored unless changed since %d: %q", c.name, uid, x.changed, x.touched, c.at, lines)
		}
		if !failed[uid] {
			done = append(done, uid)
		}
	}
	c.tellsOf(lines, done, "MODSEQ (") // RFC 7162 section 3.1.3: also where it is silent
	m.store(done, '+', []string{`\Answered`})
	c.learnSilently(done, '+', []string{`\Answered`})
}

// comeBack selects again as a client that was away since the remembered moment.
func (c *mirror) comeBack(m *model) {
	l := c.run(false, "STATUS INBOX (UIDVALIDITY)")
	var validity int
	if _, err := fmt.Sscanf(l[0], `* STATUS "INBOX" (UIDVALIDITY %d)`, &validity); err != nil {
		c.t.Fatal(l)
	}
	c.msgs = nil
	c.compare(m, c.run(false, "SELECT INBOX (QRESYNC (%d %d))", validity, c.mod))
}

func (c *mirror) compare(m *model, lines []string) {
	c.t.Helper()
	told, gone := map[int]bool{}, map[int]bool{}
	for _, l := range lines {
		if p := fetchLine.FindStringSubmatch(l); p != nil {
			uid, _ := strconv.Atoi(uidItem.FindStringSubmatch(p[2])[1])
			told[uid] = true
		} else if set, ok := strings.CutPrefix(l, "* VANISHED (EARLIER) "); ok {
			gone = setOf(c.t, set)
		}
	}
	for _, x := range m.msgs {
		if x.changed > c.at && !told[x.uid] || x.touched <= c.at && told[x.uid] {
			c.t.Fatalf("%s: UID %d told %v; changed at %d, touched at %d, asked since %d:\n%q", c.name, x.uid, told[x.uid], x.changed, x.touched, c.at, lines)
		}
		if gone[x.uid] {
			c.t.Fatalf("%s: UID %d is said to have vanished: %q", c.name, x.uid, lines)
		}
	}
	for uid, at := range m.gone {
		if c.qresync && at > c.at && !gone[uid] {
			c.t.Fatalf("%s: UID %d was expunged at %d, asked since %d: %q", c.name, uid, at, c.at, lines)
		}
	}
	for uid := range gone {
		if uid >= m.next {
			c.t.Fatalf("%s: UID %d is said to have vanished, and never was", c.name, uid)
		}
	}
}
