package ops

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"

	"madmail/internal/account"
	"madmail/internal/fault"
)

// Transfer is an account on its way from or to another server. Times are unix
// seconds.
type Transfer struct {
	Username   string  `json:"username"`
	Hash       string  `json:"hash,omitempty"`
	Password   string  `json:"password,omitempty"`
	MaxStorage int64   `json:"max_storage,omitempty"` // 0 default, negative none
	CreatedAt  *int64  `json:"created_at,omitempty"`
	FirstLogin *int64  `json:"first_login_at,omitempty"`
	LastLogin  *int64  `json:"last_login_at,omitempty"`
	Blocked    *bool   `json:"blocked,omitempty"`
	Reason     *string `json:"block_reason,omitempty"`
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
			t.MaxStorage, t.CreatedAt, t.FirstLogin, t.LastLogin, t.Blocked = x.OwnLimit, moment(x.CreatedAt), moment(x.FirstLogin), moment(x.LastLogin), &blocked
			if blocked {
				t.Reason = &x.BlockReason
			}
		}
		list = append(list, t)
	}
	return Exported{list, list, len(list)}, nil
}

// importing bounds the accounts that are made at once: enough to share a commit.
const importing = 64

// takeOver makes accounts. Those that are there already stay as they are.
func (d *Desk) takeOver(ctx context.Context, p Transfers) (Imported, error) {
	r := Imported{Errors: []string{}}
	var mu sync.Mutex // guards r
	var wait sync.WaitGroup
	free := make(chan struct{}, importing)
	for i := range p.Users {
		if err := ctx.Err(); err != nil {
			wait.Wait()
			return r, fault.Wrap(fault.Busy, err, "import")
		}
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			made, err := d.takeOverOne(ctx, p.Users[i])
			mu.Lock()
			defer mu.Unlock()
			switch {
			case made:
				r.Imported++
			default:
				r.Skipped++
			}
			if err != nil {
				r.Errors = append(r.Errors, p.Users[i].Username+": "+err.Error())
			}
		})
	}
	wait.Wait()
	return r, nil
}

func (d *Desk) takeOverOne(ctx context.Context, t Transfer) (made bool, err error) {
	name := strings.TrimSpace(t.Username)
	if name == "" || strings.HasPrefix(name, "__") {
		return false, nil // rows of earlier versions that are no accounts
	}
	a, err := d.parse(name)
	if err != nil {
		return false, err
	}
	if !d.Domains.IsLocal(a.Domain()) {
		return false, fault.Newf(fault.Invalid, "%s is not a domain of this server", a.Domain())
	}
	n := account.New{Addr: a, Password: []byte(t.Password), Hash: t.Hash, Limit: t.MaxStorage}
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
	err = d.Accounts.Create(ctx, n)
	if fault.Is(err, fault.Exists) {
		return false, nil
	}
	if err == nil && t.Blocked != nil && *t.Blocked {
		reason := "imported"
		if t.Reason != nil && *t.Reason != "" {
			reason = *t.Reason
		}
		if reason, err = oneLine(reason); err == nil {
			err = d.Accounts.Block(ctx, a, reason)
		}
		return true, err
	}
	return err == nil, err
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
