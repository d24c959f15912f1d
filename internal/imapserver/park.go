package imapserver

import (
	"syscall"
	"time"

	"madmail/internal/readable"
)

// lingers is how long a session between two commands keeps its goroutine.
const lingers = 2 * time.Second

// parking is what a session needs to wait without a goroutine. It may do so
// when nothing of the client's is on its way through: no plain octets, no
// compressed ones, no complete TLS record.
type parking struct {
	watch *readable.Watch // nil until the first time
	timer *time.Timer     // ends the wait at until
	lower *lowerConn      // below TLS, or nil
	never bool            // the system cannot watch this connection
}

// mayPark reports whether the session can wait without a goroutine, now.
func (c *session) mayPark() bool {
	return !c.never && c.srv.poller.Load() != nil && c.wire.buffered() == 0 && !c.account().IsZero()
}

// park hands the session over to the poller until there is something to read,
// c.until, or an interruption. With true the caller must not touch the session
// any more: another goroutine may be running it already.
func (c *session) park() bool {
	if !c.mayPark() || !c.wire.atRest() || c.pull() {
		return false
	}
	c.wire.release()
	c.out.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != "" || c.due() {
		return false
	}
	if c.watch == nil && !c.startWatch() {
		c.never = true
		return false
	}
	if d := time.Until(c.until); c.timer == nil {
		c.timer = time.AfterFunc(d, c.unpark)
	} else {
		c.timer.Reset(d)
	}
	if err := c.watch.Arm(); err != nil {
		c.timer.Stop()
		c.never = true
		return false
	}
	c.parked = true
	return true
}

func (c *session) startWatch() bool {
	conn := c.conn
	if c.lower != nil {
		conn = c.lower.Conn
	}
	raw, ok := conn.(syscall.Conn)
	poller := c.srv.poller.Load()
	if !ok || poller == nil {
		return false
	}
	w, err := poller.Watch(raw, c.unpark)
	if err != nil {
		return false
	}
	c.watch = w
	return true
}

// held reads what TLS holds back, without waiting.
func (c *session) held(p []byte) int {
	if c.lower == nil {
		return 0
	}
	c.lower.dry = true
	n, _ := c.conn.Read(p)
	c.lower.dry = false
	return n
}

// pull takes what TLS holds back, and reports whether there was anything.
func (c *session) pull() bool {
	if c.held(c.wire.one[:]) == 0 {
		return false
	}
	c.wire.push(c.wire.one[0])
	return true
}

func (c *session) unpark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unparkLocked()
}

// unparkLocked gives the session a goroutine again.
func (c *session) unparkLocked() {
	if !c.parked {
		return // the timer and the poller may both call
	}
	c.parked = false
	c.timer.Stop()
	c.srv.woken.Go("session", func() { c.srv.serve(c, true) })
}

// unwatch gives back what parking took.
func (c *session) unwatch() {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.watch != nil {
		c.watch.Close()
	}
}
