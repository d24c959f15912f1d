package adminrpc

import (
	"context"
	"math"
	"net/http"
	"time"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

// passOn runs an action that has no parameters and needs no other shape.
func passOn(op string) func(context.Context, *call) (int, any, error) {
	return func(ctx context.Context, c *call) (int, any, error) { return reply(do[any](ctx, c, op, nil)) }
}

// peersSeen is a summary of other servers. It is kept for a moment: pages ask for
// the status every few seconds, and the table can be long.
type peersSeen struct {
	at   time.Time
	list []ops.Traffic
}

const peersFor = 10 * time.Second

func (s *Server) peersNow(ctx context.Context, c *call) ([]ops.Traffic, error) {
	s.mu.Lock()
	seen := s.peers
	s.mu.Unlock()
	if !seen.at.IsZero() && s.Now().Sub(seen.at) < peersFor {
		return seen.list, nil
	}
	got, err := do[map[string][]ops.Traffic](ctx, c, "federation.status", nil)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = peersSeen{s.Now(), got["traffic"]}
	return s.peers.list, nil
}

func status(ctx context.Context, c *call) (int, any, error) { return reply(statusOfServer(ctx, c)) }

func statusOfServer(ctx context.Context, c *call) (object, error) {
	st, err := do[ops.Status](ctx, c, "status", nil)
	if err != nil {
		return nil, err
	}
	retention, err := do[ops.Retention](ctx, c, "retention", nil)
	if err != nil {
		return nil, err
	}
	wakes, err := do[ops.Push](ctx, c, "push", ops.PushMode{})
	if err != nil {
		return nil, err
	}
	peers, err := c.s.peersNow(ctx, c)
	if err != nil {
		return nil, err
	}
	pushed := pushFigures(wakes)
	pushed["enabled"] = wakes.Enabled
	o := object{
		"version": Version(), "users": object{"registered": st.RegisteredUsers},
		"uptime":        object{"boot_time": st.BootTime, "duration": clock(st.Uptime)},
		"sent_messages": st.Counters["sent_messages"], "received_messages": st.Counters["received_messages"],
		"outbound_messages": st.Counters["outbound_messages"],
		"message_retention": retention, "push": pushed,
	}
	for _, v := range st.Services {
		count := object{"connections": v.Connections, "unique_ips": v.UniqueIPs}
		switch v.Name {
		case "IMAP":
			o["imap"] = count
		case "SMTP":
			o["smtp"] = count
		case "Submission":
			o["submission"] = count
		case "TURN":
			o["turn"] = object{"relays": v.Connections}
		case "Shadowsocks":
			o["shadowsocks"] = count
		}
	}
	if traffic := summary(peers); traffic != nil {
		o["federation_traffic"] = traffic
	}
	if seen := reached(peers); seen != nil {
		o["email_servers"] = seen
	}
	return o, nil
}

// summary adds up what happened with all servers. nil is nothing.
func summary(list []ops.Traffic) object {
	if len(list) == 0 {
		return nil
	}
	var inbound, outbound, queued, failed int64
	var means float64
	measured := 0
	health := map[string]int{"perfect": 0, "federated": 0, "bad": 0}
	for _, p := range list {
		inbound += p.Inbound
		outbound += p.Delivered
		queued += p.Queued
		failed += p.Failed
		if p.MeanLatency > 0 {
			means += p.MeanLatency
			measured++
		}
		good := p.OverHTTP + p.OverTLS + p.OverSMTP
		switch {
		case good+p.Failed+p.Inbound+p.Delivered == 0: // mail waits for it, and that is all
		case p.Failed == 0:
			health["perfect"]++
		case float64(good) < 0.3*float64(good+p.Failed):
			health["bad"]++
		default:
			health["federated"]++
		}
	}
	mean := 0
	if measured > 0 {
		mean = int(math.Round(means / float64(measured)))
	}
	return object{"inbound": inbound, "outbound": outbound, "queued": queued, "expired": failed, "mean_latency_ms": mean, "health": health}
}

// reached counts the servers that mail went to or came from. nil is none.
func reached(list []ops.Traffic) object {
	names, literals := 0, 0
	for _, p := range list {
		if p.Inbound+p.Delivered == 0 {
			continue
		}
		if isIP(p.Domain) {
			literals++
		} else {
			names++
		}
	}
	if names+literals == 0 {
		return nil
	}
	return object{"connections": names + literals, "domain_servers": names, "ip_servers": literals, "connection_ips": names + literals}
}

// sample is what was counted at a moment, to tell a pace.
type sample struct {
	at       time.Time
	messages int64
	pace     float64
}

func (s *Server) pace(messages int64) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	if took := now.Sub(s.sample.at).Seconds(); s.sample.at.IsZero() || took >= 1 {
		pace := 0.0
		if !s.sample.at.IsZero() && messages >= s.sample.messages {
			pace = math.Round(float64(messages-s.sample.messages)/took*100) / 100
		}
		s.sample = sample{now, messages, pace}
	}
	return s.sample.pace
}

