package adminrpc

import (
	"context"
	"net/http"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

// webmailDev is the switches of mail for browsers at once, and whose pages may use it.
func webmailDev() []Method {
	shape := func(w ops.Webmail) object {
		o := object{"status": w.Status, "browser_access_enabled": w.Browser, "webimap_enabled": word(w.Reading), "websmtp_enabled": word(w.Sending),
			"cors_origins": w.Origins, "cors_origins_list": w.List, "auto_reflect_origin": w.Reflected}
		if w.Origin != "" {
			o["origin"] = w.Origin
		}
		return o
	}
	const all = "status, browser_access_enabled, webimap_enabled, websmtp_enabled, cors_origins, cors_origins_list[], auto_reflect_origin"
	return []Method{
		{Method: "GET", Doc: "Mail for browsers, and whose pages may use it.", Reply: all,
			run: func(ctx context.Context, c *call) (int, any, error) {
				w, err := do[ops.Webmail](ctx, c, "webmail", nil)
				return reply(shape(w), err)
			}},
		{Method: "POST", Doc: "Switch reading and sending, or let pages of one more origin call.", Request: "action (enable, add_origin, disable), origin", Reply: all + ", origin", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p struct{ Action, Origin string }
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				on := false
				change := ops.WebmailChange{Reading: &on, Sending: &on}
				switch p.Action = strings.ToLower(p.Action); p.Action {
				case "enable":
					on, change.Add = true, strings.TrimSpace(p.Origin)
				case "disable":
				case "add_origin":
					if p.Origin = strings.TrimSpace(p.Origin); p.Origin == "" {
						return 0, nil, fault.New(fault.Invalid, "origin is required")
					}
					change = ops.WebmailChange{Add: p.Origin}
				default:
					return 0, nil, fault.Newf(fault.Invalid, "invalid action: %.40s (expected enable|add_origin|disable)", p.Action)
				}
				w, err := do[ops.Webmail](ctx, c, "webmail", change)
				if err != nil {
					return 0, nil, err
				}
				o := shape(w)
				if p.Action == "add_origin" {
					o["status"] = "ok"
				}
				return http.StatusOK, o, nil
			}},
	}
}
