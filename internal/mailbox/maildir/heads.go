package maildir

import (
	"context"
	"io"
	"sync"

	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// maxHead bounds a header block that is kept; clients of this kind write 1 KiB.
const maxHead = 8 << 10

// heads keeps header blocks of stored messages in memory, so that a client which
// lists a mailbox costs no file. There are two generations: what is asked for
// moves to the young one, and when that is full the old one is dropped.
type heads struct {
	max int // octets of a generation

	mu         sync.Mutex // guards the fields below
	young, old map[headKey][]byte
	size       int // of young
}

type headKey struct {
	box      mailbox.Box
	validity uint32
	uid      mailbox.UID
}

// headCost is what an entry takes besides its octets.
const headCost = 160

func (h *heads) get(k headKey) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.young[k]; ok {
		return b
	}
	b, ok := h.old[k]
	if ok {
		h.putLocked(k, b)
	}
	return b
}

// put keeps b, which nobody changes any more.
func (h *heads) put(k headKey, b []byte) {
	if len(b) > maxHead {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.young[k]; !ok {
		h.putLocked(k, b)
	}
}

func (h *heads) putLocked(k headKey, b []byte) {
	if h.young == nil || h.size > h.max {
		h.old, h.young, h.size = h.young, make(map[headKey][]byte), 0
	}
	h.young[k] = b
	h.size += len(b) + headCost
}

// Head returns the header block of a message. See mailbox.Store.
func (s *Store) Head(ctx context.Context, key mailbox.Box, uid mailbox.UID) ([]byte, error) {
	key, err := clean(key)
	if err != nil {
		return nil, err
	}
	if b := s.lookup(key); b != nil {
		if v := b.view.Load(); v != nil {
			if _, there := v.Index(uid); there {
				if head := s.heads.get(headKey{key, v.UIDValidity, uid}); head != nil {
					return head, nil
				}
			}
		}
	}
	c, err := s.Open(ctx, key, uid)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	head, err := readHead(c)
	if err != nil {
		return nil, trouble(err, "read a message")
	}
	if _, held := c.(*memContent); !held {
		if b := s.lookup(key); b != nil {
			if v := b.view.Load(); v != nil {
				s.heads.put(headKey{key, v.UIDValidity, uid}, head)
			}
		}
	}
	return head, nil
}

// readHead reads up to the blank line, or all of a message without one.
func readHead(c mailbox.Content) ([]byte, error) {
	size := c.Size()
	for n := int64(4 << 10); ; n *= 4 {
		buf := make([]byte, min(n, size))
		if _, err := c.ReadAt(buf, 0); err != nil && err != io.EOF {
			return nil, err
		}
		if end := message.HeaderEnd(buf); end >= 0 {
			return append(make([]byte, 0, end), buf[:end]...), nil
		}
		if n >= size || n > message.MaxHeader {
			return buf, nil
		}
	}
}
