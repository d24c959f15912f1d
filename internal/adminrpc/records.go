package adminrpc

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/units"
)

// none is how a limit reads that there is not.
const none = -1

func orNone(n *int64) int64 {
	if n == nil {
		return none
	}
	return *n
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// accountRow is an account in the listing.
type accountRow struct {
	Username       string `json:"username"`
	UsedBytes      int64  `json:"used_bytes"`
	MaxBytes       int64  `json:"max_bytes"`
	IsDefaultQuota bool   `json:"is_default_quota"`
	CreatedAt      int64  `json:"created_at"`
	FirstLoginAt   int64  `json:"first_login_at"` // 1: never logged in
	LastLoginAt    int64  `json:"last_login_at"`
}

var accountOrders = map[string]func(a, b accountRow) int{
	"username":       func(a, b accountRow) int { return cmp.Compare(a.Username, b.Username) },
	"used_bytes":     func(a, b accountRow) int { return cmp.Compare(a.UsedBytes, b.UsedBytes) },
	"created_at":     func(a, b accountRow) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) },
	"first_login_at": func(a, b accountRow) int { return cmp.Compare(a.FirstLoginAt, b.FirstLoginAt) },
	"last_login_at":  func(a, b accountRow) int { return cmp.Compare(a.LastLoginAt, b.LastLoginAt) },
}

func accounts() []Method {
	return []Method{
		{Method: "GET", Doc: "The accounts.", Request: listFields, Reply: "accounts[{username, used_bytes, max_bytes, is_default_quota, created_at, first_login_at, last_login_at}], total",
			run: accountList},
		{Method: "POST", Doc: "Make an account with a random name and password.", Reply: "email, password, dclogin", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			a, err := do[ops.Created](ctx, c, "accounts.create-random", nil)
			return http.StatusCreated, object{"email": a.Email, "password": a.Password, "dclogin": a.DCLogin}, err
		}},
		{Method: "DELETE", Doc: "Remove an account with its mail, end its sessions, block its name.", Request: "username", Reply: "deleted, blocked, reason", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				u, err := named(c)
				if err != nil {
					return 0, nil, err
				}
				u.Reason = "deleted via admin panel"
				r, err := do[ops.User](ctx, c, "accounts.ban", u)
				return reply(object{"deleted": r.Username, "blocked": r.Username, "reason": r.Reason}, err)
			}},
		{Method: "PATCH", Doc: "Export all accounts, import some, or delete all.", Request: "action (export, import, delete_all), users[{username, password or hash}]",
			Reply: "users, total; imported, skipped, errors; or deleted, errors", Changes: true, run: accountsInBulk},
	}
}

func accountList(ctx context.Context, c *call) (int, any, error) {
	var p pages
	if err := c.read(&p); err != nil {
		return 0, nil, err
	}
	got, err := do[map[string][]ops.AccountInfo](ctx, c, "accounts.list", nil)
	if err != nil {
		return 0, nil, err
	}
	rows := make([]accountRow, 0, len(got["accounts"]))
	for _, a := range got["accounts"] {
		r := accountRow{
			Username: a.Username, UsedBytes: a.UsedBytes, MaxBytes: orNone(a.MaxBytes), IsDefaultQuota: a.IsDefaultQuota,
			CreatedAt: orZero(a.CreatedAt), FirstLoginAt: orZero(a.FirstLoginAt), LastLoginAt: orZero(a.LastLoginAt),
		}
		if a.FirstLoginPending {
			r.FirstLoginAt = 1
		}
		rows = append(rows, r)
	}
	rows, total, err := part(rows, p, func(r accountRow) string { return r.Username }, accountOrders)
	return reply(object{"accounts": rows, "total": total}, err)
}

