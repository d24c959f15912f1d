package app

import (
	"context"
	"math"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"madmail/internal/config"
	"madmail/internal/inlet"
	"madmail/internal/irohrelay"
	"madmail/internal/ops"
	"madmail/internal/settings"
)

// relaysPackets reports whether a configuration and settings want the relay for
// realtime channels here. A URL that names another machine is that of somebody
// else's relay, unless the file says otherwise.
func (a *App) relaysPackets(conf *config.Config, s *settings.Snapshot) bool {
	text := s.Text(settings.IrohRelayURL)
	if !s.Bool(settings.IrohEnabled) || !conf.IrohEnable && text == "" {
		return false
	}
	u, err := url.Parse(text)
	return conf.IrohEnable || err == nil && a.isHere(u.Hostname())
}

// realtimeLimits are those of the configuration.
func realtimeLimits(c *config.Config) irohrelay.Options {
	n := func(text string) int { return int(min(config.Limit(text), math.MaxInt32)) }
	return irohrelay.Options{
		Clients: n(c.IrohMaxClients), PerAddress: n(c.IrohMaxPerAddress), Handshakes: n(c.IrohMaxHandshakes), Standby: n(c.IrohMaxStandby),
		Rate: config.Limit(c.IrohRate), TotalRate: config.Limit(c.IrohTotalRate), QueueBytes: n(c.IrohQueue), QueueTotal: n(c.IrohQueueTotal),
	}
}

func (a *App) startRealtime(o irohrelay.Options) {
	o.Log = a.Log.Logger("iroh")
	h, err := irohrelay.New(o)
	if err != nil {
		a.log.Error("realtime channels are not relayed", "err", err) // cannot be: they were checked
		return
	}
	a.calls.realtime.Store(h)
	if u, err := url.Parse(a.settings.Current().Text(settings.IrohRelayURL)); err == nil && u.Scheme == "https" && a.selfSigned() {
		a.log.Warn("realtime clients will not take the certificate of this server", "url", u.Redacted(), "instead", a.suggestedRelay())
	}
}

func (a *App) stopRealtime(ctx context.Context) {
	if h := a.calls.realtime.Swap(nil); h != nil {
		if err := h.Stop(ctx); err != nil {
			a.log.Warn("the relay for realtime channels takes long to stop", "err", err)
		}
	}
}

// serveRealtime serves a socket of the relay. It closes one that came too late.
func (a *App) serveRealtime(b Bound) error {
	h := a.calls.realtime.Load()
	if h == nil {
		return b.l.Close()
	}
	if p, ok := b.l.(*packetSocket); ok {
		return h.ServeSTUN(p.PacketConn)
	}
	return h.Serve(inlet.Limit(b.l, webConns, webConnsPerSource))
}

// relayURL is what clients are told of the relay for realtime channels, or "".
// They keep it, and tell it each other.
func (a *App) relayURL() string {
	s := a.settings.Current()
	switch text := s.Text(settings.IrohRelayURL); {
	case !s.Bool(settings.IrohEnabled):
		return ""
	case text != "":
		return text
	case a.calls.realtime.Load() == nil:
		return ""
	}
	return a.suggestedRelay()
}

// suggestedRelay is the URL that works for clients. They take a certificate from
// a public authority or none: otherwise they have to come without TLS.
func (a *App) suggestedRelay() string {
	conf, s := a.conf.Load(), a.settings.Current()
	at := func(scheme, host string, port, usual int) string {
		host = strings.Trim(host, "[]")
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		if port != usual {
			host += ":" + strconv.Itoa(port)
		}
		return scheme + "://" + host
	}
	if port := a.port("http_tls"); port != 0 && !a.selfSigned() && !s.Bool(settings.HTTPSLocalOnly) {
		for _, host := range []string{conf.MXDomain, a.domains.Registration().Host(), a.hostname(), conf.WebDomain} {
			host = strings.Trim(host, "[]")
			if _, err := netip.ParseAddr(host); err == nil || host == "" || strings.HasPrefix(host, "_") {
				continue
			}
			if a.certs.Leaf().VerifyHostname(host) == nil {
				return at("https", host, port, 443)
			}
		}
	}
	host := conf.PublicIP
	if host == "" {
		host = a.clientHost()
	}
	if port := a.port("http"); a.port("iroh") == 0 && port != 0 && !s.Bool(settings.HTTPLocalOnly) {
		return at("http", host, port, 80)
	}
	port := a.port("iroh")
	if port == 0 {
		port = config.IrohPort
	}
	return at("http", host, port, 80)
}

// realtimeFacts tells operators of the relay.
func (a *App) realtimeFacts() ops.RealtimeFacts {
	conf, s := a.conf.Load(), a.settings.Current()
	f := ops.RealtimeFacts{Configured: conf.IrohEnable || s.Text(settings.IrohRelayURL) != "", Port: a.port("iroh"), URL: s.Text(settings.IrohRelayURL)}
	f.Listening = f.Port != 0
	if !f.Listening {
		f.Port = s.Port(settings.IrohPort)
		if n := config.PortOfURL(f.URL); n != 0 && s.Source(settings.IrohPort) != settings.FromStore {
			f.Port = n
		}
	}
	if !a.opt.Offline {
		f.Suggested = a.suggestedRelay()
		if u := a.relayURL(); u != "" {
			f.URL = u
		}
	} else if f.Suggested = "http://" + net.JoinHostPort(strings.Trim(a.clientHost(), "[]"), strconv.Itoa(f.Port)); conf.PublicIP != "" {
		f.Suggested = "http://" + net.JoinHostPort(conf.PublicIP, strconv.Itoa(f.Port))
	}
	return f
}

// countRealtime adds the relay to the status.
func (a *App) countRealtime(st *ops.Status) {
	h := a.calls.realtime.Load()
	if h == nil {
		return
	}
	stats := h.Stats()
	st.Services = append(st.Services, ops.Service{Name: "Iroh", Connections: stats.Connections})
	for v, i := reflect.ValueOf(stats), 0; i < v.NumField(); i++ {
		st.Counters["iroh_"+v.Type().Field(i).Tag.Get("json")] = v.Field(i).Convert(reflect.TypeFor[int64]()).Int()
	}
}
