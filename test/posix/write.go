package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var writeCases = []Case{
	{Name: "write/past the end", Run: writePast},
	{Name: "write/overwrite in pieces", Run: writeOverwrite},
	{Name: "write/nothing", Run: writeNothing},
	{Name: "write/one descriptor shared by a fork", Run: writeDup},
	{Name: "write/many files at once", Run: writeMany},
	{Name: "write/large", Run: writeLarge},
	{Name: "write/clears setuid and setgid", Root: true, Run: writeClearsSuid},
}

func writePast(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	n, err := unix.Pwrite(int(f.Fd()), []byte("xyz"), 1<<33)
	must(t, err)
	equal(t, "written", n, 3)
	st := stat(t, path)
	equal(t, "size", st.Size, 1<<33+3)
	if st.Blocks*512 > 1<<20 {
		t.Errorf("a sparse file takes %d bytes", st.Blocks*512)
	}
	buf := make([]byte, 5)
	_, err = unix.Pread(int(f.Fd()), buf, 1<<33-2)
	must(t, err)
	sameBytes(t, "around the start of the data", buf, []byte("\x00\x00xyz"))
	_, err = unix.Pwrite(int(f.Fd()), []byte("x"), -1)
	refuse(t, "negative offset", err, unix.EINVAL)
}

func writeOverwrite(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(200000, 5)
	write(t, path, data)
	f := open(t, path, os.O_RDWR)
	for i, c := range []struct{ off, n int }{{0, 1}, {4095, 2}, {4096, 4096}, {100, 50000}, {199999, 1}, {65536, 65536}, {199000, 5000}} {
		piece := pattern(c.n, uint64(100+i))
		if grow := c.off + c.n - len(data); grow > 0 {
			data = append(data, make([]byte, grow)...)
		}
		copy(data[c.off:], piece)
		_, err := f.WriteAt(piece, int64(c.off))
		must(t, err)
	}
	same(t, path, data)
	must(t, f.Close())
	same(t, path, data)
}

func writeNothing(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	n, err := unix.Pwrite(int(f.Fd()), nil, 1000)
	must(t, err)
	equal(t, "written", n, 0)
	equal(t, "size after writing nothing past the end", stat(t, path).Size, 0)
}

func writeDup(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	fd, err := unix.Dup(int(f.Fd()))
	must(t, err)
	_, err = unix.Write(int(f.Fd()), []byte("one"))
	must(t, err)
	_, err = unix.Write(fd, []byte("two"))
	must(t, err)
	must(t, unix.Close(fd))
	same(t, path, []byte("onetwo"))
	_, err = unix.Write(int(f.Fd()), []byte("three"))
	must(t, err)
	same(t, path, []byte("onetwothree"))
}

func writeMany(t *testing.T, dir string) {
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f-%d-%d", w, i)), pattern(i*97, uint64(w*100+i)), 0o644); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		must(t, err)
	}
	for w := range 8 {
		for i := range 50 {
			same(t, filepath.Join(dir, fmt.Sprintf("f-%d-%d", w, i)), pattern(i*97, uint64(w*100+i)))
		}
	}
}

func writeLarge(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(24<<20+11, 6)
	write(t, path, data)
	same(t, path, data)
	equal(t, "blocks cover the bytes", stat(t, path).Blocks*512 >= int64(len(data)), true)
}

func writeClearsSuid(t *testing.T, dir string) {
	must(t, os.Chmod(dir, 0o777))
	for _, c := range []struct{ mode, want uint32 }{
		{0o6777, 0o777},  // setuid and setgid of an executable go
		{0o4666, 0o666},  // setuid always goes
		{0o2766, 0o2766}, // setgid without group execute once meant mandatory locking: it stays
	} {
		path := filepath.Join(dir, fmt.Sprintf("f-%o", c.mode))
		write(t, path, []byte("0123456789"))
		must(t, os.Chown(path, userA, groupA))
		must(t, unix.Chmod(path, c.mode))
		must(t, as(t, userA, groupA, nil, func() error {
			fd, err := unix.Open(path, unix.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, []byte("x"))
			return err
		}))
		equal(t, fmt.Sprintf("mode %o after a write by its owner", c.mode), stat(t, path).Mode&0o7777, c.want)
	}
	for name, change := range map[string]func(fd int) error{
		"write":     func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err },
		"ftruncate": func(fd int) error { return unix.Ftruncate(fd, 3) },
		"fallocate": func(fd int) error { return unix.Fallocate(fd, 0, 0, 5000) },
		"a hole": func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 5)
		},
	} {
		for groups, want := range map[int]uint32{groupB: 0o666, groupA: 0o2666} {
			path := filepath.Join(dir, fmt.Sprint(name, groups))
			write(t, path, []byte("0123456789"))
			must(t, os.Chown(path, userB, groupA))
			must(t, unix.Chmod(path, 0o2666))
			must(t, as(t, userA, groupB, []int{groups}, func() error {
				fd, err := unix.Open(path, unix.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return change(fd)
			}))
			equal(t, fmt.Sprintf("mode 02666 after %s by a user of group %d", name, groups), stat(t, path).Mode&0o7777, want)
		}
	}
	path := filepath.Join(dir, "root")
	write(t, path, []byte("0123456789"))
	must(t, unix.Chmod(path, 0o6755))
	f := open(t, path, os.O_WRONLY)
	_, err := f.Write([]byte("x"))
	must(t, err)
	must(t, f.Close())
	equal(t, "mode after a write by root, who may keep it (CAP_FSETID)", stat(t, path).Mode&0o7777, 0o6755)
	g := open(t, path, os.O_WRONLY)
	must(t, as(t, userA, groupA, nil, func() error {
		_, err := unix.Write(int(g.Fd()), []byte("x"))
		return err
	}))
	must(t, g.Close())
	equal(t, "mode after a write by another through root's descriptor", stat(t, path).Mode&0o7777, 0o755)
}
