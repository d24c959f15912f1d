//go:build deltachat

package deltachat

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/smtp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"madmail/test/testserver"
)

// person is one profile.
type person struct {
	*core
	id      int
	address string
}

const password = "correct-horse-battery-staple-22"

// join makes a profile, logs in by a link, and waits until it idles.
func (c *core) join(link, name string) *person {
	c.t.Helper()
	p := &person{core: c}
	c.call(&p.id, "add_account")
	mark := c.mark()
	c.call(nil, "add_transport_from_qr", p.id, link)
	c.waitKind(mark, p.id, "ImapInboxIdle")
	c.call(nil, "set_config", p.id, "displayname", name)
	c.call(&p.address, "get_config", p.id, "addr")
	var n int
	c.call(&n, "get_connectivity", p.id)
	if n != 4000 {
		c.t.Errorf("%s: connectivity %d, want 4000", name, n)
	}
	return p
}

// meet lets b join a's invitation, waits until both are done, and returns b's
// contact with a.
func meet(a, b *person, chat any, legacy bool) (contact int) {
	a.t.Helper()
	var link string
	a.call(&link, "get_chat_securejoin_qr_code", a.id, chat)
	if legacy {
		link = strings.Replace(link, "&v=3", "", 1)
	}
	am, bm := a.mark(), b.mark()
	b.call(nil, "secure_join", b.id, link)
	done := func(kind string) func(event) bool {
		return func(e event) bool { return e.Kind == kind && e.num("progress") == 1000 }
	}
	b.wait(bm, b.id, "joiner's progress 1000", done("SecurejoinJoinerProgress"))
	return a.wait(am, a.id, "inviter's progress 1000", done("SecurejoinInviterProgress")).num("contactId")
}

// chatWith returns p's chat with the person of an address.
func (p *person) chatWith(o *person) (chat int) {
	p.t.Helper()
	var contacts []int
	p.call(&contacts, "get_contact_ids", p.id, 0, nil)
	for _, c := range contacts {
		var info struct{ Address string }
		p.call(&info, "get_contact", p.id, c)
		if info.Address == o.address {
			p.call(&chat, "create_chat_by_contact_id", p.id, c)
			return chat
		}
	}
	p.t.Fatalf("no contact for %s", o.address)
	return 0
}

type message struct {
	Text        string
	State       int
	ShowPadlock bool
	File        string
	FileBytes   int
	ChatID      int `json:"chatId"`
	Error       string
	IsEdited    bool
}

// texts counts the messages of a chat that say text.
func (p *person) texts(chat int, text string) (n int) {
	p.t.Helper()
	for _, id := range p.ids(chat) {
		if p.message(id).Text == text {
			n++
		}
	}
	return n
}

func (p *person) ids(chat int) (ids []int) {
	p.t.Helper()
	p.call(&ids, "get_message_ids", p.id, chat, false, false)
	return ids
}

// file sends a file of random octets and checks what arrives.
func (p *person) file(chat int, to *person, size int) {
	p.t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	path := filepath.Join(p.t.TempDir(), fmt.Sprintf("file-%d.bin", size))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		p.t.Fatal(err)
	}
	mark := to.mark()
	text := fmt.Sprintf("a file of %d from %s", size, p.address)
	p.call(nil, "send_msg", p.id, chat, map[string]any{"text": text, "file": path, "filename": filepath.Base(path), "viewtype": "File"})
	id, _ := to.receive(mark, text)
	m := to.whole(mark, id, size)
	have, err := os.ReadFile(m.File)
	if err != nil || sha256.Sum256(have) != sha256.Sum256(data) {
		p.t.Errorf("%d octets arrived changed: %d octets, %v", size, len(have), err)
	}
}

// whole waits until a message has its file: the text of a large one comes first.
func (p *person) whole(mark, id, size int) (m message) {
	p.t.Helper()
	p.wait(mark, p.id, "the whole file", func(event) bool {
		return p.try(&m, "get_message", p.id, id) == nil && m.File != "" && m.FileBytes == size
	})
	return m
}

