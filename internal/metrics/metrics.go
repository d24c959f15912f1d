// Package metrics tells a monitoring system how the server is: one table of metrics,
// the text that such systems read (OpenMetrics, and the older form of it), and a
// handler that may ask for a password. It does not know where numbers come from: it is
// handed a function that returns all of them at once.
//
// No label holds an address or a domain of anybody.
package metrics

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Kind is what a number does.
type Kind uint8

// The kinds.
const (
	Counter   Kind = iota // goes up, and begins anew with the process
	Gauge                 // as it is now
	Histogram             // how many took how long, in seconds
)

// String returns the kind as monitoring systems call it.
func (k Kind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Histogram:
		return "histogram"
	}
	return "gauge"
}

// Metric is a line of the table.
type Metric struct {
	Name   string
	Kind   Kind
	Doc    string
	Labels []string
}

// Table is every metric of the server itself. Those of the process and of the Go
// runtime (process_*, go_*) come from the library. Names that begin with maddy_ are
// those of earlier versions, spelling included.
var Table = []Metric{
	{"maddy_smtp_started_transactions", Counter, "MAIL commands accepted.", []string{"module"}},
	{"maddy_smtp_smtp_completed_transactions", Counter, "Messages accepted.", []string{"module"}},
	{"maddy_smtp_aborted_transactions", Counter, "Transactions that ended without a message.", []string{"module"}},
	{"maddy_smtp_ratelimit_deferred", Counter, "Senders put off by a limit.", []string{"module"}},
	{"maddy_smtp_failed_logins", Counter, "Logins refused.", []string{"module"}},
	{"maddy_smtp_failed_commands", Counter, "MAIL, RCPT and DATA commands refused.", []string{"module", "command", "smtp_code", "smtp_enchcode"}},
	{"maddy_queue_length", Gauge, "Messages that wait for other servers.", []string{"module", "location"}},
	{"maddy_conns_active", Gauge, "Connections.", []string{"module"}},
	{"maddy_remote_conns_tls_level", Counter, "Connections to other servers by SMTP: without TLS (none), with any certificate (encrypted), with one that was checked (authenticated).", []string{"module", "level"}},
	{"maddy_remote_conns_mx_level", Counter, "Connections to other servers by SMTP, by what vouches for the host: nothing, an enforced MTA-STS policy, DANE (dnssec).", []string{"module", "level"}},
	{"maddy_check_reject", Counter, "Messages of other servers refused by a configured check.", []string{"check"}},
	{"maddy_check_quarantined", Counter, "Messages of other servers set aside by a configured check.", []string{"check"}},

	{"madmail_build_info", Gauge, "Always 1; the labels tell what runs.", []string{"version", "build"}},
	{"madmail_start_time_seconds", Gauge, "When the server started, in unix time.", nil},
	{"madmail_accounts", Gauge, "Accounts.", nil},
	{"madmail_imap_sessions", Gauge, "IMAP sessions.", nil},
	{"madmail_imap_idle_sessions", Gauge, "IMAP sessions in IDLE.", nil},
	{"madmail_imap_parked_sessions", Gauge, "IMAP sessions that wait without a goroutine.", nil},
	{"madmail_imap_logins", Counter, "IMAP logins.", nil},
	{"madmail_imap_failed_logins", Counter, "IMAP logins refused.", nil},
	{"madmail_imap_commands", Counter, "IMAP commands, by name; all that are unknown as one.", []string{"command"}},
	{"madmail_deliveries", Counter, "Messages that came to a door, by what became of them.", []string{"door", "result"}},
	{"madmail_messages_accepted", Counter, "Messages taken, by any door.", nil},
	{"madmail_messages_refused", Counter, "Messages refused after they were read.", nil},
	{"madmail_messages_repeated", Counter, "Copies that another server sent again and that were there.", nil},
	{"madmail_copies_stored", Counter, "Copies put into mailboxes.", nil},
	{"madmail_recipients_queued", Counter, "Recipients of other servers.", nil},
	{"madmail_http_deliveries", Counter, "Requests of other servers at /mxdeliv, by result.", []string{"result"}},
	{"madmail_http_requests", Counter, "Requests over HTTP, by what answered: the site, federation, the relay for realtime apps, the admin API, its page, mail for browsers.", []string{"part"}},
	{"madmail_origin_verdicts", Counter, "What was found out about where mail of other servers comes from.", []string{"verdict"}},
	{"madmail_storage_bytes", Gauge, "Stored mail.", nil},
	{"madmail_storage_messages", Gauge, "Stored messages.", nil},
	{"madmail_quota_refusals", Counter, "Messages that did not fit into a mailbox, one for each recipient and try.", nil},
	{"madmail_quota_default_bytes", Gauge, "Storage of an account that has no limit of its own.", nil},
	{"madmail_store_syncs", Counter, "Writes of the journal to disk.", nil},
	{"madmail_store_checkpoints", Counter, "Checkpoints of the journal.", nil},
	{"madmail_store_operations", Counter, "Changes of mailboxes.", nil},
	{"madmail_store_latency_seconds", Histogram, "How long the store takes, by what it does; writes are on disk then.", []string{"operation"}},
	{"madmail_database_latency_seconds", Histogram, "How long the database takes, waiting for a turn included.", []string{"operation"}},
	{"madmail_quota_walk_seconds", Histogram, "How long it takes to measure the mail of an account on disk.", nil},
	{"madmail_event_wakeups", Counter, "Times that a session that waits for mail was woken.", nil},
	{"madmail_event_drops", Counter, "Of those, the ones that came while the one before was not looked at yet, and are one with it. No change is lost.", nil},
	{"madmail_store_mailboxes_loaded", Gauge, "Mailboxes held in memory.", nil},
	{"madmail_disk_free_bytes", Gauge, "Room on the file system of the state directory.", nil},
	{"madmail_disk_total_bytes", Gauge, "Size of that file system.", nil},
	{"madmail_queue_taken", Gauge, "Messages that are being brought to other servers now.", nil},
	{"madmail_queue_destinations", Gauge, "Servers that messages wait for.", nil},
	{"madmail_queue_set_aside", Gauge, "Entries of the queue that could not be read.", nil},
	{"madmail_federation_unreachable", Gauge, "Servers that were not reached the last time.", nil},
	{"madmail_federation_attempts", Counter, "Tries to bring messages to other servers, by transport.", []string{"transport", "result"}},
	{"madmail_federation_received", Counter, "Messages of other servers.", nil},
	{"madmail_turn_allocations", Gauge, "Relays of calls.", nil},
	{"madmail_turn_allocations_created", Counter, "Relays of calls since the start.", nil},
	{"madmail_turn_denied", Counter, "Requests with wrong or expired credentials.", nil},
	{"madmail_turn_bytes", Counter, "Octets relayed in calls.", []string{"direction"}},
	{"madmail_turn_connections", Gauge, "Connections of callers by TCP and TLS.", nil},
	{"madmail_turn_refused", Counter, "What callers were refused: relays over a limit, packets to or from addresses that are not relayed to, packets over the rate, answers to strangers.", []string{"reason"}},
	{"madmail_shadowsocks_connections", Gauge, "Connections in disguise, silent ones included.", nil},
	{"madmail_http_proxy_connections", Gauge, "Connections through the HTTP proxy.", nil},
	{"madmail_http_proxy_taken", Counter, "Requests to the HTTP proxy by what became of them.", []string{"result"}},
	{"madmail_shadowsocks_taken", Counter, "Connections in disguise by what became of them.", []string{"result"}},
	{"madmail_iroh_connections", Gauge, "Connections of realtime apps.", nil},
	{"madmail_iroh_nodes", Gauge, "Clients of realtime apps.", nil},
	{"madmail_iroh_waiting_bytes", Gauge, "Octets for realtime apps that wait to be written.", nil},
	{"madmail_iroh_accepted", Counter, "Connections of realtime apps since the start, by the form of their frames.", []string{"form"}},
	{"madmail_iroh_refused", Counter, "Connections of realtime apps that were turned away or did not say who they are.", []string{"reason"}},
	{"madmail_iroh_closed", Counter, "Connections of realtime apps that the relay ended, by why.", []string{"reason"}},
	{"madmail_iroh_bytes", Counter, "Octets of realtime apps.", []string{"direction"}},
	{"madmail_iroh_packets", Counter, "Packets of realtime apps.", []string{"direction"}},
	{"madmail_iroh_search_packets", Counter, "Of those that came in: search for a direct path.", nil},
	{"madmail_iroh_dropped", Counter, "Packets of realtime apps that did not reach anybody.", []string{"reason"}},
	{"madmail_iroh_throttled", Counter, "Frames of realtime apps that were read late.", nil},
	{"madmail_stun_answers", Counter, "Clients that were told their public address, where TURN does not do it.", []string{"family"}},
	{"madmail_stun_refused", Counter, "Packets to STUN without an answer.", []string{"reason"}},
	{"madmail_webimap_sockets", Gauge, "Sockets of browsers that are open.", nil},
	{"madmail_webimap_waiting", Gauge, "Requests of browsers that wait for mail.", nil},
	{"madmail_webimap_requests", Counter, "Requests of browsers with the right password, outside sockets.", nil},
	{"madmail_webimap_sockets_opened", Counter, "Sockets that browsers opened.", nil},
	{"madmail_webimap_failed_logins", Counter, "Logins of browsers refused.", nil},
	{"madmail_webimap_pushed", Counter, "New messages that sockets of browsers were told of.", nil},
	{"madmail_webimap_messages", Counter, "Messages that browsers sent, by result.", []string{"result"}},
	{"madmail_webimap_closed", Counter, "Sockets and answers cut off, and requests over a limit, by reason.", []string{"reason"}},
	{"madmail_push_pending", Gauge, "Clients still to be woken.", nil},
	{"madmail_push_notifications", Counter, "Requests to the notification service, by result.", []string{"result"}},
	{"madmail_webhook_events", Counter, "Events for the operator's webhook, by what became of them.", []string{"result"}},
	{"madmail_certificate_expiry_seconds", Gauge, "When the certificate runs out, in unix time.", nil},
	{"madmail_certificate_order_failures", Gauge, "Orders of a certificate that failed, in a row.", nil},
	{"madmail_dns_lookups", Counter, "Questions to the resolver, by where the answer came from.", []string{"source"}},
}

