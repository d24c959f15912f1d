package app

import (
	"context"
	"path/filepath"
	"strings"

	"madmail/internal/route"
	"madmail/internal/settings"
	"madmail/internal/share"
	"madmail/internal/website"
)

// openShares prepares the contact links. Their database is opened now where visitors may
// ask for it, so that trouble is told at the start; it does not keep mail from going.
func (a *App) openShares(ctx context.Context) {
	path := absolute(a.conf.Load().SharingPath(a.StateDir))
	if path == a.db.Path() {
		path = absolute(filepath.Join(a.StateDir, share.FileName))
		a.log.Warn("sharing_dsn names the main database: contact links are kept beside it", "file", share.FileName)
	}
	a.shares = share.New(share.Options{Path: path, Taken: a.isPath, Log: a.Log.Logger("sharing")})
	a.onStop(a.shares.Close)
	if a.opt.Offline || !a.settings.Current().Bool(settings.ContactSharing) {
		return
	}
	if err := a.shares.Open(ctx); err != nil {
		a.log.Error("there are no contact pages: their database cannot be opened", "err", err)
	}
}

// isPath reports whether a name belongs to something that is served below "/".
func (a *App) isPath(name string) bool {
	s := a.settings.Current()
	return route.Taken(name) || strings.EqualFold(name, route.First(s.Text(settings.AdminPath))) || strings.EqualFold(name, route.First(s.Text(settings.AdminWebPath))) ||
		website.Shows(a.ownSite(), "/"+name)
}
