package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var errorCases = []Case{
	{Name: "errors/ENOTDIR on the way", Run: errNotDir},
	{Name: "errors/EXDEV", Run: errXdev},
}

func errNotDir(t *testing.T, dir string) {
	f := filepath.Join(dir, "f")
	write(t, f, nil)
	_, err := os.Stat(filepath.Join(f, "x"))
	refuse(t, "stat", err, unix.ENOTDIR)
	_, err = os.ReadDir(f)
	refuse(t, "readdir", err, unix.ENOTDIR)
	refuse(t, "chdir", unix.Chdir(f), unix.ENOTDIR)
	refuse(t, "mkdir", unix.Mkdir(filepath.Join(f, "x"), 0o755), unix.ENOTDIR)
	_, err = os.Stat(filepath.Join(dir, "x", "y"))
	refuse(t, "stat below nothing", err, unix.ENOENT)
}

func errXdev(t *testing.T, dir string) {
	var here, there unix.Statfs_t
	must(t, unix.Statfs(dir, &here))
	must(t, unix.Statfs("/dev/shm", &there))
	if here.Fsid == there.Fsid {
		t.Fatal("the suite cannot run on /dev/shm: it is the other file system of this case")
	}
	f := filepath.Join(dir, "f")
	write(t, f, nil)
	other := filepath.Join("/dev/shm", filepath.Base(t.TempDir())+"-posix")
	refuse(t, "rename", unix.Rename(f, other), unix.EXDEV)
	refuse(t, "link", unix.Link(f, other), unix.EXDEV)
}
