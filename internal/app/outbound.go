package app

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/authres"
	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/dane"
	"madmail/internal/delivery"
	"madmail/internal/exchange"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/message"
	"madmail/internal/mtasts"
	"madmail/internal/mxdeliv"
	"madmail/internal/ops"
	"madmail/internal/outbound"
	"madmail/internal/outbound/httpsend"
	"madmail/internal/outbound/smtpsend"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
	"madmail/internal/resolve"
	"madmail/internal/settings"
	"madmail/internal/throttle"
	"madmail/internal/units"
	"madmail/internal/upkeep"
)

// federation is the way to other servers.
type federation struct {
	resolver *resolve.Resolver
	policy   *policy.Store
	peers    *peers.Store
	queue    *queue.Queue
	worker   *outbound.Worker
	keys     *certs.DKIM
	inbound  *mxdeliv.Handler
	boxes    *exchange.Store
	verdicts [authres.Unknown + 1]atomic.Int64 // on mail that came in
	// failedChecks are messages that were refused, and set aside, by each of
	// authres.CheckNames.
	failedChecks [len(authres.CheckNames)][2]atomic.Int64
	mail         *smtpsend.Client
}

// firstTry is how long what a start finds in the queue waits when the configuration
// does not say: names and routes of a machine that boots may come later than we do.
const firstTry = 10 * time.Second

// openFederation opens the queue and what decides about it. Nothing is sent
// before startFederation.
func (a *App) openFederation(ctx context.Context) error {
	conf := a.conf.Load()
	f := &a.fed
	servers, err := config.ParseServers(conf.DNSServers)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "dns_servers") // cannot be: the file was checked
	}
	if f.resolver, err = resolve.New(resolve.Options{Servers: servers, Logger: a.Log.Logger("dns")}); err != nil {
		return err
	}
	if f.policy, err = policy.Open(ctx, policy.Options{DB: a.db, Switches: a.switches, Logger: a.Log.Logger("federation")}); err != nil {
		return err
	}
	dir := conf.QueueLocation
	if dir == "" {
		dir = "remote_queue"
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.StateDir, dir)
	}
	delay := firstTry
	if conf.QueuePostInitDelay != "" {
		delay = duration(conf.QueuePostInitDelay)
	}
	f.queue, err = queue.Open(ctx, queue.Options{
		Dir: dir, Lifetime: duration(conf.QueueMaxDeliveryTime), Delay: delay, Logger: a.Log.Logger("queue"),
	})
	if err != nil {
		return err
	}
	a.onStop(f.queue.Close)
	if err := a.openKeys(); err != nil {
		return err
	}
	if f.boxes, err = exchange.Open(ctx, a.db, nil); err != nil {
		return err
	}
	f.peers, err = peers.Open(peers.Options{DB: a.db, Queued: f.queue.Depths})
	return err
}

// duration reads a value that the configuration has checked; "" is 0.
func duration(s string) time.Duration {
	d, err := units.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}

func (a *App) switches() policy.Switches {
	s := a.settings.Current()
	return policy.Switches{
		Reject: s.Enum(settings.FederationPolicy) == "REJECT", Off: !s.Bool(settings.FederationEnabled),
		OpenRelay: s.Bool(settings.AllowRemoteRcpt), HTTP: s.Bool(settings.FederationHTTP),
	}
}

// openOutbound builds what brings mail out, and finishes what the last server left
// half done.
func (a *App) openOutbound(ctx context.Context) (err error) {
	f, conf := &a.fed, a.conf.Load()
	dialer := &outbound.Dialer{Resolver: names{f.resolver}, Self: a.self, Timeout: duration(conf.RemoteConnectTimeout), IPv4: conf.RemoteForceIPv4}
	if conf.RemoteLocalIP != "" {
		if dialer.Local, err = netip.ParseAddr(conf.RemoteLocalIP); err != nil {
			return fault.Wrap(fault.Invalid, err, "remote_local_ip") // cannot be: the file was checked
		}
	}
	rules, err := throttle.Parse(conf.RemoteLimits)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "remote_limits") // cannot be: the file was checked
	}
	turns := throttle.New(rules)
	web, err := httpsend.New(httpsend.Options{Dialer: dialer})
	if err != nil {
		return err
	}
	a.onStop(func(context.Context) error { web.Close(); return nil })
	roots, err := authorities(conf.RemoteRootCA)
	if err != nil {
		return err
	}
	mail, err := smtpsend.New(smtpsend.Options{
		Dialer: dialer, Hostname: a.hostname, Roots: roots,
		Timeout: duration(conf.RemoteCommandTimeout), EndTimeout: duration(conf.RemoteSubmissionTimeout), Idle: duration(conf.RemoteIdleTime),
		MaxIdle: int(config.Limit(conf.RemoteMaxIdle)), Reuse: int(config.Limit(conf.RemoteReuse)),
	})
	if err != nil {
		return err
	}
	a.onStop(func(context.Context) error { mail.Close(); return nil })
	a.fed.mail = mail
	// Policies are fetched from where our name servers say, and never from here.
	policies := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, addr, false)
		},
		TLSHandshakeTimeout: 15 * time.Second, MaxResponseHeaderBytes: 32 << 10, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	dir := cmp.Or(conf.RemoteMTASTSDir, "mtasts_cache")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.StateDir, dir)
	}
	sts, err := mtasts.Open(mtasts.Options{Dir: dir, LookupTXT: f.resolver.TXT, Client: &http.Client{Transport: policies}, Logger: a.Log.Logger("mta-sts")})
	if err != nil {
		return err
	}
	f.worker, err = outbound.New(outbound.Options{
		Queue: f.queue, Policy: f.policy, Peers: f.peers, Resolver: names{f.resolver}, HTTP: outbound.Limited(web, turns), SMTP: outbound.Limited(mail, turns),
		Trust: &trust{f.resolver, sts}, Signer: signer{f.keys}, Bouncer: bouncer{a}, Local: a.domains.IsLocal, Hostname: a.hostname, Domain: a.noticeDomain,
		Rewrite: func() string { return a.conf.Load().EndpointRewrite }, Schedule: schedule(conf), MaxParallel: conf.QueueMaxParallelism, Logger: a.Log.Logger("federation"),
	})
	if err != nil {
		return err
	}
	f.worker.Resume(ctx)
	return nil
}

