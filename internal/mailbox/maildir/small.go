package maildir

import (
	"bytes"
	"io"
	"sync"

	"madmail/internal/mailbox"
	"madmail/internal/threads"
)

// smallest is the size up to which a message is read when it is opened: three system
// calls, and no file that the runtime watches. Clients take hundreds of them at once.
const smallest = 16 << 10

// smalls has room for an octet more, to see where the file ends.
var smalls = sync.Pool{New: func() any { return new([smallest + 1]byte) }}

// smallContent is a message that was read at once. It is of one goroutine.
type smallContent struct {
	buf  *[smallest + 1]byte // nil when it is closed
	size int
}

func (c *smallContent) ReadAt(p []byte, off int64) (int, error) {
	if c.buf == nil {
		return 0, io.ErrClosedPipe
	}
	return bytes.NewReader(c.buf[:c.size]).ReadAt(p, off)
}

func (c *smallContent) Size() int64 { return int64(c.size) }

func (c *smallContent) Close() error {
	if c.buf != nil {
		smalls.Put(c.buf)
		c.buf = nil
	}
	return nil
}

// openSmall reads the file of a message that has size octets by the index. It
// returns nil when the file has not, or cannot be read: opening it will tell more.
func openSmall(path string, size int64) mailbox.Content {
	if size > smallest {
		return nil
	}
	buf := smalls.Get().(*[smallest + 1]byte)
	threads.Enter()
	n, err := readFile(path, buf[:size+1])
	threads.Leave()
	if err != nil || int64(n) != size {
		smalls.Put(buf)
		return nil
	}
	return &smallContent{buf: buf, size: n}
}
