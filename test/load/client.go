// Package load measures mail servers from outside: small, cheap clients for
// submission and IMAP over TLS, and the scenarios they play. It works with any
// server on loopback and refuses other targets.
package load

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Target is the server under load.
type Target struct {
	SMTP, IMAP string // host:port, TLS from the start
	HTTPS      string // the same, for mail of other servers; "" when it is not measured
	Domain     string // of the accounts, as in "[127.0.0.1]"
	Password   string
	PID        int                     // of the server, 0 when unknown
	Counter    func() map[string]int64 // the server's own counters, nil when it has none
}

// Check refuses targets that are not on loopback.
func (t Target) Check() error {
	for _, a := range []string{t.SMTP, t.IMAP, t.HTTPS} {
		if a == "" && a == t.HTTPS {
			continue
		}
		ap, err := netip.ParseAddrPort(a)
		if err != nil || !ap.Addr().IsLoopback() {
			return fmt.Errorf("load: %q is not a loopback address and port: load goes to this machine only", a)
		}
	}
	return nil
}

func (t Target) address(user string) string { return user + "@" + t.Domain }

var sessions = tls.NewLRUClientSessionCache(1)

// perSource bounds the connections from one address: servers limit them.
const perSource = 500

var dialled atomic.Uint32

func dial(addr string, resume bool) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if runtime.GOOS == "linux" && strings.HasPrefix(addr, "127.") {
		// All of 127/8 is this host there.
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 1, 0, byte(1+dialled.Add(1)/perSource%200))}
	}
	raw, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{InsecureSkipVerify: true}
	if resume {
		conf.ClientSessionCache = sessions
	}
	conn := tls.Client(raw, conf)
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return conn, nil
}

// Sender is a submission session.
type Sender struct {
	conn net.Conn
	br   *bufio.Reader
	from string
}

// NewSender connects and logs in.
func (t Target) NewSender(user string) (*Sender, error) {
	conn, err := dial(t.SMTP, false)
	if err != nil {
		return nil, err
	}
	s := &Sender{conn: conn, br: bufio.NewReaderSize(conn, 1024), from: t.address(user)}
	auth := base64.StdEncoding.EncodeToString([]byte("\x00" + s.from + "\x00" + t.Password))
	for _, step := range []struct{ send, want string }{{"", "220"}, {"EHLO [127.0.0.1]\r\n", "250"}, {"AUTH PLAIN " + auth + "\r\n", "235"}} {
		if err := s.say(step.send, step.want); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return s, nil
}

// Close ends the session.
func (s *Sender) Close() { s.conn.Close() }

func (s *Sender) say(cmd, want string) error {
	if cmd != "" {
		if _, err := io.WriteString(s.conn, cmd); err != nil {
			return err
		}
	}
	return s.expect(want)
}

func (s *Sender) expect(want string) error {
	for {
		line, err := s.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) < 4 || string(line[:3]) != want {
			return fmt.Errorf("load: server said %q, want %s", bytes.TrimSpace(line), want)
		}
		if line[3] == ' ' {
			return nil
		}
	}
}

// Send submits one message to recipients, as clients do: the envelope in one
// write, then the message. sent is when the last octet was written.
func (s *Sender) Send(to []string, msg []byte) (sent time.Time, err error) {
	_ = s.conn.SetDeadline(time.Now().Add(time.Minute))
	var b bytes.Buffer
	fmt.Fprintf(&b, "MAIL FROM:<%s> BODY=8BITMIME\r\n", s.from)
	for _, r := range to {
		fmt.Fprintf(&b, "RCPT TO:<%s>\r\n", r)
	}
	b.WriteString("DATA\r\n")
	if _, err := s.conn.Write(b.Bytes()); err != nil {
		return sent, err
	}
	for range len(to) + 1 {
		if err := s.expect("250"); err != nil {
			return sent, err
		}
	}
	if err := s.expect("354"); err != nil {
		return sent, err
	}
	if _, err := s.conn.Write(msg); err != nil {
		return sent, err
	}
	sent = time.Now()
	return sent, s.expect("250")
}

