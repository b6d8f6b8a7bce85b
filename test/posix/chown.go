package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var chownCases = []Case{
	{Name: "chown/as root", Root: true, Run: chownRoot},
	{Name: "chown/as an owner", Root: true, Run: chownOwner},
	{Name: "chown/clears setuid and setgid", Root: true, Run: chownClears},
}

func chownRoot(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, unix.Chown(path, userA, groupA))
	st := stat(t, path)
	equal(t, "uid", st.Uid, userA)
	equal(t, "gid", st.Gid, groupA)
	must(t, unix.Chown(path, -1, groupB))
	equal(t, "uid left alone", stat(t, path).Uid, userA)
	equal(t, "gid", stat(t, path).Gid, groupB)
	must(t, unix.Chown(path, userB, -1))
	equal(t, "uid", stat(t, path).Uid, userB)
	equal(t, "gid left alone", stat(t, path).Gid, groupB)
	must(t, os.Symlink("f", filepath.Join(dir, "l")))
	must(t, unix.Lchown(filepath.Join(dir, "l"), userA, groupA))
	equal(t, "uid of the symlink", stat(t, filepath.Join(dir, "l")).Uid, userA)
	equal(t, "uid of its target", stat(t, path).Uid, userB)
	must(t, unix.Chown(path, 4294967294, 4294967294))
	equal(t, "the largest uid", stat(t, path).Uid, 4294967294)
}

func chownOwner(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, unix.Chown(path, userA, groupA))
	refuse(t, "giving it away", as(t, userA, groupA, nil, func() error { return unix.Chown(path, userB, -1) }), unix.EPERM)
	refuse(t, "to a group one is not in", as(t, userA, groupA, nil, func() error { return unix.Chown(path, -1, groupB) }), unix.EPERM)
	must(t, as(t, userA, groupA, []int{groupB}, func() error { return unix.Chown(path, -1, groupB) }))
	equal(t, "gid", stat(t, path).Gid, groupB)
	refuse(t, "another's file", as(t, userB, groupB, nil, func() error { return unix.Chown(path, -1, groupB) }), unix.EPERM)
}

func chownClears(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	for _, c := range []struct{ mode, want uint32 }{{0o6755, 0o755}, {0o4644, 0o644}, {0o2755, 0o755}} {
		write(t, path, nil)
		must(t, unix.Chown(path, userA, groupA))
		must(t, unix.Chmod(path, c.mode))
		must(t, as(t, userA, groupA, []int{groupB}, func() error { return unix.Chown(path, -1, groupB) }))
		equal(t, "mode after chown by the owner", stat(t, path).Mode&0o7777, c.want)
		must(t, os.Remove(path))
	}
	must(t, unix.Chmod(dir, 0o2755))
	must(t, unix.Chown(dir, userA, groupA))
	equal(t, "mode of a folder after chown", stat(t, dir).Mode&0o7777, 0o2755)
	write(t, path, nil)
	must(t, unix.Chmod(path, 0o6755))
	must(t, unix.Chown(path, userA, groupA))
	equal(t, "mode after chown by root", stat(t, path).Mode&0o7777, 0o755)
}
