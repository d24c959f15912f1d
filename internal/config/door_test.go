package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/verdict"
)

// TestChecksAreThoseOfTheBlocks: operator specification 2.5, by name and in place.
func TestChecksAreThoseOfTheBlocks(t *testing.T) {
	c := blocks(t, `
check.spf strict {
    softfail_action reject 550 5.7.23 "Not from there"
    fail_action quarantine 550 5.7.23 "Nobody reads this"
    enforce_early
}
smtp tcp://0.0.0.0:25 {
    dmarc yes
    check &strict
    check {
        dkim {
            no_sig_action quarantine
            broken_sig_action reject
        }
        require_mx_record {
            fail_action reject
        }
        require_matching_rdns
    }
}
submission tls://0.0.0.0:465 {
    check {
        require_tls
    }
}
storage.imapsql x {
    junk_mailbox Junk
}
`, nil)
	k := c.Checks()
	reject, mark := verdict.Action{Do: verdict.Reject}, verdict.Action{Do: verdict.Quarantine}
	want := Checks{
		SPF: map[string]verdict.Action{
			"none": {}, "neutral": {}, "fail": mark, "softfail": {Do: verdict.Reject, Code: 550, Enhanced: "5.7.23", Text: "Not from there"},
			"permerror": {}, "temperror": {}, // its manual said reject, it did nothing
		},
		SPFFirst: true, DMARC: true, KeysNeeded: true, Unsigned: mark, Broken: reject, MX: reject, Reverse: mark,
	}
	if !reflect.DeepEqual(k, want) || c.JunkMailbox != "Junk" {
		t.Errorf("got %+v, want %+v; %q", k, want, c.JunkMailbox)
	}
	if n := notes(c); len(n) > 0 {
		t.Errorf("notes %q", n)
	}
	if k := new(Config).Checks(); !reflect.DeepEqual(k, Checks{}) {
		t.Errorf("without configuration: %+v", k)
	}
}

// TestSigningIsReadFromItsBlocks: the selector counts, and what differs from how it is
// done here is said.
func TestSigningIsReadFromItsBlocks(t *testing.T) {
	for text, want := range map[string]string{
		"modify.dkim example.org other.example.org mail {\n hash sha256\n newkey_algo rsa2048\n}":     "mail []",
		"modify.dkim x {\n selector s2\n domains example.org\n}":                                      "s2 []",
		"smtp tcp://0.0.0.0:25 {\n default_destination {\n modify {\n dkim example.org s3\n }\n }\n}": "s3 []",
		"modify.dkim x {\n newkey_algo ed25519\n}":                                                    "[test.conf:2: newkey_algo: has no effect (keys are in dkim_keys, and all that a reader sees is signed, relaxed/relaxed, with rsa-sha256)]",
	} {
		c := blocks(t, text, nil)
		if got := strings.TrimSpace(fmt.Sprint(c.DKIMSelector, " ", notes(c))); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestValuesOfOnePortStayThere: the blocks smtp and submission are two doors.
func TestValuesOfOnePortStayThere(t *testing.T) {
	c := blocks(t, `
smtp tcp://0.0.0.0:25 {
    max_message_size 32M
    max_header_size 64K
    smtp_max_line_length 4000
    max_received 7
    max_recipients 100
    read_timeout 3m
    write_timeout 30s
    debug yes
    limits {
        all rate 20 1s
        ip concurrency 5
    }
}
submission tls://0.0.0.0:465 {
    max_message_size 50M
    defer_sender_reject no
    insecure_auth yes
    io_debug
}
storage.imapsql local_mailboxes {
    sqlite3_cache_size -4000
    sqlite3_busy_timeout 7000
}
target.remote outbound_delivery {
    local_ip 192.0.2.9
    force_ipv4 yes
    connect_timeout 20s
    conn_reuse_limit 10
    conn_max_idle_count 4
    limits {
        destination concurrency 3
    }
    mx_auth {
        mtasts {
            fs_dir policies
        }
    }
}
`, nil)
	mx, clients := c.MX(), c.Clients()
	want := "{33554432 65536 4000 7 100 3m0s 30s [{all 20 1s} {ip 5 0s}] false false}"
	if got := fmt.Sprint(mx); got != want {
		t.Errorf("port 25: %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(clients), "{52428800 0 0 0 0 0s 0s [] true true}"; got != want {
		t.Errorf("submission: %s, want %s", got, want)
	}
	if c.MaxMessageSize != "50M" || mx.Read != 3*time.Minute {
		t.Errorf("what holds for all: %s", c.MaxMessageSize)
	}
	if got := fmt.Sprintln(c.RemoteLocalIP, c.RemoteForceIPv4, c.RemoteConnectTimeout, c.RemoteReuse, c.RemoteMaxIdle, c.RemoteLimits, c.RemoteMTASTSDir, c.DBCacheSize, c.DBBusyTimeout); got != "192.0.2.9 true 20s 10 4 destination concurrency 3 policies -4000 7000\n" {
		t.Errorf("mail to others, database: %s", got)
	}
	if want := []string{"smtp=debug", "smtp=trace"}; !slices.Equal(c.Verbose, want) {
		t.Errorf("logged: %q, want %q", c.Verbose, want)
	}
	if n := notes(c); len(n) > 0 {
		t.Errorf("notes %q", n)
	}
}
