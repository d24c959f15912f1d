package imapserver

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

const idlers = 1000

// BenchmarkIdle reports the live heap and stack of a server for each idle TLS
// connection with COMPRESS. The clients live in another process. With
// IDLE_HEAP_PROFILE set it writes a heap profile there.
func BenchmarkIdle(b *testing.B) {
	d := build(b, TLS, func(o *Options) {
		o.Limits = func() Limits { l := DefaultLimits; l.PerAddress = 10 * idlers; return l }
	})
	runtime.MemProfileRate = 512
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "IDLE_CLIENTS_OF="+d.addr)
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if l, err := bufio.NewReader(out).ReadString('\n'); l != "idle\n" {
			b.Fatal(l, err)
		}
		for end := time.Now().Add(20 * time.Second); d.srv.Stats().Idle < idlers; {
			if time.Now().After(end) {
				b.Fatalf("%+v", d.srv.Stats())
			}
			runtime.Gosched()
		}
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if path := os.Getenv("IDLE_HEAP_PROFILE"); path != "" {
			f, err := os.Create(path)
			if err != nil {
				b.Fatal(err)
			}
			if err := pprof.WriteHeapProfile(f); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
		in.Close()
		_ = cmd.Wait()
	}
	b.ReportMetric(float64(int64(after.HeapAlloc+after.StackInuse)-int64(before.HeapAlloc+before.StackInuse))/idlers, "live-B/conn")
	b.ReportMetric(float64(int64(after.HeapInuse+after.StackInuse)-int64(before.HeapInuse+before.StackInuse))/idlers, "inuse-B/conn")
}

// idleClients keeps connections in IDLE until its standard input ends.
func idleClients(addr string) int {
	conns := make([]net.Conn, 0, idlers) // or the collector closes them
	defer func() { runtime.KeepAlive(conns) }()
	for i := range idlers {
		conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if err := enterIdle(conn, fmt.Sprintf("u%d@x.org", i)); err != nil {
			fmt.Println(err)
			return 1
		}
		conns = append(conns, conn)
	}
	fmt.Println("idle")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// enterIdle sends what Delta Chat sends, without looking into the compressed
// answers.
func enterIdle(conn net.Conn, user string) error {
	br := bufio.NewReader(conn)
	if _, err := br.ReadString('\n'); err != nil {
		return err
	}
	for _, cmd := range []string{"a LOGIN " + user + ` "secret alice"`, "b ID NIL", "c SELECT INBOX", "d COMPRESS DEFLATE"} {
		if _, err := io.WriteString(conn, cmd+"\r\n"); err != nil {
			return err
		}
		for {
			l, err := br.ReadString('\n')
			if err != nil {
				return err
			}
			if strings.HasPrefix(l, cmd[:2]) {
				break
			}
		}
	}
	idle := stored("e IDLE\r\n")
	_, err := conn.Write(idle)
	return err
}

// stored is text as a deflate block that is not compressed, and an empty one.
func stored(text string) []byte {
	n := len(text)
	b := []byte{0, byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)}
	return append(append(b, text...), 0, 0, 0, 0xff, 0xff)
}
