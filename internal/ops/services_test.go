package ops

import (
	"reflect"
	"testing"

	"madmail/internal/fault"
)

func TestProxy(t *testing.T) {
	h := newHouse(t)
	for _, c := range []struct {
		op, params string
		want       map[string]any // a part of the answer
	}{
		{"proxy.status", `{}`, map[string]any{"configured": false, "enabled": true, "port": "8388", "cipher": "aes-128-gcm", "cipher_source": "default",
			"password_db_override": false, "shadowsocks_url": "ss://link", "ws_enabled": false, "grpc_enabled": false}},
		{"proxy.password", `{}`, map[string]any{"configured": false, "db_override": false, "source": "default", "reload_required": false}},
		{"proxy.password", `{"Set":"secret"}`, map[string]any{"configured": true, "db_override": true, "source": "db", "value": "***", "reload_required": false, "applied": "in effect"}},
		{"proxy.password", `{"Set":"secret2","Show":true}`, map[string]any{"value": "secret2"}},
		{"proxy.password", `{"Generate":true,"Show":true}`, map[string]any{"value": "drawn for aes-128-gcm"}},
		{"proxy.password", `{"Generate":true,"Show":true,"For":"aes-256-gcm"}`, map[string]any{"value": "drawn for aes-256-gcm"}},
		{"proxy.password", `{}`, map[string]any{"configured": true, "value": nil, "applied": nil}},
		{"proxy.status", `{}`, map[string]any{"configured": true, "password_db_override": true}},
		{"proxy.cipher", `{}`, map[string]any{"cipher": "aes-128-gcm", "db_override": false, "source": "default", "value": nil, "configured": nil}},
		{"proxy.cipher", `{"Set":"AES-256-GCM"}`, map[string]any{"cipher": "aes-256-gcm", "value": "aes-256-gcm", "db_override": true, "source": "db", "reload_required": false}},
		{"proxy.cipher", `{"Reset":true}`, map[string]any{"effective": "aes-128-gcm", "source": "default", "db_override": false}},
		{"proxy.password", `{"Reset":true}`, map[string]any{"configured": false, "source": "default"}},
		{"proxy.enable", `{"Enabled":false}`, map[string]any{"enabled": false, "reload_required": false}},
		{"proxy.status", `{}`, map[string]any{"enabled": false}},
		{"proxy.enable", `{"Enabled":true}`, map[string]any{"enabled": true}},
		{"turn", `{}`, map[string]any{"enabled": true, "configured": false, "applied": nil}},
		{"turn", `{"Enabled":false}`, map[string]any{"enabled": false, "applied": "in effect"}},
		{"settings.set", `{"name":"turn_secret","value":"s"}`, nil},
		{"turn", `{"Enabled":true}`, map[string]any{"enabled": true, "configured": true}},
	} {
		got, err := h.run(c.op, c.params)
		if err != nil {
			t.Fatalf("%s %s: %v", c.op, c.params, err)
		}
		for k, want := range c.want {
			if !reflect.DeepEqual(got[k], want) {
				t.Errorf("%s %s: %s is %v, want %v", c.op, c.params, k, got[k], want)
			}
		}
	}
	for op, params := range map[string]string{"proxy.cipher": `{"Set":"rc4-md5"}`, "proxy.password": `{"Set":"x","Reset":true}`, "turn": `{"Enabled":"perhaps"}`} {
		if _, err := h.run(op, params); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s %s: %v", op, params, err)
		}
	}
	h.fail = fault.New(fault.Busy, "busy")
	for op, params := range map[string]string{"proxy.cipher": `{"Set":"aes-256-gcm"}`, "proxy.password": `{"Reset":true}`, "proxy.enable": `{}`, "turn": `{"Enabled":true}`} {
		if _, err := h.run(op, params); !fault.Is(err, fault.Busy) {
			t.Errorf("%s %s: %v", op, params, err)
		}
	}
}