func (p *person) message(id int) (m message) {
	p.t.Helper()
	p.call(&m, "get_message", p.id, id)
	return m
}

// receive waits for a message whose text is text.
func (p *person) receive(mark int, text string) (id int, m message) {
	p.t.Helper()
	p.wait(mark, p.id, fmt.Sprintf("message %q", text), func(e event) bool {
		if e.Kind != "IncomingMsg" && e.Kind != "MsgsChanged" || e.num("msgId") == 0 {
			return false
		}
		id = e.num("msgId")
		return p.try(&m, "get_message", p.id, id) == nil && m.Text == text
	})
	return id, m
}

func (p *person) say(chat int, text string) (id int) {
	p.t.Helper()
	p.call(&id, "misc_send_text_message", p.id, chat, text)
	return id
}

// sayOnce is say after the server was away. The client finds out by this message that
// its connection is gone and would try again in half a minute; somebody who looks at
// it makes it try at once.
func (p *person) sayOnce(chat int, text string) {
	p.t.Helper()
	id, asked := p.say(chat, text), time.Now()
	p.until(text+" is sent", func() bool {
		if time.Since(asked) > time.Second {
			asked = time.Now()
			p.call(nil, "maybe_network")
		}
		return p.message(id).State >= 26
	})
}

// TestRealClients plays the life of a relay with real clients.
func TestRealClients(t *testing.T) {
	srv := testserver.New(t, "")
	c := startCore(t)
	alice := c.join(srv.Link("alicealice", "[127.0.0.1]", password), "Alice")
	bob := c.join(srv.Link("bobbobbob", "[127.0.0.1]", password), "Bob")

	bobContact := 0
	t.Run("secure join", func(t *testing.T) { bobContact = meet(alice, bob, nil, false) })
	ab, ba := alice.chatWith(bob), bob.chatWith(alice)

	t.Run("twenty texts both ways, encrypted, in order", func(t *testing.T) {
		am, bm := alice.mark(), bob.mark()
		for i := range 20 {
			alice.say(ab, fmt.Sprintf("to bob %d", i))
			bob.say(ba, fmt.Sprintf("to alice %d", i))
		}
		lastA, lastB := 0, 0
		for i := range 20 {
			id, m := bob.receive(bm, fmt.Sprintf("to bob %d", i))
			if !m.ShowPadlock || id <= lastB {
				t.Errorf("message %d: padlock %v, id %d after %d", i, m.ShowPadlock, id, lastB)
			}
			lastB = id
			id, m = alice.receive(am, fmt.Sprintf("to alice %d", i))
			if !m.ShowPadlock || id <= lastA {
				t.Errorf("message %d: padlock %v, id %d after %d", i, m.ShowPadlock, id, lastA)
			}
			lastA = id
		}
	})

	t.Run("files of 2 MB and 12 MB arrive whole", func(t *testing.T) {
		for _, size := range []int{2_000_000, 12_000_000} {
			alice.file(ab, bob, size)
			bob.file(ba, alice, size)
		}
	})

	t.Run("receipt, reaction, edit, deletion for all", func(t *testing.T) {
		bm := bob.mark()
		id := alice.say(ab, "read me")
		got, _ := bob.receive(bm, "read me")
		am := alice.mark()
		bob.call(nil, "markseen_msgs", bob.id, []int{got})
		alice.wait(am, alice.id, "the receipt", func(e event) bool { return e.Kind == "MsgRead" && e.num("msgId") == id })
		if m := alice.message(id); m.State != 28 {
			t.Errorf("a message that was read has state %d", m.State)
		}
		am = alice.mark()
		bob.call(nil, "send_reaction", bob.id, got, []string{"👍"})
		alice.wait(am, alice.id, "the reaction", func(e event) bool { return e.Kind == "ReactionsChanged" && e.num("msgId") == id })
		var r struct{ Reactions []struct{ Emoji string } }
		alice.call(&r, "get_message_reactions", alice.id, id)
		if len(r.Reactions) != 1 || r.Reactions[0].Emoji != "👍" {
			t.Errorf("reactions %+v", r.Reactions)
		}
		bm = bob.mark()
		alice.call(nil, "send_edit_request", alice.id, id, "read me again")
		bob.wait(bm, bob.id, "the edit", func(event) bool { m := bob.message(got); return m.Text == "read me again" && m.IsEdited })
		bm = bob.mark()
		alice.call(nil, "delete_messages_for_all", alice.id, []int{id})
		bob.wait(bm, bob.id, "the deletion", func(event) bool { return !slices.Contains(bob.ids(ba), got) })
		if slices.Contains(alice.ids(ab), id) {
			t.Error("it is still there for its author")
		}
	})

	carol := c.join(srv.Link("carolcarol", "[127.0.0.1]", password), "Carol")
	carolContact := 0
	t.Run("the first generation of secure join", func(t *testing.T) { carolContact = meet(alice, carol, nil, true) })

	t.Run("a group of three", func(t *testing.T) {
		var group int
		alice.call(&group, "create_group_chat", alice.id, "Three", false)
		for _, contact := range []int{bobContact, carolContact} {
			alice.call(nil, "add_contact_to_chat", alice.id, group, contact)
		}
		bm, cm := bob.mark(), carol.mark()
		alice.say(group, "hello both")
		_, m := bob.receive(bm, "hello both")
		carol.receive(cm, "hello both")
		am, cm := alice.mark(), carol.mark()
		bob.call(nil, "accept_chat", bob.id, m.ChatID)
		bob.say(m.ChatID, "hello from bob")
		alice.receive(am, "hello from bob")
		_, n := carol.receive(cm, "hello from bob")
		am, bm = alice.mark(), bob.mark()
		carol.call(nil, "accept_chat", carol.id, n.ChatID)
		id := carol.say(n.ChatID, "hello from carol")
		for p, mark := range map[*person]int{alice: am, bob: bm} {
			got, m := p.receive(mark, "hello from carol")
			if !m.ShowPadlock {
				t.Error("not encrypted")
			}
			p.call(nil, "markseen_msgs", p.id, []int{got})
			var full struct {
				ContactIDs []int `json:"contactIds"`
			}
			p.call(&full, "get_full_chat_by_id", p.id, m.ChatID)
			if len(full.ContactIDs) != 3 {
				t.Errorf("%s sees %d members", p.address, len(full.ContactIDs))
			}
		}
		carol.until("receipts of both", func() bool {
			var readers []struct{ ContactID int }
			carol.call(&readers, "get_message_read_receipts", carol.id, id)
			return len(readers) == 2
		})
	})

	t.Run("the quota is shown", func(t *testing.T) {
		var html string
		mark := alice.mark()
		alice.call(nil, "maybe_network")
		alice.wait(mark, alice.id, "the quota", func(event) bool {
			alice.call(&html, "get_connectivity_html", alice.id)
			return strings.Contains(html, " of 1 GiB used")
		})
	})

	t.Run("a wrong password is refused in words", func(t *testing.T) {
		var id int
		c.call(&id, "add_account")
		err := c.try(nil, "add_transport_from_qr", id, srv.Link("alicealice", "[127.0.0.1]", "wrong-password-here"))
		if err == nil || !strings.Contains(err.Error(), "Authentication failed") {
			t.Errorf("logging in with a wrong password: %v", err)
		}
	})

	t.Run("the ports of STARTTLS", func(t *testing.T) {
		link := strings.NewReplacer(fmt.Sprintf("ip=%d&is=ssl", srv.IMAPTLS), fmt.Sprintf("ip=%d&is=starttls", srv.IMAP),
			fmt.Sprintf("sp=%d&ss=ssl", srv.SubmissionTLS), fmt.Sprintf("sp=%d&ss=starttls", srv.Submission)).Replace(srv.Link("startttls", "[127.0.0.1]", password))
		if strings.Contains(link, "ssl") {
			t.Fatal(link)
		}
		dave := c.join(link, "Dave")
		meet(alice, dave, nil, false)
		mark := alice.mark()
		dave.say(dave.chatWith(alice), "over the other ports")
		alice.receive(mark, "over the other ports")
		c.call(nil, "remove_account", dave.id)
	})

	t.Run("both spellings of an IP address are one account", func(t *testing.T) {
		again := c.join(srv.Link("alicealice", "127.0.0.1", password), "Alice too")
		var list struct {
			Data struct {
				Accounts []struct{ Username string }
			}
		}
		if err := json.Unmarshal([]byte(srv.Command("--json", "accounts", "list")), &list); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, a := range list.Data.Accounts {
			if strings.HasPrefix(a.Username, "alicealice@") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d accounts called alicealice: %+v", n, list.Data.Accounts)
		}
		c.call(nil, "remove_account", again.id)
	})

	t.Run("clear text is refused with 523", func(t *testing.T) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", srv.SubmissionTLS), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		s, err := smtp.NewClient(conn, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Auth(smtp.PlainAuth("", alice.address, password, "127.0.0.1")); err != nil {
			t.Fatal(err)
		}
		if err := s.Mail(alice.address); err != nil {
			t.Fatal(err)
		}
		if err := s.Rcpt(bob.address); err != nil {
			t.Fatal(err)
		}
		w, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "From: <%s>\r\nSubject: hi\r\n\r\nhello\r\n", alice.address)
		if err := w.Close(); err == nil || !strings.HasPrefix(err.Error(), "523") || !strings.Contains(err.Error(), "Encryption Needed: Invalid Unencrypted Mail") {
			t.Errorf("clear text: %v", err)
		}
		// And by the client, which is told and shows it.
		plain := c.join(srv.Link("plainplain", "[127.0.0.1]", password), "Plain")
		c.call(nil, "set_config", plain.id, "force_encryption", "0")
		var contact, chat int
		c.call(&contact, "create_contact", plain.id, bob.address, "Bob")
		c.call(&chat, "create_chat_by_contact_id", plain.id, contact)
		mark := plain.mark()
		var id int
		if err := c.try(&id, "misc_send_text_message", plain.id, chat, "in clear"); err != nil {
			t.Fatalf("the client itself refuses to send in clear: %v", err)
		}
		plain.wait(mark, plain.id, "the refusal", func(e event) bool { return e.Kind == "MsgFailed" && e.num("msgId") == id })
		if m := plain.message(id); !strings.Contains(m.Error, "Encryption Needed: Invalid Unencrypted Mail") {
			t.Errorf("the client shows %q", m.Error)
		}
	})

	t.Run("a second device gets everything too", func(t *testing.T) {
		dir := t.TempDir()
		alice.call(nil, "set_config", alice.id, "bcc_self", "1")
		alice.call(nil, "export_backup", alice.id, dir, "")
		files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		second := &person{core: c, address: alice.address}
		c.call(&second.id, "add_account")
		c.call(nil, "import_backup", second.id, files[0], "")
		mark := second.mark()
		c.call(nil, "start_io", alice.id)
		c.call(nil, "start_io", second.id)
		c.waitKind(mark, second.id, "ImapInboxIdle")
		am, sm := alice.mark(), second.mark()
		bob.say(ba, "for both devices")
		alice.receive(am, "for both devices")
		second.receive(sm, "for both devices")
		bm, am := bob.mark(), alice.mark()
		second.say(second.chatWith(bob), "from the second device")
		bob.receive(bm, "from the second device")
		alice.receive(am, "from the second device")
		// Both fetch and mark each message at the same time.
		for i := range 10 {
			text := fmt.Sprintf("to both at once, %d", i)
			am, sm := alice.mark(), second.mark()
			bob.say(ba, text)
			id, m := alice.receive(am, text)
			alice.call(nil, "markseen_msgs", alice.id, []int{id})
			_, other := second.receive(sm, text)
			// What one device has seen is not fresh on the other.
			second.wait(sm, second.id, "the chat is noticed", func(e event) bool {
				var fresh int
				return e.Kind == "MsgsNoticed" && second.try(&fresh, "get_fresh_msg_cnt", second.id, other.ChatID) == nil && fresh == 0
			})
			if m.Text != other.Text {
				t.Errorf("%q on one device, %q on the other", m.Text, other.Text)
			}
		}
		c.call(nil, "remove_account", second.id)
		alice.call(nil, "set_config", alice.id, "bcc_self", "0")
	})

	for _, how := range []string{"stop", "crash"} {
		t.Run("nothing is lost over a "+how, func(t *testing.T) {
			bm := bob.mark()
			alice.say(ab, "before the "+how)
			bob.receive(bm, "before the "+how)
			if how == "stop" {
				srv.Stop()
			} else {
				srv.Kill()
			}
			bm = bob.mark()
			alice.say(ab, "during the "+how)
			srv.Start()
			c.call(nil, "maybe_network")
			alice.say(ab, "after the "+how)
			for _, when := range []string{"during the ", "after the "} {
				bob.receive(bm, when+how)
				if n := bob.texts(ba, when+how); n != 1 {
					t.Errorf("%q is there %d times", when+how, n)
				}
			}
			// Both are connected again.
			am := alice.mark()
			bob.sayOnce(ba, "back after the "+how)
			alice.receive(am, "back after the "+how)
		})
	}

	t.Run("a single device leaves an empty mailbox", func(t *testing.T) {
		deadline := time.Now().Add(30 * time.Second)
		for {
			ic, err := imapclient.DialTLS(fmt.Sprintf("127.0.0.1:%d", srv.IMAPTLS), &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
			if err != nil {
				t.Fatal(err)
			}
			if err := ic.Login(bob.address, password).Wait(); err != nil {
				t.Fatal(err)
			}
			sel, err := ic.Select("INBOX", nil).Wait()
			_ = ic.Logout().Wait()
			ic.Close()
			if err != nil {
				t.Fatal(err)
			}
			if sel.NumMessages == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d messages are left", sel.NumMessages)
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
}

// TestAccountsFromTheInvitePage is dcaccount: as far as loopback allows: the
// client wants a publicly valid certificate for the link itself, so the request
// that it would make is made here, and the client logs in with the answer.
func TestAccountsFromTheInvitePage(t *testing.T) {
	srv := testserver.New(t, "")
	c := startCore(t)
	var id int
	c.call(&id, "add_account")
	var kind struct{ Kind, Domain string }
	c.call(&kind, "check_qr", id, "dcaccount:example.org")
	if kind.Kind != "account" || kind.Domain != "example.org" {
		t.Errorf("dcaccount: link is taken for %+v", kind)
	}
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/new", srv.HTTP), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Email, Password string
		Link            string `json:"dclogin_url"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	p := c.join(a.Link, "Visitor")
	if p.address != a.Email {
		t.Errorf("logged in as %q, made %q", p.address, a.Email)
	}
	srv.Command("registration", "close")
	resp, err = http.Post(fmt.Sprintf("http://127.0.0.1:%d/new", srv.HTTP), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var refused struct{ Reason string }
	if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil || resp.StatusCode != 403 || refused.Reason == "" {
		t.Errorf("closed registration: %s %q %v", resp.Status, refused.Reason, err)
	}
	c.call(&id, "add_account")
	if err := c.try(nil, "add_transport_from_qr", id, srv.Link("latecomer", "[127.0.0.1]", password)); err == nil {
		t.Error("an account was made by logging in although registration is closed")
	}
}

// TestABannedAccountIsCutOff bans an account whose client idles.
func TestABannedAccountIsCutOff(t *testing.T) {
	srv := testserver.New(t, "")
	c := startCore(t)
	p := c.join(srv.Link("banmebanme", "[127.0.0.1]", password), "Ban me")
	mark := p.mark()
	srv.Command("accounts", "ban", p.address, "spam", "-y")
	c.wait(mark, p.id, "the lost connection", func(event) bool {
		var n int
		return c.try(&n, "get_connectivity", p.id) == nil && n < 4000
	})
}
