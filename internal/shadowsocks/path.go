package shadowsocks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

// OldPath is where earlier versions had Shadowsocks inside WebSocket.
const OldPath = "/ss"

// Path is where it is on the port of HTTPS: a path that only those know who have the
// password, since the password makes it.
func Path(password string) string {
	m := hmac.New(sha256.New, []byte(password))
	m.Write([]byte("path of the WebSocket"))
	return "/" + hex.EncodeToString(m.Sum(nil)[:16])
}

// WebSocketLink is a link for clients with the plugin that most of them know (SIP003).
// Several connections inside one, which that plugin would make, are not understood.
func WebSocketLink(cipherName, password, host string, port int, path string, overTLS bool) string {
	plugin := "v2ray-plugin;"
	if overTLS {
		plugin += "tls;"
	}
	plugin += "mode=websocket;host=" + strings.Trim(host, "[]") + ";path=" + path + ";mux=0"
	link, name, _ := strings.Cut(Link(cipherName, password, host, port), "#")
	return link + "/?plugin=" + url.QueryEscape(plugin) + "#" + name
}
