// Package nolog runs a real server, feeds it marked names, passwords and texts
// by every door, and looks for the marks where they must not be.
package nolog

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"madmail/test/load"
	"madmail/test/testserver"
)

// Marks. The first may stand in mail and database, the second in mail, the
// third nowhere.
const (
	name   = "kanarie" // of addresses, mailboxes, tokens
	text   = "KanarieText"
	secret = "KanarieSecret"
)

const password = secret + "-0123456789-abcdefghij-XYZ"

type visitor struct {
	t *testing.T
	*testserver.Server
}

// smtp plays commands; answers are not looked at, refusals are wanted too.
func (v visitor) smtp(port int, overTLS bool, commands ...string) {
	v.t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	var conn net.Conn
	var err error
	if overTLS {
		conn, err = tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	} else {
		conn, err = net.Dial("tcp", addr)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := textproto.NewConn(conn)
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		v.t.Fatal(err)
	}
	for _, cmd := range commands {
		if err := c.PrintfLine("%s", cmd); err != nil {
			return
		}
		if _, _, err := c.ReadResponse(0); err != nil {
			return // the server has had enough
		}
	}
}

func (v visitor) target(pw string) load.Target {
	return load.Target{
		SMTP: fmt.Sprintf("127.0.0.1:%d", v.SubmissionTLS), IMAP: fmt.Sprintf("127.0.0.1:%d", v.IMAPTLS), Domain: "[127.0.0.1]", Password: pw,
	}
}

