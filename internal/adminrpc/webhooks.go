package adminrpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

func webhooks() []Method {
	const settings = "enabled, url, event_user_registered, event_quota_exceeded, timeout_seconds, retry_attempts"
	const reads = settings + ", secret_configured, successful_deliveries, consecutive_failures, dropped_events"
	return []Method{
		{Method: "GET", Doc: "Whom the server tells that an account was made or is full, and how that goes.", Reply: reads,
			run: func(ctx context.Context, c *call) (int, any, error) {
				return reply(do[any](ctx, c, "webhooks", ops.WebhookChange{}))
			}},
		{Method: "PUT", Doc: "Change it; what is not named stays. Unknown fields are refused.", Request: settings + `, secret ("" signs nothing)`, Reply: reads, Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p ops.WebhookChange
				if err := c.readExactly(&p); err != nil {
					return 0, nil, err
				}
				return reply(do[any](ctx, c, "webhooks", p))
			}},
		{Method: "POST", Doc: "Send a trial event; 502 when it does not arrive.", Request: "action (test)", Reply: "status, message", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				a, err := action(c)
				if err != nil || a != "test" {
					return 0, nil, cmp.Or(err, fault.Newf(fault.Invalid, "invalid action: %.40s (expected test)", a))
				}
				r, err := do[any](ctx, c, "webhooks.test", nil)
				if fault.Is(err, fault.Busy) {
					return http.StatusBadGateway, nil, err
				}
				return reply(r, err)
			}},
	}
}

// readExactly is read for a body whose fields are all known.
func (c *call) readExactly(out any) error {
	if len(bytes.TrimSpace(c.body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	err := d.Decode(out)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = errors.New("more than one value")
		}
	}
	return misread(err)
}
