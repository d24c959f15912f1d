//go:build unix

package imapserver

import (
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"madmail/internal/address"
)

// BenchmarkFetchOfALargeMessage reports the share of the server's CPU time in a FETCH
// that writing as many octets to a TLS connection takes alone. The client is another
// process.
func BenchmarkFetchOfALargeMessage(b *testing.B) {
	d := build(b, TLS, func(o *Options) { o.MaxAppend = func(address.Addr) int64 { return 2 * bulkSize } })
	d.deliver(b, alice, "Subject: x\r\n\r\n"+strings.Repeat(strings.Repeat("x", 70)+"\r\n", bulkSize/72))
	// Pairs side by side, and the middle one: others on the machine slow both down.
	const pairs = 9
	b.SetBytes(pairs * bulkTimes * bulkSize)
	var alone, whole, share []float64
	for b.Loop() {
		for range pairs {
			a := cpuOf(b, func() error { return writeZeros(b, bulkTimes*bulkSize) })
			w := cpuOf(b, func() error { return bulkClient(d.addr, "fetch") })
			alone, whole, share = append(alone, float64(a)), append(whole, float64(w)), append(share, 100*float64(a)/float64(w))
		}
	}
	middle := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	const kib = bulkTimes * (bulkSize >> 10)
	b.ReportMetric(middle(share), "%-of-it-TLS")
	b.ReportMetric(middle(alone)/kib, "TLS-ns/KiB")
	b.ReportMetric(middle(whole)/kib, "FETCH-ns/KiB")
}

// cpuOf is the CPU time of this process while f runs.
func cpuOf(b *testing.B, f func() error) time.Duration {
	b.Helper()
	at := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := at()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return at() - before
}

// bulkClient runs bulkReader in another process.
func bulkClient(addr, what string) error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BULK_CLIENT_OF="+addr, "BULK="+what)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

func writeZeros(b *testing.B, n int) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() { done <- bulkClient(l.Addr().String(), "zeros") }()
	raw, err := l.Accept()
	if err != nil {
		return err
	}
	conn := tls.Server(raw, testTLS())
	zeros := make([]byte, 16<<10)
	for left := n; left > 0 && err == nil; left -= len(zeros) {
		_, err = conn.Write(zeros)
	}
	conn.Close()
	if err != nil {
		return err
	}
	return <-done
}
