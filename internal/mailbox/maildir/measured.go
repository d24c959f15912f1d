package maildir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"madmail/internal/address"
	"madmail/internal/mailbox"
)

// What was measured is kept over a clean stop, so that a start need not read every
// index and every directory again. A line is believed where the times and sizes on
// disk are still those of the measurement, and nowhere after a crash: the list is
// removed before the first change, and written last.

// stamp tells whether a mailbox on disk is as it was measured.
type stamp struct {
	dirs        [2]int64 // modification times of new/ and cur/, unix nanoseconds
	index, size int64    // of the index: its time, and octets
}

// settled is the age at which a time on disk tells changes apart: clocks of file
// systems are coarse, and what was changed within a tick of the measurement may look
// like it.
const settled = 2 * time.Second

// stampOf looks at a mailbox. ok is false when there is none.
func stampOf(dir string) (s stamp, ok bool) {
	var err error
	if s.dirs, err = dirTimes(dir); err != nil {
		return s, false
	}
	st, err := os.Stat(filepath.Join(dir, indexName))
	if err != nil {
		return s, false
	}
	s.index, s.size = st.ModTime().UnixNano(), st.Size()
	return s, true
}

// old reports whether all of it happened a while before now.
func (s stamp) old(now time.Time) bool {
	limit := now.Add(-settled).UnixNano()
	return s.dirs[0] < limit && s.dirs[1] < limit && s.index < limit
}

// measured is what a measurement tells of a mailbox.
type measured struct {
	key      mailbox.Box
	stamp    stamp // zero when it cannot be believed later
	validity uint32
	next     mailbox.UID
	mod      mailbox.ModSeq
	bytes    int64
	count    int
	lines    int
}

// measure reads an index and compares it with its directory. ok is false when they
// disagree.
func (s *Store) measure(key mailbox.Box) (m measured, ok bool) {
	dir := s.boxDir(key)
	before, there := stampOf(dir)
	now := time.Now() // as file systems have it, not as Options do
	ix, size, ok := agreed(dir)
	if !ok {
		return m, false
	}
	m = measured{key: key, validity: ix.validity, next: ix.next, mod: max(ix.mod, 1), bytes: size, count: len(ix.live), lines: ix.lines}
	if after, _ := stampOf(dir); there && after == before && before.old(now) {
		m.stamp = before
	}
	return m, true
}

const measuredHead = "measured 1\n"

func (s *Store) measuredPath() string { return filepath.Join(s.j.dir, "measured") }

// takeMeasured reads the list of the last clean stop and removes it, durably. A list
// that cannot be read is none.
func (s *Store) takeMeasured() (map[mailbox.Box]measured, error) {
	data, err := os.ReadFile(s.measuredPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = s.disk.remove(s.measuredPath())
	}
	if err == nil {
		err = s.disk.syncDir(s.j.dir)
	}
	if err != nil {
		return nil, trouble(err, "take the measurements of the last stop")
	}
	if s.stats.replayed.Load() > 0 {
		return nil, nil
	}
	return parseMeasured(data), nil
}

// parseMeasured reads a list. One whose sum is wrong is nil.
func parseMeasured(data []byte) map[mailbox.Box]measured {
	const sum = len("crc 00000000\n")
	if len(data) < len(measuredHead)+sum || !bytes.HasPrefix(data, []byte(measuredHead)) {
		return nil
	}
	body, last := data[:len(data)-sum], string(data[len(data)-sum:])
	if last != fmt.Sprintf("crc %08x\n", crc32.ChecksumIEEE(body)) {
		return nil
	}
	all := make(map[mailbox.Box]measured, bytes.Count(body, []byte("\n")))
	for line := range strings.Lines(string(body[len(measuredHead):])) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 12 {
			return nil
		}
		a, err := address.Parse(f[0])
		if err != nil {
			return nil
		}
		var n [10]int64
		for i := range n {
			if n[i], err = strconv.ParseInt(f[2+i], 10, 64); err != nil {
				return nil
			}
		}
		m := measured{key: mailbox.Box{Account: a, Name: f[1]}, stamp: stamp{[2]int64{n[0], n[1]}, n[2], n[3]}, validity: uint32(n[4]), next: mailbox.UID(n[5]), mod: mailbox.ModSeq(n[6]),
			bytes: n[7], count: int(n[8]), lines: int(n[9])}
		all[m.key] = m
	}
	return all
}

