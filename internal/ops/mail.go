package ops

import (
	"context"
	"fmt"
	"time"

	"madmail/internal/fault"
	"madmail/internal/settings"
	"madmail/internal/units"
	"madmail/internal/upkeep"
)

// Purge asks for the removal of messages.
type Purge struct {
	Username string `json:"username"` // "" for all accounts
	Which    string `json:"which"`    // all, read or unread
	Older    string `json:"older"`    // a duration; "" for any age
}

// Purged says what was removed.
type Purged struct {
	Deleted int `json:"deleted"`
}

// age reads a duration that must say something; "" is 0 where that is allowed.
func age(text string, needed bool) (time.Duration, error) {
	if text == "" && !needed {
		return 0, nil
	}
	n, err := units.ParseDuration(text)
	if err != nil || n <= 0 || n > 100*365*24*time.Hour {
		return 0, fault.WithHint(fault.Newf(fault.Invalid, "%.40q is not an age", text), `write "30d" or "12h"`)
	}
	return n, nil
}

func (d *Desk) purge(ctx context.Context, p Purge) (Purged, error) {
	older, err := age(p.Older, false)
	if err != nil {
		return Purged{}, err
	}
	pick := upkeep.Pick{Older: older}
	yes, no := true, false
	switch p.Which {
	case "", "all":
	case "read":
		pick.Seen = &yes
	case "unread":
		pick.Seen = &no
	default:
		return Purged{}, fault.Newf(fault.Invalid, "%.40q is none of all, read, unread", p.Which)
	}
	if p.Username != "" {
		if pick.Account, err = d.parse(p.Username); err != nil {
			return Purged{}, err
		}
		if !d.Accounts.Exists(pick.Account) && !isThere(d.Mail(pick.Account)) {
			return Purged{}, missing(fault.New(fault.NotFound, ""), pick.Account)
		}
	}
	n, err := d.Keeper.Purge(ctx, pick)
	return Purged{Deleted: n}, err
}

// Task is something that keeps the house in order.
type Task struct {
	Name        string   `json:"name"`
	Aliases     []string `json:"aliases"`
	Description string   `json:"description"`
	Enabled     bool     `json:"enabled"`
	Every       string   `json:"every,omitempty"`
}

// Tasks are all of them.
type Tasks struct {
	Tasks                  []Task  `json:"tasks"`
	MessageRetention       *string `json:"message_retention"`
	UnusedAccountRetention *string `json:"unused_account_retention"`
	PeriodicJobs           bool    `json:"periodic_jobs_enabled"`
}

// TaskRun asks for one task, now.
type TaskRun struct {
	Task      string `json:"task"`
	Retention string `json:"retention"`
}

// TaskDone says what a task did.
type TaskDone struct {
	Task            string `json:"task"`
	Skipped         bool   `json:"skipped"`
	Deleted         int    `json:"deleted"`
	DeletedMessages int    `json:"deleted_messages"`
	DeletedAccounts int    `json:"deleted_accounts"`
	Detail          string `json:"detail"`
	Renewed         *bool  `json:"renewed,omitempty"` // of renew-certificate
}

func (d *Desk) tasks(ctx context.Context, _ none) (Tasks, error) {
	r := Tasks{Tasks: []Task{}, PeriodicJobs: d.Status(ctx).Running}
	for _, t := range d.Keeper.Tasks() {
		on, _ := t.On()
		x := Task{Name: t.Name, Aliases: append([]string{}, t.Aliases...), Description: t.Doc, Enabled: on}
		if t.Every > 0 {
			x.Every = units.FormatDuration(t.Every)
		}
		r.Tasks = append(r.Tasks, x)
	}
	rules := d.Keeper.Rules()
	for _, x := range []struct {
		n  time.Duration
		to **string
	}{{rules.Retention, &r.MessageRetention}, {rules.Unused, &r.UnusedAccountRetention}} {
		if x.n > 0 {
			s := x.n.String()
			if x.n%time.Hour == 0 { // as in files of earlier versions: 720h
				s = fmt.Sprintf("%dh", x.n/time.Hour)
			}
			*x.to = &s
		}
	}
	return r, nil
}

func taskDone(o upkeep.Outcome) TaskDone {
	r := TaskDone{Task: o.Task, Skipped: o.Skipped, Deleted: o.Removed, Detail: o.Why}
	switch o.Task {
	case "prune-unused-accounts", "prune-dormant-accounts":
		r.DeletedAccounts = o.Removed
	case "prune-old-messages", "purge-seen", "prune-unread-older":
		r.DeletedMessages = o.Removed
	case "renew-certificate":
		renewed := o.Removed > 0
		r.Deleted, r.Renewed = 0, &renewed
	}
	return r
}

func (d *Desk) taskRun(ctx context.Context, p TaskRun) (TaskDone, error) {
	n, err := age(p.Retention, false)
	if err != nil {
		return TaskDone{}, err
	}
	o, err := d.Keeper.Run(ctx, p.Task, n)
	return taskDone(o), err
}

func (d *Desk) taskRunAll(ctx context.Context, _ none) (map[string][]TaskDone, error) {
	list := []TaskDone{}
	for _, t := range d.Keeper.Tasks() {
		if t.NeedsAge {
			continue
		}
		o, err := d.Keeper.Run(ctx, t.Name, 0)
		if err != nil {
			return nil, err
		}
		list = append(list, taskDone(o))
	}
	return map[string][]TaskDone{"outcomes": list}, nil
}

// Retention is how long messages are kept.
type Retention struct {
	Enabled   bool   `json:"enabled"`
	Days      int    `json:"days"`
	Retention string `json:"retention"`
}

func (d *Desk) retention(context.Context, none) (Retention, error) {
	n := d.Settings.Current().Duration(settings.Retention)
	return Retention{Enabled: d.Keeper.Rules().Retention > 0, Days: int(n / (24 * time.Hour)), Retention: d.Settings.Current().Value(settings.Retention)}, nil
}
