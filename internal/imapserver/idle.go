package imapserver

import (
	"errors"
	"os"
	"strings"
)

// idle begins to wait for changes (RFC 2177). The "+" goes out first: clients do
// not notice what stands before it. Then, at once, whatever became pending. The
// main loop goes on with idleStep.
func (c *session) idle(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	c.put("+ idling\r\n")
	told := c.interest == nil || c.interest.selected.Events != 0
	if c.open && told {
		if err := c.update(true); err != nil {
			return response{}
		}
	}
	c.idleTag = cmd.tag
	c.idling.Store(true)
	c.push(told)
	return response{sent: true}
}

// maxDone bounds the line that ends IDLE.
func maxDone() int { return 1024 }

// idleStep waits for a change, the time for a word, or the client's DONE.
func (c *session) idleStep() error {
	line, err := c.wire.line(maxDone, true)
	switch {
	case errors.Is(err, errWoken):
		return c.changes()
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.put("* OK Still here\r\n")
		return c.wire.rest()
	case err != nil:
		return err
	}
	tag := c.idleTag
	c.idleTag = ""
	c.idling.Store(false)
	c.push(c.interest != nil && c.interest.selected.Events != 0)
	if strings.EqualFold(string(line), "DONE") {
		c.answer(tag, ok("Idle completed"))
		return nil
	}
	c.errors++
	c.answer(tag, response{status: "BAD", text: "Expected DONE"})
	return nil
}
