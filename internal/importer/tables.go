package importer

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// kind says how a column is stored here.
type kind uint8

const (
	text  kind = iota
	whole      // a number
	clock      // a time as text
	unix       // a time in unix seconds
)

// column is one that is taken over. Earlier programs may have called it otherwise.
type column struct {
	name string
	kind kind
	also []string
}

// table is one that is taken over. The first column is its key.
type table struct {
	from, to string
	columns  []column
	account  bool   // the key is an address
	order    string // of two rows with one key the first stays
	only     string // rows in which this number is above 0
	count    func(*Report) *int
}

func (c column) in(have []string) string {
	for _, n := range append([]string{c.name}, c.also...) {
		if slices.Contains(have, n) {
			return n
		}
	}
	return ""
}

// tables are the small ones. The ORM of the first version split HTTPS in two.
var tables = []table{
	{from: "quota", to: "quotas", account: true, order: "last_login_at", count: func(r *Report) *int { return &r.Quotas }, columns: []column{
		{name: "username"}, {name: "max_storage", kind: whole}, {name: "created_at", kind: unix}, {name: "first_login_at", kind: unix},
		{name: "last_login_at", kind: unix}, {name: "used_token"}}},
	{from: "users", to: "append_limits", account: true, only: "msgsizelimit", count: func(r *Report) *int { return &r.AppendLimits }, columns: []column{
		{name: "username"}, {name: "bytes", kind: whole, also: []string{"msgsizelimit"}}}},
	{from: "blocked_users", to: "blocked_users", account: true, count: func(r *Report) *int { return &r.Blocked }, columns: []column{
		{name: "username"}, {name: "reason"}, {name: "blocked_at", kind: clock}}},
	{from: "registration_tokens", to: "registration_tokens", count: func(r *Report) *int { return &r.Tokens }, columns: []column{
		{name: "token"}, {name: "max_uses", kind: whole}, {name: "used_count", kind: whole}, {name: "comment"}, {name: "expires_at", kind: clock}, {name: "created_at", kind: clock}}},
	{from: "dns_overrides", to: "dns_overrides", count: func(r *Report) *int { return &r.Overrides }, columns: []column{
		{name: "lookup_key"}, {name: "target_host"}, {name: "comment"}, {name: "created_at", kind: clock}, {name: "updated_at", kind: clock}}},
	{from: "federation_rules", to: "federation_rules", count: func(r *Report) *int { return &r.Rules }, columns: []column{
		{name: "domain"}, {name: "created_at", kind: unix}}},
	{from: "exchangers", to: "exchangers", count: func(r *Report) *int { return &r.Exchangers }, columns: []column{
		{name: "name"}, {name: "url"}, {name: "enabled", kind: whole}, {name: "poll_interval", kind: whole}, {name: "last_poll_at", kind: clock},
		{name: "created_at", kind: clock}, {name: "updated_at", kind: clock}}},
	{from: "message_stats", to: "message_stats", count: func(r *Report) *int { return &r.Stats }, columns: []column{{name: "name"}, {name: "count", kind: whole}}},
	{from: "federation_server_stats", to: "federation_server_stats", count: func(r *Report) *int { return &r.Stats }, columns: []column{
		{name: "domain"}, {name: "queued_messages", kind: whole}, {name: "failed_http", kind: whole}, {name: "failed_https", kind: whole, also: []string{"failed_http_s"}},
		{name: "failed_smtp", kind: whole}, {name: "success_http", kind: whole}, {name: "success_https", kind: whole, also: []string{"success_http_s"}},
		{name: "success_smtp", kind: whole}, {name: "inbound_deliveries", kind: whole}, {name: "successful_deliveries", kind: whole},
		{name: "total_latency_ms", kind: whole}, {name: "last_active", kind: unix}}},
}

// row is one to be written.
type row struct {
	names  []string
	values []any
}