// visit does what clients, strangers and confused programs do.
func (v visitor) visit() {
	v.t.Helper()
	me := name + "-one"
	r, err := v.target(password).Login(me) // makes the account
	if err != nil {
		v.t.Fatal(err)
	}
	defer r.Close()
	for i, cmd := range []string{
		"CREATE " + name + "-box", "SELECT INBOX", `SETMETADATA INBOX (/private/devicetoken "` + name + `-token")`,
		"SEARCH TEXT " + text, "FETCH " + text + " BODY[]", text + " " + secret, "STATUS " + name + "-none (MESSAGES)",
		`SETMETADATA "" (/shared/` + text + ` "` + text + `")`, "LOGIN " + name + " " + secret,
	} {
		if _, err := r.Do(cmd); err != nil && i < 3 {
			v.t.Errorf("%s: %v", cmd, err)
		}
	}
	var refused sync.WaitGroup // refusals are delayed: all at once
	for _, wrong := range []struct{ user, password string }{{me, secret + "-wrong"}, {strings.Repeat(name, 20), secret}} {
		refused.Go(func() {
			if w, err := v.target(wrong.password).Login(wrong.user); err == nil {
				w.Close()
				v.t.Errorf("%s logged in", wrong.user)
			}
		})
	}
	refused.Go(func() {
		v.smtp(v.SubmissionTLS, true, "EHLO "+name, "AUTH PLAIN "+base64Of("\x00"+name+"-nobody\x00x"), "AUTH "+secret, secret+" "+text, "QUIT")
	})
	refused.Wait()
	s, err := v.target(password).NewSender(me)
	if err != nil {
		v.t.Fatal(err)
	}
	own := string(load.Message(me+"@[127.0.0.1]", 3000))
	own = strings.Replace(own, "Subject: [...]", "Subject: "+secret+" subject\r\nX-Mark: "+text, 1)
	if _, err := s.Send([]string{me + "@[127.0.0.1]"}, []byte(own)); err != nil {
		v.t.Error(err)
	}
	s.Close()
	auth := "AUTH PLAIN " + base64Of("\x00"+me+"@[127.0.0.1]\x00"+password)
	from := "MAIL FROM:<" + me + "@[127.0.0.1]>"
	clear := "From: <" + me + "@[127.0.0.1]>\r\nSubject: " + secret + "\r\n\r\nunencrypted " + secret + "\r\n."
	v.smtp(v.SubmissionTLS, true, "EHLO "+name, auth, from, "RCPT TO:<"+me+"@[127.0.0.1]>", "DATA", clear, "QUIT")
	v.smtp(v.SubmissionTLS, true, "EHLO "+name, auth, "MAIL FROM:<"+name+"-other@[127.0.0.1]>", "RCPT TO:<"+name+"@elsewhere.org>", "QUIT")
	v.smtp(v.SubmissionTLS, true, "EHLO "+name, auth, from, "RCPT TO:<"+name+"@elsewhere.org>", "RCPT TO:<"+name+"-gone@[127.0.0.1]>", "DATA", own[:len(own)-5]+"\r\n.", "QUIT")
	v.smtp(v.SMTP, false, "EHLO "+name+".example.org", "MAIL FROM:<"+name+"@example.org>", "RCPT TO:<"+me+"@[127.0.0.1]>", "DATA", clear, "QUIT")
	v.smtp(v.SMTP, false, "HELO "+secret, "MAIL FROM:<"+secret, "RCPT TO:"+text, "VRFY "+name, strings.Repeat(secret, 2000))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, x := range []struct{ method, path string }{
		{"POST", "/new?token=" + name + "-token"}, {"POST", "/new"}, {"GET", "/qr?data=" + secret}, {"GET", "/" + text}, {"PUT", "/" + secret + "?" + text},
	} {
		req, err := http.NewRequest(x.method, fmt.Sprintf("https://127.0.0.1:%d%s", v.HTTPS, x.path), strings.NewReader(`{"token":"`+text+`"}`))
		if err != nil {
			v.t.Fatal(err)
		}
		req.Header.Set("User-Agent", text)
		req.Header.Set("Referer", "https://"+text)
		res, err := client.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	v.browse(client, me+"@[127.0.0.1]", strings.TrimSuffix(own, ".\r\n"))
	invite := "https://i.delta.chat/#0123456789ABCDEF0123456789ABCDEF01234567&a=" + name + "-three%40example.org&n=" + name
	for _, f := range []url.Values{
		{"url": {invite}, "slug": {name}, "name": {name}}, {"url": {invite}, "slug": {name}}, {"url": {invite + "<" + secret}, "name": {text}}, {"url": {invite}, "slug": {secret + "/" + text}},
		{"url": {invite}, "name": {strings.Repeat(secret, 10)}}, {secret: {text}},
	} {
		res, err := client.PostForm(fmt.Sprintf("https://127.0.0.1:%d/share", v.HTTPS), f)
		if err != nil {
			v.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", v.IMAPTLS)) // not TLS
	if err != nil {
		v.t.Fatal(err)
	}
	_, _ = io.WriteString(raw, secret+" LOGIN "+name+" "+secret+"\r\n")
	raw.Close()
}

// browse does what pages do, with what they say in headers, bodies, queries and sockets.
func (v visitor) browse(client http.Client, me, letter string) {
	v.t.Helper()
	v.Command("webmail-cors", "enable", "https://"+name+".example")
	site := fmt.Sprintf("https://127.0.0.1:%d", v.HTTPS)
	send := func(body string) string {
		raw, err := json.Marshal(map[string]any{"to": []string{me}, "from": secret, "body": body})
		if err != nil {
			v.t.Fatal(err)
		}
		return string(raw)
	}
	for _, x := range []struct {
		method, path, body, user, password string
		status                             int
	}{
		{"GET", "/webimap/mailboxes", "", me, password, 200},
		{"GET", "/webimap/messages?since_uid=0&mailbox=INBOX", "", me, password, 200},
		{"GET", "/webimap/message/1", "", me, password, 200},
		{"GET", "/webimap/messages?mailbox=" + text, "", me, password, 400},
		{"POST", "/webimap/message/flags", `{"uid":1,"flags":["` + name + `"],"op":"add"}`, me, password, 200},
		{"POST", "/webimap/message/flags", `{"uid":1,"flags":["` + secret, me, password, 400},
		{"DELETE", "/webimap/messages/" + text + "/1", "", me, password, 400},
		{"POST", "/websmtp/send", send(letter), me, password, 200},
		{"POST", "/webimap/send", send("From: <" + me + ">\r\nSubject: " + secret + "\r\n\r\n" + secret), me, password, 403},
		{"POST", "/websmtp/send", `{"to":["` + secret + `"],"body":"` + secret, me, password, 400},
		{"GET", "/webimap/mailboxes?email=" + secret, "", me, secret, 401},
		{"GET", "/webimap/ws?email=" + me + "&password=" + password, "", "", "", 426},
	} {
		req, err := http.NewRequest(x.method, site+x.path, strings.NewReader(x.body))
		if err != nil {
			v.t.Fatal(err)
		}
		req.Header.Set("X-Email", x.user)
		req.Header.Set("X-Password", x.password)
		res, err := client.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		answer, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != x.status {
			v.t.Errorf("%s %s: %d, want %d: %s", x.method, x.path, res.StatusCode, x.status, answer)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, site+"/webimap/ws?email="+me+"&password="+password, &websocket.DialOptions{HTTPClient: &client})
	if err != nil {
		v.t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	for _, data := range []string{
		`"search","data":{"query":"` + text + `"}`, `"send","data":` + send(letter), `"create_mailbox","data":{"name":"` + name + `-web"}`, `"` + secret + `"`, `"` + text,
	} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(`{"req_id":"`+text+`","action":`+data+`}`)); err != nil {
			v.t.Fatal(err)
		}
	}
	for answers := 0; answers < 5; {
		_, raw, err := conn.Read(ctx)
		if err != nil {
			v.t.Fatal(err)
		}
		if !bytes.Contains(raw, []byte(`"action":"new_message"`)) {
			answers++
		}
	}
}

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// search looks for marks in all files below dir.
func search(t *testing.T, dir string) {
	t.Helper()
	seen := make(map[string]bool)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		top, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		// Mail that waits for another server is mail.
		mail := top == "mail" || top == "journal" || top == "spool" || top == "remote_queue"
		database := strings.HasPrefix(top, "credentials.db") || strings.HasPrefix(top, "sharing.db")
		for mark, allowed := range map[string]bool{name: mail || database, text: mail, secret: false} {
			in := strings.Contains(rel, mark)
			if d.Type().IsRegular() && !in {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				in = bytes.Contains(data, []byte(mark)) || bytes.Contains(data, []byte(base64Of(mark[:len(mark)/3*3])))
			}
			if in {
				seen[mark] = true
				if !allowed {
					t.Errorf("%s is in %s", mark, rel)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !seen[name] || !seen[text] {
		t.Errorf("the search finds nothing: %v", seen)
	}
}

// TestMarkedNamesAndTextsAreNowhere: in what a server prints and in all files
// it writes, at the level that operators have, with the log off, and while
// somebody looks for a trouble.
func TestMarkedNamesAndTextsAreNowhere(t *testing.T) {
	t.Setenv("MADMAIL_BINARY", testserver.Binary(t)) // built once
	for _, x := range []struct{ name, config, filter string }{
		{"default level", "", ""},
		{"log off", "log = \"off\"\n", "trace"},
		{"trace", "debug = true\n", "trace"},
	} {
		t.Run(x.name, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("MADMAIL_LOG", x.filter)
			v := visitor{t, testserver.New(t, x.config+"enable_contact_sharing = true\n")}
			v.visit()
			v.Kill() // what was under way is replayed
			v.Start()
			v.Stop()
			// An index that cannot be read is worth a line of log, which must not say whose it is.
			boxes, err := filepath.Glob(filepath.Join(v.Dir, "mail", name+"*", "Maildir"))
			if err != nil || len(boxes) == 0 {
				t.Fatal("no mail of the marked account", err)
			}
			for _, b := range boxes {
				if err := os.WriteFile(filepath.Join(b, "chatmail-uidlist"), []byte("1 V7 Nx\ndamaged "+text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("TMPDIR", temp)
			v.Start()
			r, err := v.target(password).Login(name + "-one")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Do("SELECT INBOX"); err != nil {
				t.Error(err)
			}
			if _, err := r.Do("LIST \"\" *"); err != nil {
				t.Error(err)
			}
			r.Close()
			v.Command("accounts", "ban", name+"-one", "reason", "-y")
			if list := v.Command("sharing", "list"); !strings.Contains(list, name+"\t"+name+"\topenpgp4fpr:") {
				t.Errorf("the contact link: %q", list)
			}
			v.Stop()
			out := v.Output()
			for _, mark := range []string{name, text, secret} {
				for _, line := range strings.Split(out, "\n") {
					if strings.Contains(line, mark) {
						t.Errorf("%s in the output: %s", mark, line)
					}
				}
			}
			if off := x.config == "log = \"off\"\n"; off && out != "" || !off && !strings.Contains(out, "a damaged index is rebuilt") {
				t.Errorf("the output is not what it was looked for in:\n%s", out)
			}
			v.Start()
			if r, err = v.target(password).Login(name + "-two"); err != nil {
				t.Fatal(err)
			}
			r.Close()
			s, err := v.target(password).NewSender(name + "-two")
			if err != nil {
				t.Fatal(err)
			}
			msg := strings.Replace(string(load.Message(name+"-two@[127.0.0.1]", 1000)), "Chat-Version: 1.0", "Chat-Version: "+text, 1)
			if _, err := s.Send([]string{name + "-two@[127.0.0.1]"}, []byte(msg)); err != nil {
				t.Fatal(err)
			}
			s.Close()
			v.Stop()
			search(t, v.Dir)
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("left in the directory for temporary files: %v, %v", left, err)
			}
		})
	}
}
