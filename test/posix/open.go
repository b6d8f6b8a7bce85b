package posix

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

var openCases = []Case{
	{Name: "open/creates with the umask applied", Run: openMode},
	{Name: "open/excl", Run: openExcl},
	{Name: "open/excl has one winner", Run: openExclRace},
	{Name: "open/trunc", Run: openTrunc},
	{Name: "open/type flags", Run: openTypeFlags},
	{Name: "open/access mode is kept", Run: openAccessMode},
	{Name: "open/create through a dangling symlink", Run: openDangling},
	{Name: "open/O_PATH", Run: openPath},
	{Name: "open/readonly mode still writes through the creating descriptor", Run: openCreateReadonly},
}

func openMode(t *testing.T, dir string) {
	for _, mode := range []uint32{0o666, 0o600, 0o777, 0o4755, 0o000} {
		path := filepath.Join(dir, "f")
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_EXCL, mode)
		must(t, err)
		unix.Close(fd)
		equal(t, "mode", stat(t, path).Mode, unix.S_IFREG|mode&^0o022)
		must(t, unix.Unlink(path))
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	fd, err := unix.Open(filepath.Join(dir, "g"), unix.O_CREAT|unix.O_RDWR, 0o666)
	must(t, err)
	unix.Close(fd)
	equal(t, "mode under umask 077", stat(t, filepath.Join(dir, "g")).Mode, unix.S_IFREG|0o600)
}

func openExcl(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	_, err := unix.Open(path, unix.O_RDONLY, 0)
	refuse(t, "open of nothing", err, unix.ENOENT)
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	must(t, err)
	unix.Close(fd)
	_, err = unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	refuse(t, "excl over a file", err, unix.EEXIST)
	fd, err = unix.Open(path, unix.O_CREAT|unix.O_WRONLY, 0o600)
	must(t, err)
	unix.Close(fd)
	equal(t, "mode of the file that was there", stat(t, path).Mode&0o777, 0o644)
	must(t, os.Symlink("nowhere", filepath.Join(dir, "l")))
	_, err = unix.Open(filepath.Join(dir, "l"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	refuse(t, "excl over a dangling symlink", err, unix.EEXIST)
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	_, err = unix.Open(filepath.Join(dir, "d"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	refuse(t, "excl over a folder", err, unix.EEXIST)
}

func openExclRace(t *testing.T, dir string) {
	for round := range 10 {
		var winners atomic.Int32
		var wg sync.WaitGroup
		path := filepath.Join(dir, "lock")
		for range 8 {
			wg.Go(func() {
				f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
				if err == nil {
					winners.Add(1)
					f.Close()
				}
			})
		}
		wg.Wait()
		if winners.Load() != 1 {
			t.Fatalf("round %d: %d callers created the file", round, winners.Load())
		}
		must(t, os.Remove(path))
	}
}

func openTrunc(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, pattern(10000, 1))
	f := open(t, path, os.O_RDWR|os.O_TRUNC)
	equal(t, "size", fstat(t, f.Fd()).Size, 0)
	_, err := f.Write([]byte("new"))
	must(t, err)
	must(t, f.Close())
	same(t, path, []byte("new"))
	// A second descriptor sees the truncation of the first.
	g := open(t, path, os.O_RDONLY)
	open(t, path, os.O_WRONLY|os.O_TRUNC)
	n, _ := g.Read(make([]byte, 10))
	equal(t, "bytes read after another's O_TRUNC", n, 0)
}

func openTypeFlags(t *testing.T, dir string) {
	file, folder, link := filepath.Join(dir, "f"), filepath.Join(dir, "d"), filepath.Join(dir, "l")
	write(t, file, nil)
	must(t, os.Mkdir(folder, 0o755))
	must(t, os.Symlink("f", link))
	_, err := unix.Open(file, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	refuse(t, "O_DIRECTORY on a file", err, unix.ENOTDIR)
	_, err = unix.Open(folder, unix.O_WRONLY, 0)
	refuse(t, "a folder for writing", err, unix.EISDIR)
	_, err = unix.Open(folder, unix.O_RDWR, 0)
	refuse(t, "a folder for reading and writing", err, unix.EISDIR)
	_, err = unix.Open(folder, unix.O_CREAT|unix.O_RDONLY, 0o644)
	refuse(t, "O_CREAT on a folder", err, unix.EISDIR)
	_, err = unix.Open(link, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	refuse(t, "O_NOFOLLOW on a symlink", err, unix.ELOOP)
	_, err = unix.Open(file+"/", unix.O_RDONLY, 0)
	refuse(t, "a file with a slash behind", err, unix.ENOTDIR)
	_, err = unix.Open(filepath.Join(dir, "new")+"/", unix.O_CREAT|unix.O_WRONLY, 0o644)
	refuse(t, "creating with a slash behind", err, unix.EISDIR)
	_, err = unix.Open(filepath.Join(file, "x"), unix.O_CREAT|unix.O_WRONLY, 0o644)
	refuse(t, "below a file", err, unix.ENOTDIR)
}

func openAccessMode(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("abc"))
	r := open(t, path, os.O_RDONLY)
	_, err := unix.Write(int(r.Fd()), []byte("x"))
	refuse(t, "write on O_RDONLY", err, unix.EBADF)
	w := open(t, path, os.O_WRONLY)
	_, err = unix.Read(int(w.Fd()), make([]byte, 1))
	refuse(t, "read on O_WRONLY", err, unix.EBADF)
}

func openDangling(t *testing.T, dir string) {
	must(t, os.Symlink("target", filepath.Join(dir, "l")))
	f := open(t, filepath.Join(dir, "l"), os.O_CREATE|os.O_WRONLY)
	_, err := f.WriteString("through")
	must(t, err)
	must(t, f.Close())
	same(t, filepath.Join(dir, "target"), []byte("through"))
}

func openPath(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("abc"))
	fd, err := unix.Open(path, unix.O_PATH, 0)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.Read(fd, make([]byte, 1))
	refuse(t, "read through O_PATH", err, unix.EBADF)
	equal(t, "size through O_PATH", fstat(t, uintptr(fd)).Size, 3)
}

func openCreateReadonly(t *testing.T, dir string) {
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_RDWR|unix.O_EXCL, 0o400)
	must(t, err)
	_, err = unix.Write(fd, []byte("abc"))
	must(t, err)
	must(t, unix.Close(fd))
	same(t, filepath.Join(dir, "f"), []byte("abc"))
}
