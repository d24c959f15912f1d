package ops

import (
	"context"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
	"madmail/internal/settings"
)

// DomainName names another server.
type DomainName struct {
	Domain string `json:"domain"`
}

// FederationRule is an exception to the policy.
type FederationRule struct {
	Domain    string `json:"domain"`
	Action    string `json:"action"` // block where all others are accepted, else allow
	Added     string `json:"added"`  // date
	CreatedAt int64  `json:"created_at"`
}

// Federation is from whom mail is taken and to whom it is sent.
type Federation struct {
	Enabled bool             `json:"enabled"`
	Policy  string           `json:"policy"` // ACCEPT or REJECT
	Rules   []FederationRule `json:"rules"`
}

// FederationChange switches federation or changes its policy; nil leaves it.
type FederationChange struct {
	Enabled *bool   `json:"enabled"`
	Policy  *string `json:"policy"`
}

// Ruled says what became of a list of domains.
type Ruled struct {
	Domain    string `json:"domain,omitempty"`
	Action    string `json:"action,omitempty"`
	Total     int    `json:"total"`
	Remaining int    `json:"remaining"`
	Flushed   int    `json:"flushed,omitempty"`
}

// Dismissed is a domain whose mail is dropped in silence.
type Dismissed struct {
	Domain string `json:"domain"`
	Added  string `json:"added"`
}

// TransportsOf says by which ways mail may go to a domain: "" where nothing was
// said, "allow" or "block".
type TransportsOf struct {
	Domain     string `json:"domain"`
	HTTPS      string `json:"https"`
	HTTP       string `json:"http"`
	SMTP       string `json:"smtp"`
	RelaxedTLS bool   `json:"relaxed_tls"`
}

// Peer is what happened with another server.
type Peer struct {
	Domain               string  `json:"domain"`
	QueuedMessages       int64   `json:"queued_messages"`
	FailedHTTP           int64   `json:"failed_http"`
	FailedHTTPS          int64   `json:"failed_https"`
	FailedSMTP           int64   `json:"failed_smtp"`
	SuccessHTTP          int64   `json:"success_http"`
	SuccessHTTPS         int64   `json:"success_https"`
	SuccessSMTP          int64   `json:"success_smtp"`
	InboundDeliveries    int64   `json:"inbound_deliveries"`
	SuccessfulDeliveries int64   `json:"successful_deliveries"`
	MeanLatency          float64 `json:"mean_latency_ms"`
	LastActive           int64   `json:"last_active"`
	// As earlier documents name them.
	Sent    int64   `json:"sent"`
	Failed  int64   `json:"failed"`
	Latency float64 `json:"latency_ms"`
}

// Override is where a domain is really reached.
type Override struct {
	Key     string `json:"lookup_key"`
	Target  string `json:"target_host"`
	Comment string `json:"comment"`
	Created string `json:"created_at,omitempty"`
	Updated string `json:"updated_at,omitempty"`
}

// QueueStatus is the queue as a whole.
type QueueStatus struct {
	Count         int    `json:"count"`
	Delivering    int    `json:"delivering"`
	Destinations  int    `json:"destinations"`
	SetAside      int    `json:"set_aside"`
	OldestExpires string `json:"oldest_expires,omitempty"`
	QueueFacts
}

// QueueFacts are how the queue is configured.
type QueueFacts struct {
	Path           string  `json:"path"`
	MaxTries       int     `json:"max_tries"`
	MaxParallelism int     `json:"max_parallelism"`
	InitialRetry   float64 `json:"initial_retry_secs"`
	Scale          float64 `json:"retry_time_scale"`
	MaxDelivery    float64 `json:"max_delivery_secs"`
	PostInitDelay  float64 `json:"post_init_delay_secs"`
}

// QueueEntry is a message that waits for another server. Times are unix seconds.
type QueueEntry struct {
	ID          string   `json:"id"`
	From        string   `json:"mail_from"`
	To          string   `json:"rcpt_to"` // the first one
	Recipients  []string `json:"recipients"`
	Destination string   `json:"destination"`
	Tries       int      `json:"tries_count"`
	Queued      int64    `json:"queued_at_unix"`
	Last        int64    `json:"last_attempt_unix"`
	Next        int64    `json:"next_attempt_unix"`
	Expires     int64    `json:"expires_unix"`
	LastError   *string  `json:"last_error"`
	BodyBytes   int64    `json:"body_bytes"`
	Delivering  bool     `json:"delivering"`
	Deleted     bool     `json:"deleted,omitempty"`
}