// Samples are the numbers at one moment: by name, then by label values.
type Samples map[string][]Sample

// Sample is one number.
type Sample struct {
	Value  float64  // of a histogram its sum
	Labels []string // in the order of the metric
	Spread *Spread  // of a histogram
}

// Spread is the counts of a histogram: of all, and of those up to each bound in seconds.
type Spread struct {
	Count   uint64
	Buckets map[float64]uint64
}

// Add adds a number.
func (s Samples) Add(name string, value float64, labels ...string) {
	s[name] = append(s[name], Sample{Value: value, Labels: labels})
}

// AddSpread adds a histogram.
func (s Samples) AddSpread(name string, sum float64, p Spread, labels ...string) {
	s[name] = append(s[name], Sample{sum, labels, &p})
}

// collector hands the numbers to the library.
type collector struct {
	samples func() Samples
	descs   []*prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	all := c.samples()
	for i, m := range Table {
		kind := prometheus.CounterValue
		if m.Kind == Gauge {
			kind = prometheus.GaugeValue
		}
		for _, s := range all[m.Name] {
			var x prometheus.Metric
			var err error
			if m.Kind == Histogram && s.Spread != nil {
				x, err = prometheus.NewConstHistogram(c.descs[i], s.Spread.Count, s.Value, s.Spread.Buckets, s.Labels...)
			} else {
				x, err = prometheus.NewConstMetric(c.descs[i], kind, s.Value, s.Labels...)
			}
			if err != nil {
				x = prometheus.NewInvalidMetric(c.descs[i], err)
			}
			out <- x
		}
	}
}

// Options configure a handler. Samples must be set.
type Options struct {
	// Samples returns all numbers. It reads counters and never walks mail.
	Samples func() Samples
	// Username and Password are asked for when Password is not "" (RFC 7617).
	Username, Password string
}

// Handler serves GET /metrics and nothing else.
func Handler(o Options) (http.Handler, error) {
	if o.Samples == nil {
		return nil, errors.New("metrics: no samples")
	}
	c := &collector{samples: o.Samples}
	for _, m := range Table {
		c.descs = append(c.descs, prometheus.NewDesc(m.Name, m.Doc, m.Labels, nil))
	}
	r := prometheus.NewRegistry()
	for _, x := range []prometheus.Collector{c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := r.Register(x); err != nil {
			return nil, err
		}
	}
	text := promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4, EnableOpenMetrics: true})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if o.Password != "" && !o.allowed(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="metrics"`)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		text.ServeHTTP(w, r)
	})
	return mux, nil
}

func (o *Options) allowed(r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	// Digests have one length: time tells nothing.
	given, want := sha256.Sum256([]byte(user+"\x00"+password)), sha256.Sum256([]byte(o.Username+"\x00"+o.Password))
	return subtle.ConstantTimeCompare(given[:], want[:]) == 1
}
