package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var lockCases = []Case{
	{Name: "lock/flock", Run: lockFlock},
	{Name: "lock/open file description locks", Run: lockOFD},
}

func lockFlock(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	a := open(t, path, os.O_RDWR|os.O_CREATE)
	b := open(t, path, os.O_RDWR)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_SH))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
	refuse(t, "exclusive beside shared", unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_UN))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	must(t, b.Close())
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

func lockOFD(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, pattern(100, 1))
	a := open(t, path, os.O_RDWR)
	b := open(t, path, os.O_RDWR)
	lock := func(f *os.File, kind int16, from, n int64) error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: from, Len: n})
	}
	must(t, lock(a, unix.F_WRLCK, 0, 10))
	refuse(t, "the same bytes", lock(b, unix.F_RDLCK, 5, 10), unix.EAGAIN, unix.EACCES)
	must(t, lock(b, unix.F_WRLCK, 10, 10))
	must(t, lock(a, unix.F_UNLCK, 0, 10))
	must(t, lock(b, unix.F_RDLCK, 0, 10))
}
