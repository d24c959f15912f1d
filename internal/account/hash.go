package account

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	xcrypt "github.com/go-crypt/x/crypt"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"madmail/internal/fault"
)

// Bounds on stored hashes: they may come from an import that somebody else
// wrote, and every login attempt pays for them.
const (
	maxBcryptCost   = 14
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonTime    = 16
	maxArgonThreads = 16
	maxCryptRounds  = 1_000_000
	maxHashText     = 1024
)

// What new weak passwords are hashed with: 19 MiB, two passes, one lane.
const (
	argonTime    = 2
	argonMemory  = 19 << 10
	argonThreads = 1
	argonLength  = 32
	saltLength   = 16
)

// maxPassword bounds what is hashed, in bytes.
const maxPassword = 512

type form uint8

const (
	formSHA256 form = iota
	formArgon2
	formBcrypt
	formSHA256Crypt
	formSHA512Crypt
	formPlain // the first version's "plain:", for tests; it is rewritten at the first login
)

// parsed is a stored hash that keeps to the bounds.
type parsed struct {
	form    form
	salt    []byte
	sum     []byte // of crypt forms: its text; of plain: its SHA-256
	time    uint32
	memory  uint32
	threads uint8
	rounds  int
	text    string // of bcrypt
}

// CheckHash reports whether text is a stored form that can be verified within
// the bounds. Errors are fault.Invalid and do not repeat the text.
//
// A password in the clear is none, though rows that hold one are verified.
func CheckHash(text string) error {
	p, err := parseHash(text)
	if err == nil && p.form == formPlain {
		return errHash
	}
	return err
}

var errHash = fault.New(fault.Invalid, "unknown or unacceptable password hash")

func parseHash(text string) (parsed, error) {
	if len(text) > maxHashText {
		return parsed{}, errHash
	}
	for _, p := range []string{"{SHA512-CRYPT}", "{SHA256-CRYPT}", "{BLF-CRYPT}", "{CRYPT}"} {
		if rest, ok := strings.CutPrefix(text, p); ok {
			text = rest
			break
		}
	}
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case kind == "sha256":
		return parseSHA256(rest)
	case kind == "argon2":
		return parseArgon2(rest)
	case kind == "bcrypt":
		return parseBcrypt(rest)
	case kind == "plain" && rest != "":
		sum := sha256.Sum256([]byte(rest)) // of one length, to be compared in constant time
		return parsed{form: formPlain, sum: sum[:]}, nil
	case strings.HasPrefix(text, "$2"):
		return parseBcrypt(text)
	case strings.HasPrefix(text, "$5$"):
		return parseCrypt(formSHA256Crypt, text[3:], 43)
	case strings.HasPrefix(text, "$6$"):
		return parseCrypt(formSHA512Crypt, text[3:], 86)
	}
	return parsed{}, errHash
}

func parseSHA256(rest string) (parsed, error) {
	salt, sum, ok := strings.Cut(rest, ":")
	if !ok {
		return parsed{}, errHash
	}
	p := parsed{form: formSHA256}
	var err1, err2 error
	p.salt, err1 = base64.StdEncoding.DecodeString(salt)
	p.sum, err2 = base64.StdEncoding.DecodeString(sum)
	if err1 != nil || err2 != nil || len(p.sum) != sha256.Size {
		return parsed{}, errHash
	}
	return p, nil
}

// parseArgon2 reads TIME:MEMORY_KiB:THREADS:salt:hash.
func parseArgon2(rest string) (parsed, error) {
	f := strings.Split(rest, ":")
	if len(f) != 5 {
		return parsed{}, errHash
	}
	time, err1 := strconv.ParseUint(f[0], 10, 32)
	memory, err2 := strconv.ParseUint(f[1], 10, 32)
	threads, err3 := strconv.ParseUint(f[2], 10, 8)
	salt, err4 := base64.StdEncoding.DecodeString(f[3])
	sum, err5 := base64.StdEncoding.DecodeString(f[4])
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			return parsed{}, errHash
		}
	}
	if time < 1 || time > maxArgonTime || memory < 1 || memory > maxArgonMemory || threads < 1 || threads > maxArgonThreads ||
		len(sum) < 16 || len(sum) > 128 {
		return parsed{}, errHash
	}
	return parsed{form: formArgon2, time: uint32(time), memory: uint32(memory), threads: uint8(threads), salt: salt, sum: sum}, nil
}

func parseBcrypt(text string) (parsed, error) {
	cost, err := bcrypt.Cost([]byte(text))
	if err != nil || len(text) != 60 || cost < bcrypt.MinCost || cost > maxBcryptCost {
		return parsed{}, errHash
	}
	return parsed{form: formBcrypt, text: text}, nil
}

// parseCrypt reads [rounds=N$]salt$hash.
func parseCrypt(f form, rest string, length int) (parsed, error) {
	p := parsed{form: f, rounds: 5000}
	if r, ok := strings.CutPrefix(rest, "rounds="); ok {
		n, after, found := strings.Cut(r, "$")
		rounds, err := strconv.ParseUint(n, 10, 31)
		if !found || err != nil || rounds > maxCryptRounds {
			return parsed{}, errHash
		}
		p.rounds, rest = max(int(rounds), 1000), after
	}
	salt, sum, ok := strings.Cut(rest, "$")
	if !ok || len(sum) != length || strings.Contains(sum, "$") {
		return parsed{}, errHash
	}
	p.salt, p.sum = []byte(salt[:min(len(salt), 16)]), []byte(sum)
	return p, nil
}

