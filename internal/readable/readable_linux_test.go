package readable

import (
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func pair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func called(t *testing.T, c chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("no call in 10 s")
	}
}

func TestEachArmGivesOneCall(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, err := New()
	must(t, err)
	client, server := pair(t)
	c := make(chan struct{}, 10)
	w, err := p.Watch(server.(syscall.Conn), func() { c <- struct{}{} })
	must(t, err)
	must(t, w.Arm())
	_, err = client.Write([]byte("a"))
	must(t, err)
	called(t, c)
	_, err = client.Write([]byte("b")) // not armed: silent
	must(t, err)
	must(t, w.Arm()) // there is something already
	called(t, c)
	buf := make([]byte, 10)
	_, err = server.Read(buf)
	must(t, err)
	must(t, w.Arm())
	client.Close()
	called(t, c)
	w.Close()
	must(t, p.Close())
	if len(c) != 0 {
		t.Errorf("%d calls too many", len(c))
	}
}

func TestAClosedWatchIsSilentAndManyAreServed(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, err := New()
	must(t, err)
	const n = 300
	var calls atomic.Int64
	done := make(chan struct{})
	var clients []net.Conn
	for i := range n {
		client, server := pair(t)
		clients = append(clients, client)
		w, err := p.Watch(server.(syscall.Conn), func() {
			if calls.Add(1) == n/2 {
				close(done)
			}
		})
		must(t, err)
		must(t, w.Arm())
		if i%2 == 1 {
			w.Close()
		}
	}
	for _, c := range clients {
		_, err := c.Write([]byte("x"))
		must(t, err)
	}
	called(t, done)
	must(t, p.Close())
	if got := calls.Load(); got != n/2 {
		t.Errorf("%d calls, want %d", got, n/2)
	}
}

func TestArmAfterTheConnectionClosedIsAnError(t *testing.T) {
	p, err := New()
	must(t, err)
	defer p.Close()
	_, server := pair(t)
	w, err := p.Watch(server.(syscall.Conn), func() {})
	must(t, err)
	server.Close()
	if w.Arm() == nil {
		t.Error("armed on a closed connection")
	}
	w.Close()
}