// startFederation begins to bring out what waits, and to fetch.
func (a *App) startFederation(ctx context.Context) error {
	f := &a.fed
	if f.OpenRelay() {
		a.log.Warn("strangers can send to anybody through this server: madmail openrelay disable")
	}
	a.onEnd("mail to others", f.worker.Stop)
	if err := f.worker.Start(ctx); err != nil {
		return err
	}
	poller, err := exchange.New(exchange.Options{Store: f.boxes, Accept: a.fetched, Known: a.reads, Domains: a.domains.Local, Logger: a.Log.Logger("exchange")})
	if err != nil {
		return err
	}
	a.onEnd("exchangers", poller.Stop)
	return poller.Start(ctx)
}

func schedule(c *config.Config) outbound.Schedule {
	scale, err := strconv.ParseFloat(c.QueueRetryTimeScale, 64)
	if err != nil {
		scale = 0 // the default
	}
	return outbound.Schedule{Tries: c.QueueMaxTries, Initial: duration(c.QueueInitialRetry), Scale: scale}
}

// queueLimits are the numbers of the configuration as they count.
func (a *App) queueLimits() ops.QueueStatus {
	c := a.conf.Load()
	w := schedule(c).WithDefaults()
	q := ops.QueueStatus{MaxTries: w.Tries, InitialRetry: int64(w.Initial / time.Second), Scale: w.Scale, Parallel: c.QueueMaxParallelism,
		Lifetime: int64(a.fed.queue.Lifetime / time.Second), Delay: int64(a.fed.queue.Delay / time.Second)}
	if q.Parallel <= 0 {
		q.Parallel = outbound.DefaultParallel
	}
	return q
}

// trouble tells why destinations cannot be reached at present.
func (f *federation) trouble() map[address.Domain]string {
	if f.worker == nil {
		return nil // no server is running
	}
	return f.worker.Trouble()
}

// flushPeers is the job that writes the counters of other servers.
func (a *App) flushPeers() upkeep.Job {
	return upkeep.Job{Name: "flush-peers", Every: 30 * time.Second, AtStop: true, Run: a.fed.peers.Flush}
}

// self reports whether this server answers at an address.
func (a *App) self(ap netip.AddrPort) bool {
	public, _ := netip.ParseAddr(a.conf.Load().PublicIP)
	for _, b := range a.Listeners() {
		l, ok := b.l.Addr().(*net.TCPAddr)
		if !ok || l.Port != int(ap.Port()) {
			continue
		}
		ip, _ := netip.AddrFromSlice(l.IP)
		if ip = ip.Unmap(); ip == ap.Addr().Unmap() || ip.IsUnspecified() && (ap.Addr().Unmap() == public || ours(ap.Addr())) {
			return true
		}
	}
	return false
}

// ours reports whether an interface of this machine has the address.
func ours(ip netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip.Unmap() {
			return true
		}
	}
	return false
}

// names lets the worker ask the DNS.
type names struct{ r *resolve.Resolver }

func (n names) LookupMX(ctx context.Context, domain string) ([]outbound.MX, error) {
	got, err := n.r.LookupMX(ctx, domain)
	list := make([]outbound.MX, len(got.Records))
	for i, mx := range got.Records {
		list[i] = outbound.MX{Host: mx.Host, Preference: mx.Preference}
	}
	return list, err
}

func (n names) LookupAddr(ctx context.Context, host string) ([]netip.Addr, error) {
	got, err := n.r.LookupAddr(ctx, host)
	return got.Records, err
}

