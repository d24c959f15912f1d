package app

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"madmail/internal/adminrpc"
	"madmail/internal/admintoken"
	"madmail/internal/adminui"
	"madmail/internal/fault"
	"madmail/internal/settings"
)

// admin is the operators' door over HTTP.
type admin struct {
	door *adminrpc.Server
	// old is a path that counted until a moment ago.
	old   string
	until time.Time
}

// grace is how long a path that was changed still answers a little, so that a
// page can follow.
const grace = 5 * time.Minute

func (a *App) openAdmin() error {
	var origins []string
	for o := range strings.SplitSeq(a.opt.Env("CHATMAIL_ADMIN_CORS_ORIGINS"), ",") {
		if o = strings.TrimSpace(o); o != "" {
			origins = append(origins, o)
		}
	}
	door, err := adminrpc.New(adminrpc.Options{
		Ops: a.Ops, Token: a.currentToken, Origins: origins, Reachable: a.leadsHere, Logger: a.Log.Logger("admin"),
	})
	if err != nil {
		return err
	}
	a.admin.Store(&admin{door: door})
	files := a.opt.Panel
	if files == nil {
		files = adminui.Files()
	}
	if a.page, err = adminui.New(files); err != nil {
		return err
	}
	cancel := a.settings.Subscribe(func(old, now *settings.Snapshot) {
		if was := old.Text(settings.AdminPath); was != now.Text(settings.AdminPath) {
			a.admin.Store(&admin{door: door, old: was, until: time.Now().Add(grace)})
		}
	})
	a.onStop(func(context.Context) error { cancel(); return nil })
	return nil
}

// currentToken is the token that counts now.
func (a *App) currentToken() (string, error) {
	if t := a.configuredToken(); t != "" {
		return t, nil
	}
	return admintoken.Read(a.StateDir)
}

// adminDoor takes requests of operators. A disabled API has no path: it answers like
// any that never was (REQ-09).
func (a *App) adminDoor(r *http.Request) http.Handler {
	d := a.admin.Load()
	if d == nil || a.configuredToken() == "disabled" {
		return nil
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case path == "":
		return nil
	case path == a.settings.Current().Text(settings.AdminPath):
		return d.door
	case path == d.old && time.Now().Before(d.until):
		return d.door.Retired()
	}
	return nil
}

// panelDoor takes requests for the operators' page.
func (a *App) panelDoor(r *http.Request) http.Handler {
	s := a.settings.Current()
	if a.page == nil || !s.Bool(settings.AdminWebEnabled) {
		return nil
	}
	if prefix := s.Text(settings.AdminWebPath); adminui.Owns(prefix, r.URL.Path) {
		return a.page.Handler(prefix, s.Text(settings.AdminPath))
	}
	if r.URL.Path == adminui.RelayPath && r.Method == http.MethodPost && a.configuredToken() != "disabled" && onLoopback(r) {
		return adminui.Relay(func(target *url.URL) http.Handler {
			if !a.isMyName(target.Hostname()) {
				return nil
			}
			return a.adminDoor(&http.Request{URL: target})
		})
	}
	return nil
}

// onLoopback reports whether a request came to a loopback address of this machine and
// names one: by a tunnel of the operator's, say, and not by a page elsewhere.
func onLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	if err != nil || !at.Addr().Unmap().IsLoopback() {
		return false
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	named, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && named.IsLoopback() || host == "localhost"
}

// isMyName reports whether a host in a URL is this server.
func (a *App) isMyName(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return true
	}
	return host == "localhost" || strings.EqualFold(host, a.clientHost()) || strings.EqualFold(host, a.hostname())
}

// leadsHere says whether a host name leads to this server. Pages that change the
// name move there at once and would be lost.
func (a *App) leadsHere(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	bare := strings.Trim(host, "[]")
	var found []netip.Addr
	if ip, err := netip.ParseAddr(bare); err == nil {
		found = append(found, ip)
	} else if bare != "localhost" {
		if found, err = (names{a.fed.resolver}).LookupAddr(ctx, bare); err != nil {
			return fault.WithHint(fault.Newf(fault.Invalid, "%s does not resolve", host), "publish its address first, or force it: madmail settings set smtp_hostname "+host)
		}
	} else {
		return nil
	}
	public, _ := netip.ParseAddr(a.conf.Load().PublicIP)
	for _, ip := range found {
		if ip.IsLoopback() || ip.Unmap() == public || ours(ip) {
			return nil
		}
	}
	return fault.WithHint(fault.Newf(fault.Invalid, "%s leads to another machine", host), "where something in front translates addresses, set public_ip, or force it: madmail settings set smtp_hostname "+host)
}
