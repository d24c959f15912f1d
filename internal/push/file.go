package push

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
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
func format(who address.Addr, first time.Time, token string) string {
	return who.Wire() + "\n" + strconv.FormatInt(first.Unix(), 10) + "\n" + token + "\n"
}

// parse reads what format writes. The error is of kind fault.Invalid.
func parse(text string) (who address.Addr, first time.Time, token string, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 3 || lines[2] == "" {
		return who, first, "", fault.New(fault.Invalid, "push: a pending file has three lines")
	}
	if who, err = address.Parse(lines[0]); err != nil {
		return who, first, "", fault.Wrap(fault.Invalid, err, "push: pending file")
	}
	// Earlier versions wrote a fraction, too.
	seconds, _, _ := strings.Cut(lines[1], ".")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return who, first, "", fault.New(fault.Invalid, "push: pending file: the time makes no sense")
	}
	return who, time.Unix(n, 0), lines[2], nil
}

// save writes the file of a wake. It names one of its accounts.
func (n *Notifier) save(w *wake) {
	n.mu.Lock()
	if len(w.who) == 0 {
		n.mu.Unlock()
		return
	}
	text := format(w.who[0], w.first, w.token)
	n.mu.Unlock()
	var id [12]byte
	_, _ = rand.Read(id[:]) // never fails
	name := hex.EncodeToString(id[:])
	path := filepath.Join(n.opt.Dir, name)
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
	if n.wakes[w.token] == w && !w.done {
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
	var who address.Addr
	var first time.Time
	var token string
	if err == nil {
		who, first, token, err = parse(text)
	}
	switch w := n.wakes[token]; {
	case err != nil, strings.HasSuffix(name, ".tmp"), now.Sub(first) > giveUp, w == nil && len(n.wakes) >= maxPending:
		n.erase(name)
		return
	case w != nil: // one request is for both
		if !slices.Contains(w.who, who) && len(w.who) < maxSharing {
			w.who = append(w.who, who)
		}
		n.erase(name)
		return
	}
	if first.After(now) {
		first = now // the clock was set back
	}
	n.pushLocked(&wake{token: token, who: []address.Addr{who}, due: now, first: first, file: name}) // nobody else is here yet
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
