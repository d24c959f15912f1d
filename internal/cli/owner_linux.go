package cli

import (
	"fmt"
	"os"
	"os/user"
	"syscall"
)

// asOwner runs f with the rights of whoever owns the state directory, when this is
// root: what f makes must be readable for the server. runDir is made before, where
// only root can. Everything but the rights to files stays root's, and they come back.
func asOwner(dir, runDir string, f func() error) error {
	st, err := os.Stat(dir)
	if err != nil {
		return f() // it says what is wrong
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || owner.Uid == 0 {
		return f()
	}
	uid, gid := int(owner.Uid), int(owner.Gid)
	if _, err := os.Stat(runDir); os.IsNotExist(err) {
		if err := os.MkdirAll(runDir, 0o750); err != nil {
			return err
		}
		if err := os.Lchown(runDir, uid, gid); err != nil {
			return err
		}
	}
	oldGID := os.Getegid()
	if err := syscall.Setresgid(-1, gid, -1); err != nil {
		return err
	}
	defer func() { _ = syscall.Setresgid(-1, oldGID, -1) }() // root may
	if err := syscall.Setresuid(-1, uid, -1); err != nil {
		return err
	}
	defer func() { _ = syscall.Setresuid(-1, 0, -1) }() // the real user is root
	return f()
}

// foreignRoot is a warning when root starts a server in a state directory of somebody
// else, who will not be able to read what it makes; else "".
func foreignRoot(dir string) string {
	st, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return ""
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return ""
	}
	name := fmt.Sprint(owner.Uid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return fmt.Sprintf("%s belongs to %s, who cannot read what root makes there: start the service instead, and after this \"chown -R %s: %s\"", dir, name, name, dir)
}
