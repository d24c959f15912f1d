package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"madmail/internal/importer"
	"madmail/internal/logging"
	"madmail/internal/share"
)

// importAtStart is the number of messages up to which a server imports the mail of the
// first version by itself. More take a while, and clients wait.
const importAtStart = 100_000

// importing says where the state of the first version is. ok is false where there is none.
func (a *App) importing() (o importer.Options, ok bool, err error) {
	o = importer.Options{DB: a.db, Store: a.store, StateDir: a.StateDir, Log: a.Log.Logger("import")}
	if a.accounts != nil {
		o.Exists = a.accounts.Exists
	}
	o.Free = func(path string) (int64, bool) {
		_, free, known := diskSpace(path)
		return free, known
	}
	if a.shares != nil {
		o.Shares = a.shares
	}
	if o.Index, o.Messages, err = a.conf.Load().OldMail.Paths(a.StateDir); err != nil {
		return o, false, err
	}
	// Contact links are where they were, or beside the index.
	if o.Sharing = absolute(a.conf.Load().SharingPath(a.StateDir)); !isFile(o.Sharing) {
		o.Sharing = filepath.Join(filepath.Dir(o.Index), share.FileName)
	}
	_, serr := os.Stat(o.Index)
	return o, !errors.Is(serr, os.ErrNotExist), nil
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// importTables takes over the small tables of the first version before their owners
// read them. What cannot be read does not keep the server from starting.
func (a *App) importTables(ctx context.Context) error {
	o, ok, err := a.importing()
	if err != nil {
		a.log.Warn("the first version's tables are not imported", "err", err)
		return nil
	}
	if !ok || a.opt.Offline {
		return nil
	}
	if _, err := importer.Tables(ctx, o); err != nil {
		a.log.Error("the first version's tables could not be imported", "err", err)
	}
	return ctx.Err()
}

// importMail takes over the mail of the first version, when there is not much of it.
func (a *App) importMail(ctx context.Context) error {
	o, ok, err := a.importing()
	if err != nil || !ok {
		return nil // said by importTables
	}
	n, err := importer.Waiting(ctx, o)
	switch {
	case err != nil:
		a.log.Error("the first version's mail could not be imported", "err", err)
		return ctx.Err()
	case n == 0:
		return nil
	case n >= importAtStart:
		a.log.Warn(`the first version's mail waits to be imported: stop the server, run "madmail import-v1", start it again`, "messages", n)
		return nil
	}
	o.Progress = func(r importer.Report) {
		_, _ = daemon.SdNotify(false, fmt.Sprintf("STATUS=importing mail: %d of %d messages are done\nEXTEND_TIMEOUT_USEC=%d", r.Messages, r.Total, time.Minute.Microseconds()))
	}
	r, err := importer.Run(ctx, o)
	if err != nil {
		a.log.Error(`the first version's mail was not imported; stop the server and run "madmail import-v1"`, "err", err)
		return ctx.Err()
	}
	a.log.Info("the first version's mail was imported", "mailboxes", r.Mailboxes, "messages", r.Messages, "skipped", r.NotTaken)
	return nil
}

// ImportV1 takes over the state of the first version. No server may run.
//
// Errors: ErrLocked, and those of importer.Run.
func ImportV1(ctx context.Context, opt Options, dryRun bool, progress func(importer.Report)) (importer.Report, error) {
	return importV1(ctx, opt, nil, dryRun, progress)
}

// ImportDump takes over the state of a first version that kept its tables in PostgreSQL.
// dump is what pg_dump says of them; bodies are in the state directory.
//
// Errors: those of ImportV1 and importer.Dump.
func ImportDump(ctx context.Context, opt Options, dump io.Reader, progress func(importer.Report)) (importer.Report, error) {
	return importV1(ctx, opt, dump, false, progress)
}

func importV1(ctx context.Context, opt Options, dump io.Reader, dryRun bool, progress func(importer.Report)) (r importer.Report, err error) {
	opt.Offline = true
	if opt.Env == nil {
		opt.Env = os.Getenv
	}
	if opt.Stderr == nil {
		opt.Stderr = io.Discard
	}
	a := &App{opt: opt, booted: time.Now(), Log: logging.NewRoot(), again: make(chan struct{}, 1)}
	a.log = a.Log.Logger("app")
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, a.Stop(stop))
	}()
	unpack := func(ctx context.Context) error {
		if dump == nil {
			return nil
		}
		_, err := importer.Dump(ctx, dump, a.StateDir)
		return err
	}
	for _, step := range []func(context.Context) error{a.openConfig, a.openState, unpack, a.openNouns, a.openStore} {
		if err := step(ctx); err != nil {
			return r, err
		}
	}
	o, _, err := a.importing()
	if err != nil {
		return r, err
	}
	o.DryRun, o.Progress = dryRun, progress
	return importer.Run(ctx, o)
}
