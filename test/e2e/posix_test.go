package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

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

// TestFilesByHandle: a handle is good on every mount, for as long as the file is there.
func TestFilesByHandle(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	dir := filepath.Join(a.dir, "handles", "deep", "er")
	mkdir(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("by handle"), 0o644))
	root, err := unix.Open(b.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(root)
	open := func(h unix.FileHandle) (*os.File, error) {
		fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY|unix.O_CLOEXEC)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), "handle"), nil
	}
	file, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(dir, "f"), 0)
	must(t, err)
	folder, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0)
	must(t, err)
	f, err := open(file)
	must(t, err)
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != "by handle" {
		t.Errorf("%q, %v", got, err)
	}
	d, err := open(folder)
	must(t, err)
	defer d.Close()
	if names, err := d.Readdirnames(-1); err != nil || len(names) != 1 || names[0] != "f" {
		t.Errorf("%v, %v", names, err)
	}
	if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.Fd())); err != nil || path != filepath.Join(b.dir, "handles", "deep", "er") {
		t.Errorf("the folder is %s, %v", path, err)
	}
	must(t, f.Close())
	must(t, os.Remove(filepath.Join(dir, "f")))
	must(t, eventually(10*time.Second, "ESTALE for a file that was removed", func() error {
		time.Sleep(time.Second) // each successful open keeps the file until its close was told
		f, err := open(file)
		if errors.Is(err, unix.ESTALE) {
			return nil
		}
		if err == nil {
			f.Close()
		}
		return fmt.Errorf("open: %v", err)
	}))
}
