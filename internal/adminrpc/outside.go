package adminrpc

import (
	"context"
	"net/http"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

func exchangers() []Method {
	shape := func(x ops.Exchanger) object {
		o := object{"name": x.Name, "url": x.URL, "enabled": x.Enabled, "poll_interval": x.Interval, "token_set": x.TokenSet, "last_error": x.Error, "received_total": x.Received}
		if x.LastPoll != "" {
			o["last_poll_at"] = x.LastPoll
		}
		return o
	}
	read := func(c *call) (p ops.ExchangerChange, err error) {
		if err := c.read(&p); err != nil {
			return p, err
		}
		if p.Interval != nil { // pages offer one second
			*p.Interval = ops.NearestInterval(*p.Interval)
		}
		return p, required("name", p.Name)
	}
	return []Method{
		{Method: "GET", Doc: "Where mail is fetched.", Request: listFields, Reply: "exchangers[{name, url, enabled, poll_interval, last_poll_at, last_error, received_total, token_set}], total",
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p pages
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				got, err := do[map[string][]ops.Exchanger](ctx, c, "exchangers.list", nil)
				if err != nil {
					return 0, nil, err
				}
				list, total, err := part(got["exchangers"], p, func(x ops.Exchanger) string { return x.Name + " " + x.URL }, nil)
				rows := make([]object, 0, len(list))
				for _, x := range list {
					rows = append(rows, shape(x))
				}
				return reply(object{"exchangers": rows, "total": total}, err)
			}},
		{Method: "POST", Doc: "Fetch mail from one more, or change one.", Request: "name, url, poll_interval, token", Reply: "the entry", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			x, err := do[ops.Exchanger](ctx, c, "exchangers.add", p)
			if fault.Is(err, fault.Exists) {
				x, err = do[ops.Exchanger](ctx, c, "exchangers.set", p)
			}
			return http.StatusCreated, shape(x), err
		}},
		{Method: "PUT", Doc: "Change one.", Request: "name, enabled, url, poll_interval, token", Reply: "updated", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err == nil && p.URL == nil && p.Token == nil && p.Enabled == nil && p.Interval == nil {
				err = fault.New(fault.Invalid, "no fields to update")
			}
			if err != nil {
				return 0, nil, err
			}
			_, err = do[ops.Exchanger](ctx, c, "exchangers.set", p)
			return reply(object{"updated": p.Name}, err)
		}},
		{Method: "DELETE", Doc: "Fetch no mail from one any more.", Request: "name", Reply: "deleted", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			_, err = do[ops.ExchangerName](ctx, c, "exchangers.remove", ops.ExchangerName{Name: p.Name})
			return reply(object{"deleted": p.Name}, err)
		}},
	}
}

// dkim shows the key; with dns what is published, too. A server on an IP address has
// none, which is no error.
func dkim(dns bool) func(ctx context.Context, c *call) (int, any, error) {
	return func(ctx context.Context, c *call) (int, any, error) {
		k, err := do[ops.DKIMKeys](ctx, c, "dkim.show", ops.DKIMSelect{})
		if fault.Is(err, fault.NotFound) {
			o := object{"selector": "", "domain": "", "dns_name": "", "dns_fqdn": nil, "private_key_path": "", "txt_path": "", "txt": nil,
				"key_present": false, "generated": false, "publishable": false, "reason": err.Error()}
			if dns {
				o["dns_checked"], o["dns_matched"], o["dns_txt"] = false, false, []string{}
			}
			return reply(o, nil)
		}
		if err != nil {
			return 0, nil, err
		}
		o := object{"selector": k.Selector, "domain": k.Domain, "dns_name": k.Name, "dns_fqdn": k.FQDN, "private_key_path": k.KeyPath, "txt_path": k.TXTPath,
			"txt": k.TXT, "key_present": true, "generated": false, "publishable": true}
		if dns {
			r, err := do[ops.DKIMChecks](ctx, c, "dkim.check", ops.DKIMSelect{})
			if err != nil {
				return 0, nil, err
			}
			o["dns_checked"], o["dns_matched"], o["dns_txt"] = r.Checked, r.Matched, r.Published
			if r.Error != "" {
				o["lookup_error"] = r.Error
			}
		}
		return reply(o, nil)
	}
}

func dkimCheck(ctx context.Context, c *call) (int, any, error) {
	r, err := do[ops.DKIMChecks](ctx, c, "dkim.check", ops.DKIMSelect{})
	if fault.Is(err, fault.NotFound) {
		return reply(object{"selector": "", "domain": "", "dns_name": "", "dns_fqdn": "", "expected_txt": "", "dns_txt": []string{}, "matched": false, "checked": false, "reason": err.Error()}, nil)
	}
	return reply(r.DKIMCheck, err)
}
