package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"madmail/internal/authres"
	"madmail/internal/latency"
	"madmail/internal/metrics"
	"madmail/internal/outbound"
	"madmail/internal/outbound/smtpsend"
	"madmail/internal/peers"
	"madmail/internal/smtpserver"
	"madmail/internal/version"
)

// serveMetrics answers on the port for monitoring until the listener is closed.
func (a *App) serveMetrics(l net.Listener) error {
	conf := a.conf.Load()
	user := conf.OpenMetricsUsername
	if user == "" {
		user = "metrics"
	}
	h, err := metrics.Handler(metrics.Options{Samples: a.samples, Username: user, Password: conf.OpenMetricsPassword})
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	err = s.Serve(l)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if stop := s.Shutdown(ctx); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, stop)
	}
	return nil
}

// samples are the numbers of this moment. Everything is counted anyway.
func (a *App) samples() metrics.Samples {
	s := make(metrics.Samples)
	n := func(name string, v int64, labels ...string) { s.Add(name, float64(v), labels...) }
	n("madmail_build_info", 1, version.Version, version.BuildID())
	n("madmail_start_time_seconds", a.booted.Unix())
	n("madmail_accounts", int64(a.accounts.Count()))

	sm, im := a.smtp.Stats(), a.imap.Stats()
	for module, t := range map[string]smtpserver.Transactions{"smtp": sm.MX, "submission": sm.Submission} {
		n("maddy_smtp_started_transactions", t.Started, module)
		n("maddy_smtp_smtp_completed_transactions", t.Completed, module)
		n("maddy_smtp_aborted_transactions", t.Aborted, module)
		n("maddy_smtp_ratelimit_deferred", t.Deferred, module)
		n("maddy_smtp_failed_logins", t.FailedLogins, module)
		n("maddy_conns_active", int64(t.Sessions), module)
	}
	for k, v := range sm.Failed {
		module := "smtp"
		if k.Submission {
			module = "submission"
		}
		n("maddy_smtp_failed_commands", v, module, k.Command, strconv.Itoa(k.Code), k.Enhanced)
	}
	n("maddy_conns_active", int64(im.Sessions), "imap")
	n("madmail_imap_sessions", int64(im.Sessions))
	n("madmail_imap_idle_sessions", int64(im.Idle))
	n("madmail_imap_parked_sessions", int64(im.Parked))
	n("madmail_imap_logins", im.Logins)
	n("madmail_imap_failed_logins", im.FailedLogins)

	for name, v := range im.Commands {
		n("madmail_imap_commands", v, name)
	}
	a.intake.Results(func(door, result string, v int64) { n("madmail_deliveries", v, door, result) })
	took := func(name string, c latency.Counts, labels ...string) {
		p := metrics.Spread{Count: uint64(c.Count), Buckets: make(map[float64]uint64, len(latency.Bounds))}
		for i, v := range c.Buckets {
			p.Buckets[latency.Bounds[i].Seconds()] = uint64(v)
		}
		s.AddSpread(name, c.Sum.Seconds(), p, labels...)
	}
	for operation, c := range a.store.Latencies() {
		if operation == "usage" {
			took("madmail_quota_walk_seconds", c)
			continue
		}
		took("madmail_store_latency_seconds", c, operation)
	}
	reads, writes := a.db.Latencies()
	took("madmail_database_latency_seconds", reads, "read")
	took("madmail_database_latency_seconds", writes, "write")
	bus := a.bus.Stats()
	n("madmail_event_wakeups", bus.Woken)
	n("madmail_event_drops", bus.Merged)
	hooks := a.hooks.Stats()
	n("madmail_webhook_events", hooks.Delivered, "delivered")
	n("madmail_webhook_events", hooks.Failed, "failed")
	n("madmail_webhook_events", hooks.Dropped, "dropped")

	d, st := a.intake.Stats(), a.store.Stats()
	bytes, messages := a.quota.Total()
	n("madmail_messages_accepted", d.Accepted)
	n("madmail_messages_refused", d.Refused)
	n("madmail_messages_repeated", d.Repeated)
	n("madmail_copies_stored", d.Stored)
	n("madmail_recipients_queued", d.Queued)
	n("madmail_storage_bytes", bytes)
	n("madmail_storage_messages", messages)
	n("madmail_store_syncs", st.Syncs)
	n("madmail_store_checkpoints", st.Checkpoints)
	n("madmail_store_operations", st.Operations)
	n("madmail_store_mailboxes_loaded", st.Loaded)
	if total, free, ok := diskSpace(a.StateDir); ok {
		n("madmail_disk_free_bytes", free)
		n("madmail_disk_total_bytes", total)
	}

	n("madmail_quota_refusals", a.quota.Refused())
	limit, _ := a.accounts.DefaultLimit()
	n("madmail_quota_default_bytes", limit)
	for part := range a.asked {
		n("madmail_http_requests", a.asked[part].Load(), httpParts[part])
	}
	in := a.fed.inbound.Stats()
	n("madmail_http_deliveries", in.Accepted, "accepted")
	n("madmail_http_deliveries", in.Dropped, "dropped")
	n("madmail_http_deliveries", in.Refused, "refused")
	for v := range a.fed.verdicts {
		n("madmail_origin_verdicts", a.fed.verdicts[v].Load(), authres.Verdict(v).String())
	}
	for i, check := range authres.CheckNames {
		n("maddy_check_reject", a.fed.failedChecks[i][refusedByCheck].Load(), check)
		n("maddy_check_quarantined", a.fed.failedChecks[i][setAsideByCheck].Load(), check)
	}
	secured, vouched := a.fed.mail.Connections()
	for level, name := range map[smtpsend.Security]string{smtpsend.Clear: "none", smtpsend.Encrypted: "encrypted", smtpsend.Authenticated: "authenticated"} {
		n("maddy_remote_conns_tls_level", secured[level], "remote", name)
	}
	for by, name := range map[outbound.By]string{outbound.ByNobody: "none", outbound.ByMTASTS: "mtasts", outbound.ByDANE: "dnssec"} {
		n("maddy_remote_conns_mx_level", vouched[by], "remote", name)
	}
	q := a.fed.queue.Stats()
	n("maddy_queue_length", int64(q.Entries), "remote_queue", a.fed.queue.Dir)
	n("madmail_queue_taken", int64(q.Taken))
	n("madmail_queue_destinations", int64(q.Destinations))
	n("madmail_queue_set_aside", int64(q.Broken))
	n("madmail_federation_unreachable", int64(len(a.fed.trouble())))
	sum := a.fed.peers.Sum()
	for _, t := range []peers.Transport{peers.HTTPS, peers.HTTP, peers.SMTP} {
		n("madmail_federation_attempts", sum.Succeeded[t], t.String(), "delivered")
		n("madmail_federation_attempts", sum.Failed[t], t.String(), "failed")
	}
	n("madmail_federation_received", sum.Inbound)

	web := a.webmail.Stats()
	n("madmail_webimap_sockets", int64(web.Sockets))
	n("madmail_webimap_waiting", int64(web.Waiting))
	n("madmail_webimap_requests", web.Requests)
	n("madmail_webimap_sockets_opened", web.Opened)
	n("madmail_webimap_failed_logins", web.FailedLogins)
	n("madmail_webimap_pushed", web.Pushed)
	n("madmail_webimap_messages", web.Sent, "taken")
	n("madmail_webimap_messages", web.Refused, "refused")
	n("madmail_webimap_closed", web.Slow, "slow")
	n("madmail_webimap_closed", web.Silent, "silent")
	n("madmail_webimap_closed", web.Full, "full")

	a.sampleCalls(n)
	p := a.push.Stats()
	n("madmail_push_pending", int64(p.Pending))
	n("madmail_push_notifications", p.Sent, "sent")
	n("madmail_push_notifications", p.Gone, "dead_token")
	n("madmail_push_notifications", p.Failed, "failed")
	n("madmail_push_notifications", p.Dropped, "dropped")
	n("madmail_certificate_expiry_seconds", a.certs.Leaf().NotAfter.Unix())
	n("madmail_certificate_order_failures", int64(a.acme.Renewal().Failures))
	r := a.fed.resolver.Stats()
	n("madmail_dns_lookups", r.Hits, "cache")
	n("madmail_dns_lookups", r.Lookups-r.Hits, "server")
	return s
}