// readTable reads what is understood of one table. Columns that are NULL are left to
// the defaults.
func (im *run) readTable(ctx context.Context, t table) ([]row, error) {
	have, err := columnsOf(ctx, im.old, t.from)
	if err != nil || len(have) == 0 {
		return nil, err
	}
	var cols []column
	var names []string
	for _, c := range t.columns {
		if n := c.in(have); n != "" {
			cols, names = append(cols, c), append(names, `"`+n+`"`)
		}
	}
	if len(cols) == 0 || cols[0].name != t.columns[0].name {
		im.skip(t.from, "", "the table has no column "+t.columns[0].name)
		return nil, nil
	}
	query := "SELECT " + strings.Join(names, ", ") + ` FROM "` + t.from + `"`
	if t.only != "" {
		if !slices.Contains(have, t.only) {
			return nil, nil
		}
		query += " WHERE " + t.only + " > 0"
	}
	if t.only == "" && slices.Contains(have, "deleted_at") { // the ORM marks rows instead of removing them
		query += " WHERE deleted_at IS NULL"
	}
	if t.order != "" && slices.Contains(have, t.order) {
		query += " ORDER BY " + t.order + " DESC"
	}
	rows, err := im.old.QueryContext(ctx, query)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "importer: read "+t.from)
	}
	defer rows.Close()
	var list []row
	seen := make(map[string]bool)
	for rows.Next() {
		r, err := scan(rows, cols)
		if err != nil {
			im.skip(t.from, "", "a row cannot be read: "+err.Error())
			continue
		}
		if len(r.names) == 0 || r.names[0] != cols[0].name {
			im.skip(t.from, "", "a row has no "+cols[0].name)
			continue
		}
		key, _ := r.values[0].(string)
		if t.account && !strings.HasPrefix(key, "__") {
			a, err := address.Parse(key)
			if err != nil {
				im.skip(t.from, key, "not an address")
				continue
			}
			r.values[0] = a.Wire()
		}
		if k := fmt.Sprint(r.values[0]); seen[k] {
			im.skip(t.from, key, "another spelling of a name that is kept")
			continue
		} else {
			seen[k] = true
		}
		list = append(list, r)
	}
	return list, fault.Wrap(fault.Invalid, rows.Err(), "importer: read "+t.from)
}

func scan(rows *sql.Rows, cols []column) (r row, err error) {
	dest := make([]any, len(cols))
	for i, c := range cols {
		switch c.kind {
		case text:
			dest[i] = new(sql.NullString)
		case whole:
			dest[i] = new(sql.Null[any])
		case clock, unix:
			dest[i] = new(db.Time)
		}
	}
	if err := rows.Scan(dest...); err != nil {
		return r, err
	}
	for i, c := range cols {
		var v any
		switch d := dest[i].(type) {
		case *sql.NullString:
			if d.Valid {
				v = d.String
			}
		case *sql.Null[any]:
			switch n := d.V.(type) {
			case int64:
				v = n
			case float64:
				v = int64(n)
			case bool:
				v = map[bool]int64{true: 1}[n]
			}
		case *db.Time:
			// A time of 0 means never, in either form.
			if d.Valid && d.Unix() > 0 {
				if v = *d; c.kind == unix {
					v = d.Unix()
				}
			}
		}
		if v != nil {
			r.names, r.values = append(r.names, c.name), append(r.values, v)
		}
	}
	return r, nil
}

// importTables takes the small tables over, all or none. Rows that are here win.
func (im *run) importTables(ctx context.Context) error {
	if im.done[markTables] {
		return nil
	}
	all := make([][]row, len(tables))
	for i, t := range tables {
		var err error
		if all[i], err = im.readTable(ctx, t); err != nil {
			return err
		}
	}
	if im.o.DryRun {
		for i, t := range tables {
			*t.count(&im.report) += len(all[i])
		}
		return nil
	}
	return im.o.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		for i, t := range tables {
			for _, r := range all[i] {
				n, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %q ("%s") VALUES (%s) ON CONFLICT DO NOTHING`, t.to,
					strings.Join(r.names, `", "`), strings.TrimSuffix(strings.Repeat("?, ", len(r.names)), ", ")), r.values...)
				if err != nil {
					return err
				}
				*t.count(&im.report) += int(n)
			}
		}
		return im.mark(ctx, tx, markTables)
	})
}

// columnsOf lists the columns of a table of the first version; none when it is absent.
func columnsOf(ctx context.Context, d *sql.DB, table string) ([]string, error) {
	rows, err := d.QueryContext(ctx, "SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "importer: inspect "+table)
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var n string
		if err := rows.Scan(&n); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "importer: inspect "+table)
		}
		list = append(list, n)
	}
	return list, fault.Wrap(fault.Invalid, rows.Err(), "importer: inspect "+table)
}
