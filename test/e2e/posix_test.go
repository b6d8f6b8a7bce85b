package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"dfs/test/posix"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

func TestPosixSuite(t *testing.T) {
	posix.Run(t, folder(t))
}

// notYet are cases of go-fuse's suite for calls that dfs refuses (docs/posix.md);
// our own suite checks that the refusal is clean.
var notYet = map[string]string{
	"FcntlFlockLocksFile": "wants a POSIX lock to exclude another descriptor of the same process, which POSIX says it does not; go-fuse leaves it out too",
}

func TestGoFusePosixSuite(t *testing.T) {
	dir := folder(t)
	for name, run := range posixtest.All {
		if _, ok := notYet[name]; ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			sub := filepath.Join(dir, name)
			mkdir(t, sub)
			run(t, sub)
		})
	}
}

func TestFallocateOfMoreThanThereIs(t *testing.T) {
	dir := folder(t)
	f, err := os.Create(filepath.Join(dir, "large"))
	must(t, err)
	defer f.Close()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize+1<<34); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("of 16 GiB more than there is: %v, want ENOSPC", err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%v, %v; want that nothing has changed", info, err)
	}
	must(t, unix.Fallocate(int(f.Fd()), 0, 0, 1<<30))
}
