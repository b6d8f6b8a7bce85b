package posix

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var xattrCases = []Case{
	{Name: "xattr/set, get, list, remove", Run: xattrBasics},
	{Name: "xattr/flags", Run: xattrFlags},
	{Name: "xattr/sizes", Run: xattrSizes},
	{Name: "xattr/refusals", Run: xattrRefuse},
	{Name: "xattr/of a folder, and kept by rename and link", Run: xattrMoves},
	{Name: "xattr/trusted and permission", Root: true, Run: xattrTrusted},
}

func listxattr(t *testing.T, path string) []string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	var names []string
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if name != "" && !strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "system.") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

func xattrBasics(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	buf := make([]byte, 100)
	_, err := unix.Getxattr(path, "user.a", buf)
	refuse(t, "get of nothing", err, unix.ENODATA)
	refuse(t, "remove of nothing", unix.Removexattr(path, "user.a"), unix.ENODATA)
	must(t, unix.Setxattr(path, "user.a", []byte("one"), 0))
	must(t, unix.Setxattr(path, "user.b", []byte("\x00\xff binary"), 0))
	must(t, unix.Setxattr(path, "user.empty", nil, 0))
	n, err := unix.Getxattr(path, "user.a", buf)
	must(t, err)
	equal(t, "user.a", string(buf[:n]), "one")
	n, err = unix.Getxattr(path, "user.b", buf)
	must(t, err)
	equal(t, "user.b", string(buf[:n]), "\x00\xff binary")
	n, err = unix.Getxattr(path, "user.empty", buf)
	must(t, err)
	equal(t, "user.empty", n, 0)
	must(t, unix.Setxattr(path, "user.a", []byte("replaced"), 0))
	n, err = unix.Getxattr(path, "user.a", buf)
	must(t, err)
	equal(t, "user.a", string(buf[:n]), "replaced")
	equal(t, "names", strings.Join(listxattr(t, path), " "), "user.a user.b user.empty")
	must(t, unix.Removexattr(path, "user.b"))
	equal(t, "names", strings.Join(listxattr(t, path), " "), "user.a user.empty")
	f := open(t, path, os.O_RDONLY)
	n, err = unix.Fgetxattr(int(f.Fd()), "user.a", buf)
	must(t, err)
	equal(t, "by descriptor", string(buf[:n]), "replaced")
}

func xattrFlags(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	refuse(t, "replace of nothing", unix.Setxattr(path, "user.a", []byte("x"), unix.XATTR_REPLACE), unix.ENODATA)
	must(t, unix.Setxattr(path, "user.a", []byte("x"), unix.XATTR_CREATE))
	refuse(t, "create over one", unix.Setxattr(path, "user.a", []byte("y"), unix.XATTR_CREATE), unix.EEXIST)
	must(t, unix.Setxattr(path, "user.a", []byte("z"), unix.XATTR_REPLACE))
}

func xattrSizes(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	value := pattern(2000, 1)
	must(t, unix.Setxattr(path, "user.big", value, 0))
	n, err := unix.Getxattr(path, "user.big", nil)
	must(t, err)
	equal(t, "size asked for", n, 2000)
	_, err = unix.Getxattr(path, "user.big", make([]byte, 1999))
	refuse(t, "a small buffer", err, unix.ERANGE)
	buf := make([]byte, 2000)
	_, err = unix.Getxattr(path, "user.big", buf)
	must(t, err)
	sameBytes(t, "value", buf, value)
	n, err = unix.Listxattr(path, nil)
	must(t, err)
	if n < len("user.big")+1 {
		t.Errorf("the list takes %d bytes", n)
	}
	_, err = unix.Listxattr(path, make([]byte, 3))
	refuse(t, "a small buffer for the list", err, unix.ERANGE)
	refuse(t, "value over 64 KiB", unix.Setxattr(path, "user.c", make([]byte, 64<<10+1), 0), unix.E2BIG)
	long := "user." + strings.Repeat("n", 250)
	must(t, unix.Setxattr(path, long, []byte("x"), 0))
	refuse(t, "name over 255 bytes", unix.Setxattr(path, long+"n", []byte("x"), 0), unix.ERANGE)
}

func xattrRefuse(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	refuse(t, "a name without a known class", unix.Setxattr(path, "foo.bar", []byte("x"), 0), unix.EOPNOTSUPP)
	refuse(t, "a name without a class", unix.Setxattr(path, "foobar", []byte("x"), 0), unix.EOPNOTSUPP)
	must(t, os.Symlink("f", filepath.Join(dir, "l")))
	refuse(t, "user. on a symlink", unix.Lsetxattr(filepath.Join(dir, "l"), "user.a", []byte("x"), 0), unix.EPERM)
	refuse(t, "on nothing", unix.Setxattr(path+"x", "user.a", []byte("x"), 0), unix.ENOENT)
}

func xattrMoves(t *testing.T, dir string) {
	path := filepath.Join(dir, "d")
	must(t, os.Mkdir(path, 0o755))
	must(t, unix.Setxattr(path, "user.a", []byte("folder"), 0))
	must(t, os.Rename(path, path+"2"))
	buf := make([]byte, 10)
	n, err := unix.Getxattr(path+"2", "user.a", buf)
	must(t, err)
	equal(t, "after rename", string(buf[:n]), "folder")
	f := filepath.Join(dir, "f")
	write(t, f, nil)
	must(t, unix.Setxattr(f, "user.a", []byte("file"), 0))
	must(t, os.Link(f, f+"2"))
	must(t, os.Remove(f))
	n, err = unix.Getxattr(f+"2", "user.a", buf)
	must(t, err)
	equal(t, "by the other name", string(buf[:n]), "file")
}

func xattrTrusted(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Chmod(path, 0o644))
	must(t, unix.Setxattr(path, "trusted.a", []byte("x"), 0))
	must(t, unix.Setxattr(path, "user.a", []byte("y"), 0))
	refuse(t, "setting as one who may only read", as(t, userA, groupA, nil, func() error {
		return unix.Setxattr(path, "user.a", []byte("z"), 0)
	}), unix.EACCES)
	refuse(t, "trusted as a user", as(t, userA, groupA, nil, func() error {
		_, err := unix.Getxattr(path, "trusted.a", make([]byte, 10))
		return err
	}), unix.ENODATA, unix.EPERM)
	must(t, as(t, userA, groupA, nil, func() error {
		_, err := unix.Getxattr(path, "user.a", make([]byte, 10))
		return err
	}))
}
