// Package admintoken keeps the token of the admin API: one file in the state
// directory that only the server's user may read.
package admintoken

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// FileName is the file's name in the state directory.
const FileName = "admin_token"

// ErrDamaged says that there is a file and what it holds is no token.
var ErrDamaged = fault.WithHint(fault.New(fault.NotFound, "the file admin_token is damaged: it holds no token"), "madmail admin-token --rotate makes a new one; or put back the line of 43 to 128 letters and digits that was there")

// Read returns the token. The error is of kind fault.NotFound when there is no
// file, and ErrDamaged when it holds no token.
func Read(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, FileName))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fault.Newf(fault.NotFound, "admin_token not found in %s", dir)
	case err == nil && !valid(strings.TrimSpace(string(data))):
		return "", ErrDamaged
	}
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "admin token")
	}
	return strings.TrimSpace(string(data)), nil
}

// Ensure returns the token, making one when there is none or it is damaged.
func Ensure(dir string) (token string, created bool, err error) {
	if token, err = Read(dir); err == nil || !fault.Is(err, fault.NotFound) {
		return token, false, err
	}
	token, err = Rotate(dir)
	return token, err == nil, err
}

// Rotate writes a new token; the old one stops working.
func Rotate(dir string) (string, error) {
	var b [32]byte
	_, _ = rand.Read(b[:])
	token := hex.EncodeToString(b[:])
	if err := safefile.Write(filepath.Join(dir, FileName), []byte(token+"\n"), 0o600); err != nil {
		return "", fault.WithHint(err, "the server's user must be able to write to the state directory")
	}
	return token, nil
}

// valid takes our own form and that of version 1: 43 to 128 characters of
// base64url. Replacing those would lock operators out on an upgrade.
func valid(t string) bool {
	if len(t) < 43 || len(t) > 128 {
		return false
	}
	for i := 0; i < len(t); i++ {
		c := t[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}
