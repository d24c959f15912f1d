package account

import (
	"strings"
	"testing"

	"madmail/internal/fault"
)

// TestAHashForHandsVerifies with its password and with no other.
func TestAHashForHandsVerifies(t *testing.T) {
	for _, f := range []HashParams{{Algorithm: "bcrypt", Cost: 4}, {Algorithm: "argon2", Time: 1, Memory: 64, Threads: 1}, {Algorithm: "sha256"}} {
		text, err := HashWith([]byte("right horse"), f)
		if err != nil || !strings.HasPrefix(text, f.Algorithm+":") {
			t.Errorf("%+v: %q, %v", f, text, err)
			continue
		}
		p, err := parseHash(text)
		if err != nil || !p.matches([]byte("right horse")) || p.matches([]byte("wrong horse")) {
			t.Errorf("%s does not verify: %v", f.Algorithm, err)
		}
	}
	for _, f := range []HashParams{
		{}, {Algorithm: "md5"}, {Algorithm: "bcrypt", Cost: 3}, {Algorithm: "bcrypt", Cost: 32}, {Algorithm: "argon2"},
		{Algorithm: "argon2", Time: 1, Memory: 1 << 30, Threads: 1}, {Algorithm: "argon2", Time: 1, Memory: 64, Threads: 200},
	} {
		if text, err := HashWith([]byte("x"), f); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %q, %v", f, text, err)
		}
	}
	if _, err := HashWith(nil, HashParams{Algorithm: "sha256"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("an empty password: %v", err)
	}
	if _, err := HashWith(make([]byte, 73), HashParams{Algorithm: "bcrypt", Cost: 4}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a password that bcrypt would cut: %v", err)
	}
}
