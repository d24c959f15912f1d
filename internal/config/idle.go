package config

// needs are keys that do nothing without another one.
var needs = []struct {
	keys    []string
	missing func(*Config) bool
	what    string
	hint    string
}{
	{[]string{"ss_addr"}, func(c *Config) bool { return c.SSPassword == "" },
		"needs a password, and the file has none", "set ss_password, or run madmail proxy password set"},
	{[]string{"ss_password", "ss_cipher", "ss_allowed_ports"}, func(c *Config) bool { return c.SSAddr == "" },
		"has no effect without ss_addr", `say where Shadowsocks listens, as in ss_addr = "0.0.0.0:8388"`},
	{[]string{"turn_enable"}, func(c *Config) bool { return c.TURNEnable && c.TURNSecret == "" },
		"needs a secret, and the file has none", "set turn_secret, or run madmail settings set turn_secret SECRET"},
	{[]string{
		"turn_secret", "turn_realm", "turn_ttl", "turn_listen_udp", "turn_listen_tls", "turn_relay_ip", "turn_relay_port_min", "turn_relay_port_max",
		"turn_max_per_user", "turn_max_per_address", "turn_max_allocations", "turn_rate", "turn_allow_private_peers", "turn_test_force_relay",
	}, func(c *Config) bool { return !c.TURNEnable }, "has no effect without turn_enable", "set turn_enable, if calls are to be relayed"},
	{[]string{"openmetrics_username", "openmetrics_password"}, func(c *Config) bool { return c.OpenMetricsListen == "" },
		"has no effect without openmetrics_listen", "say where, as in openmetrics_listen = \"127.0.0.1:9749\""},
	{[]string{"www_strict"}, func(c *Config) bool { return c.WWWDir == "" },
		"has no effect without www_dir", "name the directory of your pages"},
	{[]string{"acme_email", "acme_names", "acme_directory", "acme_root_ca"}, func(c *Config) bool { return !c.Orders() },
		"has no effect: tls_mode is neither autocert nor acme", ""},
	{[]string{"acme_http_listen"}, func(c *Config) bool { return c.TLSMode != "autocert" },
		"has no effect: tls_mode is not autocert", ""},
	{[]string{"acme_dns_provider", "acme_dns_token", "acme_dns_server"}, func(c *Config) bool { return c.TLSMode != "acme" },
		"has no effect: tls_mode is not acme", ""},
	{[]string{"mail_fsync"}, func(c *Config) bool { return c.MailFsync == "never" },
		"has no effect: what was acknowledged is always on disk", ""},
	{[]string{"blob_dedup"}, func(c *Config) bool { return c.BlobDedup != "" && !isYes(c.BlobDedup) },
		"has no effect: one body is always stored once for all its recipients", ""},
}

// Orders reports whether certificates are ordered from an authority.
func (c *Config) Orders() bool { return c.TLSMode == "autocert" || c.TLSMode == "acme" }

// idle finds keys of the file that have no effect beside the others. set says whether
// a key stands in the file, at says where.
func (c *Config) idle(set func(key string) bool, at func(key string) (file string, line int)) (notes []Problem) {
	for _, n := range needs {
		for _, key := range n.keys {
			if set(key) && n.missing(c) {
				file, line := at(key)
				notes = append(notes, Problem{file, line, key, n.what, n.hint})
			}
		}
	}
	return notes
}
