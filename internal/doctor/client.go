package doctor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

// insecure is a client for this very machine, whose certificate may be for any name.
func insecure(c *http.Client) *http.Client {
	if c.Transport != nil {
		return c
	}
	return &http.Client{Timeout: c.Timeout, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // #nosec: loopback
}

// dial connects to a listener of this machine.
func dial(ctx context.Context, l Listener) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", reach(l.Addr))
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(limit)
	if t, ok := ctx.Deadline(); ok {
		until = t
	}
	_ = conn.SetDeadline(until)
	if !l.TLS {
		return conn, nil
	}
	t := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // #nosec: the certificate has a check of its own
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// dialogue speaks a protocol of lines.
type dialogue struct {
	conn net.Conn
	r    *bufio.Reader
}

func talk(conn net.Conn) *dialogue { return &dialogue{conn, bufio.NewReaderSize(conn, 4096)} }

// ask writes a line, if it is not empty, and reads until last says that the answer is
// complete.
func (d *dialogue) ask(line string, last func(string) bool) (answer []string, err error) {
	if line != "" {
		if _, err := d.conn.Write([]byte(line + "\r\n")); err != nil {
			return nil, err
		}
	}
	for len(answer) < 1000 {
		l, err := d.r.ReadString('\n')
		if err != nil {
			return answer, err
		}
		l = strings.TrimRight(l, "\r\n")
		answer = append(answer, l)
		if last(l) {
			return answer, nil
		}
	}
	return answer, errors.New("an answer without end")
}

// smtp asks for a reply with a code.
func (d *dialogue) smtp(line, code string) error {
	answer, err := d.ask(line, func(l string) bool { return len(l) >= 4 && l[3] == ' ' })
	if err != nil {
		return err
	}
	if got := answer[len(answer)-1]; !strings.HasPrefix(got, code) {
		return errors.New("SMTP: " + got)
	}
	return nil
}

// imap runs a command and returns its untagged lines.
func (d *dialogue) imap(command string) ([]string, error) {
	answer, err := d.ask("x "+command, func(l string) bool { return strings.HasPrefix(l, "x ") })
	if err != nil {
		return nil, err
	}
	if got := answer[len(answer)-1]; !strings.HasPrefix(got, "x OK") {
		return nil, errors.New("IMAP: " + strings.TrimPrefix(got, "x "))
	}
	return answer, nil
}

// find returns the listener of the first service that is there.
func find(f *Facts, services ...string) (Listener, bool) {
	for _, s := range services {
		if i := slices.IndexFunc(f.Listeners, func(l Listener) bool { return l.Service == s }); i >= 0 {
			return f.Listeners[i], true
		}
	}
	return Listener{}, false
}

// client does what Delta Chat does: log in by IMAP and SMTP, send an encrypted message
// to itself, and wait for it in IDLE.
func client(ctx context.Context, f *Facts) (x Finding) {
	if !f.Running || f.NewAccount == nil {
		return leftOut()
	}
	in, ok := find(f, "imap_tls")
	out, ok2 := find(f, "submission_tls")
	if !ok || !ok2 {
		return Finding{Level: Unknown, Finding: "without IMAP and submission over TLS no client can be played", Next: "madmail port status"}
	}
	a, err := f.NewAccount(ctx)
	if err != nil {
		return Finding{Level: Failure, Finding: "no account can be made", Evidence: err.Error(), Next: "madmail accounts status"}
	}
	defer func() {
		if err := f.Drop(context.WithoutCancel(ctx), a); err != nil {
			x.Evidence = strings.TrimPrefix(x.Evidence+"; the account of this check stays: "+err.Error(), "; ")
		}
	}()
	took, err := roundTrip(ctx, in, out, a)
	if err != nil {
		return Finding{Level: Failure, Finding: "a client cannot log in, send and receive", Evidence: err.Error(), Next: "madmail logs, after madmail creds logging on"}
	}
	if took > time.Second {
		return Finding{Level: Warning, Finding: "a message takes long from sending to being announced", Evidence: took.Round(time.Millisecond).String(), Next: "madmail monitor"}
	}
	return Finding{Level: OK, Finding: "a client logs in, sends and receives", Evidence: "announced after " + took.Round(100*time.Microsecond).String()}
}

func roundTrip(ctx context.Context, in, out Listener, a Account) (time.Duration, error) {
	ic, err := dial(ctx, in)
	if err != nil {
		return 0, fmt.Errorf("IMAP: %w", err)
	}
	defer ic.Close()
	i := talk(ic)
	if _, err := i.ask("", func(string) bool { return true }); err != nil {
		return 0, fmt.Errorf("IMAP: %w", err)
	}
	for _, c := range []string{fmt.Sprintf("LOGIN %q %q", a.Addr, a.Password), "SELECT INBOX"} {
		if _, err := i.imap(c); err != nil {
			return 0, err
		}
	}
	if _, err := i.ask("y IDLE", func(l string) bool { return strings.HasPrefix(l, "+") }); err != nil {
		return 0, fmt.Errorf("IMAP: %w", err)
	}
	oc, err := dial(ctx, out)
	if err != nil {
		return 0, fmt.Errorf("SMTP: %w", err)
	}
	defer oc.Close()
	o := talk(oc)
	for _, s := range []struct{ line, code string }{
		{"", "220"}, {"EHLO localhost", "250"}, {"AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+a.Addr+"\x00"+a.Password)), "235"},
		{"MAIL FROM:<" + a.Addr + ">", "250"}, {"RCPT TO:<" + a.Addr + ">", "250"}, {"DATA", "354"},
	} {
		if err := o.smtp(s.line, s.code); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	if err := o.smtp(letter(a.Addr)+".", "250"); err != nil {
		return 0, err
	}
	if _, err := i.ask("", func(l string) bool { return strings.HasSuffix(l, " EXISTS") }); err != nil {
		return 0, fmt.Errorf("the message was taken and not announced: %w", err)
	}
	took := time.Since(start)
	_ = o.smtp("QUIT", "221")
	return took, nil
}

// letter is a message whose packets are those of an encrypted one; nobody has its key.
func letter(from string) string {
	noise := make([]byte, 400)
	_, _ = rand.Read(noise) // never fails
	data := append([]byte{0xC0 | 1, 71, 6}, noise[:70]...)
	data = append(data, 0xC0|18, 255, 0, 0, 1, 1, 2)
	data = append(data, noise[100:356]...)
	id := hex.EncodeToString(noise[:12])
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: [...]\r\nDate: %s\r\nMessage-ID: <%s@localhost>\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"%s\"\r\n\r\n", from, from, time.Now().UTC().Format(time.RFC1123Z), id, id)
	fmt.Fprintf(&b, "--%s\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n\r\n--%s\r\nContent-Type: application/octet-stream\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\n", id, id)
	for text := base64.StdEncoding.EncodeToString(data); text != ""; {
		n := min(len(text), 64)
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	fmt.Fprintf(&b, "-----END PGP MESSAGE-----\r\n--%s--\r\n", id)
	return b.String()
}

// calls asks for a relay as callers do.
func calls(ctx context.Context, f *Facts) Finding {
	if f.TURN == nil || !f.Running {
		return leftOut()
	}
	addr, user, password, on := f.TURN()
	if !on {
		return Finding{Level: Note, Finding: "calls are not relayed: between some networks they fail", Next: "set turn_enable and turn_secret, then madmail reload"}
	}
	at := reach(addr)
	network := "udp4"
	if ap, err := netip.ParseAddrPort(at); err == nil && ap.Addr().Is6() {
		network = "udp6"
	}
	var relay net.Addr
	var err error
	for _, family := range []turn.RequestedAddressFamily{turn.RequestedAddressFamilyIPv4, turn.RequestedAddressFamilyIPv6} {
		var refused bool
		if relay, refused, err = trial(ctx, f, network, turn.ClientConfig{STUNServerAddr: at, TURNServerAddr: at, Username: user, Password: password, RequestedAddressFamily: family}); err == nil || !refused {
			break // what is refused for one family may be given for the other
		}
	}
	switch {
	case errors.Is(err, errNoTrial):
		return Finding{Level: Unknown, Finding: errNoTrial.Error(), Evidence: err.Error()}
	case err != nil:
		return Finding{Level: Failure, Finding: "the relay for calls gives no relay", Evidence: err.Error(), Next: "scripts/turn-debug-env.sh"}
	}
	return Finding{Level: OK, Finding: "the relay for calls works on this machine; a firewall must let in UDP on its ports", Evidence: "relay " + relay.String()}
}

var errNoTrial = errors.New("a trial call could not be begun")

// trial asks for one relay and gives it back. refused is set when the server said no.
func trial(ctx context.Context, f *Facts, network string, c turn.ClientConfig) (at net.Addr, refused bool, err error) {
	conn, err := net.ListenPacket(network, ":0")
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errNoTrial, err)
	}
	defer conn.Close()
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	c.Conn, c.RTO, c.LoggerFactory = conn, 500*time.Millisecond, quiet
	client, err := turn.NewClient(&c)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errNoTrial, err)
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errNoTrial, err)
	}
	ctx, cancel := context.WithTimeout(ctx, f.CallWait)
	defer cancel()
	// A closed client answers itself.
	stop := context.AfterFunc(ctx, client.Close)
	relay, err := client.Allocate()
	stop()
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, fmt.Errorf("%s does not answer within %s", c.TURNServerAddr, f.CallWait)
		}
		return nil, true, err
	}
	defer relay.Close()
	return relay.LocalAddr(), false, nil
}
