package account

import (
	"io"

	"madmail/internal/fault"
)

const (
	nameAlphabet     = "abcdefghijklmnopqrstuvwxyz0123456789"
	passwordAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
)

// randomText draws n characters of alphabet, each equally likely: bytes that
// would favour the alphabet's first characters are drawn again.
func randomText(random io.Reader, alphabet string, n int) ([]byte, error) {
	text := make([]byte, 0, n)
	limit := 256 - 256%len(alphabet)
	var buf [64]byte
	for len(text) < n {
		if _, err := io.ReadFull(random, buf[:]); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "account: read random bytes")
		}
		for _, b := range buf {
			if int(b) < limit && len(text) < n {
				text = append(text, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return text, nil
}