func accountsInBulk(ctx context.Context, c *call) (int, any, error) {
	a, err := action(c)
	if err != nil {
		return 0, nil, err
	}
	switch a {
	case "export":
		r, err := do[ops.Exported](ctx, c, "accounts.export", nil)
		return reply(object{"users": r.Users, "total": r.Total}, err)
	case "import":
		var p ops.Transfers
		if err := c.read(&p); err != nil {
			return 0, nil, err
		}
		if len(p.Users) == 0 {
			return 0, nil, fault.New(fault.Invalid, "users is required for action 'import'")
		}
		return reply(do[any](ctx, c, "accounts.import", p))
	case "delete_all":
		r, err := do[ops.Bulk](ctx, c, "accounts.delete-all", nil)
		return reply(object{"deleted": r.Done, "errors": r.Errors}, err)
	}
	return 0, nil, fault.Newf(fault.Invalid, "invalid action: %.40s (expected export|import|delete_all)", a)
}

// named reads {username, reason}.
func named(c *call) (u ops.User, err error) {
	var p struct{ Username, Reason string }
	if err := c.read(&p); err != nil {
		return u, err
	}
	return ops.User{Username: p.Username, Reason: p.Reason}, required("username", p.Username)
}

func blocklist() []Method {
	return []Method{
		{Method: "GET", Doc: "The blocked names.", Request: listFields, Reply: "blocked[{username, reason, blocked_at}], total", run: func(ctx context.Context, c *call) (int, any, error) {
			var p pages
			if err := c.read(&p); err != nil {
				return 0, nil, err
			}
			got, err := do[map[string][]ops.Blocked](ctx, c, "accounts.ban-list", nil)
			if err != nil {
				return 0, nil, err
			}
			list, total, err := part(got["entries"], p, func(b ops.Blocked) string { return b.Username }, nil)
			return reply(object{"blocked": list, "total": total}, err)
		}},
		{Method: "POST", Doc: "Block a name; its sessions end, an account of that name stays.", Request: "username, reason", Reply: "blocked", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				u, err := named(c)
				if err != nil {
					return 0, nil, err
				}
				r, err := do[ops.User](ctx, c, "accounts.block", u)
				return reply(object{"blocked": r.Username, "reason": r.Reason}, err)
			}},
		{Method: "DELETE", Doc: "Free a name.", Request: "username", Reply: "unblocked", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			u, err := named(c)
			if err != nil {
				return 0, nil, err
			}
			r, err := do[ops.User](ctx, c, "accounts.unban", u)
			return reply(object{"unblocked": r.Username}, err)
		}},
		{Method: "PATCH", Doc: "Free all names.", Request: "action (delete_all)", Reply: "unblocked, errors", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			if a, err := action(c); err != nil || a != "delete_all" {
				return 0, nil, cmp.Or(err, fault.Newf(fault.Invalid, "invalid action: %.40s (expected delete_all)", a))
			}
			r, err := do[ops.Bulk](ctx, c, "accounts.unban-all", nil)
			return reply(object{"unblocked": r.Done, "errors": r.Errors}, err)
		}},
	}
}