// QueuePick picks entries. Zero values pick all.
type QueuePick struct {
	ID        string `json:"id"`
	Domain    string `json:"domain"`
	Sender    string `json:"sender"`
	Recipient string `json:"recipient"`
	Limit     int    `json:"limit"`
	Offset    int    `json:"offset"`
}

// QueueList is a part of the queue.
type QueueList struct {
	Path    string       `json:"path"`
	Count   int          `json:"count"` // in all
	Entries []QueueEntry `json:"entries"`
}

// QueueDone says how many entries a command was about.
type QueueDone struct {
	Path    string `json:"path"`
	Deleted int    `json:"deleted"`
	Retried int    `json:"retried,omitempty"`
}

// OpenRelay is whether strangers may send through this server.
type OpenRelay struct {
	Allowed        bool   `json:"allowed"`
	FileDefault    bool   `json:"file_default"`
	DBOverride     *bool  `json:"db_override"`
	ReloadRequired bool   `json:"reload_required"`
	Applied        string `json:"applied,omitempty"`
}

func (d *Desk) federation(ctx context.Context, p FederationChange) (Federation, error) {
	var changes []settings.Change
	if p.Enabled != nil {
		changes = append(changes, settings.Change{Key: settings.FederationEnabled, Value: strconv.FormatBool(*p.Enabled)})
	}
	if p.Policy != nil {
		changes = append(changes, settings.Change{Key: settings.FederationPolicy, Value: *p.Policy})
	}
	if len(changes) > 0 {
		if _, err := d.Change(ctx, changes...); err != nil {
			return Federation{}, err
		}
	}
	s := d.Settings.Current()
	f := Federation{Enabled: s.Bool(settings.FederationEnabled), Policy: s.Enum(settings.FederationPolicy), Rules: []FederationRule{}}
	for _, r := range d.Policy.Rules() {
		f.Rules = append(f.Rules, FederationRule{Domain: r.Domain.Host(), Action: d.ruleAction(), Added: r.Added.UTC().Format(time.DateOnly), CreatedAt: r.Added.Unix()})
	}
	return f, nil
}

// ruleAction is what a rule does under the present policy.
func (d *Desk) ruleAction() string {
	if d.Settings.Current().Enum(settings.FederationPolicy) == "REJECT" {
		return "allow"
	}
	return "block"
}

// plain is a domain as operators write it: without brackets.
func plain(name string) (string, error) {
	x, err := address.ParseDomain(strings.TrimSpace(name))
	if err != nil {
		return "", fault.Newf(fault.Invalid, "%.80q is not a domain", name)
	}
	return x.Host(), nil
}

// RuleChange adds an exception. Action, when set, must fit the policy.
type RuleChange struct {
	Domain string `json:"domain"`
	Action string `json:"action"`
}

func (d *Desk) ruleAdd(ctx context.Context, p RuleChange) (Ruled, error) {
	name, err := plain(p.Domain)
	if err != nil {
		return Ruled{}, err
	}
	if does := d.ruleAction(); p.Action != "" && p.Action != does {
		want := map[string]string{"block": "accept", "allow": "reject"}[p.Action]
		return Ruled{}, fault.WithHint(fault.Newf(fault.Refused, "under this policy every rule is to %s", does), `"madmail federation policy `+want+`" comes first`)
	}
	if err := d.Policy.AddRule(ctx, name); err != nil {
		return Ruled{}, err
	}
	n := len(d.Policy.Rules())
	return Ruled{Domain: name, Action: d.ruleAction(), Total: n, Remaining: n}, nil
}

func (d *Desk) ruleRemove(ctx context.Context, p DomainName) (Ruled, error) {
	name, err := plain(p.Domain)
	if err == nil {
		err = d.Policy.RemoveRule(ctx, name)
	}
	n := len(d.Policy.Rules())
	return Ruled{Domain: name, Total: n, Remaining: n}, err
}

func (d *Desk) ruleFlush(ctx context.Context, _ none) (Ruled, error) {
	n, err := d.Policy.FlushRules(ctx)
	return Ruled{Flushed: n}, err
}

func (d *Desk) dismissals(context.Context, none) (map[string][]Dismissed, error) {
	list := []Dismissed{}
	for _, r := range d.Policy.Dismissed() {
		list = append(list, Dismissed{Domain: r.Domain.Host(), Added: r.Added.UTC().Format(time.DateOnly)})
	}
	return map[string][]Dismissed{"domains": list}, nil
}

func (d *Desk) dismiss(ctx context.Context, p DomainName) (Ruled, error) {
	name, err := plain(p.Domain)
	if err == nil {
		err = d.Policy.AddDismissal(ctx, name)
	}
	n := len(d.Policy.Dismissed())
	return Ruled{Domain: name, Total: n, Remaining: n}, err
}

