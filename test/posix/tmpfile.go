package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var tmpfileCases = []Case{
	{Name: "tmpfile/has no name, and bytes", Run: tmpfileBasics},
	{Name: "tmpfile/gets a name by linkat", Run: tmpfileLink},
	{Name: "tmpfile/gets a name by AT_EMPTY_PATH", Root: true, Run: tmpfileEmptyPath},
	{Name: "tmpfile/with O_EXCL never gets one", Run: tmpfileExcl},
	{Name: "tmpfile/loses its name again", Run: tmpfileUnlink},
	{Name: "tmpfile/refusals", Run: tmpfileRefuse},
	{Name: "tmpfile/owner and permission", Root: true, Run: tmpfileOwner},
}

func tmpfile(t *testing.T, dir string, flags int, mode uint32) *os.File {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_TMPFILE|flags, mode)
	must(t, err)
	f := os.NewFile(uintptr(fd), "tmpfile")
	t.Cleanup(func() { f.Close() })
	return f
}

// name gives an open file a name as programs do that have no capabilities.
func name(f *os.File, path string) error {
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
}

func tmpfileBasics(t *testing.T, dir string) {
	before := stat(t, dir)
	f := tmpfile(t, dir, unix.O_RDWR, 0o666)
	st := fstat(t, f.Fd())
	equal(t, "links", st.Nlink, 0)
	equal(t, "mode", st.Mode, unix.S_IFREG|0o644)
	equal(t, "size", st.Size, 0)
	data := pattern(300<<10, 1)
	_, err := f.Write(data)
	must(t, err)
	must(t, f.Sync())
	got := make([]byte, len(data))
	_, err = f.ReadAt(got, 0)
	must(t, err)
	sameBytes(t, "what was written", got, data)
	list, err := os.ReadDir(dir)
	must(t, err)
	equal(t, "names in the folder", len(list), 0)
	equal(t, "mtime of the folder", stat(t, dir).Mtim, before.Mtim)
	again := open(t, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY)
	equal(t, "inode of another descriptor", fstat(t, again.Fd()).Ino, st.Ino)
	must(t, f.Close())
	_, err = again.ReadAt(got, 0)
	must(t, err)
	sameBytes(t, "by the descriptor that is left", got, data)
}

func tmpfileLink(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := tmpfile(t, dir, unix.O_WRONLY, 0o600)
	data := pattern(10000, 2)
	_, err := f.Write(data)
	must(t, err)
	must(t, name(f, path))
	equal(t, "links", fstat(t, f.Fd()).Nlink, 1)
	equal(t, "inode", stat(t, path).Ino, fstat(t, f.Fd()).Ino)
	same(t, path, data)
	refuse(t, "the same name again", name(f, path), unix.EEXIST)
	must(t, name(f, path+"2"))
	equal(t, "links", stat(t, path).Nlink, 2)
	_, err = f.Write([]byte("more"))
	must(t, err)
	must(t, f.Close())
	same(t, path, append(data, "more"...))
	list, err := os.ReadDir(dir)
	must(t, err)
	equal(t, "names in the folder", len(list), 2)
}

func tmpfileEmptyPath(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := tmpfile(t, dir, unix.O_RDWR, 0o600)
	_, err := f.WriteString("text")
	must(t, err)
	must(t, unix.Linkat(int(f.Fd()), "", unix.AT_FDCWD, path, unix.AT_EMPTY_PATH))
	must(t, f.Close())
	same(t, path, []byte("text"))
}

func tmpfileExcl(t *testing.T, dir string) {
	f := tmpfile(t, dir, unix.O_RDWR|unix.O_EXCL, 0o600)
	refuse(t, "linkat", name(f, filepath.Join(dir, "f")), unix.ENOENT)
	equal(t, "links", fstat(t, f.Fd()).Nlink, 0)
}

func tmpfileUnlink(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := tmpfile(t, dir, unix.O_RDWR, 0o600)
	_, err := f.WriteString("text")
	must(t, err)
	must(t, name(f, path))
	must(t, os.Remove(path))
	equal(t, "links", fstat(t, f.Fd()).Nlink, 0)
	refuse(t, "linkat after the last name is gone", name(f, path), unix.ENOENT)
	got := make([]byte, 4)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	equal(t, "content", string(got), "text")
}

func tmpfileRefuse(t *testing.T, dir string) {
	_, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDONLY, 0o600)
	refuse(t, "without writing", err, unix.EINVAL)
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	_, err = unix.Open(path, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	refuse(t, "in a file", err, unix.ENOTDIR)
	_, err = unix.Open(path+"x", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	refuse(t, "in nothing", err, unix.ENOENT)
}

func tmpfileOwner(t *testing.T, dir string) {
	d := filepath.Join(dir, "d")
	must(t, os.Mkdir(d, 0o755))
	refuse(t, "in a folder one may not write", as(t, userA, groupA, nil, try(d, unix.O_TMPFILE|unix.O_RDWR)), unix.EACCES)
	must(t, os.Chown(d, -1, groupB))
	must(t, unix.Chmod(d, 0o2777))
	must(t, as(t, userA, groupA, nil, func() error {
		fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o666)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "tmpfile")
		defer f.Close()
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", f.Fd()), unix.AT_FDCWD, filepath.Join(d, "f"), unix.AT_SYMLINK_FOLLOW)
	}))
	st := stat(t, filepath.Join(d, "f"))
	equal(t, "owner", st.Uid, userA)
	equal(t, "group", st.Gid, groupB)
	equal(t, "mode", st.Mode&0o7777, 0o644)
}
