package config

import (
	"slices"
	"testing"
)

// TestKeysWithoutEffectAreNamed: what does nothing beside the other keys is said, in
// both forms of the file.
func TestKeysWithoutEffectAreNamed(t *testing.T) {
	for text, want := range map[string][]string{
		`ss_addr = "0.0.0.0:8388"`:                                    {"test.toml:1: ss_addr: needs a password, and the file has none (set ss_password, or run madmail proxy password set)"},
		"[shadowsocks]\naddr = \"0.0.0.0:8388\"\npassword = \"x\"":    nil,
		"debug = false\nss_cipher = \"aes-256-gcm\"":                  {`test.toml:2: ss_cipher: has no effect without ss_addr (say where Shadowsocks listens, as in ss_addr = "0.0.0.0:8388")`},
		"turn_enable = true":                                          {"test.toml:1: turn_enable: needs a secret, and the file has none (set turn_secret, or run madmail settings set turn_secret SECRET)"},
		"turn_enable = true\nturn_secret = \"s\"\nturn_rate = \"1M\"": nil,
		"turn_enable = false":                                         nil,
		`turn_rate = "1M"`:                                            {"test.toml:1: turn_rate: has no effect without turn_enable (set turn_enable, if calls are to be relayed)"},
		`openmetrics_password = "x"`:                                  {`test.toml:1: openmetrics_password: has no effect without openmetrics_listen (say where, as in openmetrics_listen = "127.0.0.1:9749")`},
		`acme_email = "a@example.org"`:                                {"test.toml:1: acme_email: has no effect: tls_mode is neither autocert nor acme"},
		"mail_fsync = \"never\"\nblob_dedup = \"off\"": {
			"test.toml:1: mail_fsync: has no effect: what was acknowledged is always on disk",
			"test.toml:2: blob_dedup: has no effect: one body is always stored once for all its recipients",
		},
		"mail_fsync = \"always\"\nblob_dedup = \"on\"": nil,
	} {
		if got := notes(parse(t, text)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	c := blocks(t, "chatmail tls://0.0.0.0:443 {\n ss_addr 0.0.0.0:8388\n}", nil)
	if got := notes(c); len(got) != 1 || got[0] != "test.conf:2: ss_addr: needs a password, and the file has none (set ss_password, or run madmail proxy password set)" {
		t.Errorf("%q", got)
	}
}
