package db

import (
	"context"
	"database/sql"
	"runtime/debug"
	"sync/atomic"
	"time"

	"madmail/internal/fault"
	"madmail/internal/logging"
)

const (
	queueLength = 1024                  // writes that may wait before Write itself waits
	batchLength = 256                   // writes per transaction
	batchTime   = 20 * time.Millisecond // after which a transaction takes no more writes
)

// The states of a job. It leaves waiting once, by compare-and-set.
const (
	jobWaiting int32 = iota
	jobTaken
	jobWithdrawn
)

type job struct {
	ctx   context.Context
	f     func(context.Context, *Tx) error
	state atomic.Int32
	after []func()
	err   error
	done  chan struct{}
}

// Tx is what a Write may do. It is valid until the function returns.
type Tx struct {
	Q
	job *job
}

// Exec runs a statement that returns no rows and says how many it changed.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	ctx = context.WithoutCancel(ctx)
	s, err := t.prepare(ctx, query)
	if err != nil {
		return 0, fault.Wrap(kindOf(err), err, "db: prepare")
	}
	res, err := s.ExecContext(ctx, args...)
	if err != nil {
		return 0, fault.Wrap(kindOf(err), err, "db: exec")
	}
	n, err := res.RowsAffected()
	return n, fault.Wrap(fault.Internal, err, "db: exec")
}

// AfterCommit registers f to run once the write is committed, before Write
// returns. Such functions run in the order of the commits, so a cache that is
// changed by them cannot end up older than its rows. They must not block.
func (t *Tx) AfterCommit(f func()) { t.job.after = append(t.job.after, f) }

// Write runs f in a transaction, in its turn. When f returns nil and Write
// returns nil, everything f did is committed; in any other case nothing is.
//
// f runs on the writing goroutine: it must be short, do nothing but
// statements, and never call Write. ctx ends the wait for a turn. A write
// that has begun is finished: its statements get a context that cannot be
// cancelled, because SQLite answers an interrupt by rolling back the whole
// transaction, and other writes share it.
//
// Errors are those of f; fault.Busy when the database cannot be written now
// or is closing.
func (d *DB) Write(ctx context.Context, f func(ctx context.Context, tx *Tx) error) error {
	defer d.writes.Since(time.Now())
	j := &job{ctx: context.WithoutCancel(ctx), f: f, done: make(chan struct{})}
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Busy, err, "db: write")
	}
	select {
	case <-d.closing:
		return fault.New(fault.Busy, "db: closing")
	default:
	}
	select {
	case d.queue <- j:
	case <-d.closing:
		return fault.New(fault.Busy, "db: closing")
	case <-ctx.Done():
		return fault.Wrap(fault.Busy, ctx.Err(), "db: wait for a turn to write")
	}
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		if j.state.CompareAndSwap(jobWaiting, jobWithdrawn) {
			return fault.Wrap(fault.Busy, ctx.Err(), "db: wait for a turn to write")
		}
	case <-d.gone:
		if j.state.CompareAndSwap(jobWaiting, jobWithdrawn) {
			return fault.New(fault.Busy, "db: closing")
		}
	}
	<-j.done // begun, and short
	return j.err
}

// write is the writing goroutine.
func (d *DB) write() {
	defer close(d.gone)
	for {
		select {
		case j := <-d.queue:
			d.batch(j)
		case <-d.closing:
			for {
				select {
				case j := <-d.queue:
					d.batch(j)
					continue
				default:
				}
				// Refreshes the statistics that the query planner uses; nobody waits for it.
				_, _ = d.w.ExecContext(context.Background(), "PRAGMA optimize")
				return
			}
		}
	}
}

// batch runs j and what waits behind it in one transaction.
func (d *DB) batch(j *job) {
	var jobs []*job
	finish := func(err error) {
		for _, j := range jobs {
			if err != nil && j.err == nil {
				j.err = err
			}
			if j.err == nil {
				for _, f := range j.after {
					f()
				}
			}
			close(j.done)
		}
	}
	begun := time.Now()
	if err := d.exec(beginWrite); err != nil {
		if j.state.CompareAndSwap(jobWaiting, jobTaken) {
			jobs = append(jobs, j)
		}
		finish(fault.Wrap(kindOf(err), err, "db: begin"))
		return
	}
	for j != nil {
		if j.state.CompareAndSwap(jobWaiting, jobTaken) {
			jobs = append(jobs, j)
			if err := d.run(j); err != nil {
				// The savepoint is lost, and with it the transaction: SQLite rolls
				// back by itself when the disk is full or unreadable.
				_ = d.exec("ROLLBACK")
				finish(fault.Wrap(fault.Busy, err, "db: transaction lost"))
				return
			}
		}
		if len(jobs) >= batchLength || time.Since(begun) > batchTime {
			break
		}
		select {
		case j = <-d.queue:
		default:
			j = nil
		}
	}
	if err := d.exec("COMMIT"); err != nil {
		_ = d.exec("ROLLBACK")
		finish(fault.Wrap(fault.Busy, err, "db: commit"))
		return
	}
	finish(nil)
}

// run does one job between savepoints. The job's own failure is noted in it;
// the error returned means that the whole transaction is lost.
func (d *DB) run(j *job) error {
	if err := d.exec("SAVEPOINT job"); err != nil {
		return err
	}
	if j.err = d.call(j); j.err != nil {
		if err := d.exec("ROLLBACK TO job"); err != nil {
			return err
		}
	}
	return d.exec("RELEASE job")
}

func (d *DB) call(j *job) (err error) {
	defer func() {
		if v := recover(); v != nil {
			d.log.Error("db: panic in a write", "value", v, "stack", string(debug.Stack()))
			err = fault.New(fault.Internal, "db: panic in a write")
		}
	}()
	return j.f(j.ctx, &Tx{Q: Q{prepare: d.prepare, steady: true}, job: j})
}

// prepare keeps one prepared statement per text on the writing connection.
func (d *DB) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	d.log.Log(ctx, logging.Trace, "sql", "statement", query) // never its values
	if s := d.wSQL[query]; s != nil {
		return s, nil
	}
	s, err := d.w.PrepareContext(ctx, query)
	if err == nil {
		d.wSQL[query] = s
	}
	return s, err
}

func (d *DB) exec(query string) error {
	ctx := context.Background()
	s, err := d.prepare(ctx, query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(ctx)
	return err
}
