package settings

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/units"
)

// Webhooks is the value of OperatorWebhooks: whom the server tells what happens.
type Webhooks struct {
	Enabled        bool   `json:"enabled"`
	URL            string `json:"url"`
	Secret         string `json:"secret,omitempty"` // signs what is sent; "" signs nothing
	UserRegistered bool   `json:"event_user_registered"`
	QuotaExceeded  bool   `json:"event_quota_exceeded"`
	Timeout        int    `json:"timeout_seconds"` // of one try, 1 to 30
	Retries        int    `json:"retry_attempts"`  // after the first try, 0 to 5
}

// ParseWebhooks reads a stored value; "" is the default: nobody is told anything. The
// error is of kind fault.Invalid and says which field does not fit.
func ParseWebhooks(text string) (Webhooks, error) {
	w := Webhooks{Timeout: 5, Retries: 2}
	if strings.TrimSpace(text) == "" {
		return w, nil
	}
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return Webhooks{}, fault.New(fault.Invalid, "not a JSON object with the fields of webhooks")
	}
	return w, w.check()
}

const (
	maxWebhookURL    = 2048
	maxWebhookSecret = 1024
)

func (w Webhooks) check() error {
	switch {
	case w.Timeout < 1 || w.Timeout > 30:
		return fault.New(fault.Invalid, "timeout_seconds must be from 1 to 30")
	case w.Retries < 0 || w.Retries > 5:
		return fault.New(fault.Invalid, "retry_attempts must be from 0 to 5")
	case len(w.Secret) > maxWebhookSecret:
		return fault.Newf(fault.Invalid, "secret has at most %d bytes", maxWebhookSecret)
	case w.URL == "" && w.Enabled:
		return fault.New(fault.Invalid, "url is required while webhooks are enabled")
	case w.URL == "":
		return nil
	}
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || len(w.URL) > maxWebhookURL || u.Scheme != "https" && u.Scheme != "http":
		return fault.New(fault.Invalid, "url is not an https URL")
	case u.User != nil:
		return fault.New(fault.Invalid, "url must not hold a user name or password: use the secret, or the path")
	case u.Fragment != "":
		return fault.New(fault.Invalid, "url must not have a fragment")
	case u.Scheme == "http" && !Loopback(u.Hostname()):
		return fault.New(fault.Invalid, "url must be https: it names users. Only this machine (127.0.0.1, ::1, localhost) may be told by http")
	}
	return nil
}

// Loopback reports whether a host in a URL is this machine by its very name.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// Text is the stored form.
func (w Webhooks) Text() (string, error) {
	b, err := json.Marshal(w)
	return string(b), err
}

func checkWebhooks(s string) error {
	_, err := ParseWebhooks(s)
	return err
}

// Rows that the second predecessor keeps webhooks in. They are read where ours is not
// set, and written beside it.
const (
	webhookEnabled    Key = "__WEBHOOK_ENABLED__"
	webhookURL        Key = "__WEBHOOK_URL__"
	webhookSecret     Key = "__WEBHOOK_SECRET__"
	webhookRegistered Key = "__WEBHOOK_EVENT_USER_REGISTERED__"
	webhookQuota      Key = "__WEBHOOK_EVENT_QUOTA_EXCEEDED__"
)

func isWebhookRow(k Key) bool {
	switch k {
	case webhookEnabled, webhookURL, webhookSecret, webhookRegistered, webhookQuota:
		return true
	}
	return false
}

// rows are w in the second predecessor's rows.
func (w Webhooks) rows() map[Key]string {
	return map[Key]string{
		webhookEnabled: strconv.FormatBool(w.Enabled), webhookURL: w.URL, webhookSecret: w.Secret,
		webhookRegistered: strconv.FormatBool(w.UserRegistered), webhookQuota: strconv.FormatBool(w.QuotaExceeded),
	}
}

// webhooksOf reads those rows; false when there are none. Both events are told unless a
// row says no.
func webhooksOf(rows map[Key]string) (text string, ok bool) {
	if len(rows) == 0 {
		return "", false
	}
	yes := func(k Key, unset bool) bool {
		v, set := rows[k]
		if !set {
			return unset
		}
		b, err := units.ParseBool(v)
		return err == nil && b
	}
	w, err := ParseWebhooks("")
	if err != nil {
		return "", false
	}
	w.Enabled, w.URL, w.Secret = yes(webhookEnabled, false), strings.TrimSpace(rows[webhookURL]), rows[webhookSecret]
	w.UserRegistered, w.QuotaExceeded = yes(webhookRegistered, true), yes(webhookQuota, true)
	text, err = w.Text()
	return text, err == nil
}