func (d *Desk) undismiss(ctx context.Context, p DomainName) (Ruled, error) {
	name, err := plain(p.Domain)
	if err == nil {
		err = d.Policy.RemoveDismissal(ctx, name)
	}
	n := len(d.Policy.Dismissed())
	return Ruled{Domain: name, Total: n, Remaining: n}, err
}

func (d *Desk) dismissFlush(ctx context.Context, _ none) (Ruled, error) {
	n, err := d.Policy.FlushDismissals(ctx)
	return Ruled{Flushed: n}, err
}

func (d *Desk) transports(context.Context, none) (map[string][]TransportsOf, error) {
	list := []TransportsOf{}
	for _, r := range d.Policy.TransportRules() {
		list = append(list, TransportsOf{Domain: r.Domain.Host(), HTTPS: r.HTTPS.String(), HTTP: r.HTTP.String(), SMTP: r.SMTP.String(), RelaxedTLS: r.RelaxedTLS})
	}
	return map[string][]TransportsOf{"transports": list}, nil
}

func (d *Desk) transportsSet(ctx context.Context, p TransportsOf) (TransportsOf, error) {
	name, err := plain(p.Domain)
	if err != nil {
		return p, err
	}
	t := policy.Transports{RelaxedTLS: p.RelaxedTLS}
	for _, x := range []struct {
		text string
		to   *policy.Permission
	}{{p.HTTPS, &t.HTTPS}, {p.HTTP, &t.HTTP}, {p.SMTP, &t.SMTP}} {
		if *x.to, err = policy.ParsePermission(x.text); err != nil {
			return p, err
		}
	}
	p = TransportsOf{Domain: name, HTTPS: t.HTTPS.String(), HTTP: t.HTTP.String(), SMTP: t.SMTP.String(), RelaxedTLS: t.RelaxedTLS}
	return p, d.Policy.SetTransports(ctx, name, t)
}

// maxPeers bounds what is told about other servers at once.
const maxPeers = 10_000

func (d *Desk) peers(ctx context.Context, _ none) (map[string][]Peer, error) {
	all, err := d.Peers.List(ctx, maxPeers)
	list := make([]Peer, 0, len(all))
	for _, s := range all {
		p := Peer{
			Domain: s.Domain.Host(), QueuedMessages: s.Queued,
			FailedHTTP: s.Failed[peers.HTTP], FailedHTTPS: s.Failed[peers.HTTPS], FailedSMTP: s.Failed[peers.SMTP],
			SuccessHTTP: s.Succeeded[peers.HTTP], SuccessHTTPS: s.Succeeded[peers.HTTPS], SuccessSMTP: s.Succeeded[peers.SMTP],
			InboundDeliveries: s.Inbound, SuccessfulDeliveries: s.Delivered,
		}
		if s.Delivered > 0 {
			p.MeanLatency = float64(s.Latency.Milliseconds()) / float64(s.Delivered)
		}
		if !s.LastActive.IsZero() {
			p.LastActive = s.LastActive.Unix()
		}
		p.Sent, p.Failed, p.Latency = p.SuccessfulDeliveries, p.FailedHTTP+p.FailedHTTPS+p.FailedSMTP, p.MeanLatency
		list = append(list, p)
	}
	return map[string][]Peer{"traffic": list}, err
}

func override(o policy.Override) Override {
	r := Override{Key: o.Key, Target: o.Target, Comment: o.Comment}
	for _, x := range []struct {
		at time.Time
		to *string
	}{{o.Created, &r.Created}, {o.Updated, &r.Updated}} {
		if !x.at.IsZero() {
			*x.to = x.at.UTC().Format(time.RFC3339)
		}
	}
	return r
}

func (d *Desk) overrides(context.Context, none) (map[string][]Override, error) {
	list := []Override{}
	for _, o := range d.Policy.Overrides() {
		list = append(list, override(o))
	}
	return map[string][]Override{"entries": list}, nil
}

func (d *Desk) overrideGet(_ context.Context, p Override) (Override, error) {
	o, err := d.Policy.Override(p.Key)
	return override(o), err
}

func (d *Desk) overrideSet(ctx context.Context, p Override) (Override, error) {
	if err := d.Policy.SetOverride(ctx, p.Key, p.Target, p.Comment); err != nil {
		return Override{}, err
	}
	return d.overrideGet(ctx, p)
}

func (d *Desk) overrideRemove(ctx context.Context, p Override) (Override, error) {
	return Override{Key: p.Key}, d.Policy.RemoveOverride(ctx, p.Key)
}

