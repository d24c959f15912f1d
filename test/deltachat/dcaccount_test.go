//go:build deltachat

package deltachat

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"madmail/test/testserver"
)

// TestAccountsByTheDomainAlone lets the client make its accounts itself, as it does
// with the links of public servers: dcaccount: with the domain, for which it invents
// name and password and asks autoconfig for the ports, and dcaccount: with a URL, to
// which it posts. It insists on certificates, except that of a host whose name begins
// with an underscore it checks the name only; the name and port 443 need a network of
// their own.
func TestAccountsByTheDomainAlone(t *testing.T) {
	const domain = "_cm.test"
	if os.Getenv(walled) == "" {
		if !behindWalls(t, "-n", "-m") {
			t.Log("left to TestAccountsFromTheInvitePage, which makes the client's requests itself")
		}
		return
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost "+domain+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ip", "link", "set", "lo", "up"}, {"mount", "--bind", hosts, "/etc/hosts"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	srv := testserver.NewWith(t, testserver.Options{Host: "127.0.0.1", Dir: t.TempDir(), Domain: domain, HTTPSPort: 443, Extra: "mx_domain = \"" + domain + "\"\n"})
	c := startCore(t)
	invented := c.join("dcaccount:"+domain, "Invented")
	if !regexp.MustCompile(`^[a-z0-9]{9}@` + regexp.QuoteMeta(domain) + `$`).MatchString(invented.address) {
		t.Errorf("the client calls itself %q", invented.address)
	}
	given := c.join("dcaccount:https://"+domain+"/new", "Given")
	if !strings.HasSuffix(given.address, "@"+domain) || given.address == invented.address {
		t.Errorf("the client calls itself %q", given.address)
	}
	meet(given, invented, nil, false)
	mark := invented.mark()
	given.say(given.chatWith(invented), "found you")
	if _, m := invented.receive(mark, "found you"); !m.ShowPadlock {
		t.Error("not encrypted")
	}
	var list struct {
		Data struct {
			Accounts []struct{ Username string }
		}
	}
	if err := json.Unmarshal([]byte(srv.Command("--json", "accounts", "list")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Data.Accounts) != 2 {
		t.Errorf("the server has %+v", list.Data.Accounts)
	}

	// Who is refused is told why, in the server's words.
	srv.Command("registration", "close")
	var id int
	c.call(&id, "add_account")
	err := c.try(nil, "add_transport_from_qr", id, "dcaccount:https://"+domain+"/new")
	if err == nil || !strings.Contains(err.Error(), "Registration is closed") {
		t.Errorf("closed registration: %v", err)
	}
}
