package cli

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"madmail/internal/ops"
)

// TestLoginLinks lead to the page of the server where it has one, with what it needs
// behind the #, which browsers send to nobody.
func TestLoginLinks(t *testing.T) {
	for page, want := range map[string]string{"": "https://admin.madmail.chat/", "https://mx.example.org/desk/": "https://mx.example.org/desk/"} {
		at, hash, ok := strings.Cut(panelLink(ops.AdminToken{Token: "t0ken", APIURL: "https://mx.example.org/api/admin", PanelURL: page}), "#")
		raw, err := base64.RawURLEncoding.DecodeString(hash)
		var got map[string]string
		if err == nil {
			err = json.Unmarshal(raw, &got)
		}
		if !ok || at != want || err != nil || len(got) != 2 || got["u"] != "https://mx.example.org/api/admin" || got["t"] != "t0ken" {
			t.Errorf("%s#%s: %v, %v", at, hash, got, err)
		}
	}
}
