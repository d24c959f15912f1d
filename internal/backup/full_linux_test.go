package backup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"madmail/internal/fault"
)

// TestADiskThatIsFull: a limit on the size of files fails writes as a full disk does. The
// error says what to look at, and neither copy nor half of one stays. The limit holds for
// a process, so another one has it.
func TestADiskThatIsFull(t *testing.T) {
	const from, to = "BACKUP_TEST_FROM", "BACKUP_TEST_TO"
	if dir := os.Getenv(from); dir != "" {
		var l syscall.Rlimit
		err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l)
		if err == nil {
			l.Cur = 64 << 10
			err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
		}
		if err == nil {
			_, err = Create(t.Context(), source(dir), os.Getenv(to), &Progress{})
		}
		fmt.Printf("full %v, busy %v, hint %s\n", errors.Is(err, syscall.EFBIG), fault.Is(err, fault.Busy), fault.HintOf(err))
		os.Exit(0)
	}
	dir, _ := wholeState(t)
	put(t, dir, map[string]string{"certs/large.pem": strings.Repeat("x", 1<<20)})
	dest := filepath.Join(t.TempDir(), "copy")
	child := exec.Command(os.Args[0], "-test.run=^TestADiskThatIsFull$")
	child.Env = append(os.Environ(), from+"="+dir, to+"="+dest)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "full true, busy true, hint is the disk full?") {
		t.Errorf("%v\n%s", err, out)
	}
	absent(t, dest, dest+".partial")
	if info, err := os.Stat(filepath.Join(dir, "certs", "large.pem")); err != nil || info.Size() != 1<<20 {
		t.Error(err)
	}
}