func quota() []Method {
	shape := func(q ops.Quota) object {
		return object{"username": q.Username, "used_bytes": q.UsedBytes, "max_bytes": orNone(q.MaxBytes), "is_default": q.IsDefault}
	}
	change := func(ctx context.Context, c *call, user string, n int64) (int, any, error) {
		q, err := do[ops.Quota](ctx, c, "quota.set", ops.QuotaChange{Username: user, MaxBytes: n})
		if err != nil {
			return 0, nil, err
		}
		if user == "" {
			return http.StatusOK, object{"username": "__GLOBAL_DEFAULT__", "max_bytes": orNone(q.MaxBytes), "default_quota_bytes": orNone(q.MaxBytes)}, nil
		}
		return http.StatusOK, shape(q), nil
	}
	return []Method{
		{Method: "GET", Doc: "The storage of all accounts, or of one.", Request: "username", Reply: "total_storage_bytes, accounts_count, default_quota_bytes; or username, used_bytes, max_bytes, is_default",
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p struct{ Username string }
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				if p.Username != "" {
					q, err := do[ops.Quota](ctx, c, "quota.get", ops.User{Username: p.Username})
					return reply(shape(q), err)
				}
				q, err := do[ops.QuotaStatus](ctx, c, "quota.status", nil)
				return reply(object{"total_storage_bytes": q.TotalBytes, "accounts_count": q.Accounts, "default_quota_bytes": orNone(q.DefaultBytes)}, err)
			}},
		{Method: "PUT", Doc: "Limit one account, or all that have no limit of their own; 0 is the default again.", Request: "username, max_bytes", Reply: "username, max_bytes", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p struct {
					Username string
					MaxBytes *int64 `json:"max_bytes"`
				}
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				if p.MaxBytes == nil || *p.MaxBytes < 0 {
					return 0, nil, fault.New(fault.Invalid, "max_bytes is a number of bytes from 0")
				}
				return change(ctx, c, p.Username, *p.MaxBytes)
			}},
		{Method: "DELETE", Doc: "Forget the limit of one account, or the stored default.", Request: "username", Reply: "reset", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			var p struct{ Username string }
			if err := c.read(&p); err != nil {
				return 0, nil, err
			}
			_, _, err := change(ctx, c, p.Username, 0)
			name := p.Username
			if name == "" {
				name = "__GLOBAL_DEFAULT__"
			}
			return reply(object{"reset": name}, err)
		}},
	}
}

// sizes makes the methods of a size. The three have one reply.
func sizes[R any](op, doc, fields string, shape func(R, object)) []Method {
	run := func(ctx context.Context, c *call, p ops.SizeChange) (int, any, error) {
		r, err := do[R](ctx, c, op, p)
		o := object{}
		if shape(r, o); p.Set != "" {
			o["size"] = p.Set
		}
		if p.Reset {
			o["reset"] = true
		}
		return reply(o, err)
	}
	return []Method{
		{Method: "GET", Doc: doc, Reply: fields, run: func(ctx context.Context, c *call) (int, any, error) { return run(ctx, c, ops.SizeChange{}) }},
		{Method: "PUT", Doc: "Store a size, as in 50M.", Request: "size", Reply: "size, " + fields, Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			var p struct{ Size string }
			if err := c.read(&p); err != nil {
				return 0, nil, err
			}
			p.Size = strings.TrimSpace(p.Size)
			if err := required("size", p.Size); err != nil {
				return 0, nil, err
			}
			return run(ctx, c, ops.SizeChange{Set: p.Size})
		}},
		{Method: "DELETE", Doc: "Forget the stored size.", Reply: "reset, " + fields, Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			return run(ctx, c, ops.SizeChange{Reset: true})
		}},
	}
}

func messageSize() []Method {
	return sizes("message-size", "The largest message.", "effective_bytes, effective, appendlimit, max_message_size, config_bytes, config", func(m ops.MessageSize, o object) {
		o["effective_bytes"], o["effective"], o["config_bytes"], o["config"] = m.EffectiveBytes, m.Effective, m.ConfigBytes, m.Config
		o["appendlimit"], o["max_message_size"] = m.AppendLimit, m.MaxMessageSize
	})
}

func federationSize() []Method {
	return sizes("federation-size", "The largest message from other servers.", "effective_bytes, effective, max_federation_size, config_bytes, config", func(m ops.FederationSize, o object) {
		o["effective_bytes"], o["effective"], o["config_bytes"], o["config"] = m.EffectiveBytes, m.Effective, m.ConfigBytes, m.Config
		o["max_federation_size"] = m.MaxFederationSize
	})
}