func appendMeasured(data []byte, list []measured) []byte {
	data = append(data, measuredHead...)
	for _, m := range list {
		data = append(data, m.key.Account.Wire()...)
		data = append(append(data, '\t'), m.key.Name...)
		for _, n := range [10]int64{m.stamp.dirs[0], m.stamp.dirs[1], m.stamp.index, m.stamp.size, int64(m.validity), int64(m.next), int64(m.mod), m.bytes, int64(m.count), int64(m.lines)} {
			data = strconv.AppendInt(append(data, '\t'), n, 10)
		}
		data = append(data, '\n')
	}
	return fmt.Appendf(data, "crc %08x\n", crc32.ChecksumIEEE(data))
}

// keepTime bounds how long a stop measures what changed. Who was not reached is
// measured at the next start.
const keepTime = time.Second

// keepMeasured writes the list for the next start. Nothing else runs any more.
func (s *Store) keepMeasured(ctx context.Context) error {
	limit := keepTime
	if d, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(d)/2)
	}
	until := time.Now().Add(limit)
	var (
		mu   sync.Mutex // guards the field below
		list []measured
	)
	var g errgroup.Group
	g.SetLimit(measurers())
	for _, b := range s.boxes {
		if !b.known || time.Now().After(until) {
			continue
		}
		g.Go(func() error {
			m, ok := measured{key: b.key, stamp: b.stamp, validity: b.validity, next: b.next, mod: b.mod, bytes: b.bytes, count: b.count, lines: b.nlines}, false
			if now, there := stampOf(b.dir); there && b.stamp == now {
				ok = true // nobody has touched it since
			} else if there && now.old(time.Now()) {
				m, ok = s.measure(b.key)
			}
			if ok && m.stamp != (stamp{}) && !strings.ContainsAny(b.key.Name, "\t\n") {
				mu.Lock()
				defer mu.Unlock()
				list = append(list, m)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.disk.replace(s.measuredPath(), appendMeasured(nil, list))
}

func measurers() int { return 2 * max(2, runtime.GOMAXPROCS(0)) }

// Hydrate measures everything that is on disk and tells the Used hook, reading
// directories and indexes, never messages. After a clean stop it believes the list that
// was kept, where nothing on disk changed since. It is called once, before the doors
// open. progress, when not nil, is told how many accounts are done.
func (s *Store) Hydrate(ctx context.Context, progress func(done int)) error {
	if err := s.respellAccounts(ctx); err != nil {
		return err
	}
	kept, err := s.takeMeasured()
	if err != nil {
		return err
	}
	s.hydrated.Store(true)
	var (
		mu    sync.Mutex // guards the fields below
		done  int
		batch []address.Addr
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(measurers())
	hand := func() {
		some := batch
		batch = nil
		g.Go(func() error {
			if err := s.hydrate(ctx, some, kept); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if done += len(some); progress != nil {
				progress(done)
			}
			return nil
		})
	}
	err = s.Accounts(ctx, func(a address.Addr) error {
		if batch = append(batch, a); len(batch) == 64 {
			hand()
		}
		return ctx.Err()
	})
	if len(batch) > 0 {
		hand()
	}
	return errors.Join(err, g.Wait())
}

// hydrate measures some accounts, and believes what was kept of them.
func (s *Store) hydrate(ctx context.Context, accounts []address.Addr, kept map[mailbox.Box]measured) error {
	var list []measured
	for _, a := range accounts {
		if err := ctx.Err(); err != nil {
			return err
		}
		folders, err := s.respell(a)
		if err != nil {
			return err
		}
		keys := []mailbox.Box{{Account: a, Name: mailbox.Inbox}}
		if folders { // most have none, and are not asked twice
			if keys, err = s.keysOf(a); err != nil {
				return err
			}
		}
		for _, k := range keys {
			dir := s.boxDir(k)
			if m, ok := kept[k]; ok {
				if now, there := stampOf(dir); there && now == m.stamp {
					list = append(list, m)
					continue
				}
			}
			for _, sub := range [2]string{"chatmail-uidlist.tmp", ".chatmail-uidlist.tmp"} {
				_ = os.Remove(filepath.Join(dir, sub))
			}
			if m, ok := s.measure(k); ok {
				list = append(list, m)
				continue
			}
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			err := s.do(ctx, &op{plan: func() error {
				b := s.box(k)
				return s.orDrop(b, s.load(b))
			}})
			if err != nil {
				return err
			}
		}
	}
	return s.do(ctx, &op{plan: func() error {
		for _, m := range list {
			b := s.box(m.key)
			if b.known {
				continue // measured already
			}
			b.validity, b.next, b.mod, b.known = m.validity, m.next, m.mod, true
			b.bytes, b.count, b.nlines, b.stamp = m.bytes, m.count, m.lines, m.stamp
			s.opt.Used(m.key.Account, m.bytes, int64(m.count))
		}
		return nil
	}})
}
