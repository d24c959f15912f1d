package logging

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSyslogGetsEachRecord, also after the daemon was started anew; without one
// records go to stderr.
func TestSyslogGetsEachRecord(t *testing.T) {
	var stderr bytes.Buffer
	r := NewRoot()
	r.syslog = filepath.Join(t.TempDir(), "log")
	d, err := Decide(Inputs{Targets: []string{"syslog"}, Filter: "trace"})
	if err == nil {
		err = r.Apply(d, &stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	log := r.Logger("smtp")
	log.Warn("nobody listens")
	if got := stderr.String(); got != "level=WARN msg=\"nobody listens\" target=smtp\n" {
		t.Errorf("%q", got)
	}
	stderr.Reset()
	for range 2 {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: r.syslog, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		log.Error("one")
		log.Warn("two")
		log.Info("three")
		log.Debug("four")
		_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
		for _, want := range []string{"<19>%s level=ERROR msg=one", "<20>%s level=WARN msg=two", "<22>%s level=INFO msg=three", "<23>%s level=DEBUG msg=four"} {
			var b [1024]byte
			n, err := l.Read(b[:])
			if want = fmt.Sprintf(want, fmt.Sprintf("%s[%d]:", filepath.Base(os.Args[0]), os.Getpid())) + " target=smtp"; err != nil || string(b[:n]) != want {
				t.Errorf("%q, %v; want %q", b[:n], err, want)
			}
		}
		l.Close()
		_ = os.Remove(r.syslog)
	}
	if err := r.Apply(Decision{}, &stderr); err != nil || stderr.Len() > 0 {
		t.Errorf("%v, stderr %q", err, stderr.String())
	}
}

// TestNamesOfEarlierModules mean all modules that do their work now.
func TestNamesOfEarlierModules(t *testing.T) {
	f, err := ParseFilter("error,chatmail_fed=debug,chatmail_auth=info")
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"federation": "DEBUG", "mxdeliv": "DEBUG", "queue": "DEBUG", "account": "INFO", "auth": "INFO", "smtp": "ERROR"} {
		if got := f.level(target).String(); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}
