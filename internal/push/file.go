package push

import (
	"container/heap"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// maxFile bounds what is read of a pending file.
const maxFile = 16 << 10

// format writes a pending file: address, unix time of the first message, token, a
// line each, as earlier versions and the official network have it.
func format(w *wake) string {
	return w.who.Wire() + "\n" + strconv.FormatInt(w.first.Unix(), 10) + "\n" + w.token + "\n"
}

// parse reads what format writes. The error is of kind fault.Invalid.
func parse(text string) (k key, first time.Time, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 3 || lines[2] == "" {
		return key{}, time.Time{}, fault.New(fault.Invalid, "push: a pending file has three lines")
	}
	who, err := address.Parse(lines[0])
	if err != nil {
		return key{}, time.Time{}, fault.Wrap(fault.Invalid, err, "push: pending file")
	}
	// Earlier versions wrote a fraction, too.
	seconds, _, _ := strings.Cut(lines[1], ".")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return key{}, time.Time{}, fault.New(fault.Invalid, "push: pending file: the time makes no sense")
	}
	return key{who, lines[2]}, time.Unix(n, 0), nil
}

// save writes the file of a wake.
func (n *Notifier) save(w *wake, first time.Time) {
	var id [12]byte
	_, _ = rand.Read(id[:]) // never fails
	name := hex.EncodeToString(id[:])
	path := filepath.Join(n.opt.Dir, name)
	text := format(&wake{key: w.key, first: first})
	err := os.WriteFile(path+".tmp", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		// It is made all the same, unless the process ends before.
		n.opt.Logger.Debug("a pending notification is not kept", "err", err)
		_ = os.Remove(path + ".tmp")
		return
	}
	n.mu.Lock()
	old := name
	if n.wakes[w.key] == w && !w.done {
		old, w.file = w.file, name
	}
	n.mu.Unlock()
	n.erase(old)
}

// erase removes files; "" is none.
func (n *Notifier) erase(names ...string) {
	for _, name := range names {
		if name != "" {
			_ = os.Remove(filepath.Join(n.opt.Dir, name))
		}
	}
}

// read takes up what an earlier run left.
func (n *Notifier) read() error {
	if err := os.MkdirAll(n.opt.Dir, 0o700); err != nil {
		return fault.Wrap(fault.Busy, err, "push")
	}
	d, err := os.Open(n.opt.Dir)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "push")
	}
	defer d.Close()
	now := n.opt.Now()
	for {
		entries, err := d.ReadDir(256)
		for _, e := range entries {
			if e.Type().IsRegular() {
				n.readOne(e.Name(), now)
			}
		}
		if err != nil || len(entries) == 0 {
			return nil // the end, or what cannot be read
		}
	}
}

func (n *Notifier) readOne(name string, now time.Time) {
	text, err := small(filepath.Join(n.opt.Dir, name))
	var k key
	var first time.Time
	if err == nil {
		k, first, err = parse(text)
	}
	switch {
	case err != nil, strings.HasSuffix(name, ".tmp"), now.Sub(first) > giveUp, n.wakes[k] != nil, len(n.wakes) >= maxPending:
		n.erase(name)
		return
	}
	if first.After(now) {
		first = now // the clock was set back
	}
	w := &wake{key: k, due: now, first: first, file: name}
	n.wakes[k] = w
	heap.Push(&n.order, w)
}

func small(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if info.Size() > maxFile {
		return "", errors.New("push: a pending file is too large")
	}
	raw, err := os.ReadFile(path)
	return string(raw), err
}
