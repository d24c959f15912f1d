//go:build unix

package app

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/adminrpc"
	"madmail/internal/settings"
)

// conforms compares a reply with its form: "s" a string, "S" one that is not empty,
// "i" a whole number, "n" a number, "b" true or false, "t" a time in UTC, "a|b" one of
// these words; a list of one form, whose elements all have it; an object, whose fields
// must be there. A field that ends in "?" may be missing, "?" before a form allows null.
func conforms(at string, form, got any) (wrong []string) {
	bad := func(why string) []string { return []string{fmt.Sprintf("%s: %v %s", at, got, why)} }
	switch form := form.(type) {
	case map[string]any:
		m, ok := got.(map[string]any)
		if !ok {
			return bad("is no object")
		}
		for k, f := range form {
			name, optional := strings.CutSuffix(k, "?")
			v, there := m[name]
			if !there {
				if !optional {
					wrong = append(wrong, at+"."+name+" is missing")
				}
				continue
			}
			wrong = append(wrong, conforms(at+"."+name, f, v)...)
		}
		return wrong
	case []any:
		list, ok := got.([]any)
		if !ok {
			return bad("is no list")
		}
		for _, v := range list {
			wrong = append(wrong, conforms(at+"[]", form[0], v)...)
		}
		return wrong
	}
	word := form.(string)
	if rest, null := strings.CutPrefix(word, "?"); null {
		if got == nil {
			return nil
		}
		word = rest
	}
	s, isString := got.(string)
	n, isNumber := got.(float64)
	_, isBool := got.(bool)
	ok := false
	switch word {
	case "s":
		ok = isString
	case "S":
		ok = s != ""
	case "i":
		ok = isNumber && n == float64(int64(n))
	case "n":
		ok = isNumber
	case "b":
		ok = isBool
	case "t":
		when, err := time.Parse(time.RFC3339, s)
		ok = err == nil && strings.HasSuffix(s, "Z") && when.Year() > 2000
	default:
		ok = isString && slices.Contains(strings.Split(word, "|"), s)
	}
	if !ok {
		return bad("is not " + word)
	}
	return nil
}

// compare checks the reply in raw against its form, and returns what it is.
func compare(t *testing.T, at, text string, raw json.RawMessage) (got any) {
	t.Helper()
	var form any
	if err := json.Unmarshal([]byte(text), &form); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	for _, w := range conforms(at, form, got) {
		t.Error(w)
	}
	return got
}

// Forms that stand in several replies.
const (
	formSV      = `{"key":"S","value":"s","is_set":"b","restart_required":"b"}`
	formToggle  = `{"status":"enabled|disabled"}`
	formSwitch  = `{"status":"enabled|disabled","restart_required":"b"}`
	formDisk    = `{"total_bytes":"i","used_bytes":"i","available_bytes":"i","percent_used":"n"}`
	formToken   = `{"token":"S","max_uses":"i","used_count":"i","pending_reservations":"i","comment":"s","created_at":"t","expires_at?":"t","status":"active|exhausted|expired"}`
	formBox     = `{"name":"S","url":"S","enabled":"b","poll_interval":"i","last_poll_at?":"t"}`
	formKey     = `{"selector":"s","domain":"s","dns_name":"s","dns_fqdn":"?s","private_key_path":"s","txt_path":"s","txt":"?s","key_present":"b","generated":"b","publishable":"b","reason?":"s"`
	formWebmail = `{"status":"enabled|disabled","browser_access_enabled":"b","webimap_enabled":"enabled|disabled","websmtp_enabled":"enabled|disabled","cors_origins":"s","cors_origins_list":["S"],"auto_reflect_origin":"b"}`
	formFedSet  = `{"enabled":"b","policy":"ACCEPT|REJECT","max_federation_size":"?s","federation_size_effective":"S","federation_size_effective_bytes":"i"}`
	formHooks   = `{"enabled":"b","url":"s","secret_configured":"b","event_user_registered":"b","event_quota_exceeded":"b","timeout_seconds":"i","retry_attempts":"i",
		"successful_deliveries":"i","consecutive_failures":"i","dropped_events":"i"}`
)

