package imapserver

import (
	"math"

	"madmail/internal/mailbox"
)

// quotaRoot is the name of every account's only quota root. It stands in
// QUOTAROOT and QUOTA alike, octet for octet: clients compare.
const quotaRoot = `"User quota"`

// getQuotaRoot answers GETQUOTAROOT (RFC 9208 section 4.2).
func (c *session) getQuotaRoot(cmd *command) response {
	b, err := c.boxCommand(cmd)
	if err != nil {
		return bad(err)
	}
	if b.Name != mailbox.Inbox {
		ctx, cancel := c.ctx()
		defer cancel()
		if _, err := c.srv.opt.Store.View(ctx, b); err != nil {
			return c.refusal(err)
		}
	}
	c.put("* QUOTAROOT ")
	c.boxName(b.Name)
	c.put(" ", quotaRoot, "\r\n")
	c.quota()
	return ok("Getquotaroot completed")
}

func (c *session) getQuota(cmd *command) response {
	cmd.p.SP()
	root := cmd.p.AString()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if root != quotaRoot[1:len(quotaRoot)-1] {
		return no("NONEXISTENT", "No such quota root")
	}
	c.quota()
	return ok("Getquota completed")
}

// quota writes usage and limit in units of 1024 octets, usage rounded up. A
// limit of 0 counts as none with clients.
func (c *session) quota() {
	used, _, limit := c.srv.opt.Quota.Usage(c.account())
	if limit == math.MaxInt64 {
		limit = 0
	}
	c.put("* QUOTA ", quotaRoot, " (STORAGE ")
	c.num(uint64((used + 1023) / 1024))
	c.put(" ")
	c.num(uint64(limit / 1024))
	c.put(")\r\n")
}

func (c *session) setQuota(*command) response {
	return no("NOPERM", "The operator sets quotas")
}