// Reader is an IMAP session.
type Reader struct {
	conn net.Conn
	br   *bufio.Reader
	z    *flate.Writer
	tag  int
	next int          // UID
	keep func([]byte) // gets literals, nil when nobody wants them
}

// Login connects and logs in.
func (t Target) Login(user string) (*Reader, error) {
	r, err := greeted(t.IMAP, true)
	if err != nil {
		return nil, err
	}
	if _, err := r.Do(fmt.Sprintf("LOGIN \"%s\" \"%s\"", t.address(user), t.Password)); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// greeted connects and reads the greeting.
func greeted(addr string, resume bool) (*Reader, error) {
	conn, err := dial(addr, resume)
	if err != nil {
		return nil, err
	}
	r := &Reader{conn: conn, br: bufio.NewReaderSize(conn, 4096), next: 1}
	if _, err := r.br.ReadSlice('\n'); err != nil {
		conn.Close()
		return nil, err
	}
	return r, nil
}

// Close ends the session without a word, as phones do.
func (r *Reader) Close() { r.conn.Close() }

// Compress switches COMPRESS on.
func (r *Reader) Compress() error {
	if _, err := r.Do("COMPRESS DEFLATE"); err != nil {
		return err
	}
	r.br = bufio.NewReaderSize(flate.NewReader(r.conn), 1024)
	var err error
	r.z, err = flate.NewWriter(r.conn, 1)
	return err
}

func (r *Reader) write(s string) error {
	if r.z == nil {
		_, err := io.WriteString(r.conn, s)
		return err
	}
	if _, err := io.WriteString(r.z, s); err != nil {
		return err
	}
	return r.z.Flush()
}

// Do runs a command and returns its untagged lines.
func (r *Reader) Do(cmd string) ([]string, error) {
	r.tag++
	tag := "t" + strconv.Itoa(r.tag)
	_ = r.conn.SetDeadline(time.Now().Add(time.Minute))
	if err := r.write(tag + " " + cmd + "\r\n"); err != nil {
		return nil, err
	}
	return r.until(tag + " ")
}

func (r *Reader) until(tag string) ([]string, error) {
	var lines []string
	for {
		line, err := r.line()
		if err != nil {
			return lines, err
		}
		if rest, ok := strings.CutPrefix(line, tag); ok {
			if !strings.HasPrefix(rest, "OK") {
				return lines, errors.New("load: " + line)
			}
			return lines, nil
		}
		lines = append(lines, line)
	}
}

// Texts returns the messages of the selected mailbox.
func (r *Reader) Texts() (list []string, err error) {
	r.keep = func(text []byte) { list = append(list, string(text)) }
	defer func() { r.keep = nil }()
	_, err = r.Do("UID FETCH 1:* BODY.PEEK[]")
	return list, err
}

// line reads a line; the octets of literals are read away, unless somebody keeps them.
func (r *Reader) line() (string, error) {
	all := ""
	for {
		s, err := r.br.ReadString('\n')
		if err != nil {
			return all, err
		}
		s = strings.TrimSuffix(s, "\r\n")
		all += s
		open := strings.LastIndexByte(s, '{')
		if open < 0 || !strings.HasSuffix(s, "}") {
			return all, nil
		}
		n, err := strconv.Atoi(s[open+1 : len(s)-1])
		if err != nil {
			return all, nil
		}
		if r.keep == nil {
			if _, err := r.br.Discard(n); err != nil {
				return all, err
			}
			continue
		}
		text := make([]byte, n)
		if _, err := io.ReadFull(r.br, text); err != nil {
			return all, err
		}
		r.keep(text)
	}
}

// Idle begins to idle and returns at the "+".
func (r *Reader) Idle() error {
	r.tag++
	_ = r.conn.SetDeadline(time.Now().Add(10 * time.Minute))
	if err := r.write("t" + strconv.Itoa(r.tag) + " IDLE\r\n"); err != nil {
		return err
	}
	for {
		line, err := r.line()
		if err != nil || strings.HasPrefix(line, "+") {
			return err
		}
	}
}

// Wait waits for EXISTS while idling.
func (r *Reader) Wait() error {
	for {
		line, err := r.line()
		if err != nil || strings.HasSuffix(line, " EXISTS") {
			return err
		}
	}
}

// Done leaves IDLE.
func (r *Reader) Done() error {
	if err := r.write("DONE\r\n"); err != nil {
		return err
	}
	_, err := r.until("t" + strconv.Itoa(r.tag) + " ")
	return err
}

// Take leaves IDLE, fetches what is new, deletes it, and returns how many
// messages there were: a client's round after a wake-up.
func (r *Reader) Take() (int, error) {
	if err := r.Done(); err != nil {
		return 0, err
	}
	lines, err := r.Do(fmt.Sprintf("UID FETCH %d:%d (UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID DATE FROM CONTENT-TYPE SECURE-JOIN CHAT-VERSION CHAT-IS-POST-MESSAGE)])", r.next, r.next+499))
	if err != nil {
		return 0, err
	}
	n, first, last := 0, 0, 0
	for _, l := range lines {
		var seq, uid int
		if c, _ := fmt.Sscanf(l, "* %d FETCH (UID %d", &seq, &uid); c == 2 {
			if n++; n == 1 {
				first = uid
			}
			last = uid
		}
	}
	if n == 0 {
		return 0, nil
	}
	set := fmt.Sprintf("%d:%d", first, last)
	if _, err := r.Do("UID FETCH " + set + " (FLAGS BODY.PEEK[])"); err != nil {
		return 0, err
	}
	r.next = last + 1
	return n, nil
}

// Delete removes what Take fetched, and selects again, as single-device clients do.
func (r *Reader) Delete() error {
	for _, cmd := range []string{fmt.Sprintf("UID STORE 1:%d +FLAGS (\\Deleted)", r.next-1), "CLOSE", "SELECT INBOX"} {
		if _, err := r.Do(cmd); err != nil {
			return err
		}
	}
	return nil
}

// Message makes a PGP/MIME message of about size octets from a sender. The
// packets are well-formed; their content is not encrypted to anybody.
func Message(from string, size int) []byte {
	body := max(1, (size-900)*3/4)
	data := []byte{0xC0 | 1, 71, 6}
	data = append(data, make([]byte, 70)...)
	data = append(data, 0xC0|18, 255, byte(body>>24), byte(body>>16), byte(body>>8), byte(body), 2)
	pad := make([]byte, body-1)
	x := uint32(2463534242)
	for i := range pad {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		pad[i] = byte(x)
	}
	data = append(data, pad...)
	enc := base64.StdEncoding.EncodeToString(data)
	var b bytes.Buffer
	fmt.Fprintf(&b, "Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";\r\n\tboundary=\"18eab2747cb8f311_c968c855ef9c50dd\"\r\nMIME-Version: 1.0\r\nFrom: <%s>\r\nTo: \"hidden-recipients\": ;\r\nSubject: [...]\r\nDate: Mon, 23 Nov 2026 11:42:11 +0000\r\nMessage-ID: <04478418-12fe-4376-814d-2991a9b69913@localhost>\r\nChat-Version: 1.0\r\n\r\n", from)
	b.WriteString("--18eab2747cb8f311_c968c855ef9c50dd\r\nContent-Type: application/pgp-encrypted; charset=\"utf-8\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nVersion: 1\r\n\r\n")
	b.WriteString("--18eab2747cb8f311_c968c855ef9c50dd\r\nContent-Type: application/octet-stream; charset=\"utf-8\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\n")
	for len(enc) > 64 {
		b.WriteString(enc[:64] + "\r\n")
		enc = enc[64:]
	}
	b.WriteString(enc + "\r\n-----END PGP MESSAGE-----\r\n\r\n--18eab2747cb8f311_c968c855ef9c50dd--\r\n.\r\n")
	return b.Bytes()
}
