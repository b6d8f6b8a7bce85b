package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var symlinkCases = []Case{
	{Name: "symlink/readlink gives back every byte", Run: symlinkTarget},
	{Name: "symlink/refusals", Run: symlinkRefuse},
	{Name: "symlink/chains and loops", Run: symlinkLoop},
	{Name: "symlink/attributes", Run: symlinkAttr},
}

func symlinkTarget(t *testing.T, dir string) {
	for i, target := range []string{"x", "/absolute/path", "../up", strings.Repeat("long/", 800), strings.Repeat("y", 4095), "odd \xff\n\t bytes"} {
		path := filepath.Join(dir, fmt.Sprintf("l%d", i))
		must(t, unix.Symlink(target, path))
		got, err := os.Readlink(path)
		must(t, err)
		equal(t, "target", got, target)
		equal(t, "size", stat(t, path).Size, int64(len(target)))
	}
	buf := make([]byte, 3)
	n, err := unix.Readlink(filepath.Join(dir, "l1"), buf)
	must(t, err)
	equal(t, "a small buffer cuts", string(buf[:n]), "/ab")
}

func symlinkRefuse(t *testing.T, dir string) {
	write(t, filepath.Join(dir, "f"), nil)
	refuse(t, "empty target", unix.Symlink("", filepath.Join(dir, "l")), unix.ENOENT)
	refuse(t, "over a file", unix.Symlink("x", filepath.Join(dir, "f")), unix.EEXIST)
	refuse(t, "target too long", unix.Symlink(strings.Repeat("y", 4096), filepath.Join(dir, "l")), unix.ENAMETOOLONG)
	_, err := unix.Readlink(filepath.Join(dir, "f"), make([]byte, 10))
	refuse(t, "readlink of a file", err, unix.EINVAL)
	_, err = unix.Readlink(dir, make([]byte, 10))
	refuse(t, "readlink of a folder", err, unix.EINVAL)
}

func symlinkLoop(t *testing.T, dir string) {
	must(t, os.Symlink("self", filepath.Join(dir, "self")))
	_, err := os.Stat(filepath.Join(dir, "self"))
	refuse(t, "a loop of one", err, unix.ELOOP)
	must(t, os.Symlink("b", filepath.Join(dir, "a")))
	must(t, os.Symlink("a", filepath.Join(dir, "b")))
	_, err = os.Stat(filepath.Join(dir, "a", "x"))
	refuse(t, "a loop of two", err, unix.ELOOP)
	write(t, filepath.Join(dir, "c0"), []byte("end"))
	for i := 1; i <= 40; i++ {
		must(t, os.Symlink(fmt.Sprintf("c%d", i-1), filepath.Join(dir, fmt.Sprintf("c%d", i))))
	}
	same(t, filepath.Join(dir, "c40"), []byte("end"))
	must(t, os.Symlink("c40", filepath.Join(dir, "c41")))
	_, err = os.Stat(filepath.Join(dir, "c41"))
	refuse(t, "41 links", err, unix.ELOOP)
}

func symlinkAttr(t *testing.T, dir string) {
	write(t, filepath.Join(dir, "f"), []byte("x"))
	path := filepath.Join(dir, "l")
	must(t, os.Symlink("f", path))
	equal(t, "mode", stat(t, path).Mode, unix.S_IFLNK|0o777)
	ts := []unix.Timespec{{Sec: 1000, Nsec: 1}, {Sec: 2000, Nsec: 2}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
	equal(t, "the link's mtime", stat(t, path).Mtim, ts[1])
	if stat(t, filepath.Join(dir, "f")).Mtim == ts[1] {
		t.Error("the target's mtime changed too")
	}
}
