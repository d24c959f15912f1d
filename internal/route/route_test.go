package route

import "testing"

func TestWhoseAPathIs(t *testing.T) {
	for _, x := range []struct {
		path         string
		taken, fixed bool
	}{
		{"/mxdeliv", true, true}, {"/MXDELIV", true, true}, {"/new", true, true}, {"/inv/abc", true, true}, {"/.well-known/x", true, true},
		{"/mail/config-v1.1.xml", true, true}, {"/main.css", true, true}, {"/index.html", true, true}, {"/docs/", true, true},
		{"/admin", true, false}, {"/api/admin", true, false}, {"/security", true, false}, {"/Security.html", true, false}, {"/contact_view", true, false},
		{"/alice", false, false}, {"/alice.html", false, false}, {"/", false, false}, {"", false, false}, {"/newer", false, false},
	} {
		if p := First(x.path); Taken(p) != x.taken || Fixed(p) != x.fixed {
			t.Errorf("%s: taken %v, fixed %v", x.path, Taken(p), Fixed(p))
		}
	}
}