// trust is what MTA-STS and DANE know of a host beyond public authorities
// (decision D17 of the contract: names are always verified).
type trust struct {
	names *resolve.Resolver
	sts   *mtasts.Cache
}

// TLS implements outbound.Trust. DANE counts where the answers are authentic
// (RFC 7672), and goes before MTA-STS (RFC 8461 section 2).
func (t *trust) TLS(ctx context.Context, domain address.Domain, host string, port int) (outbound.TLS, error) {
	if _, trusted := t.names.Servers(); trusted {
		got, err := t.names.LookupTLSA(ctx, uint16(port), host)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return outbound.TLS{}, fault.Wrap(fault.Busy, err, "TLSA records of "+host)
		}
		if records := dane.Usable(got.Records); got.Authentic && len(records) > 0 {
			return outbound.TLS{By: outbound.ByDANE, Verify: func(c tls.ConnectionState) error {
				return dane.Verify(records, c.PeerCertificates, []string{host, domain.Host()}, time.Now())
			}}, nil
		}
	}
	p, err := t.sts.Lookup(ctx, domain.Host())
	if err != nil {
		return outbound.TLS{}, err
	}
	if p.Mode == mtasts.Enforce && !p.Matches(host) {
		return outbound.TLS{}, fault.Newf(fault.Refused, "the MTA-STS policy of the domain does not name %s", host)
	}
	if p.Mode == mtasts.Enforce {
		return outbound.TLS{By: outbound.ByMTASTS}, nil
	}
	return outbound.TLS{}, nil
}

// bouncer brings notifications to our own users.
type bouncer struct{ a *App }

// Bounce implements outbound.Bouncer.
func (b bouncer) Bounce(ctx context.Context, to address.Addr, text []byte) error {
	_, err := b.a.intake.Accept(ctx, &delivery.Envelope{Via: delivery.Bounce, To: []address.Addr{to}}, bytes.NewReader(text))
	return err
}

// maxLook is how many messages are looked through for a notification.
const maxLook = 1000

// Bounced implements outbound.Bouncer.
func (b bouncer) Bounced(ctx context.Context, to address.Addr, id string) (bool, error) {
	box := mailbox.Box{Account: to, Name: mailbox.Inbox}
	v, err := b.a.store.View(ctx, box)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for i := v.Len() - 1; i >= max(0, v.Len()-maxLook); i-- {
		head, err := b.a.store.Head(ctx, box, v.At(i).UID)
		if fault.Is(err, fault.NotFound) {
			continue // expunged meanwhile
		}
		if err != nil {
			return false, err
		}
		if h, err := message.ParseHeader(head); err == nil {
			if got, _ := h.Get("Message-ID"); strings.TrimSpace(got) == "<"+id+">" {
				return true, nil
			}
		}
	}
	return false, nil
}

// Carries implements delivery.Outgoing.
func (f *federation) Carries(d address.Domain) error {
	if f.policy.Outbound(d) == policy.Refuse {
		return fault.New(fault.Refused, "Federation policy rejection: this server does not exchange mail with that domain")
	}
	return nil
}

// OpenRelay implements delivery.Outgoing.
func (f *federation) OpenRelay() bool { return f.policy.OpenRelay() }

// Send implements delivery.Outgoing: one entry for each destination.
func (f *federation) Send(ctx context.Context, from address.Addr, to []address.Addr, body io.ReaderAt, size int64) error {
	var order []address.Domain
	byDomain := make(map[address.Domain][]address.Addr)
	for _, a := range to {
		d := a.Domain()
		if f.policy.Outbound(d) == policy.Dismiss {
			continue
		}
		if byDomain[d] == nil {
			order = append(order, d)
		}
		byDomain[d] = append(byDomain[d], a)
	}
	var envelopes []queue.Envelope
	for _, d := range order {
		for all := byDomain[d]; len(all) > 0; {
			n := min(len(all), queue.MaxRecipients)
			envelopes = append(envelopes, queue.Envelope{From: from, To: all[:n]})
			all = all[n:]
		}
	}
	if len(envelopes) == 0 {
		return nil
	}
	_, err := f.queue.Put(ctx, body, size, envelopes...)
	return err
}

// noticeDomain is the domain that notices about mail come from. One that is not ours
// would not be signed, and refused by others.
func (a *App) noticeDomain() address.Domain {
	if d, err := address.ParseDomain(a.conf.Load().AutogeneratedMsgDomain); err == nil && a.domains.IsLocal(d) {
		return d
	}
	return a.domains.Registration()
}

// authorities reads the certificates that other servers are checked against: nil, for
// those of the system, without files.
func authorities(files string) (*x509.CertPool, error) {
	if files == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, path := range strings.Fields(files) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "remote_root_ca")
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fault.Newf(fault.Invalid, "remote_root_ca: %s holds no certificate", path)
		}
	}
	return pool, nil
}
