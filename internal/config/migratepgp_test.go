package config

import (
	"strings"
	"testing"

	"madmail/internal/fault"
)

const oldPGP = `# our server
$(hostname) = mx.example.org
submission tls://0.0.0.0:465 tcp://0.0.0.0:587 {
    auth &local_authdb   # as ever
    check {
        # what may pass
        pgp_encryption {
            require_encryption yes
            allow_secure_join yes # old handshake
            passthrough_senders "a b@example.org" c@example.org
            passthrough_recipients privacy@example.org
            fail_action reject
        }
    }

    source example.org {
        check {
            require_tls
            pgp_encryption {
                allow_secure_join no
            }
        }
        deliver_to &local_routing
    }
}
smtp tcp://0.0.0.0:25 {
    check {
        pgp_encryption { 
        }
    }
}
`

const newPGP = `# our server
$(hostname) = mx.example.org
submission tls://0.0.0.0:465 tcp://0.0.0.0:587 {
    auth &local_authdb   # as ever
    require_pgp yes
    pgp_allow_secure_join yes
    pgp_passthrough_senders "a b@example.org" c@example.org
    pgp_passthrough_recipients privacy@example.org
    # pgp_encryption had: fail_action reject
    # old handshake
    # what may pass

    # said already: pgp_allow_secure_join no
    source example.org {
        check {
            require_tls
        }
        deliver_to &local_routing
    }
}
smtp tcp://0.0.0.0:25 {
    check {
        pgp_encryption { 
        }
    }
}
`

// TestTheCheckOfTheFirstVersionBecomesDirectives: comments and layout stay, other blocks
// too, and a second run changes nothing (operator specification 1.5).
func TestTheCheckOfTheFirstVersionBecomesDirectives(t *testing.T) {
	got, n, err := MigratePGP("maddy.conf", []byte(oldPGP))
	if err != nil || n != 2 || string(got) != newPGP {
		t.Errorf("%d, %v\n%s", n, err, got)
	}
	again, n, err := MigratePGP("maddy.conf", got)
	if err != nil || n != 0 || string(again) != newPGP {
		t.Errorf("again: %d, %v\n%s", n, err, again)
	}
	windows := strings.ReplaceAll(oldPGP, "\n", "\r\n")
	got, n, err = MigratePGP("maddy.conf", []byte("\ufeff"+windows))
	if err != nil || n != 2 || string(got) != "\ufeff"+strings.ReplaceAll(newPGP, "\n", "\r\n") {
		t.Errorf("lines of Windows: %d, %v\n%q", n, err, got)
	}
}

// TestWhatNeedsNoMigrationStays, and what is no configuration is an error with a line.
func TestWhatNeedsNoMigrationStays(t *testing.T) {
	for name, text := range map[string]string{
		"a.toml": "[submission]\n", "empty.conf": "", "none.conf": "submission tcp://0.0.0.0:587 {\n  check { \n require_tls\n }\n}\n",
		"text.conf": "submission tcp://0.0.0.0:587 {\n  hostname \"check { pgp_encryption\"\n # check { pgp_encryption {} }\n}\n",
	} {
		got, n, err := MigratePGP(name, []byte(text))
		if err != nil || n != 0 || string(got) != text {
			t.Errorf("%s: %d, %v, %q", name, n, err, got)
		}
	}
	if _, _, err := MigratePGP("x.conf", []byte("submission tcp://0.0.0.0:587 {\n check {\n")); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "x.conf:") {
		t.Error(err)
	}
	said, n, err := MigratePGP("x.conf", []byte("submission tcp://0.0.0.0:587 {\n pgp_allow_secure_join no\n check {\n  pgp_encryption {\n   allow_secure_join yes\n  }\n }\n}\n"))
	if err != nil || n != 1 || string(said) != "submission tcp://0.0.0.0:587 {\n pgp_allow_secure_join no\n # said already: pgp_allow_secure_join yes\n}\n" {
		t.Errorf("%d %v %s", n, err, said)
	}
}

func FuzzMigratePGP(f *testing.F) {
	f.Add([]byte(oldPGP))
	f.Add([]byte("submission {\ncheck { pgp_encryption { allow_secure_join yes } }\n}"))
	f.Add([]byte("submission {\ncheck {\npgp_encryption\n}\n}\\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, n, err := MigratePGP("x.conf", data)
		if err != nil {
			return
		}
		if n == 0 && string(got) != string(data) {
			t.Errorf("%q became %q", data, got)
		}
		if n > 0 {
			if _, left, err := MigratePGP("x.conf", got); err != nil || left != 0 {
				t.Errorf("%q became %q: %d left, %v", data, got, left, err)
			}
		}
	})
}
