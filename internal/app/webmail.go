package app

import (
	"context"
	"net/http"

	"madmail/internal/delivery"
	"madmail/internal/settings"
	"madmail/internal/webimap"
)

// maxBrowserRecipients is for configurations that set no limit: a request names them
// all at once.
const maxBrowserRecipients = 20_000

// openWebmail builds the door for browsers.
func (a *App) openWebmail() (err error) {
	on := func(k settings.Key) func() bool { return func() bool { return a.settings.Current().Bool(k) } }
	recipients := maxBrowserRecipients
	if n := a.conf.Load().SMTPMaxRecipients; n > 0 {
		recipients = n
	}
	a.webmail, err = webimap.New(webimap.Options{
		Auth: a.auth, Store: a.store, Bus: a.bus, Intake: a.intake, Reading: on(settings.WebIMAPEnabled), Sending: on(settings.WebSMTPEnabled),
		Origins: a.webOrigins, HasRoom: a.quota.HasRoom, MaySend: a.smtp.MaySend, MaxSize: func() int64 { return a.maxSize(delivery.Web) }, MaxRecipients: recipients,
		Logger: a.Log.Logger("webimap"),
	})
	if err != nil {
		return err
	}
	cancel := a.settings.Subscribe(func(old, now *settings.Snapshot) {
		if old.Bool(settings.WebIMAPEnabled) && !now.Bool(settings.WebIMAPEnabled) {
			a.webmail.CloseReading()
		}
	})
	a.onStop(func(context.Context) error { cancel(); return nil })
	a.onEnd("WebIMAP", a.webmail.Stop)
	return nil
}

// webOrigins are those whose pages may use mail for browsers.
func (a *App) webOrigins() []string { return a.settings.Current().List(settings.WebmailCORS) }

// crossNew lets pages of the same origins make accounts.
func (a *App) crossNew(w http.ResponseWriter, r *http.Request) {
	webimap.Cross(w, r, a.webOrigins(), "GET, POST, OPTIONS", "Content-Type")
}