// slow reports whether matches takes milliseconds.
func (p *parsed) slow() bool { return p.form != formSHA256 && p.form != formPlain }

// matches compares in constant time.
func (p *parsed) matches(password []byte) bool {
	switch p.form {
	case formSHA256:
		h := sha256.New()
		h.Write(p.salt)
		h.Write(password)
		return subtle.ConstantTimeCompare(h.Sum(make([]byte, 0, sha256.Size)), p.sum) == 1
	case formPlain:
		sum := sha256.Sum256(password)
		return subtle.ConstantTimeCompare(sum[:], p.sum) == 1
	case formArgon2:
		sum := argon2.IDKey(password, p.salt, p.time, p.memory, p.threads, uint32(len(p.sum)))
		return subtle.ConstantTimeCompare(sum, p.sum) == 1
	case formBcrypt:
		// bcrypt would silently ignore the rest of a longer password.
		return len(password) <= 72 && bcrypt.CompareHashAndPassword([]byte(p.text), password) == nil
	case formSHA256Crypt:
		return p.cryptMatches(sha256.New, password)
	default:
		return p.cryptMatches(sha512.New, password)
	}
}

func (p *parsed) cryptMatches(h func() hash.Hash, password []byte) bool {
	if len(password) == 0 {
		return false
	}
	return subtle.ConstantTimeCompare(xcrypt.KeySHACrypt(h, password, p.salt, p.rounds), p.sum) == 1
}

// deserves reports whether p is the form that password would get today.
func (p *parsed) deserves(password []byte) bool {
	if strong(password) {
		return p.form == formSHA256
	}
	return p.form == formArgon2 && p.time >= argonTime && p.memory >= argonMemory
}

// newHash returns the stored form for password: see the package comment.
func newHash(random io.Reader, password []byte) (string, error) {
	b64 := base64.StdEncoding.EncodeToString
	if strong(password) {
		var buf [2 * sha256.Size]byte
		salt := buf[:sha256.Size]
		if _, err := io.ReadFull(random, salt); err != nil {
			return "", fault.Wrap(fault.Internal, err, "account: read random bytes")
		}
		h := sha256.New()
		h.Write(salt)
		h.Write(password)
		return "sha256:" + b64(salt) + ":" + b64(h.Sum(buf[sha256.Size:sha256.Size])), nil
	}
	salt := make([]byte, saltLength)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fault.Wrap(fault.Internal, err, "account: read random bytes")
	}
	sum := argon2.IDKey(password, salt, argonTime, argonMemory, argonThreads, argonLength)
	return fmt.Sprintf("argon2:%d:%d:%d:%s:%s", argonTime, argonMemory, argonThreads, b64(salt), b64(sum)), nil
}

// burn costs what a refusal has to cost.
func burn(password []byte) {
	argon2.IDKey(password, make([]byte, saltLength), argonTime, argonMemory, argonThreads, argonLength)
}

// HashParams choose how HashWith hashes. Only those of the algorithm count.
type HashParams struct {
	Algorithm string // bcrypt, argon2 or sha256
	Cost      int    // of bcrypt, 4 to 31
	Time      uint32 // passes of argon2
	Memory    uint32 // of argon2, in KiB
	Threads   uint8  // of argon2
}

// HashWith returns the stored form of a password, for operators who write the
// database by hand. New accounts do not use it: see the package comment. The error is
// of kind fault.Invalid for parameters that logins would not verify.
func HashWith(password []byte, p HashParams) (string, error) {
	if len(password) == 0 {
		return "", fault.New(fault.Invalid, "the password is empty")
	}
	b64 := base64.StdEncoding.EncodeToString
	salt := make([]byte, saltLength)
	_, _ = rand.Read(salt) // never fails
	var text string
	switch p.Algorithm {
	case "bcrypt":
		if p.Cost < bcrypt.MinCost || p.Cost > maxBcryptCost {
			return "", fault.Newf(fault.Invalid, "the cost of bcrypt is %d to %d", bcrypt.MinCost, maxBcryptCost)
		}
		if len(password) > 72 {
			return "", fault.New(fault.Invalid, "bcrypt takes passwords of up to 72 octets")
		}
		sum, err := bcrypt.GenerateFromPassword(password, p.Cost)
		if err != nil {
			return "", fault.Wrap(fault.Internal, err, "account: hash")
		}
		text = "bcrypt:" + string(sum)
	case "argon2":
		// What cannot be verified is found here, before it costs anything.
		text = fmt.Sprintf("argon2:%d:%d:%d:%s:%s", p.Time, p.Memory, p.Threads, b64(salt), b64(make([]byte, argonLength)))
		if err := CheckHash(text); err != nil {
			return "", err
		}
		text = fmt.Sprintf("argon2:%d:%d:%d:%s:%s", p.Time, p.Memory, p.Threads, b64(salt), b64(argon2.IDKey(password, salt, p.Time, p.Memory, p.Threads, argonLength)))
	case "sha256":
		h := sha256.New()
		h.Write(salt)
		h.Write(password)
		text = "sha256:" + b64(salt) + ":" + b64(h.Sum(nil))
	default:
		return "", fault.Newf(fault.Invalid, "%.20q is none of bcrypt, argon2, sha256", p.Algorithm)
	}
	return text, CheckHash(text)
}