func endpoints() []Method {
	read := func(c *call) (o ops.Endpoint, err error) {
		if err := c.read(&o); err != nil {
			return o, err
		}
		return o, required("lookup_key", o.Key)
	}
	return []Method{
		{Method: "GET", Doc: "Domains that are reached elsewhere than the DNS says.", Request: listFields, Reply: "overrides[{lookup_key, target_host, comment}], total",
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p pages
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				got, err := do[map[string][]ops.Endpoint](ctx, c, "endpoints.list", nil)
				if err != nil {
					return 0, nil, err
				}
				list, total, err := part(got["entries"], p, func(o ops.Endpoint) string { return o.Key }, nil)
				return reply(object{"overrides": list, "total": total}, err)
			}},
		{Method: "POST", Doc: "Say where a domain is reached.", Request: "lookup_key, target_host, comment", Reply: "the entry", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			o, err := read(c)
			if err == nil {
				err = required("target_host", o.Target)
			}
			if err != nil {
				return 0, nil, err
			}
			got, err := do[ops.Endpoint](ctx, c, "endpoints.set", o)
			return http.StatusCreated, got, err
		}},
		{Method: "DELETE", Doc: "Let the DNS say it again.", Request: "lookup_key", Reply: "deleted", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			o, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			if _, err = do[any](ctx, c, "endpoints.remove", ops.EndpointKey{Key: o.Key}); fault.Is(err, fault.NotFound) {
				err = nil // it is gone, as it should be
			}
			return reply(object{"deleted": strings.ToLower(o.Key)}, err)
		}},
	}
}

func tokens() []Method {
	shape := func(t ops.Token) object {
		o := object{"token": t.Token, "max_uses": t.MaxUses, "used_count": t.Used, "pending_reservations": t.Pending, "comment": t.Comment, "created_at": t.CreatedAt, "status": t.Status}
		if t.ExpiresAt != nil {
			o["expires_at"] = *t.ExpiresAt
		}
		return o
	}
	return []Method{
		{Method: "GET", Doc: "The registration tokens, newest first.", Request: listFields, Reply: "tokens[{token, max_uses, used_count, pending_reservations, comment, created_at, expires_at, status}], total",
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p pages
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				got, err := do[map[string][]ops.Token](ctx, c, "tokens.list", nil)
				if err != nil {
					return 0, nil, err
				}
				list, total, err := part(got["tokens"], p, func(t ops.Token) string { return t.Token + " " + t.Comment }, nil)
				rows := make([]object, 0, len(list))
				for _, t := range list {
					rows = append(rows, shape(t))
				}
				return reply(object{"tokens": rows, "total": total}, err)
			}},
		{Method: "POST", Doc: "Make a token, or change one.", Request: "token, max_uses, comment, expires_in (7d, 72h, 1h30m), expires_at", Reply: "the entry", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p struct {
					Token     string `json:"token"`
					MaxUses   int    `json:"max_uses"`
					Comment   string `json:"comment"`
					ExpiresIn string `json:"expires_in"`
					ExpiresAt string `json:"expires_at"`
				}
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				uses, code := max(1, p.MaxUses), http.StatusCreated
				if p.Token != "" {
					if _, err := do[any](ctx, c, "tokens.status", ops.TokenName{Token: p.Token}); err == nil {
						code = http.StatusOK
					}
				}
				t, err := do[ops.Token](ctx, c, "tokens.create", ops.NewToken{Token: p.Token, MaxUses: &uses, Comment: p.Comment,
					Expires: strings.TrimSpace(p.ExpiresIn), ExpiresAt: strings.TrimSpace(p.ExpiresAt), Replace: p.Token != ""})
				return code, shape(t), err
			}},
		{Method: "DELETE", Doc: "Remove a token.", Request: "token", Reply: "deleted", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			var p ops.TokenName
			if err := c.read(&p); err != nil {
				return 0, nil, err
			}
			if err := required("token", p.Token); err != nil {
				return 0, nil, err
			}
			_, err := do[any](ctx, c, "tokens.delete", p)
			return reply(object{"deleted": p.Token}, err)
		}},
	}
}

