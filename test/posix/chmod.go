package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var chmodCases = []Case{
	{Name: "chmod/every bit", Run: chmodBits},
	{Name: "chmod/through a descriptor and a symlink", Run: chmodFd},
	{Name: "chmod/only the owner", Root: true, Run: chmodOwner},
	{Name: "chmod/setgid needs the group", Root: true, Run: chmodSetgid},
}

func chmodBits(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	for _, mode := range []uint32{0, 0o777, 0o4755, 0o2755, 0o1644, 0o7777, 0o644} {
		must(t, unix.Chmod(path, mode))
		equal(t, "mode", stat(t, path).Mode, unix.S_IFREG|mode)
	}
	must(t, unix.Chmod(dir, 0o1777))
	equal(t, "mode of the folder", stat(t, dir).Mode, unix.S_IFDIR|0o1777)
	refuse(t, "nothing", unix.Chmod(path+"x", 0o644), unix.ENOENT)
}

func chmodFd(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDONLY|os.O_CREATE)
	must(t, unix.Fchmod(int(f.Fd()), 0o604))
	equal(t, "mode", stat(t, path).Mode&0o777, 0o604)
	must(t, os.Symlink("f", filepath.Join(dir, "l")))
	must(t, unix.Chmod(filepath.Join(dir, "l"), 0o640))
	equal(t, "mode through the symlink", stat(t, path).Mode&0o777, 0o640)
	equal(t, "mode of the symlink", stat(t, filepath.Join(dir, "l")).Mode&0o777, 0o777)
}

func chmodOwner(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Chown(path, userA, groupA))
	must(t, as(t, userA, groupA, nil, func() error { return unix.Chmod(path, 0o640) }))
	refuse(t, "by another", as(t, userB, groupA, nil, func() error { return unix.Chmod(path, 0o666) }), unix.EPERM)
	equal(t, "mode", stat(t, path).Mode&0o777, 0o640)
}

func chmodSetgid(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Chown(path, userA, groupB))
	must(t, as(t, userA, groupA, nil, func() error { return unix.Chmod(path, 0o2755) }))
	equal(t, "mode set by an owner who is not in the group", stat(t, path).Mode&0o7777, 0o755)
	must(t, as(t, userA, groupA, []int{groupB}, func() error { return unix.Chmod(path, 0o2755) }))
	equal(t, "mode set by an owner who is", stat(t, path).Mode&0o7777, 0o2755)
}
