package ops

import (
	"context"
	"strconv"

	"madmail/internal/settings"
)

// SharedPort is which mail protocols the HTTPS port serves, too.
type SharedPort struct {
	IMAP bool `json:"imap"`
	SMTP bool `json:"smtp"` // submission
	// File is what counts where nobody stored anything; Stored is what somebody did, null
	// for neither.
	File struct {
		IMAP bool `json:"imap"`
		SMTP bool `json:"smtp"`
	} `json:"file_default"`
	Stored struct {
		IMAP *bool `json:"imap"`
		SMTP *bool `json:"smtp"`
	} `json:"db_override"`
	// Listens reports whether there is an HTTPS port. The name is that of earlier versions,
	// for which it was a block of the configuration.
	Listens        bool   `json:"chatmail_block_configured"`
	ReloadRequired bool   `json:"reload_required"`
	Applied        string `json:"applied,omitempty"`
}

// SharedPortChange asks for changes, all or none. The zero value only asks how it is.
type SharedPortChange struct {
	IMAP, SMTP *bool
}

// sharedPort shows or changes which mail protocols the HTTPS port serves.
func (d *Desk) sharedPort(ctx context.Context, p SharedPortChange) (r SharedPort, err error) {
	var changes []settings.Change
	if p.IMAP != nil {
		changes = append(changes, settings.Change{Key: settings.SharedPortIMAP, Value: strconv.FormatBool(*p.IMAP)})
	}
	if p.SMTP != nil {
		changes = append(changes, settings.Change{Key: settings.SharedPortSMTP, Value: strconv.FormatBool(*p.SMTP)})
	}
	if len(changes) > 0 {
		if r.Applied, err = d.Change(ctx, changes...); err != nil {
			return r, err
		}
		r.ReloadRequired = d.notYet(ctx)
	}
	s := d.Settings.Current()
	file, err := d.without(settings.SharedPortIMAP, settings.SharedPortSMTP)
	if err != nil {
		return r, err
	}
	r.IMAP, r.SMTP, r.Listens = s.Bool(settings.SharedPortIMAP), s.Bool(settings.SharedPortSMTP), s.Bool(settings.HTTPSEnabled)
	r.File.IMAP, r.File.SMTP = file.Bool(settings.SharedPortIMAP), file.Bool(settings.SharedPortSMTP)
	for k, stored := range map[settings.Key]**bool{settings.SharedPortIMAP: &r.Stored.IMAP, settings.SharedPortSMTP: &r.Stored.SMTP} {
		if d.stored(k) != nil {
			on := s.Bool(k)
			*stored = &on
		}
	}
	return r, nil
}