// formStatus is /admin/status.
func formStatus() string {
	return `{"version":"S","users":{"registered":"i"},"uptime":{"boot_time":"t","duration":"S"},
	"sent_messages":"i","outbound_messages":"i","received_messages":"i","imap":{"connections":"i","unique_ips":"i"},"turn?":{"relays":"i"},
	"shadowsocks?":{"connections":"i","unique_ips":"i"},"email_servers?":{"connections":"i","domain_servers":"i","ip_servers":"i","connection_ips":"i"},
	"federation_traffic?":{"inbound":"i","outbound":"i","queued":"i","expired":"i","mean_latency_ms":"i","health":{"perfect":"i","federated":"i","bad":"i"}},
	"message_retention":{"enabled":"b","days":"i","retention":"S"},
	"push":{"enabled":"b","mode":"auto|on|off","successful_notifications":"i","consecutive_failures":"i","auto_disable_after":"i"}}`
}

// Names of the listing of all settings, by form.
var (
	pageSwitches = strings.Fields(`jit_registration turn_enabled iroh_enabled push_enabled ss_enabled ss_ws_enabled ss_grpc_enabled http_proxy_enabled admin_web_enabled
		auto_purge_seen_enabled message_retention_enabled webimap_enabled websmtp_enabled registration_token_required log_disabled allow_inbound_remote_rcpt`)
	pagePorts = strings.Fields(`smtp_port submission_port submission_tls_port imap_port imap_tls_port turn_port sasl_port iroh_port ss_port ss_ws_port ss_grpc_port
		http_port https_port http_proxy_port`)
	pageAccess = strings.Fields(`smtp_access submission_access submission_tls_access imap_access imap_tls_access turn_access sasl_access iroh_access http_access https_access`)
	pageValues = strings.Fields(`smtp_hostname turn_realm turn_secret turn_relay_ip turn_relay_port_min turn_relay_port_max turn_ttl iroh_relay_url ss_cipher ss_password
		http_proxy_path http_proxy_username http_proxy_password admin_path admin_web_path dclogin_imap_security dclogin_smtp_security language message_retention
		webmail_cors_origins appendlimit max_message_size max_federation_size`)
	pageLocal = strings.Fields(`smtp_local_only submission_local_only submission_tls_local_only imap_local_only imap_tls_local_only turn_local_only sasl_local_only
		iroh_local_only http_local_only https_local_only`)
)

// formSettings is /admin/settings.
func formSettings() string {
	var b strings.Builder
	b.WriteString(`{"registration":"open|closed","push_mode":"auto|on|off","federation_enabled":"b","federation_policy":"ACCEPT|REJECT","shadowsocks_url":"s",
		"message_size_effective":"S","federation_size_effective":"S","message_size_effective_bytes":"i","federation_size_effective_bytes":"i"`)
	for _, name := range pageSwitches {
		fmt.Fprintf(&b, `,%q:"enabled|disabled"`, name)
	}
	for _, name := range []string{"shared_port_imap", "shared_port_smtp"} {
		fmt.Fprintf(&b, `,%q:"b"`, name)
	}
	for _, name := range pageAccess {
		fmt.Fprintf(&b, `,%q:"public|local"`, name)
	}
	for _, name := range slices.Concat(pagePorts, pageValues) {
		fmt.Fprintf(&b, `,%q:%s`, name, formSV)
	}
	b.WriteString("}")
	return b.String()
}

// asked is a request of a page and the form of the reply to it.
type asked struct {
	method, resource, body string
	status                 int
	form                   string
}

