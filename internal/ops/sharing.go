package ops

import (
	"context"

	"madmail/internal/share"
)

// ContactLink is a name under which the site shows how to reach somebody.
type ContactLink struct {
	Slug      string `json:"slug"`
	Name      string `json:"name"`
	URL       string `json:"url"`
	CreatedAt string `json:"created_at"` // RFC 3339, or "" where it is not known
	Reserved  bool   `json:"reserved,omitempty"`
}

// ContactLinks are all of them, the latest first, under the names of both predecessors.
type ContactLinks struct {
	Entries []ContactLink `json:"entries"`
	Links   []ContactLink `json:"links"`
}

// ContactSlug names a contact link.
type ContactSlug struct {
	Slug string `json:"slug"`
}

// ContactChange makes or changes a contact link; nil leaves a value.
type ContactChange struct {
	Slug string  `json:"slug"`
	URL  *string `json:"url"`
	Name *string `json:"name"`
}

func (d *Desk) defineSharing(t Table) {
	Define(t, "sharing.list", "List the contact links", d.contacts)
	Define(t, "sharing.create", "Make a contact link", d.contactCreate)
	Define(t, "sharing.reserve", "Keep a slug from visitors", d.contactReserve)
	Define(t, "sharing.remove", "Remove a contact link", d.contactRemove)
	Define(t, "sharing.edit", "Change a contact link", d.contactEdit)
}

func contactLink(l share.Link) ContactLink {
	return ContactLink{Slug: l.Slug, Name: l.Name, URL: l.URL, CreatedAt: stamp(l.Created), Reserved: l.Reserved()}
}

func (d *Desk) contacts(ctx context.Context, _ none) (ContactLinks, error) {
	list, err := d.Shares.List(ctx)
	all := make([]ContactLink, 0, len(list))
	for _, l := range list {
		all = append(all, contactLink(l))
	}
	return ContactLinks{all, all}, err
}

func (d *Desk) contactCreate(ctx context.Context, p ContactChange) (ContactLink, error) {
	url, name := "", ""
	if p.URL != nil {
		url = *p.URL
	}
	if p.Name != nil {
		name = *p.Name
	}
	if url == share.ReservedURL { // as scripts of the first version reserve
		return d.contactReserve(ctx, ContactSlug{p.Slug})
	}
	l, err := d.Shares.Add(ctx, p.Slug, url, name)
	return contactLink(l), err
}

func (d *Desk) contactReserve(ctx context.Context, p ContactSlug) (ContactLink, error) {
	l, err := d.Shares.Reserve(ctx, p.Slug)
	return contactLink(l), err
}

func (d *Desk) contactRemove(ctx context.Context, p ContactSlug) (ContactSlug, error) {
	if p.Slug == "" {
		return p, share.ErrSlug
	}
	return p, d.Shares.Remove(ctx, p.Slug)
}

func (d *Desk) contactEdit(ctx context.Context, p ContactChange) (ContactLink, error) {
	if p.Slug == "" {
		return ContactLink{}, share.ErrSlug
	}
	l, err := d.Shares.Edit(ctx, p.Slug, p.URL, p.Name)
	return contactLink(l), err
}
