package ops

import (
	"testing"

	"madmail/internal/fault"
)

func TestTheRelayForRealtimeChannels(t *testing.T) {
	h := newHouse(t)
	status := func(configured, on bool, url string) {
		t.Helper()
		got := h.must("iroh.status", `{}`)
		if got["configured"] != configured || got["admin_enabled"] != on || got["runtime_enabled"] != (configured && on) || got["relay_url"] != url || got["port"] != 3340.0 {
			t.Errorf("%v", got)
		}
	}
	status(false, true, "")
	h.must("iroh.enable", `{"Enabled":false}`)
	status(false, false, "")
	if got := h.must("iroh.install", `{}`); got["relay_url"] != "http://192.0.2.1:3340" || got["enabled"] != true || got["configured"] != true {
		t.Errorf("%v", got)
	}
	status(true, true, "http://192.0.2.1:3340")
	for _, bad := range []string{"ftp://x", "relay.example.org", "http://"} {
		if _, err := h.run("iroh.install", `{"URL":"`+bad+`"}`); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	h.must("iroh.install", `{"URL":"https://relay.example.org"}`)
	h.must("iroh.install", `{}`) // what clients were told stays
	status(true, true, "https://relay.example.org")
}