func notice() []Method {
	return []Method{
		{Method: "GET", Doc: "Whom a notice to everybody would reach.", Reply: "total_users, domain", run: passOn("notice.audience")},
		{Method: "POST", Doc: "Put an unencrypted message into the inbox of one user, or of all.", Request: "subject, body, recipient", Reply: "sent, failed, errors", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p ops.Notice
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				r, err := do[ops.Noticed](ctx, c, "notice.send", p)
				if err == nil && r.Sent == 0 && r.Failed > 0 {
					// Pages read the body only when there is no error.
					return http.StatusInternalServerError, r, nil
				}
				return reply(r, err)
			}},
	}
}

// queueActions are storage and queue together: the name is older than the
// difference.
var queueActions = map[string]struct {
	which             string
	needsAge, mayHave bool
	text              string
}{
	"purge_user":        {"all", false, false, "all messages of the account were removed"},
	"purge_all":         {"all", false, false, "all messages were removed"},
	"purge_read":        {"read", false, true, "read messages were removed"},
	"purge_read_blobs":  {"read", false, true, "read messages were removed"},
	"purge_older":       {"unread", true, true, "unread messages of that age were removed"},
	"purge_blobs":       {"all", false, false, "all messages were removed"},
	"purge_blobs_older": {"all", true, true, "messages of that age were removed"},
}

// purged is the reply to a removal. Pages show the message and nothing else.
func purged(action, text string, n int) object {
	return object{"action": action, "message": fmt.Sprintf("%s: %d", text, n), "deleted": n}
}

func queue() []Method {
	return []Method{{Method: "POST", Doc: "Remove messages, or empty the queue to other servers.",
		Request: "action (purge_user, purge_all, purge_read, purge_read_blobs, purge_older, purge_blobs, purge_blobs_older, purge_queue), username, retention",
		Reply:   "action, message, deleted", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			var p struct{ Action, Username, Retention string }
			if err := c.read(&p); err != nil {
				return 0, nil, err
			}
			if p.Action == "purge_queue" {
				r, err := do[ops.QueuePurged](ctx, c, "queue.purge", nil)
				return reply(purged(p.Action, "the queue was emptied", r.Deleted), err)
			}
			a, ok := queueActions[p.Action]
			if !ok {
				return 0, nil, fault.Newf(fault.Invalid, "unknown action: %.40s", p.Action)
			}
			q := ops.Purge{Which: a.which}
			if p.Action == "purge_user" {
				if err := required("username", p.Username); err != nil {
					return 0, nil, err
				}
				q.Username = p.Username
			}
			if a.needsAge || a.mayHave && p.Retention != "" {
				n, err := units.ParseDuration(p.Retention)
				if err != nil || n <= 0 {
					return 0, nil, fault.New(fault.Invalid, "retention must be a positive duration such as 24h")
				}
				q.Older = p.Retention
			}
			r, err := do[ops.Purged](ctx, c, "mail.purge", q)
			return reply(purged(p.Action, a.text, r.Deleted), err)
		}}}
}

func rules() []Method {
	read := func(c *call) (p ops.DomainName, err error) {
		if err := c.read(&p); err != nil {
			return p, err
		}
		return p, required("domain", p.Domain)
	}
	return []Method{
		{Method: "GET", Doc: "The exceptions to the policy.", Request: listFields, Reply: "rules[{domain, created_at, smtp, http, https}], total", run: func(ctx context.Context, c *call) (int, any, error) {
			var p pages
			if err := c.read(&p); err != nil {
				return 0, nil, err
			}
			f, err := do[ops.FederationRules](ctx, c, "federation.list", nil)
			if err != nil {
				return 0, nil, err
			}
			list, total, err := part(f.Rules, p, func(r ops.FederationRule) string { return r.Domain }, nil)
			rows := make([]object, 0, len(list))
			for _, r := range list {
				rows = append(rows, object{"domain": r.Domain, "created_at": unix(r.Added), "smtp": r.SMTP, "http": r.HTTP, "https": r.HTTPS})
			}
			return reply(object{"rules": rows, "total": total}, err)
		}},
		{Method: "POST", Doc: "Make an exception.", Request: "domain", Reply: "domain, total", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			r, err := do[ops.FederationChange](ctx, c, "federation.rule", p)
			return reply(object{"domain": r.Domain, "total": r.Total}, err)
		}},
		{Method: "DELETE", Doc: "Take one back.", Request: "domain", Reply: "domain, remaining", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			r, err := do[ops.FederationChange](ctx, c, "federation.remove", p)
			if fault.Is(err, fault.NotFound) { // it is gone, as it should be
				f, err := do[ops.FederationRules](ctx, c, "federation.list", nil)
				return reply(object{"domain": p.Domain, "remaining": len(f.Rules)}, err)
			}
			return reply(object{"domain": r.Domain, "remaining": r.Remaining}, err)
		}},
	}
}

