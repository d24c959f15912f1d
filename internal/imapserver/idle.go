package imapserver

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// idle waits for changes (RFC 2177). The "+" goes out first: clients do not
// notice what stands before it. Then, at once, whatever became pending.
func (c *session) idle(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	c.put("+ idling\r\n")
	if c.open {
		if err := c.update(true); err != nil {
			return response{}
		}
	}
	if c.flush() != nil {
		return response{}
	}
	c.idling.Store(true)
	defer c.idling.Store(false)
	for {
		// A word now and then keeps NAT entries alive and saves clients a round.
		// Spread, so that ten thousand phones do not wake together.
		k := c.srv.opt.KeepAlive
		c.until = time.Now().Add(k - k/8 + rand.N(k/4+1))
		line, err := c.wire.line(1024, true)
		switch {
		case errors.Is(err, errWoken):
			if err := c.update(true); err != nil {
				return response{}
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.put("* OK Still here\r\n")
		case err != nil:
			return response{} // the main loop says why
		case strings.EqualFold(string(line), "DONE"):
			return ok("Idle completed")
		default:
			return response{status: "BAD", text: "Expected DONE"}
		}
		if c.flush() != nil {
			return response{}
		}
	}
}
