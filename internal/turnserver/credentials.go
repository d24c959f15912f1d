package turnserver

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net"
	"strconv"
	"strings"
	"time"
)

// Credentials let a client allocate until they expire. User is the expiry in
// unix seconds, Password is base64(HMAC-SHA1(secret, User)): the scheme of
// draft-uberti-behave-turn-rest-00.
type Credentials struct {
	User, Password string
	Expires        time.Time
}

// spread is by how much the expiries of users who ask in the same second may
// differ, so that they do not share a name, and with it an allowance.
const spread = 31 * time.Second

// NewCredentials makes credentials from secret that are valid from now for
// about ttl: up to half a minute less, never more than a hundredth less. Which
// part of it is lost depends on hint, an account's name say, in a way that
// nobody without the secret can follow.
func NewCredentials(secret, hint string, now time.Time, ttl time.Duration) Credentials {
	if room := int64(min(spread, ttl/100) / time.Second); room > 0 && hint != "" {
		m := hmac.New(sha256.New, []byte(secret))
		_, _ = m.Write([]byte("expiry of " + hint)) // a hash takes everything
		ttl -= time.Duration(binary.BigEndian.Uint64(m.Sum(nil))%uint64(room)) * time.Second
	}
	expires := now.Add(ttl).Truncate(time.Second)
	user := strconv.FormatInt(expires.Unix(), 10)
	return Credentials{User: user, Password: password(secret, user), Expires: expires}
}

// Value is the form in which IMAP METADATA tells clients of a server:
// host:port:expiry:password. It is "" when the host is an IPv6 address, which
// clients cannot read there.
func (c Credentials) Value(host string, port int) string {
	host = strings.Trim(host, "[]")
	if host == "" || strings.Contains(host, ":") || port <= 0 {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port)) + ":" + c.User + ":" + c.Password
}

func password(secret, user string) string {
	m := hmac.New(sha1.New, []byte(secret))
	_, _ = m.Write([]byte(user))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// expiry reads the time from a user name: its digits up to a colon or the end.
func expiry(user string) (time.Time, bool) {
	digits, _, _ := strings.Cut(user, ":")
	if len(digits) == 0 || len(digits) > 12 {
		return time.Time{}, false
	}
	var n int64
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return time.Time{}, false
		}
		n = n*10 + int64(digits[i]-'0')
	}
	return time.Unix(n, 0), true
}
