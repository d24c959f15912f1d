package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/netip"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/peers"
)

// Resolver asks the DNS. Errors: fault.NotFound for a name that does not exist,
// fault.Invalid for one that cannot, else fault.Busy.
type Resolver interface {
	// LookupMX returns the exchangers of a domain, the one to be tried first first; none
	// when it has no such record.
	LookupMX(ctx context.Context, domain string) ([]MX, error)
	// LookupAddr returns the addresses of a host, possibly none.
	LookupAddr(ctx context.Context, host string) ([]netip.Addr, error)
}

// MX is one mail exchanger. An empty Host is the null MX (RFC 7505).
type MX struct {
	Host       string
	Preference uint16
}

// Signer signs messages of our domains.
type Signer interface {
	// Sign returns a header field with its final CRLF to be put in front of a
	// message whose From is of a domain, or nothing when that is not to be signed.
	// header ends with the blank line, body is what follows.
	Sign(ctx context.Context, domain address.Domain, header []byte, body io.Reader) ([]byte, error)
}

// Trust knows more about a host than public certificate authorities do, MTA-STS and DANE.
type Trust interface {
	// TLS returns what a host must show that was found for a domain in the DNS.
	// Errors: fault.Refused when the host must not be used for the domain, else
	// fault.Busy.
	TLS(ctx context.Context, domain address.Domain, host string, port int) (TLS, error)
}

// Bouncer takes the messages that tell senders about failures.
type Bouncer interface {
	// Bounce delivers a message with the null reverse-path. An error of kind
	// fault.NotFound or fault.Full means that it cannot be told; others that it can be
	// later.
	Bounce(ctx context.Context, to address.Addr, message []byte) error
	// Bounced reports whether a notification with this Message-ID, without angle
	// brackets, was delivered.
	Bounced(ctx context.Context, to address.Addr, id string) (bool, error)
}

// Level says which TLS is demanded.
type Level uint8

// The levels, strictest first. Verified is the zero value.
const (
	Verified      Level = iota // a certificate that is valid for the host's name
	AnyCert                    // TLS with any certificate
	Opportunistic              // TLS with any certificate where it is offered, else clear text
)

// By says what vouches for a host beside the DNS.
type By uint8

// What may vouch for a host.
const (
	ByNobody By = iota
	ByMTASTS    // a policy of the domain that is enforced (RFC 8461)
	ByDANE      // records that DNSSEC protects (RFC 7672)
)

// TLS is what a host must show.
type TLS struct {
	Level Level
	By    By
	// Verify, when set, decides about the certificates instead of the public
	// authorities; the level is Verified. It is asked by SMTP only.
	Verify func(tls.ConnectionState) error
}

// Config returns the configuration of a TLS client for a host. A nil roots means the
// system's.
func (t TLS) Config(host string, roots *x509.CertPool) *tls.Config {
	c := &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12}
	if t.Level != Verified || t.Verify != nil {
		c.InsecureSkipVerify = true //nolint:gosec // any certificate, or Verify decides
	}
	if t.Verify != nil {
		c.VerifyConnection = t.Verify
	}
	return c
}

// Target is one host, to be reached in one way.
type Target struct {
	Domain address.Domain  // of the recipients
	By     peers.Transport // how
	Host   string          // name, or IP address without brackets
	Port   int             // 0: the usual one
	Path   string          // of HTTP; "" the usual one
	TLS    TLS
	// Named: the operator named the host, so it may be this machine.
	Named bool
}

// Transport brings letters to hosts.
type Transport interface {
	// Deliver tries once and returns one outcome per recipient, in their order. It ends
	// soon after ctx does.
	Deliver(ctx context.Context, t Target, l *Letter) []Outcome
}

// Result says what became of one recipient at one host.
type Result uint8

// The results.
const (
	// Failed: this way did not lead to the peer. Another may.
	Failed Result = iota
	Delivered
	// Refused: the peer will never take it.
	Refused
	// Doubtful: somebody refuses who may not be the mail server; SMTP decides.
	Doubtful
	// Later: the peer asks to be tried later.
	Later
)

// Outcome is what became of one recipient.
type Outcome struct {
	Result Result
	Status string // enhanced status code (RFC 3463), "" when unknown
	Reply  string // of the peer with its code, or in our words; safe to print
	Remote string // host that said so; "" when none was reached
	// Answered: the peer spoke the protocol, whatever it said.
	Answered bool
	// After is how long the peer asks to wait.
	After time.Duration
	// Limit is the age of a message beyond which Later means Refused; 0: no other
	// than that of the message.
	Limit time.Duration
	// Firm: a doubtful refusal that repeats without SMTP being reached is believed.
	Firm bool
	// NoService: there is no such service at the host.
	NoService bool
	// TooBig: the refusal is about the size.
	TooBig bool
}

// every returns one outcome for n recipients.
func every(n int, o Outcome) []Outcome {
	list := make([]Outcome, n)
	for i := range list {
		list[i] = o
	}
	return list
}

// Every returns one outcome for all recipients of a letter.
func Every(l *Letter, o Outcome) []Outcome { return every(len(l.To), o) }

// Unreachable is the outcome of a connection that could not be made or broke.
func Unreachable(host string, err error) Outcome {
	o := Outcome{Result: Failed, Status: "4.4.1", Reply: "no connection to " + host + ": " + reason(err), Remote: host}
	if fault.Is(err, fault.Refused) {
		o.Status = "5.4.6"
	}
	return o
}

// reason is what an error of a connection says, on one line. It names hosts only.
func reason(err error) string {
	s := []byte(err.Error())
	for i, c := range s {
		if c < ' ' || c == 0x7f {
			s[i] = '?'
		}
	}
	return string(s[:min(len(s), 300)])
}
