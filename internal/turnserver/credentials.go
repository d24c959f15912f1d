package turnserver

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
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

// NewCredentials makes credentials from secret that are valid from now for
// about ttl: up to a 24th part and an hour less, never more.
//
// Whoever is hinted at, an account's name say, gets the same ones for a while,
// half an hour or a 48th part of ttl, so that asking again gives no second
// allowance. Which second of that while is theirs nobody without the secret can
// follow, nor from one while to the next. Without a hint nothing is lost.
func NewCredentials(secret, hint string, now time.Time, ttl time.Duration) Credentials {
	expires := now.Add(ttl).Unix()
	if while := int64(min(30*time.Minute, ttl/48) / time.Second); while > 1 && hint != "" {
		// The last of their seconds before what was asked for.
		nth := expires / while
		at := nth*while + secondOf(secret, hint, nth, while)
		if at > expires {
			nth--
			at = nth*while + secondOf(secret, hint, nth, while)
		}
		expires = at
	}
	user := strconv.FormatInt(expires, 10)
	return Credentials{User: user, Password: password(secret, user), Expires: time.Unix(expires, 0)}
}

// secondOf is the second of the nth while that belongs to hint.
func secondOf(secret, hint string, nth, while int64) int64 {
	m := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(m, "expiry %d of %s", nth, hint) // a hash takes everything
	return int64(binary.BigEndian.Uint64(m.Sum(nil)) % uint64(while))
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
