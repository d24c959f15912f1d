package adminrpc

import (
	"context"

	"madmail/internal/ops"
	"madmail/internal/settings"
)

// Resources returns the table: every resource that this server has, in the order
// of the documentation. A part that is not built in has no row, and so answers as
// unknown.
func Resources() []Resource {
	table := []Resource{
		{Name: "/admin/status", Methods: []Method{
			{Method: "GET", Doc: "How the server is, in numbers.", run: status,
				Reply: "version, users{registered}, uptime{boot_time, duration}, sent_messages, outbound_messages, received_messages, imap, smtp, submission, turn, shadowsocks, email_servers, federation_traffic, message_retention, push"}}},
		{Name: "/admin/overview", Methods: []Method{
			{Method: "GET", Doc: "What a page needs when it opens.", run: overview, Reply: "all of /admin/status, disk, tokens{total}, settings, live{sessions, messages_per_second, queue}"}}},
		{Name: "/admin/storage", Methods: []Method{
			{Method: "GET", Doc: "What the server takes on disk.", run: passOn("storage"), Reply: "disk{total_bytes, used_bytes, available_bytes, percent_used}, state_dir{path, size_bytes}, database{driver, size_bytes}"}}},
		{Name: "/admin/listener-ports", Aliases: []string{"/admin/listener_ports", "/admin/listener/ports"}, Methods: []Method{
			{Method: "GET", Doc: "The sockets that are bound at this moment.", run: passOn("ports.bound"), Reply: "smtp_addr, submission_plain_addr, ..., http_tls_port, listeners[{service, proto, addr, port, tls, source}]"}}},
		{Name: "/admin/restart", Methods: []Method{
			{Method: "POST", Doc: "Stop and start in the same process.", run: passOn("restart"), Reply: "status, message", Changes: true}}},
		{Name: "/admin/reload", Methods: []Method{
			{Method: "POST", Doc: "Read configuration, settings, accounts and certificates anew. Sessions stay.", run: reload, Request: "scope (full, http), wait", Reply: "status, message", Changes: true}}},
		{Name: "/admin/config", Methods: []Method{
			{Method: "GET", Doc: "The configuration as it counts, secrets hidden.", run: passOn("config"), Reply: "file, values[{key, value}], notes[], settings[{key, name, value, source, ...}]"}}},
		{Name: "/admin/upgrade", Methods: []Method{
			{Method: "GET", Doc: "What runs, what was installed last, and whether the server can upgrade itself.", run: passOn("upgrade.status"),
				Reply: "version, build, platform, last_upgrade{version, installed_at, source, source_url, signature_ok}, possible, reason"},
			{Method: "POST", Doc: "Fetch a signed program, verify it and restart with it.", Request: "url (an address, or latest), confirm (true)", Reply: "status, version, previous, signature_ok, message", Changes: true,
				run: func(ctx context.Context, c *call) (int, any, error) {
					var p ops.UpgradeRequest
					if err := c.read(&p); err != nil {
						return 0, nil, err
					}
					return reply(do[any](ctx, c, "upgrade", p))
				}}}},
		{Name: "/admin/cache/reload", Methods: []Method{
			{Method: "POST", Doc: "Read the accounts anew from the database.", run: cacheReload, Reply: "credentials_cache_reloaded, quota_cache_reloaded, message", Changes: true}}},

		{Name: "/admin/registration", Methods: registration()},
		{Name: "/admin/registration/jit", Methods: toggle(jitKey, "Whether a first login makes an account.")},
		{Name: "/admin/services/turn", Methods: toggle(turnKey, "Relay calls.")},
		{Name: "/admin/services/iroh", Methods: toggle(irohKey, "Announce the relay for realtime channels.")},
		{Name: "/admin/services/push", Methods: push()},
		{Name: "/admin/services/admin_web", Methods: toggle(adminWebKey, "Serve the operators' page.")},
		{Name: "/admin/services/auto_purge_seen", Methods: toggle(purgeKey, "Remove messages soon after they were read.")},
		{Name: "/admin/services/message_retention", Methods: toggle(retentionKey, "Remove messages that are older than the retention time.")},
		{Name: "/admin/services/webimap", Methods: toggle(settings.WebIMAPEnabled, "Serve mail access for browsers.")},
		{Name: "/admin/services/websmtp", Methods: toggle(settings.WebSMTPEnabled, "Serve sending for browsers.")},
		{Name: "/admin/services/webmail_dev", Methods: webmailDev()},
		{Name: "/admin/services/shadowsocks", Methods: shadowsocks(settings.SSEnabled, "Serve Shadowsocks.")},
		{Name: "/admin/services/ss_ws", Methods: shadowsocks(settings.SSWSEnabled, "Serve Shadowsocks inside WebSocket.")},
		{Name: "/admin/services/ss_grpc", Methods: absent(settings.SSGRPCEnabled, "Shadowsocks inside gRPC.", "Shadowsocks inside gRPC")},
		{Name: "/admin/services/http_proxy", Methods: toggle(settings.HTTPProxyEnabled, "Serve an HTTP proxy to the mail ports, once it has a password.")},
		{Name: "/admin/services/log", Methods: logging()},
		{Name: "/admin/services/webhooks", Methods: webhooks()},

		{Name: "/admin/settings", Methods: []Method{
			{Method: "GET", Doc: "All settings at once, as pages read them.", run: allSettings, Reply: "switches as enabled/disabled, settings as {key, value, is_set, restart_required}"}}},
		{Name: "/admin/settings/federation", Methods: federationSettings()},

		{Name: "/admin/accounts", Methods: accounts()},
		{Name: "/admin/blocklist", Methods: blocklist()},
		{Name: "/admin/quota", Methods: quota()},
		{Name: "/admin/message-size", Methods: messageSize()},
		{Name: "/admin/federation-size", Methods: federationSize()},
		{Name: "/admin/dns", Methods: endpoints()},
		{Name: "/admin/exchangers", Methods: exchangers()},
		{Name: "/admin/shares", Methods: shares()},
		{Name: "/admin/dkim", Methods: []Method{{Method: "GET", Doc: "The signing key and the record that publishes it.", run: dkim(false),
			Reply: "selector, domain, dns_name, dns_fqdn, private_key_path, txt_path, txt, key_present, generated, publishable, reason"}}},
		{Name: "/admin/dkim/check", Methods: []Method{{Method: "GET", Doc: "Compare the published record with the key.", run: dkimCheck,
			Reply: "selector, domain, dns_name, dns_fqdn, expected_txt, dns_txt[], matched, checked, reason, lookup_error"}}},
		{Name: "/admin/dkim/status", Methods: []Method{{Method: "GET", Doc: "The key, and what the DNS says.", run: dkim(true),
			Reply: "as /admin/dkim, and dns_checked, dns_matched, dns_txt[], lookup_error"}}},
		{Name: "/admin/registration-token", Methods: tokens()},
		{Name: "/admin/notice", Methods: notice()},
		{Name: "/admin/queue", Methods: queue()},
		{Name: "/admin/queue/stats", Methods: []Method{
			{Method: "GET", Doc: "The queue to other servers.", run: passOn("queue.status"), Reply: "count, delivering, destinations, set_aside, oldest_expires, path, ..."}}},
		{Name: "/admin/federation/rules", Methods: rules()},
		{Name: "/admin/federation/silent-dismiss", Methods: dismissals()},
		{Name: "/admin/federation/servers", Methods: []Method{
			{Method: "GET", Doc: "What happened with each other server.", run: servers, Request: listFields,
				Reply: "servers[{domain, queued_messages, failed_http, failed_https, failed_smtp, success_http, success_https, success_smtp, inbound_deliveries, successful_deliveries, mean_latency_ms, last_active}], total"}}},
		{Name: "/admin/tasks", Methods: tasks()},
	}
	return append(table, settingResources()...)
}

const listFields = "limit, offset, query, sort"