// sampleCalls adds calls, disguise and realtime apps, as far as they are on.
func (a *App) sampleCalls(n func(name string, v int64, labels ...string)) {
	if t := a.calls.turn.Load(); t != nil {
		x := t.Stats()
		n("madmail_turn_allocations", int64(x.Allocations))
		n("madmail_turn_allocations_created", x.Created)
		n("madmail_turn_denied", x.Denied)
		n("madmail_turn_bytes", x.ToPeers, "to_peers")
		n("madmail_turn_bytes", x.FromPeers, "from_peers")
		n("madmail_turn_connections", int64(x.Connections))
		n("madmail_turn_refused", x.OverQuota, "quota")
		n("madmail_turn_refused", x.RefusedPeers, "peer")
		n("madmail_turn_refused", x.Dropped, "rate")
		n("madmail_turn_refused", x.Unanswered, "stranger")
	}
	if s := a.calls.shadowsocks.Load(); s != nil {
		x := s.Stats()
		n("madmail_shadowsocks_connections", int64(x.Connections))
		n("madmail_shadowsocks_taken", x.Relayed, "relayed")
		n("madmail_shadowsocks_taken", x.Probes, "probe")
	}
	if p := a.calls.proxy.Load(); p != nil {
		x := p.Stats()
		n("madmail_http_proxy_connections", int64(x.Connections))
		n("madmail_http_proxy_taken", x.Relayed, "relayed")
		n("madmail_http_proxy_taken", x.Refused, "refused")
	}
	if h := a.calls.realtime.Load(); h != nil {
		x := h.Stats()
		n("madmail_iroh_connections", int64(x.Connections))
		n("madmail_iroh_nodes", int64(x.Nodes))
		n("madmail_iroh_waiting_bytes", int64(x.Waiting))
		n("madmail_iroh_accepted", x.Accepted-x.AcceptedWS, "frames")
		n("madmail_iroh_accepted", x.AcceptedWS, "websocket")
		for reason, v := range map[string]int64{
			"full": x.RefusedFull, "address": x.RefusedAddress, "rate": x.RefusedRate, "handshake": x.BadHandshakes, "denied": x.Denied, "version": x.OtherVersions, "silent": x.SilentHandshake,
		} {
			n("madmail_iroh_refused", v, reason)
		}
		for reason, v := range map[string]int64{"slow": x.SlowWrites, "no_pong": x.NoPong, "frame": x.BadFrames, "evicted": x.Evicted} {
			n("madmail_iroh_closed", v, reason)
		}
		n("madmail_iroh_bytes", x.BytesIn, "in")
		n("madmail_iroh_bytes", x.BytesOut, "out")
		n("madmail_iroh_packets", x.PacketsIn, "in")
		n("madmail_iroh_search_packets", x.DiscoIn)
		n("madmail_iroh_packets", x.PacketsOut, "out")
		n("madmail_iroh_dropped", x.DroppedNoDestination, "no_destination")
		n("madmail_iroh_dropped", x.DroppedQueueFull, "queue_full")
		n("madmail_iroh_dropped", x.DroppedBytesFull, "bytes_full")
		n("madmail_iroh_throttled", x.Throttled)
		n("madmail_stun_answers", x.STUN4, "ipv4")
		n("madmail_stun_answers", x.STUN6, "ipv6")
		n("madmail_stun_refused", x.STUNBad, "malformed")
		n("madmail_stun_refused", x.STUNRefused, "rate")
	}
}