func dismissals() []Method {
	read := func(c *call) (p ops.DomainName, err error) {
		if err := c.read(&p); err != nil {
			return p, err
		}
		return p, required("domain", p.Domain)
	}
	return []Method{
		{Method: "GET", Doc: "Domains whose mail is dropped in silence.", Reply: "domains[], total", run: func(ctx context.Context, c *call) (int, any, error) {
			got, err := do[ops.Dismissals](ctx, c, "federation.dismiss-list", nil)
			names := []string{}
			for _, d := range got.Domains {
				names = append(names, d.Domain)
			}
			return reply(object{"domains": names, "total": len(names)}, err)
		}},
		{Method: "POST", Doc: "Drop mail to a domain.", Request: "domain", Reply: "domain, total", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			r, err := do[ops.FederationChange](ctx, c, "federation.dismiss", p)
			return reply(object{"domain": r.Domain, "total": r.Total}, err)
		}},
		{Method: "DELETE", Doc: "Bring it again.", Request: "domain", Reply: "domain, remaining", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			r, err := do[ops.FederationChange](ctx, c, "federation.undismiss", p)
			if fault.Is(err, fault.NotFound) {
				all, err := do[ops.Dismissals](ctx, c, "federation.dismiss-list", nil)
				return reply(object{"domain": p.Domain, "remaining": len(all.Domains)}, err)
			}
			return reply(object{"domain": r.Domain, "remaining": r.Remaining}, err)
		}},
	}
}

func servers(ctx context.Context, c *call) (int, any, error) {
	var p pages
	if err := c.read(&p); err != nil {
		return 0, nil, err
	}
	got, err := do[map[string][]ops.Traffic](ctx, c, "federation.status", nil)
	if err != nil {
		return 0, nil, err
	}
	list, total, err := part(got["traffic"], p, func(x ops.Traffic) string { return x.Domain }, map[string]func(a, b ops.Traffic) int{
		"domain":      func(a, b ops.Traffic) int { return cmp.Compare(a.Domain, b.Domain) },
		"last_active": func(a, b ops.Traffic) int { return cmp.Compare(a.LastActiveUnix, b.LastActiveUnix) },
	})
	rows := make([]object, 0, len(list))
	for _, t := range list {
		rows = append(rows, object{
			"domain": t.Domain, "queued_messages": t.Queued, "failed_http": t.FailedHTTP, "failed_https": t.FailedTLS, "failed_smtp": t.FailedSMTP,
			"success_http": t.OverHTTP, "success_https": t.OverTLS, "success_smtp": t.OverSMTP, "inbound_deliveries": t.Inbound,
			"successful_deliveries": t.Delivered, "mean_latency_ms": t.MeanLatency, "last_active": t.LastActiveUnix,
		})
	}
	return reply(object{"servers": rows, "total": total}, err)
}

// unix is a stamp of the desk as a number; 0 for none.
func unix(stamp string) int64 {
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return 0
	}
	return t.Unix()
}