func (d *Desk) queueStatus(context.Context, none) (QueueStatus, error) {
	st := d.Queue.Stats()
	q := QueueStatus{Count: st.Entries, Delivering: st.Taken, Destinations: st.Destinations, SetAside: st.Broken, QueueFacts: d.QueueFacts()}
	if t := d.Queue.Oldest(); !t.IsZero() && st.Entries > 0 {
		q.OldestExpires = t.UTC().Format(time.RFC3339)
	}
	return q, nil
}

func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func queueEntry(i queue.Info) QueueEntry {
	e := QueueEntry{
		ID: i.ID.String(), From: i.From.Wire(), Destination: i.Destination.Host(), Tries: i.Tries, Queued: unixOf(i.Queued), Last: unixOf(i.Last),
		Next: unixOf(i.Due), Expires: unixOf(i.Expires), BodyBytes: i.Size, Delivering: i.Taken, Recipients: []string{},
	}
	for _, to := range i.To {
		e.Recipients = append(e.Recipients, to.Addr.Wire())
	}
	if len(e.Recipients) > 0 {
		e.To = e.Recipients[0]
	}
	if i.Error != "" {
		e.LastError = &i.Error
	}
	return e
}

func (d *Desk) filter(p QueuePick) (f queue.Filter, err error) {
	if p.Domain != "" {
		if f.Destination, err = address.ParseDomain(p.Domain); err != nil {
			return f, err
		}
	}
	if p.Sender != "" {
		if f.From, err = d.parse(p.Sender); err != nil {
			return f, err
		}
	}
	if p.Recipient != "" {
		f.To, err = d.parse(p.Recipient)
	}
	return f, err
}

// maxEntries bounds a list of the queue.
const maxEntries = 10_000

func (d *Desk) queueList(ctx context.Context, p QueuePick) (QueueList, error) {
	f, err := d.filter(p)
	if err != nil {
		return QueueList{}, err
	}
	if p.Limit <= 0 || p.Limit > maxEntries {
		p.Limit = maxEntries
	}
	all, total, err := d.Queue.List(ctx, f, max(0, p.Offset), p.Limit)
	r := QueueList{Path: d.QueueFacts().Path, Count: total, Entries: make([]QueueEntry, 0, len(all))}
	for _, i := range all {
		r.Entries = append(r.Entries, queueEntry(i))
	}
	return r, err
}

func (d *Desk) queueShow(_ context.Context, p QueuePick) (QueueEntry, error) {
	id, err := queue.ParseID(p.ID)
	if err != nil {
		return QueueEntry{}, err
	}
	i, err := d.Queue.Get(id)
	if err != nil {
		return QueueEntry{}, err
	}
	return queueEntry(i), nil
}

func (d *Desk) queueRemove(ctx context.Context, p QueuePick) (QueueEntry, error) {
	e, err := d.queueShow(ctx, p)
	if err != nil {
		return e, err
	}
	id, err := queue.ParseID(p.ID)
	if err == nil {
		err = d.Queue.Remove(id)
	}
	e.Deleted = err == nil
	return e, err
}

func (d *Desk) queuePurge(ctx context.Context, p QueuePick) (QueueDone, error) {
	f, err := d.filter(p)
	if err != nil {
		return QueueDone{}, err
	}
	n, err := d.Queue.Purge(ctx, f)
	return QueueDone{Path: d.QueueFacts().Path, Deleted: n}, err
}

func (d *Desk) queueRetry(_ context.Context, p QueuePick) (QueueDone, error) {
	r := QueueDone{Path: d.QueueFacts().Path}
	if p.ID != "" {
		id, err := queue.ParseID(p.ID)
		if err != nil {
			return r, err
		}
		r.Retried = 1
		return r, d.Queue.WakeOne(id)
	}
	var to address.Domain
	if p.Domain != "" {
		var err error
		if to, err = address.ParseDomain(p.Domain); err != nil {
			return r, err
		}
	}
	r.Retried = d.Queue.Wake(to)
	return r, nil
}

func (d *Desk) openRelay(ctx context.Context, p struct{ Allow *bool }) (r OpenRelay, err error) {
	const k = settings.AllowRemoteRcpt
	if p.Allow != nil {
		if r.Applied, err = d.Change(ctx, settings.Change{Key: k, Value: strconv.FormatBool(*p.Allow)}); err != nil {
			return r, err
		}
		r.ReloadRequired = d.notYet(ctx)
	}
	file, err := d.without(k)
	if err != nil {
		return r, err
	}
	r.Allowed, r.FileDefault = d.Settings.Current().Bool(k), file.Bool(k)
	if x, err := d.Settings.Explain(k); err == nil && x.IsSet {
		b := r.Allowed
		r.DBOverride = &b
	}
	return r, nil
}
