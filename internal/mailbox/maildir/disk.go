package maildir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"madmail/internal/fault"
	"madmail/internal/threads"
)

// disk is every change that the store makes to the file system, in one place,
// so that tests can fail the nth call or stop the world after it.
type disk struct {
	// hook is asked before each call; its error is the call's result.
	hook func(op, path string) error
}

func (d *disk) ask(op, path string) error {
	if d.hook == nil {
		return nil
	}
	return d.hook(op, path)
}

// create writes a new file; it fails when the file exists.
func (d *disk) create(path string, data []byte) error {
	if err := d.ask("create", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(path) // half a file is none
	}
	return err
}

// write writes a file anew, without making it durable.
func (d *disk) write(path string, data []byte) error {
	if err := d.ask("write", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return os.WriteFile(path, data, 0o600)
}

// extend appends to a file and then writes its first line anew, which has the
// same length as before. A partial append is taken back.
func (d *disk) extend(path string, data, first []byte) error {
	if err := d.ask("append", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		var end int64
		if end, err = f.Seek(0, io.SeekEnd); err == nil {
			if _, err = f.Write(data); err != nil {
				_ = f.Truncate(end)
			}
		}
	}
	if err == nil {
		_, err = f.WriteAt(first, 0)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// appendTo appends to a file that exists. A partial write is taken back.
func (d *disk) appendTo(path string, data []byte) error {
	if err := d.ask("append", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	n, err := f.Write(data)
	if err != nil && n > 0 {
		if st, serr := f.Stat(); serr == nil {
			_ = f.Truncate(st.Size() - int64(n))
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// replace puts a file in place of another, durably.
func (d *disk) replace(path string, data []byte) error {
	if err := d.ask("replace", path); err != nil {
		return err
	}
	if err := replaceFile(path, data); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

func replaceFile(path string, data []byte) error {
	threads.Enter()
	defer threads.Leave()
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

func (d *disk) link(from, to string) error {
	if err := d.ask("link", to); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return os.Link(from, to)
}

func (d *disk) rename(from, to string) error {
	if err := d.ask("rename", to); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return os.Rename(from, to)
}

func (d *disk) remove(path string) error {
	if err := d.ask("remove", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return os.Remove(path)
}

func (d *disk) mkdirAll(path string) error {
	if err := d.ask("mkdir", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return os.MkdirAll(path, 0o700)
}

func (d *disk) writeAt(f *os.File, p []byte, off int64) error {
	if err := d.ask("write", f.Name()); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	_, err := f.WriteAt(p, off)
	return err
}

func (d *disk) sync(f *os.File) error {
	if err := d.ask("sync", f.Name()); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return datasync(f)
}

func (d *disk) syncDir(path string) error {
	if err := d.ask("syncdir", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return syncDirectory(path)
}

// syncAll makes everything below dir durable.
func (d *disk) syncAll(dir string) error {
	if err := d.ask("syncall", dir); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	return syncFileSystem(dir)
}

// syncDirectory makes the names in a directory durable.
func syncDirectory(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrPermission) {
		return err // some systems cannot sync directories and say EINVAL or refuse
	}
	return nil
}

// trouble gives a failure of the disk its kind: the sender may try again.
func trouble(err error, doing string) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	e := fault.Wrap(fault.Busy, err, "maildir: "+doing)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e = fault.WithHint(e, "the disk is full; free some space, deliveries go on by themselves")
	}
	return e
}
