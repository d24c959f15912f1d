//go:build interop

package interop

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"madmail/internal/dkim"
	"madmail/test/dnstest"
	"madmail/test/load"
	"madmail/test/testport"
	"madmail/test/testserver"
)

// authority signs the certificates of one test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, file: filepath.Join(dir, "ca.pem")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	write(t, a.file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return a
}

// issue writes a certificate for names and its key, and returns their paths.
func (a *authority) issue(dir string, names ...string) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = filepath.Join(dir, names[0]+".pem"), filepath.Join(dir, names[0]+".key")
	write(a.t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(a.t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
	return cert, key
}

// open makes a directory that other users can enter.
func open(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// strictPeer is Postfix with opendkim, as the official network sets them up: TLS
// with a verified name both ways, and no mail without a signature.
type strictPeer struct {
	t           *testing.T
	dir         string
	addr        string // where other servers bring mail, port 25
	signed      string // where the test brings mail that goes out signed
	plain       string // and unsigned
	logPath     string
	certificate string
}

// service runs a program until the test ends.
func service(t *testing.T, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the process
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("%s:\n%s", name, out.String())
		}
	})
}

// reach waits until something listens.
func reach(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// proven refuses what has no signature that holds. Only one key is published, so the
// domain need not be looked at.
const proven = `
local good = false
for i = 0, odkim.get_sigcount(ctx) - 1 do
	if odkim.sig_result(odkim.get_sighandle(ctx, i)) == 0 then
		good = true
	end
end
if not good then
	odkim.set_reply(ctx, "554", "5.7.1", "not proven")
	odkim.set_result(ctx, SMFIS_REJECT)
end
return nil
`

const strict, ours = "strict.example", "ours.example"

func startStrictPeer(t *testing.T, dir, host, ourHost string, ca *authority, publicKeys, privateKey string) *strictPeer {
	t.Helper()
	postfix, opendkim := tool(t, "postfix", "postfix"), tool(t, "opendkim", "opendkim")
	who, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	p := &strictPeer{t: t, dir: dir, addr: net.JoinHostPort(host, "25"), logPath: filepath.Join(dir, "log")}
	free := testport.Ports(t, 4)
	p.signed, p.plain = fmt.Sprintf("127.0.0.1:%d", free[0]), fmt.Sprintf("127.0.0.1:%d", free[1])
	signer, verifier := free[2], free[3]

	keys := filepath.Join(dir, "publickeys")
	write(t, keys, publicKeys)
	private := filepath.Join(dir, "k1.private")
	write(t, private, privateKey)
	nobody := filepath.Join(dir, "internal")
	write(t, nobody, "192.0.2.255\n")
	all := filepath.Join(dir, "all")
	write(t, all, "127.0.0.0/8\n")
	common := "Background no\nSyslog no\nRequireSafeKeys no\nTestPublicKeys " + keys + "\nCanonicalization relaxed/relaxed\n"
	script := filepath.Join(dir, "final.lua")
	sign, verify := filepath.Join(dir, "sign.conf"), filepath.Join(dir, "verify.conf")
	write(t, sign, fmt.Sprintf("%sMode s\nSocket inet:%d@127.0.0.1\nDomain %s\nSelector k1\nKeyFile %s\nInternalHosts %s\n", common, signer, strict, private, all))
	write(t, verify, fmt.Sprintf("%sMode v\nSocket inet:%d@127.0.0.1\nInternalHosts %s\nAlwaysAddARHeader yes\nFinalPolicyScript %s\n", common, verifier, nobody, script))
	write(t, script, proven)
	service(t, opendkim, "-f", "-x", sign)
	service(t, opendkim, "-f", "-x", verify)
	reach(t, fmt.Sprintf("127.0.0.1:%d", signer))
	reach(t, fmt.Sprintf("127.0.0.1:%d", verifier))

	cert, key := ca.issue(dir, "mx."+strict)
	p.certificate = cert
	conf := open(t, filepath.Join(dir, "etc"))
	for _, d := range []string{"data", "mail"} {
		if err := os.Chown(open(t, filepath.Join(dir, d)), uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	open(t, filepath.Join(dir, "queue"))
	text := strings.NewReplacer("DIR", dir, "UID", who.Uid, "GID", who.Gid, "CERT", cert, "KEY", key, "AUTHORITY", ca.file, "STRICT", strict, "OURS", ours, "OURHOST", ourHost).Replace(`compatibility_level = 3.6
queue_directory = DIR/queue
data_directory = DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = DIR/log
maillog_file_prefixes = DIR
myhostname = mx.STRICT
mydestination =
mynetworks = 192.0.2.255/32
inet_protocols = ipv4
alias_maps =
virtual_mailbox_domains = STRICT
virtual_mailbox_base = DIR/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:UID
virtual_gid_maps = static:GID
virtual_minimum_uid = 1
virtual_mailbox_limit = 0
message_size_limit = 31457280
smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = CERT
smtpd_tls_key_file = KEY
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
disable_dns_lookups = yes
smtp_tls_security_level = encrypt
smtp_tls_CAfile = AUTHORITY
smtp_tls_policy_maps = inline:{ { [OURHOST]:25 = secure match=OURS } }
transport_maps = inline:{ { OURS = smtp:[OURHOST]:25 } }
milter_default_action = tempfail
`)
	write(t, filepath.Join(conf, "main.cf"), text)
	master := fmt.Sprintf(`%s inet n - n - - smtpd -o smtpd_milters=inet:127.0.0.1:%d
%s inet n - n - - smtpd -o smtpd_milters=inet:127.0.0.1:%d -o smtpd_tls_security_level=none -o mynetworks=127.0.0.0/8 -o smtpd_relay_restrictions=permit_mynetworks,reject
%s inet n - n - - smtpd -o smtpd_tls_security_level=none -o mynetworks=127.0.0.0/8 -o smtpd_relay_restrictions=permit_mynetworks,reject
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`, p.addr, verifier, p.signed, signer, p.plain)
	write(t, filepath.Join(conf, "master.cf"), master)
	err = filepath.WalkDir(conf, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(path, 0o644)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{ca.file, cert, keys} {
		if err := os.Chmod(f, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", postfix, "-c", conf, "start")
	t.Cleanup(func() {
		if out, err := exec.Command(postfix, "-c", conf, "stop").CombinedOutput(); err != nil {
			t.Errorf("stop Postfix: %v\n%s", err, out)
		}
		if t.Failed() {
			t.Logf("the log of Postfix:\n%s", p.log())
		}
	})
	for _, addr := range []string{p.addr, p.signed, p.plain} {
		reach(t, addr)
	}
	return p
}

func (p *strictPeer) log() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// await waits until something is so.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in 30 s not seen: " + what)
		}
	}
}

// mail returns what arrived there.
func (p *strictPeer) mail() (list []string) {
	files, _ := filepath.Glob(filepath.Join(p.dir, "mail/box/new/*"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			list = append(list, string(b))
		}
	}
	return list
}

// hand brings a message to a server as any client does.
func hand(addr, from, to string, text []byte, conf *tls.Config) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c, err := smtp.NewClient(conn, "localhost")
	if err != nil {
		return err
	}
	defer c.Close()
	if conf != nil {
		if err := c.StartTLS(conf); err != nil {
			return err
		}
	}
	if err := c.Mail(from); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	return w.Close()
}

// sample makes a message without the line that ends it on the wire.
func sample(from string, size int) []byte {
	return bytes.TrimSuffix(load.Message(from, size), []byte(".\r\n"))
}

// TestPostfix exchanges mail with Postfix and opendkim set up as an official
// relay: certificates are verified by name and nothing passes unsigned, on both
// sides.
func TestPostfix(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("Postfix has to be started by root")
	}
	dir, err := os.MkdirTemp("", "postfix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	open(t, dir)
	// Mail between servers uses port 25 and no other, so every run has addresses of its own.
	net24 := fmt.Sprintf("127.%d.%d.", 1+mrand.IntN(254), mrand.IntN(255))
	ourHost, theirHost := net24+"2", net24+"3"
	ca := newAuthority(t, dir)
	dns := dnstest.New(t, "")
	cert, key := ca.issue(dir, ours)

	theirKey, err := dkim.Generate(dkim.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	theirPEM, err := theirKey.PEM()
	if err != nil {
		t.Fatal(err)
	}
	theirTXT, err := theirKey.Record()
	if err != nil {
		t.Fatal(err)
	}
	srv := testserver.NewWith(t, testserver.Options{
		Host: ourHost, Dir: t.TempDir(), Domain: ours, SMTPPort: 25, Env: []string{"SSL_CERT_FILE=" + ca.file},
		Extra: fmt.Sprintf("dns_servers = %q\ntls_mode = \"file\"\ntls_cert = %q\ntls_key = %q\n", dns.Addr(), cert, key),
	})
	var own struct {
		Data struct {
			FQDN string `json:"dns_fqdn"`
			TXT  string `json:"txt"`
		}
	}
	if err := json.Unmarshal([]byte(srv.Command("dkim", "show", "--json")), &own); err != nil {
		t.Fatal(err)
	}
	dns.Set(fmt.Sprintf("%s MX 10 mx.%s\nmx.%s A %s\nk1._domainkey.%s TXT %q %q\n%s A %s\n", strict, strict, strict, theirHost, strict, theirTXT[:200], theirTXT[200:], ours, ourHost))
	srv.Command("settings", "set", "federation_require_dkim", "require")
	// Names that the DNS leads to this machine get no mail, unless the operator says so.
	srv.Command("endpoint-cache", "set", strict, "mx."+strict)
	peer := startStrictPeer(t, dir, theirHost, ourHost, ca, fmt.Sprintf("%s %s\n", own.Data.FQDN, own.Data.TXT), string(theirPEM))

	target := load.Target{SMTP: fmt.Sprintf("%s:%d", ourHost, srv.SubmissionTLS), IMAP: fmt.Sprintf("%s:%d", ourHost, srv.IMAPTLS), Domain: ours, Password: password}
	alice, err := target.NewSender("alicealice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	inbox, err := target.Login("alicealice")
	if err != nil {
		t.Fatal(err)
	}
	defer inbox.Close()
	messages := func() string {
		lines, err := inbox.Do("STATUS INBOX (MESSAGES)")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(lines, "")
	}

	// There: signed, over TLS with the name verified, and the signature holds.
	sizes := []int{2000, 3_000_000}
	for i, size := range sizes {
		if _, err := alice.Send([]string{"bob@" + strict}, load.Message("alicealice@"+ours, size)); err != nil {
			t.Fatal(err)
		}
		await(t, "our message in their mailbox\n"+srv.Command("queue", "list"), func() bool { return len(peer.mail()) == i+1 })
	}
	for _, m := range peer.mail() {
		if !strings.Contains(m, "dkim=pass") || !strings.Contains(m, "d="+ours+";") {
			t.Errorf("not proven there: %.600s", m)
		}
	}
	// A peer that is not strict would make the above worthless.
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	if err := hand(peer.addr, "eve@"+ours, "bob@"+strict, sample("eve@"+ours, 2100), &tls.Config{RootCAs: roots, ServerName: "mx." + strict}); err == nil {
		t.Error("the peer takes unsigned mail")
	}
	if err := hand(peer.addr, "eve@"+ours, "bob@"+strict, sample("eve@"+ours, 2100), nil); err == nil {
		t.Error("the peer takes mail in clear")
	}

	// Back: signed by opendkim.
	for i, size := range sizes {
		if err := hand(peer.signed, "bob@"+strict, "alicealice@"+ours, sample("bob@"+strict, size), nil); err != nil {
			t.Fatal(err)
		}
		await(t, "their message in our mailbox", func() bool { return strings.Contains(messages(), fmt.Sprintf("MESSAGES %d)", i+1)) })
	}
	// And what is unsigned, or signed for something else, is refused for good.
	for i, text := range [][]byte{
		sample("bob@"+strict, 2300),
		append([]byte("DKIM-Signature: v=1; a=rsa-sha256; d="+strict+"; s=k1; h=From; c=relaxed/relaxed; bh=AAAA; b=AAAA\r\n"), sample("bob@"+strict, 2400)...),
	} {
		if err := hand(peer.plain, "bob@"+strict, "alicealice@"+ours, text, nil); err != nil {
			t.Fatal(err)
		}
		reason := []string{"No DKIM signature found", "No valid DKIM signature found"}[i]
		await(t, "refused: "+reason, func() bool {
			for line := range strings.Lines(peer.log()) {
				if strings.Contains(line, reason) && strings.Contains(line, "status=bounced") && strings.Contains(line, "554 5.7.1") {
					return true
				}
			}
			return false
		})
	}
	if got := messages(); !strings.Contains(got, "MESSAGES 2)") {
		t.Error("in the end:", got)
	}
	if log := peer.log(); !strings.Contains(log, "relay="+ourHost) || strings.Contains(log, "Untrusted TLS") {
		t.Errorf("the way was another one:\n%s", log)
	}
}
