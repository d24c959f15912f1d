//go:build unix

package app

import "testing"

// TestUnusedAccountsOfTheFileGo: unused_account_retention is obeyed by the task, and
// only accounts that nobody logged in to go; their names stay free.
func TestUnusedAccountsOfTheFileGo(t *testing.T) {
	h := newHouse(t)
	h.lines["unused_account_retention"] = `"2h"`
	h.write()
	h.start()
	h.login("in-use-now").Close()
	const hash = "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:Xp3x6MFxhwLGLVdC94TJvOHtm2Nq/eseD72Q+xjNNNM="
	h.must("accounts.import", `{"users":[
		{"username":"never-used","hash":"`+hash+`","created_at":1700000000},
		{"username":"once-used","hash":"`+hash+`","created_at":1700000000,"first_login_at":1700000001,"last_login_at":1700000002}]}`)
	h.must("accounts.create", `{"username":"made-just-now","password":"correct-horse-battery-22"}`)
	if got := h.must("tasks.list", ""); got["unused_account_retention"] != "2h" {
		t.Errorf("%v", got)
	}
	if got := h.must("tasks.run", `{"task":"prune-unused-accounts"}`); got["deleted"] != 1.0 || got["skipped"] != false {
		t.Errorf("%v", got)
	}
	for user, want := range map[string]bool{"never-used": false, "once-used": true, "made-just-now": true, "in-use-now": true} {
		_, err := h.op("accounts.info", `{"username":"`+user+`"}`)
		if (err == nil) != want {
			t.Errorf("%s: %v", user, err)
		}
	}
	h.must("accounts.create", `{"username":"never-used","password":"correct-horse-battery-22"}`)
}
