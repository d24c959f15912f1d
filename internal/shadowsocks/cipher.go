package shadowsocks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"madmail/internal/fault"
)

// method is a cipher. The salt of a stream is as long as the key.
type method struct {
	keyLen int
	modern bool // of 2022 (SIP022), else of 2017 (SIP004)
	aead   func(key []byte) (cipher.AEAD, error)
}

var methods = map[string]method{
	"aes-128-gcm":             {16, false, gcm},
	"aes-256-gcm":             {32, false, gcm},
	"chacha20-ietf-poly1305":  {32, false, chacha20poly1305.New},
	"2022-blake3-aes-128-gcm": {16, true, gcm},
	"2022-blake3-aes-256-gcm": {32, true, gcm},
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

const (
	tagLen   = 16
	nonceLen = 12
	maxSalt  = 32
)

// credential is a cipher and its key.
type credential struct {
	method
	key []byte
}

// newCredential reads the two texts of a configuration.
func newCredential(name, password string) (*credential, error) {
	m, ok := methods[name]
	if !ok {
		return nil, fault.Newf(fault.Invalid, "shadowsocks: %q is not a cipher", name)
	}
	if !m.modern {
		if password == "" {
			return nil, fault.New(fault.Invalid, "shadowsocks: no password")
		}
		return &credential{m, stretch(password, m.keyLen)}, nil
	}
	key, err := base64.StdEncoding.DecodeString(password)
	if err != nil || len(key) != m.keyLen {
		return nil, fault.WithHint(fault.Newf(fault.Invalid, "shadowsocks: the password of %s is not a key of %d octets in base64", name, m.keyLen),
			"openssl rand -base64 "+strconv.Itoa(m.keyLen))
	}
	return &credential{m, key}, nil
}

// stretch makes a key of a password as OpenSSL's EVP_BytesToKey does with MD5, no
// salt and one round: SIP004 asks for it. It is no protection of a weak password.
func stretch(password string, n int) []byte {
	var key, last []byte
	for len(key) < n {
		sum := md5.Sum(append(last, password...))
		last = sum[:]
		key = append(key, last...)
	}
	return key[:n]
}

// session makes the cipher of one direction of one connection.
func (c *credential) session(salt []byte) (cipher.AEAD, error) {
	key := make([]byte, c.keyLen)
	if c.modern {
		blake3.DeriveKey("shadowsocks 2022 session subkey", append(append([]byte(nil), c.key...), salt...), key)
		return c.aead(key)
	}
	key, err := hkdf.Key(sha1.New, c.key, salt, "ss-subkey", c.keyLen)
	if err != nil {
		return nil, err
	}
	return c.aead(key)
}

// NewPassword makes a password that fits a cipher: letters and digits, or the
// base64 of a key. Errors are fault.Invalid.
func NewPassword(cipherName string) (string, error) {
	m, ok := methods[cipherName]
	if !ok {
		return "", fault.Newf(fault.Invalid, "shadowsocks: %q is not a cipher", cipherName)
	}
	if m.modern {
		key := make([]byte, m.keyLen)
		_, _ = rand.Read(key) // never fails
		return base64.StdEncoding.EncodeToString(key), nil
	}
	return rand.Text(), nil
}

// Check tells whether a password fits a cipher. Errors are fault.Invalid and do
// not repeat it.
func Check(cipherName, password string) error {
	_, err := newCredential(cipherName, password)
	return err
}

// Link returns the text that clients take: ss:// in the form of SIP002. Brackets
// of an IPv6 host may be there or not.
func Link(cipherName, password, host string, port int) string {
	host = strings.Trim(host, "[]")
	user := cipherName + ":" + url.QueryEscape(password) // SIP022: no base64 around base64
	if !methods[cipherName].modern {
		user = base64.RawURLEncoding.EncodeToString([]byte(cipherName + ":" + password))
	}
	return "ss://" + user + "@" + net.JoinHostPort(host, strconv.Itoa(port)) + "#" + url.PathEscape(host)
}