// TestTheContractOfPages compares every reply that pages read with its form, field by
// field; then that no resource was forgotten.
func TestTheContractOfPages(t *testing.T) {
	h := newHouse(t)
	h.lines["turn_enable"], h.lines["turn_secret"] = "true", `"s3cret"`
	h.lines["turn_listen_udp"] = fmt.Sprintf(`"127.0.0.1:%d"`, h.spare)
	h.write()
	h.start()
	h.login("somebody")
	const user = "somebody@[127.0.0.1]"
	rules := `{"domain":"S","created_at":"i","smtp":"s","http":"s","https":"s"}`
	quota := `{"username":"S","used_bytes":"i","max_bytes":"i","is_default":"b"}`
	message := `{"effective_bytes":"i","effective":"S","appendlimit":"?s","max_message_size":"?s","config_bytes":"i","config":"s"`
	federation := `{"effective_bytes":"i","effective":"S","max_federation_size":"?s","config_bytes":"i","config":"s"`
	list := []asked{
		{"GET", "/admin/status", `{}`, 200, formStatus()},
		{"GET", "/admin/overview", `{}`, 200, strings.TrimSuffix(formStatus(), "}") + `,"disk":` + formDisk + `,"tokens":{"total":"i"},"settings":` + formSettings() +
			`,"live":{"sessions":"i","messages_per_second":"n","queue":"i"}}`},
		{"GET", "/admin/storage", `{}`, 200, `{"disk":` + formDisk + `,"state_dir":{"path":"S","size_bytes":"i"},"database":{"driver":"sqlite3|postgres","size_bytes":"i"}}`},
		{"POST", "/admin/reload", `{}`, 200, `{"status":"reloading|reloaded","message":"S"}`},
		{"POST", "/admin/reload", `{"scope":"http","wait":true}`, 200, `{"status":"reloaded","message":"S"}`},
		{"POST", "/admin/reload", `{"scope":"routes","wait":true}`, 200, `{"status":"reloaded","message":"S"}`},
		{"POST", "/admin/reload", `{"scope":"moon"}`, 400, ``},
		{"POST", "/admin/cache/reload", `{}`, 200, `{"credentials_cache_reloaded":"b","quota_cache_reloaded":"b","message":"S"}`},
		{"GET", "/admin/listener-ports", `{}`, 200, `{"smtp_addr":"S","submission_plain_addr":"S","submission_tls_addr":"S","imap_plain_addr":"S","imap_tls_addr":"S",
			"http_plain_addr":"S","http_tls_addr":"S","submission_plain_port":"S","submission_tls_port":"S","imap_plain_port":"S","imap_tls_port":"S","http_plain_port":"S",
			"http_tls_port":"S","listeners":[{"service":"S","proto":"tcp|udp","addr":"S","port":"i","tls":"b","source":"env|db|file|default"}]}`},

		{"GET", "/admin/registration", `{}`, 200, `{"status":"open|closed"}`},
		{"POST", "/admin/registration", `{"action":"enable"}`, 400, ``},
		{"DELETE", "/admin/registration", `{}`, 405, ``},
		{"GET", "/admin/services/push", `{}`, 200, `{"status":"enabled|disabled","mode":"auto|on|off","successful_notifications":"i","consecutive_failures":"i","auto_disable_after":"i"}`},
		{"POST", "/admin/services/push", `{"action":"auto"}`, 200, `{"status":"enabled","mode":"auto","restart_required":"b"}`},
		{"POST", "/admin/services/push", `{"action":"on"}`, 200, `{"status":"enabled","mode":"on","restart_required":"b"}`},
		{"POST", "/admin/services/push", `{"action":"disable"}`, 200, `{"status":"disabled","mode":"off","restart_required":"b"}`},
		{"POST", "/admin/services/push", `{"action":"maybe"}`, 400, ``},
		{"GET", "/admin/services/webmail_dev", `{}`, 200, strings.ReplaceAll(formWebmail, "enabled|disabled", "disabled")},
		{"POST", "/admin/services/webmail_dev", `{"action":"add_origin","origin":"https://mail.example"}`, 200, `{"status":"ok","cors_origins":"https://mail.example","origin":"https://mail.example"}`},
		{"POST", "/admin/services/webmail_dev", `{"action":"add_origin","origin":"mail.example"}`, 400, ``},
		{"POST", "/admin/services/webmail_dev", `{"action":"add_origin"}`, 400, ``},
		{"POST", "/admin/services/webmail_dev", `{"action":"enable","origin":"http://127.0.0.1:5173"}`, 200, `{"status":"enabled","webimap_enabled":"enabled","websmtp_enabled":"enabled","cors_origins":"https://mail.example,http://127.0.0.1:5173","origin":"http://127.0.0.1:5173"}`},
		{"POST", "/admin/services/webmail_dev", `{"action":"enable"}`, 200, strings.ReplaceAll(formWebmail, "enabled|disabled", "enabled")},
		{"POST", "/admin/services/webmail_dev", `{"action":"disable"}`, 200, strings.ReplaceAll(formWebmail, "enabled|disabled", "disabled")},
		{"POST", "/admin/services/webmail_dev", `{"action":"burn"}`, 400, ``},
		{"POST", "/admin/services/shadowsocks", `{"action":"enable"}`, 400, ``},

		{"GET", "/admin/settings", `{}`, 200, formSettings()},
		{"POST", "/admin/settings", `{}`, 405, ``},
		{"GET", "/admin/settings/federation", `{}`, 200, formFedSet},
		{"POST", "/admin/settings/federation", `{"policy":"reject"}`, 200, strings.Replace(formFedSet, "ACCEPT|REJECT", "REJECT", 1)},
		{"POST", "/admin/settings/federation", `{"policy":"accept","enabled":true}`, 200, formFedSet},
		{"POST", "/admin/settings/federation", `{"policy":"perhaps"}`, 400, ``},

		{"POST", "/admin/accounts", `{}`, 201, `{"email":"S","password":"S"}`},
		{"GET", "/admin/accounts", `{}`, 200, `{"accounts":[{"username":"S","used_bytes":"i","max_bytes":"i","is_default_quota":"b","created_at":"i","first_login_at":"i","last_login_at":"i"}],"total":"i"}`},
		{"PATCH", "/admin/accounts", `{"action":"export"}`, 200, `{"users":[{"username":"S","hash":"S"}],"total":"i"}`},
		{"PATCH", "/admin/accounts", `{"action":"import","users":[{"username":"guestguest","password":"correct-horse-battery-33"},{"username":"` + user + `"}]}`, 200, `{"imported":"i","skipped":"i","errors?":["S"]}`},
		{"PATCH", "/admin/accounts", `{"action":"burn"}`, 400, ``},
		{"DELETE", "/admin/accounts", `{"username":"guestguest"}`, 200, `{"deleted":"guestguest@[127.0.0.1]","blocked":"S","reason":"deleted via admin panel"}`},
		{"DELETE", "/admin/accounts", `{"username":"never-was"}`, 200, `{"deleted":"S"}`},
		{"POST", "/admin/blocklist", `{"username":"bad@[127.0.0.1]"}`, 200, `{"blocked":"bad@[127.0.0.1]"}`},
		{"GET", "/admin/blocklist", `{}`, 200, `{"blocked":[{"username":"S","reason":"deleted via admin panel|manually blocked","blocked_at":"t"}],"total":"i"}`},
		{"DELETE", "/admin/blocklist", `{"username":"bad"}`, 200, `{"unblocked":"bad@[127.0.0.1]"}`},
		{"PATCH", "/admin/blocklist", `{"action":"delete_all"}`, 200, `{"unblocked":"i","errors?":["S"]}`},
		{"GET", "/admin/quota", `{}`, 200, `{"total_storage_bytes":"i","accounts_count":"i","default_quota_bytes":"i"}`},
		{"GET", "/admin/quota", `{"username":"somebody"}`, 200, quota},
		{"PUT", "/admin/quota", `{"username":"` + user + `","max_bytes":7}`, 200, `{"username":"` + user + `","max_bytes":"i"}`},
		{"PUT", "/admin/quota", `{"username":"` + user + `","max_bytes":-7}`, 400, ``},
		{"PUT", "/admin/quota", `{"max_bytes":2147483648}`, 200, `{"username":"__GLOBAL_DEFAULT__","max_bytes":"i","default_quota_bytes":"i"}`},
		{"DELETE", "/admin/quota", `{"username":"somebody"}`, 200, `{"reset":"S"}`},
		{"DELETE", "/admin/quota", `{}`, 200, `{"reset":"S"}`},
		{"GET", "/admin/message-size", `{}`, 200, message + `}`},
		{"PUT", "/admin/message-size", `{"size":"20M"}`, 200, message + `,"size":"20M"}`},
		{"PUT", "/admin/message-size", `{}`, 400, ``},
		{"DELETE", "/admin/message-size", `{}`, 200, message + `,"reset":"b"}`},
		{"GET", "/admin/federation-size", `{}`, 200, federation + `}`},
		{"PUT", "/admin/federation-size", `{"size":"20M"}`, 200, federation + `,"size":"20M"}`},
		{"PUT", "/admin/federation-size", `{"size":" "}`, 400, ``},
		{"DELETE", "/admin/federation-size", `{}`, 200, federation + `,"reset":"b"}`},
		{"POST", "/admin/dns", `{"lookup_key":"peer.example","target_host":"192.0.2.7","comment":"x"}`, 201, `{"lookup_key":"S","target_host":"S","comment":"S"}`},
		{"GET", "/admin/dns", `{}`, 200, `{"overrides":[{"lookup_key":"S","target_host":"S","comment?":"s"}],"total":"i"}`},
		{"DELETE", "/admin/dns", `{"lookup_key":"never.example"}`, 200, `{"deleted":"never.example"}`},
		{"POST", "/admin/exchangers", `{"name":"relief","url":"https://box.example"}`, 201, formBox},
		{"GET", "/admin/exchangers", `{}`, 200, `{"exchangers":[` + formBox + `],"total":"i"}`},
		{"PUT", "/admin/exchangers", `{"name":"relief","enabled":false}`, 200, `{"updated":"relief"}`},
		{"DELETE", "/admin/exchangers", `{"name":"relief"}`, 200, `{"deleted":"relief"}`},
		{"POST", "/admin/registration-token", `{"max_uses":0,"comment":"c","expires_in":"1h30m"}`, 201, strings.Replace(formToken, "expires_at?", "expires_at", 1)},
		{"POST", "/admin/registration-token", `{"token":"club","max_uses":5,"expires_in":"7d"}`, 201, formToken},
		{"POST", "/admin/registration-token", `{"token":"club","max_uses":5,"expires_at":"2099-01-02T03:04:05Z"}`, 200, formToken},
		{"POST", "/admin/registration-token", `{"token":"club","expires_in":"soon"}`, 400, ``},
		{"GET", "/admin/registration-token", `{}`, 200, `{"tokens":[` + formToken + `],"total":"i"}`},
		{"DELETE", "/admin/registration-token", `{"token":"club"}`, 200, `{"deleted":"club"}`},
		{"DELETE", "/admin/registration-token", `{"token":"club"}`, 404, ``},
		{"GET", "/admin/notice", `{}`, 200, `{"total_users":"i","domain":"S"}`},
		{"POST", "/admin/notice", `{"subject":"s","body":"b","recipient":"somebody"}`, 200, `{"sent":"i","failed":"i","errors?":["S"]}`},
		{"POST", "/admin/notice", `{"subject":"s\r\nBcc: x","body":"b"}`, 400, ``},
		{"GET", "/admin/queue", `{}`, 405, ``},
		{"GET", "/admin/queue/stats", `{}`, 200, `{"count":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_read"}`, 200, `{"action":"purge_read","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_read","retention":"24h"}`, 200, `{"action":"purge_read","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_read_blobs"}`, 200, `{"action":"S","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_older","retention":"720h"}`, 200, `{"action":"S","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_older"}`, 400, ``},
		{"POST", "/admin/queue", `{"action":"purge_blobs_older","retention":"-1h"}`, 400, ``},
		{"POST", "/admin/queue", `{"action":"purge_blobs_older","retention":"1h"}`, 200, `{"action":"S","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_user"}`, 400, ``},
		{"POST", "/admin/queue", `{"action":"purge_user","username":"somebody"}`, 200, `{"action":"S","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_blobs"}`, 200, `{"action":"S","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_all"}`, 200, `{"action":"S","message":"S","deleted":"i"}`},
		{"POST", "/admin/queue", `{"action":"purge_queue"}`, 200, `{"action":"S","message":"S","deleted":"i"}`},
		{"POST", "/admin/federation/rules", `{"domain":"[192.0.2.9]"}`, 200, `{"domain":"S","total":"i"}`},
		{"GET", "/admin/federation/rules", `{}`, 200, `{"rules":[` + rules + `],"total":"i"}`},
		{"DELETE", "/admin/federation/rules", `{"domain":"192.0.2.9"}`, 200, `{"domain":"S","remaining":"i"}`},
		{"DELETE", "/admin/federation/rules", `{"domain":"192.0.2.9"}`, 200, `{"domain":"192.0.2.9","remaining":"i"}`},
		{"DELETE", "/admin/federation/silent-dismiss", `{"domain":"never.example"}`, 200, `{"domain":"never.example","remaining":"i"}`},
		{"POST", "/admin/federation/silent-dismiss", `{"domain":"gone.example"}`, 200, `{"domain":"S","total":"i"}`},
		{"GET", "/admin/federation/silent-dismiss", `{}`, 200, `{"domains":["S"],"total":"i"}`},
		{"DELETE", "/admin/federation/silent-dismiss", `{"domain":"gone.example"}`, 200, `{"domain":"S","remaining":"i"}`},
		{"GET", "/admin/federation/servers", `{}`, 200, `{"servers":[{"domain":"S","queued_messages":"i","failed_http":"i","failed_https":"i","failed_smtp":"i","success_http":"i","success_https":"i",
			"success_smtp":"i","inbound_deliveries":"i","successful_deliveries":"i","mean_latency_ms":"n","last_active":"i"}],"total":"i"}`},
		{"GET", "/admin/dkim", `{}`, 200, formKey + `}`},
		{"GET", "/admin/dkim/status", `{}`, 200, formKey + `,"dns_checked":"b","dns_matched":"b","dns_txt":["S"],"lookup_error?":"s"}`},
		{"GET", "/admin/dkim/check", `{}`, 200, `{"selector":"s","domain":"s","dns_name":"s","dns_fqdn":"s","expected_txt":"s","dns_txt":["S"],"matched":"b","checked":"b","reason?":"s","lookup_error?":"s"}`},
		{"GET", "/admin/tasks", `{}`, 200, `{"tasks":[{"name":"S","enabled":"b"}]}`},
		{"POST", "/admin/tasks", `{"task":"purge-seen"}`, 200, `{"task":"purge-seen"}`},
		{"GET", "/admin/config", `{}`, 200, `{"file":"S","values":[{"key":"S","value":"S"}],"notes":["S"],"settings":[{"key":"S","name":"S","value":"s","source":"S"}]}`},
		{"GET", "/admin/upgrade", `{}`, 200, `{"version":"S","build":"S","platform":"S","possible":"b","reason?":"S"}`},
		{"POST", "/admin/upgrade", `{"url":"https://127.0.0.1:1/x"}`, 400, ``},
		{"POST", "/admin/upgrade", `{"url":"/etc/passwd","confirm":true}`, 400, ``},
		{"POST", "/admin/upgrade", `{"url":"https://127.0.0.1:1/x","confirm":true}`, 403, ``},
		{"GET", "/admin/services/webhooks", `{}`, 200, formHooks},
		{"PUT", "/admin/services/webhooks", `{"url":"http://127.0.0.1:1/h","secret":"quiet","event_user_registered":false,"event_quota_exceeded":false,"timeout_seconds":1,"retry_attempts":0}`, 200, formHooks},
		{"PUT", "/admin/services/webhooks", `{"colour":"red"}`, 400, ``},
		{"PUT", "/admin/services/webhooks", `{"url":"http://hooks.example/h"}`, 400, ``},
		{"PUT", "/admin/services/webhooks", `{"timeout_seconds":31}`, 400, ``},
		{"PUT", "/admin/services/webhooks", `{"retry_attempts":6}`, 400, ``},
		{"POST", "/admin/services/webhooks", `{"action":"test"}`, 502, ``},
		{"POST", "/admin/services/webhooks", `{"action":"burn"}`, 400, ``},
		{"PUT", "/admin/services/webhooks", `{"url":"","secret":""}`, 200, formHooks},
		// Pages hide contact links while there are none.
		{"GET", "/admin/shares", `{}`, 404, ``},
		{"POST", "/admin/shares", `{"slug":"test-api-share","url":"openpgp4fpr:AAAA"}`, 404, ``},
		{"POST", "/admin/settings/contact_sharing_enabled", `{"action":"set","value":true}`, 200, formSV},
		{"GET", "/admin/shares", `{}`, 200, `{"shares":[],"total":"i"}`},
		{"POST", "/admin/shares", `{"slug":"test-api-share","url":"openpgp4fpr:AAAA","name":"Test Share"}`, 201, `{"slug":"test-api-share","url":"openpgp4fpr:AAAA","name":"Test Share"}`},
		{"POST", "/admin/shares", `{"slug":"Test-API-Share","url":"openpgp4fpr:AAAA"}`, 409, ``},
		{"POST", "/admin/shares", `{"slug":"panel","url":"https://example.org/"}`, 400, ``},
		{"POST", "/admin/shares", `{"slug":"panel"}`, 400, ``},
		{"POST", "/admin/shares", `{"url":"openpgp4fpr:AAAA"}`, 400, ``},
		{"POST", "/admin/shares", `{"slug":"admin","url":"openpgp4fpr:AAAA"}`, 400, ``},
		{"GET", "/admin/shares", `{}`, 200, `{"shares":[{"slug":"S","url":"S","name":"S","created_at":"t"}],"total":"i"}`},
		{"PUT", "/admin/shares", `{"slug":"test-api-share","url":"openpgp4fpr:BBBB","name":"Updated Share"}`, 200, `{"updated":"test-api-share"}`},
		{"PUT", "/admin/shares", `{"slug":"test-api-share"}`, 400, ``},
		{"PUT", "/admin/shares", `{"slug":"never","name":"x"}`, 404, ``},
		{"DELETE", "/admin/shares", `{"slug":"test-api-share"}`, 200, `{"deleted":"test-api-share"}`},
		{"DELETE", "/admin/shares", `{"slug":"test-api-share"}`, 404, ``},
		{"POST", "/admin/settings/contact_sharing_enabled", `{"action":"reset"}`, 200, formSV},
		{"DELETE", "/admin/shares", `{"slug":"test-api-share"}`, 404, ``},
	}
	for _, name := range []string{"registration/jit", "services/turn", "services/iroh", "services/admin_web", "services/auto_purge_seen", "services/message_retention", "services/shadowsocks",
		"services/log", "services/webimap", "services/websmtp", "services/ss_ws", "services/ss_grpc", "services/http_proxy"} {
		absent := name == "services/ss_grpc"
		list = append(list, asked{"GET", "/admin/" + name, `{}`, 200, formToggle}, asked{"POST", "/admin/" + name, `{"action":"flip"}`, 400, ``},
			asked{"DELETE", "/admin/" + name, `{}`, 405, ``}, asked{"POST", "/admin/" + name, `{"action":"disable"}`, 200, strings.Replace(formSwitch, "enabled|disabled", "disabled", 1)})
		switch {
		case absent:
			list = append(list, asked{"POST", "/admin/" + name, `{"action":"enable"}`, 400, ``})
		case name == "services/ss_ws", name == "services/http_proxy": // not configured
			list = append(list, asked{"POST", "/admin/" + name, `{"action":"enable"}`, 400, ``})
		case name != "services/shadowsocks":
			list = append(list, asked{"POST", "/admin/" + name, `{"action":"enable"}`, 200, strings.Replace(formSwitch, "enabled|disabled", "enabled", 1)})
		}
	}
	for _, name := range slices.Concat(pagePorts, pageValues, pageLocal, []string{"registration_token_required", "allow_inbound_remote_rcpt", "shared_port_imap", "shared_port_smtp"}) {
		list = append(list, asked{"GET", "/admin/settings/" + name, `{}`, 200, strings.Replace(formSV, `"key":"S"`, `"key":"__`+strings.ToUpper(name)+`__"`, 1)},
			asked{"POST", "/admin/settings/" + name, `{"action":"set"}`, 400, ``}, asked{"POST", "/admin/settings/" + name, `{"action":"change","value":"1"}`, 400, ``})
		if strings.HasSuffix(name, "_port") {
			list = append(list, asked{"POST", "/admin/settings/" + name, `{"action":"set","value":"70000"}`, 400, ``}, asked{"POST", "/admin/settings/" + name, `{"action":"set","value":0}`, 400, ``})
		}
		list = append(list, asked{"POST", "/admin/settings/" + name, `{"action":"reset"}`, 200, strings.Replace(formSV, `"key":"S"`, `"key":"__`+strings.ToUpper(name)+`__"`, 1)})
	}
	both := strings.TrimSuffix(formSV, "}") + `,"status":"enabled|disabled"}`
	list = append(list,
		asked{"POST", "/admin/settings/registration_token_required", `{"action":"enable"}`, 200, both}, asked{"POST", "/admin/settings/registration_token_required", `{"action":"set","value":false}`, 200, both},
		asked{"POST", "/admin/settings/turn_ttl", `{"action":"set","value":"-1"}`, 400, ``}, asked{"POST", "/admin/settings/dclogin_imap_security", `{"action":"set","value":"plain"}`, 400, ``},
		asked{"POST", "/admin/settings/language", `{"action":"set","value":"xx"}`, 400, ``}, asked{"POST", "/admin/settings/ss_cipher", `{"action":"set","value":"rc4"}`, 400, ``},
		asked{"POST", "/admin/settings/turn_realm", `{"action":"set","value":"a\nb"}`, 400, ``}, asked{"POST", "/admin/settings/turn_relay_port_min", `{"action":"set","value":"65000"}`, 200, formSV},
		asked{"POST", "/admin/settings/turn_relay_port_max", `{"action":"set","value":"64000"}`, 400, ``}, asked{"POST", "/admin/settings/turn_relay_port_min", `{"action":"reset"}`, 200, formSV},
		asked{"POST", "/admin/settings/sasl_local_only", `{"action":"set","value":"true"}`, 200, formSV},
		asked{"POST", "/admin/settings/admin_web_path", `{"action":"set","value":"panel/"}`, 200, strings.Replace(formSV, `"value":"s"`, `"value":"/panel"`, 1)},
		asked{"POST", "/admin/settings/admin_web_path", `{"action":"set","value":"/mxdeliv"}`, 400, ``},
		asked{"PATCH", "/admin/accounts", `{"action":"delete_all"}`, 200, `{"deleted":"i","errors?":["S"]}`})

	seen := make(map[string]bool)
	for _, c := range list {
		e := h.admin(c.method, c.resource, c.body)
		at := c.method + " " + c.resource
		seen[at] = true
		text := ""
		if e.Error != nil {
			text = *e.Error
		}
		if e.Status != c.status || (e.Error == nil) != (c.status < 400) || e.Resource != c.resource || e.Version == "" {
			t.Errorf("%s %s: %d %q %s, want %d", at, c.body, e.Status, text, e.Body, c.status)
			continue
		}
		if c.form == "" {
			if string(e.Body) != "null" {
				t.Errorf("%s %s: an error with the body %s", at, c.body, e.Body)
			}
			continue
		}
		compare(t, at+" "+c.body, c.form, e.Body)
	}
	// What the list does not ask would change without anybody noticing.
	for _, r := range adminrpc.Resources() {
		own := strings.TrimPrefix(r.Name, "/admin/settings/")
		if e, err := settings.Lookup(own); err == nil && own == e.Name() && !seen["GET "+r.Name] {
			continue // a setting that pages do not know
		}
		for _, m := range r.Methods {
			if at := m.Method + " " + r.Name; !seen[at] && at != "POST /admin/restart" {
				t.Errorf("%s is not compared", at)
			}
		}
	}
}

// TestAccountsOfPagesHaveTheUsualForm: twelve characters of name, 24 of password, also
// while registration is closed; tokens that nobody chose have 24 characters.
func TestAccountsOfPagesHaveTheUsualForm(t *testing.T) {
	h := newHouse(t)
	h.start()
	h.admin("POST", "/admin/registration", `{"action":"close"}`)
	m := h.admin("POST", "/admin/accounts", `{}`).fields(t)
	if email, password := m["email"].(string), m["password"].(string); !regexp.MustCompile(`^[a-z0-9]{12}@\[127\.0\.0\.1\]$`).MatchString(email) || !regexp.MustCompile(`^[A-Za-z0-9]{24}$`).MatchString(password) {
		t.Errorf("%v", m)
	}
	if m := h.admin("POST", "/admin/registration-token", `{}`).fields(t); len(m["token"].(string)) != 24 || m["max_uses"] != 1.0 {
		t.Errorf("%v", m)
	}
}
