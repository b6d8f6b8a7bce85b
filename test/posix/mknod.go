package posix

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

var mknodCases = []Case{
	{Name: "mknod/fifo", Run: mknodFIFO},
	{Name: "mknod/socket", Run: mknodSocket},
	{Name: "mknod/regular file", Run: mknodRegular},
	{Name: "mknod/devices keep their numbers", Root: true, Run: mknodDevice},
}

func mknodFIFO(t *testing.T, dir string) {
	path := filepath.Join(dir, "fifo")
	must(t, unix.Mkfifo(path, 0o666))
	equal(t, "mode", stat(t, path).Mode, unix.S_IFIFO|0o644)
	refuse(t, "again", unix.Mkfifo(path, 0o666), unix.EEXIST)
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(path, []byte("through the pipe"), 0) }()
	got, err := os.ReadFile(path)
	must(t, err)
	must(t, <-done)
	equal(t, "content", string(got), "through the pipe")
}

func mknodSocket(t *testing.T, dir string) {
	// The path of a socket address is short: go there.
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	must(t, err)
	defer unix.Close(fd)
	path := filepath.Join("/proc/self/fd", strconv.Itoa(fd), "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	equal(t, "type", stat(t, filepath.Join(dir, "s")).Mode&unix.S_IFMT, unix.S_IFSOCK)
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	buf := make([]byte, 5)
	_, err = c.Read(buf)
	must(t, err)
	equal(t, "through the socket", string(buf), "hello")
}

func mknodRegular(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	must(t, unix.Mknod(path, unix.S_IFREG|0o640, 0))
	equal(t, "mode", stat(t, path).Mode, unix.S_IFREG|0o640)
	equal(t, "size", stat(t, path).Size, 0)
	refuse(t, "again", unix.Mknod(path, unix.S_IFREG|0o640, 0), unix.EEXIST)
}

func mknodDevice(t *testing.T, dir string) {
	for i, c := range []struct {
		kind         uint32
		major, minor uint32
	}{{unix.S_IFCHR, 1, 3}, {unix.S_IFBLK, 7, 200}, {unix.S_IFCHR, 259, 70000}} {
		path := filepath.Join(dir, strconv.Itoa(i))
		must(t, unix.Mknod(path, c.kind|0o600, int(unix.Mkdev(c.major, c.minor))))
		st := stat(t, path)
		equal(t, "mode", st.Mode, c.kind|0o600)
		equal(t, "major", unix.Major(st.Rdev), c.major)
		equal(t, "minor", unix.Minor(st.Rdev), c.minor)
		var stx unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_ALL, &stx))
		equal(t, "major by statx", stx.Rdev_major, c.major)
		equal(t, "minor by statx", stx.Rdev_minor, c.minor)
	}
}
