package ops

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"madmail/internal/account"
	"madmail/internal/fault"
)

// Transfer is an account on its way from or to another server. Times are unix
// seconds.
type Transfer struct {
	Username   string `json:"username"`
	Hash       string `json:"hash,omitempty"`
	Password   string `json:"password,omitempty"`
	MaxStorage int64  `json:"max_storage,omitempty"` // 0 default, negative none
	// AppendLimit is the largest message in octets, 0 for what holds for all.
	AppendLimit int64   `json:"append_limit,omitempty"`
	CreatedAt   *int64  `json:"created_at,omitempty"`
	FirstLogin  *int64  `json:"first_login_at,omitempty"`
	LastLogin   *int64  `json:"last_login_at,omitempty"`
	Blocked     *bool   `json:"blocked,omitempty"`
	Reason      *string `json:"block_reason,omitempty"`
}

// Transfers are accounts to take over.
type Transfers struct {
	Users []Transfer `json:"users"`
}

// Exported are the accounts of this server. Both names hold the same list:
// earlier versions and their documents differ.
type Exported struct {
	Users    []Transfer `json:"users"`
	Accounts []Transfer `json:"accounts"`
	Total    int        `json:"total"`
}

// Imported says what became of accounts that were to be taken over.
type Imported struct {
	Imported int      `json:"imported"`
	Skipped  int      `json:"skipped"`
	Errors   []string `json:"errors"`
}

// Bulk says what became of many.
type Bulk struct {
	Done   int      `json:"done"`
	Errors []string `json:"errors"`
}

func (d *Desk) export(_ context.Context, p struct{ Full bool }) (Exported, error) {
	list := []Transfer{}
	for _, x := range d.Accounts.Export() {
		t := Transfer{Username: x.Addr.Wire(), Hash: x.Hash}
		if p.Full {
			blocked := x.Blocked
			t.AppendLimit = d.Accounts.AppendLimit(x.Addr)
			t.MaxStorage, t.CreatedAt, t.FirstLogin, t.LastLogin, t.Blocked = x.OwnLimit, moment(x.CreatedAt), moment(x.FirstLogin), moment(x.LastLogin), &blocked
			if blocked {
				t.Reason = &x.BlockReason
			}
		}
		list = append(list, t)
	}
	return Exported{list, list, len(list)}, nil
}

// takeOver makes accounts, in one transaction for each account.MaxBatch of them. Those
// that are there already stay as they are.
func (d *Desk) takeOver(ctx context.Context, p Transfers) (Imported, error) {
	r := Imported{Errors: []string{}}
	for part := range slices.Chunk(p.Users, account.MaxBatch) {
		names, list := []string{}, []account.New{}
		for _, t := range part {
			n, ok, err := d.arriving(t)
			if err != nil {
				r.Errors = append(r.Errors, t.Username+": "+err.Error())
			}
			if !ok || err != nil {
				r.Skipped++
				continue
			}
			names, list = append(names, t.Username), append(list, n)
		}
		errs, err := d.Accounts.CreateMany(ctx, list)
		if err != nil {
			return r, fault.Wrap(fault.KindOf(err), err, fmt.Sprintf("%d accounts were imported before", r.Imported))
		}
		for i, err := range errs {
			if err == nil {
				r.Imported++
				continue
			}
			r.Skipped++
			if !fault.Is(err, fault.Exists) {
				r.Errors = append(r.Errors, names[i]+": "+err.Error())
			}
		}
	}
	return r, nil
}

// arriving is an account as it will be here; ok is false for rows of earlier versions
// that are none.
func (d *Desk) arriving(t Transfer) (n account.New, ok bool, err error) {
	name := strings.TrimSpace(t.Username)
	if name == "" || strings.HasPrefix(name, "__") {
		return n, false, nil
	}
	a, err := d.parse(name)
	if err != nil {
		return n, false, err
	}
	if !d.Domains.IsLocal(a.Domain()) {
		return n, false, fault.Newf(fault.Invalid, "%s is not a domain of this server", a.Domain())
	}
	if t.AppendLimit < 0 {
		return n, false, fault.New(fault.Invalid, "append_limit is negative")
	}
	n = account.New{Addr: a, Password: []byte(t.Password), Hash: t.Hash, Limit: t.MaxStorage, AppendLimit: t.AppendLimit}
	for _, x := range []struct {
		from *int64
		to   *int64
	}{{t.CreatedAt, &n.CreatedAt}, {t.FirstLogin, &n.FirstLogin}, {t.LastLogin, &n.LastLogin}} {
		if x.from != nil {
			*x.to = *x.from
		}
	}
	if n.Hash == "" && len(n.Password) == 0 {
		n.Password = []byte(rand.Text()) // nobody knows it: an operator sets another one
	}
	if t.Blocked != nil && *t.Blocked {
		n.BlockReason = "imported"
		if t.Reason != nil && *t.Reason != "" {
			if n.BlockReason, err = oneLine(*t.Reason); err != nil {
				return n, false, err
			}
		}
	}
	return n, true, nil
}

func (d *Desk) deleteAll(ctx context.Context, _ none) (Bulk, error) {
	r := Bulk{Errors: []string{}}
	for _, i := range d.Accounts.List() {
		if err := ctx.Err(); err != nil {
			return r, fault.Wrap(fault.Busy, err, "delete all")
		}
		if _, err := d.take(ctx, i.Addr, "bulk delete via admin"); err != nil {
			r.Errors = append(r.Errors, i.Addr.Wire()+": "+err.Error())
			continue
		}
		r.Done++
	}
	return r, nil
}

func (d *Desk) unbanAll(ctx context.Context, _ none) (Bulk, error) {
	r := Bulk{Errors: []string{}}
	for _, i := range d.Accounts.Blocks() {
		if err := d.Accounts.Unblock(ctx, i.Addr); err != nil {
			r.Errors = append(r.Errors, i.Addr.Wire()+": "+err.Error())
			continue
		}
		r.Done++
	}
	return r, nil
}
