package adminrpc

import (
	"context"
	"net/http"

	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/settings"
)

// shares are the contact links. While visitors may make none pages do not show them.
func shares() []Method {
	gated := func(run func(ctx context.Context, c *call) (int, any, error)) func(ctx context.Context, c *call) (int, any, error) {
		return func(ctx context.Context, c *call) (int, any, error) {
			s, err := get(ctx, c, settings.ContactSharing)
			if err == nil && !isOn(s) {
				err = fault.New(fault.NotFound, "contact sharing is off")
			}
			if err != nil {
				return 0, nil, err
			}
			return run(ctx, c)
		}
	}
	read := func(c *call) (p ops.ContactChange, err error) {
		if err := c.read(&p); err != nil {
			return p, err
		}
		return p, required("slug", p.Slug)
	}
	shape := func(l ops.ContactLink) object {
		return object{"slug": l.Slug, "url": l.URL, "name": l.Name, "created_at": l.CreatedAt}
	}
	return []Method{
		{Method: "GET", Doc: "The contact links, the latest first. 404 while contact_sharing_enabled is off.", Request: listFields, Reply: "shares[{slug, url, name, created_at}], total",
			run: gated(func(ctx context.Context, c *call) (int, any, error) {
				var p pages
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				got, err := do[ops.ContactLinks](ctx, c, "sharing.list", nil)
				if err != nil {
					return 0, nil, err
				}
				list, total, err := part(got.Entries, p, func(l ops.ContactLink) string { return l.Slug + " " + l.Name }, nil)
				rows := make([]object, 0, len(list))
				for _, l := range list {
					rows = append(rows, shape(l))
				}
				return reply(object{"shares": rows, "total": total}, err)
			})},
		{Method: "POST", Doc: "Make one from an invite link of Delta Chat.", Request: "slug, url, name", Reply: "the entry", Changes: true, run: gated(func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err == nil && p.URL == nil {
				err = required("url", "")
			}
			if err != nil {
				return 0, nil, err
			}
			l, err := do[ops.ContactLink](ctx, c, "sharing.create", p)
			return http.StatusCreated, shape(l), err
		})},
		{Method: "PUT", Doc: "Change one.", Request: "slug, url, name", Reply: "updated", Changes: true, run: gated(func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err == nil && p.URL == nil && p.Name == nil {
				err = fault.New(fault.Invalid, "no fields to update")
			}
			if err != nil {
				return 0, nil, err
			}
			_, err = do[ops.ContactLink](ctx, c, "sharing.edit", p)
			return reply(object{"updated": p.Slug}, err)
		})},
		{Method: "DELETE", Doc: "Remove one.", Request: "slug", Reply: "deleted", Changes: true, run: gated(func(ctx context.Context, c *call) (int, any, error) {
			p, err := read(c)
			if err != nil {
				return 0, nil, err
			}
			_, err = do[ops.ContactSlug](ctx, c, "sharing.remove", ops.ContactSlug{Slug: p.Slug})
			return reply(object{"deleted": p.Slug}, err)
		})},
	}
}
