package adminrpc

import (
	"context"
	"slices"

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
var partsAbsent = []settings.Key{settings.SSGRPCEnabled}

// effective tells whether a switch is on and has a part behind it.
func effective(s ops.Setting) bool {
	return isOn(s) && !slices.Contains(partsAbsent, settings.Key(s.Key))
}
