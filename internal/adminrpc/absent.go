package adminrpc

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/settings"
)

// absent makes the methods of a switch whose part this server does not have. Pages show
// it, off; whoever switches it on reads why that does not work.
func absent(k settings.Key, doc, what string) []Method {
	off := object{"status": word(false), "restart_required": false}
	return []Method{
		{Method: "GET", Doc: doc + " Always off: not part of this server.", Reply: "status (disabled)", run: func(context.Context, *call) (int, any, error) {
			return reply(object{"status": word(false)}, nil)
		}},
		{Method: "POST", Doc: "Switch it off; on is refused.", Request: "action (enable, disable)", Reply: "status, restart_required", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				on, err := enabling(c)
				if err == nil && on {
					err = fault.Newf(fault.Invalid, "this server has no %s", what)
				}
				if err != nil {
					return 0, nil, err
				}
				if _, err := set(ctx, c, k, "false"); err != nil { // as an earlier server may have left it
					return 0, nil, err
				}
				return reply(off, nil)
			}},
	}
}

// partsAbsent are the switches behind absent.
var partsAbsent = []settings.Key{settings.WebIMAPEnabled, settings.WebSMTPEnabled, settings.SSWSEnabled, settings.SSGRPCEnabled, settings.HTTPProxyEnabled}

// effective tells whether a switch is on and has a part behind it.
func effective(s ops.Setting) bool {
	return isOn(s) && !slices.Contains(partsAbsent, settings.Key(s.Key))
}

// webmailDev is the three switches of mail for browsers at once, and whose pages may
// use it.
func webmailDev() []Method {
	shape := func(s ops.Setting) object {
		list := strings.FieldsFunc(s.Value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
		if list == nil {
			list = []string{}
		}
		return object{"status": word(false), "browser_access_enabled": false, "webimap_enabled": word(false), "websmtp_enabled": word(false),
			"cors_origins": strings.Join(list, ","), "cors_origins_list": list}
	}
	return []Method{
		{Method: "GET", Doc: "Mail for pages of other sites. Always off: not part of this server.", Reply: "status, browser_access_enabled, webimap_enabled, websmtp_enabled, cors_origins, cors_origins_list[]",
			run: func(ctx context.Context, c *call) (int, any, error) {
				s, err := get(ctx, c, settings.WebmailCORS)
				return reply(shape(s), err)
			}},
		{Method: "POST", Doc: "Keep one more origin, or forget all; on is refused.", Request: "action (enable, add_origin, disable), origin", Reply: "status, cors_origins, origin", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p struct{ Action, Origin string }
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				switch strings.ToLower(p.Action) {
				case "enable":
					return 0, nil, fault.New(fault.Invalid, "this server has no mail access for browsers")
				case "disable":
					s, err := reset(ctx, c, settings.WebmailCORS)
					return reply(shape(s), err)
				case "add_origin":
				default:
					return 0, nil, fault.Newf(fault.Invalid, "invalid action: %.40s (expected enable|add_origin|disable)", p.Action)
				}
				o := strings.TrimSpace(p.Origin)
				if o != "*" && !strings.HasPrefix(o, "http://") && !strings.HasPrefix(o, "https://") {
					return 0, nil, fault.New(fault.Invalid, "an origin begins with http:// or https://, or is *")
				}
				s, err := get(ctx, c, settings.WebmailCORS)
				if err != nil {
					return 0, nil, err
				}
				list, _ := shape(s)["cors_origins_list"].([]string)
				if !slices.Contains(list, o) {
					list = append(list, o)
				}
				if s, err = set(ctx, c, settings.WebmailCORS, strings.Join(list, ",")); err != nil {
					return 0, nil, err
				}
				return http.StatusOK, object{"status": "ok", "cors_origins": shape(s)["cors_origins"], "origin": o}, nil
			}},
	}
}