func overview(ctx context.Context, c *call) (int, any, error) {
	o, err := statusOfServer(ctx, c)
	if err != nil {
		return 0, nil, err
	}
	storage, err := do[ops.Storage](ctx, c, "storage", nil)
	if err != nil {
		return 0, nil, err
	}
	tokens, err := do[map[string][]ops.Token](ctx, c, "tokens.list", nil)
	if err != nil {
		return 0, nil, err
	}
	queue, err := do[ops.QueueStatus](ctx, c, "queue.status", nil)
	if err != nil {
		return 0, nil, err
	}
	settings, err := settingsOfServer(ctx, c)
	if err != nil {
		return 0, nil, err
	}
	sessions := 0
	for _, name := range []string{"imap", "smtp"} {
		if v, ok := o[name].(object); ok {
			n, _ := v["connections"].(int)
			sessions += n
		}
	}
	accepted, _ := o["sent_messages"].(int64)
	o["disk"], o["tokens"], o["settings"] = storage.Disk, object{"total": len(tokens["tokens"])}, settings
	o["live"] = object{"sessions": sessions, "messages_per_second": c.s.pace(accepted), "queue": queue.Count}
	return http.StatusOK, o, nil
}

func reload(ctx context.Context, c *call) (int, any, error) {
	var p struct {
		Scope string `json:"scope"`
		Wait  bool   `json:"wait"`
	}
	if err := c.read(&p); err != nil {
		return 0, nil, err
	}
	switch p.Scope {
	case "", "full", "http", "http_routes", "routes":
	default:
		return 0, nil, fault.Newf(fault.Invalid, "unknown scope: %.40q (expected full|http)", p.Scope)
	}
	r, err := do[ops.Reloaded](ctx, c, "reload", nil)
	if err != nil {
		return 0, nil, err
	}
	// It is done either way: that it is quick is no reason to say otherwise.
	word := "reloading"
	if p.Wait {
		word = "reloaded"
	}
	return http.StatusOK, object{"status": word, "message": "configuration and certificates were read again; sessions stay", "changes": listed(r.Changes), "restart_needed": listed(r.Restart)}, nil
}

func cacheReload(ctx context.Context, c *call) (int, any, error) {
	r, err := do[ops.Caches](ctx, c, "cache.reload", nil)
	return reply(object{"credentials_cache_reloaded": r.Credentials, "quota_cache_reloaded": r.Quota, "message": "accounts were read again"}, err)
}

func tasks() []Method {
	return []Method{
		{Method: "GET", Doc: "The tasks that keep the house in order.", run: passOn("tasks.list"), Reply: "tasks[{name, description, enabled, every}], message_retention, unused_account_retention"},
		{Method: "POST", Doc: "Run one of them now.", Request: "task, retention", Reply: "task, skipped, deleted, detail", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				var p ops.TaskRun
				if err := c.read(&p); err != nil {
					return 0, nil, err
				}
				return reply(do[any](ctx, c, "tasks.run", p))
			}},
	}
}
