//go:build unix

package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/test/load"
)

// TestMailThatMovesIsNotCountedWrong: the checks run side by side, and the trial of
// one sends mail and removes its account while another measures.
func TestMailThatMovesIsNotCountedWrong(t *testing.T) {
	h := newHouse(t)
	h.start()
	h.login("somebody")
	sender, me := h.target(), "somebody@[127.0.0.1]"
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		c, err := sender.NewSender("somebody")
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := c.Send([]string{me}, load.Message(me, 1500)); err != nil {
				done <- err
				return
			}
		}
	}()
	for before := h.store.Stats().Delivered; h.store.Stats().Delivered < before+100; {
		if n, wrong, err := h.measureForDoctor(t.Context()); err != nil || wrong != 0 {
			t.Fatal(n, "accounts,", wrong, "counted wrong:", err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "mail", "somebody@[127.0.0.1]", "Maildir", "new", "by.hand"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, wrong, err := h.measureForDoctor(t.Context()); n != 1 || wrong != 1 || err != nil {
		t.Error("a file put by hand:", n, wrong, err)
	}
}

// TestTheDoctorLooksAtARealServer: everything but the trial's surroundings is well;
// then, one by one, what an operator can break is found.
func TestTheDoctorLooksAtARealServer(t *testing.T) {
	h := newHouse(t)
	h.lines["turn_enable"], h.lines["turn_secret"], h.lines["turn_allow_private_peers"] = "true", `"s3cret"`, "true"
	h.lines["turn_listen_udp"] = fmt.Sprintf(`"127.0.0.1:%d"`, h.spare)
	h.write()
	h.start()
	h.login("somebody")
	look := func(names string, fix bool) map[string]map[string]any {
		t.Helper()
		d := h.must("doctor", fmt.Sprintf(`{"only":%s,"fix":%v}`, names, fix))
		m := make(map[string]map[string]any)
		for _, x := range d["findings"].([]any) {
			f := x.(map[string]any)
			m[f["check"].(string)] = f
		}
		return m
	}
	// All but the clock, which asks others.
	all := look(`["server","configuration","binary","certificate","dns","disk","files","registration","client","admin-token","panel","quota","calls","federation","push","no-log"]`, false)
	for name, f := range all {
		want := map[string]string{"push": "note"}[name]
		if want == "" {
			want = "ok"
		}
		if f["level"] != want {
			t.Errorf("%s: %v", name, f)
		}
	}
	if len(all) != 16 {
		t.Error(len(all), "findings")
	}
	if n := h.accounts.Count(); n != 1 {
		t.Error("the account of the trial stays:", n)
	}
	// Everything listens on loopback here.
	if f := look(`["ports"]`, false)["ports"]; f["level"] != "warning" || !strings.Contains(f["finding"].(string), "other machines") {
		t.Error(f)
	}

	token := filepath.Join(h.dir, "admin_token")
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	if f := look(`["files"]`, false)["files"]; f["level"] != "warning" {
		t.Error(f)
	}
	if f := look(`["files"]`, true)["files"]; f["level"] != "ok" || f["fixed"] == nil {
		t.Error(f)
	}
	kept, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("\x00garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := look(`["admin-token"]`, false)["admin-token"]; f["level"] != "failure" || !strings.Contains(f["evidence"].(string), "damaged") || !strings.Contains(f["next"].(string), "madmail admin-token --rotate") {
		t.Error(f)
	}
	if err := os.WriteFile(token, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	h.lines["primary_domain"] = `"not a domain"`
	h.write()
	if f := look(`["configuration"]`, false)["configuration"]; f["level"] != "failure" {
		t.Error(f)
	}
}
