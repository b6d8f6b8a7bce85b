package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var truncateCases = []Case{
	{Name: "truncate/shrink and grow", Run: truncateGrow},
	{Name: "truncate/old bytes never come back", Run: truncateForget},
	{Name: "truncate/through an open descriptor", Run: truncateFd},
	{Name: "truncate/refusals", Run: truncateRefuse},
	{Name: "truncate/sparse", Run: truncateSparse},
	{Name: "truncate/clears setuid", Root: true, Run: truncateClearsSuid},
}

func truncateGrow(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(100000, 7)
	write(t, path, data)
	for _, n := range []int{99999, 65536, 4097, 4096, 1, 0, 1, 5000, 200000, 70000, 70001} {
		must(t, os.Truncate(path, int64(n)))
		if n <= len(data) {
			data = data[:n:n]
		} else {
			data = append(data, make([]byte, n-len(data))...)
		}
		equal(t, "size", stat(t, path).Size, int64(n))
		same(t, path, data)
	}
}

func truncateForget(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	for round, size := range []int{5000, 4096, 300000, 1 << 20} {
		data := pattern(size, uint64(round))
		_, err := f.WriteAt(data, 0)
		must(t, err)
		if round%2 == 1 {
			must(t, f.Sync())
		}
		cut := size / 3
		must(t, f.Truncate(int64(cut)))
		must(t, f.Truncate(int64(size)))
		want := make([]byte, size)
		copy(want, data[:cut])
		same(t, path, want)
		must(t, f.Truncate(0))
	}
	// Past the cut by a write instead of a truncation.
	data := pattern(10000, 9)
	_, err := f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Truncate(100))
	_, err = f.WriteAt([]byte("end"), 9000)
	must(t, err)
	want := make([]byte, 9003)
	copy(want, data[:100])
	copy(want[9000:], "end")
	same(t, path, want)
}

func truncateFd(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("0123456789"))
	f := open(t, path, os.O_RDWR)
	must(t, os.Remove(path))
	must(t, f.Truncate(4))
	equal(t, "size of the unlinked file", fstat(t, f.Fd()).Size, 4)
	// The mode does not matter to who holds a descriptor for writing.
	write(t, path, []byte("0123456789"))
	g := open(t, path, os.O_RDWR)
	must(t, os.Chmod(path, 0o000))
	must(t, g.Truncate(3))
	must(t, os.Chmod(path, 0o600))
	same(t, path, []byte("012"))
}

func truncateRefuse(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("0123456789"))
	refuse(t, "negative", unix.Truncate(path, -1), unix.EINVAL)
	refuse(t, "a folder", unix.Truncate(dir, 0), unix.EISDIR)
	refuse(t, "nothing", unix.Truncate(path+"x", 0), unix.ENOENT)
	f := open(t, path, os.O_RDONLY)
	refuse(t, "ftruncate on O_RDONLY", unix.Ftruncate(int(f.Fd()), 0), unix.EINVAL, unix.EBADF)
	same(t, path, []byte("0123456789"))
}

func truncateSparse(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Truncate(path, 1<<40))
	st := stat(t, path)
	equal(t, "size", st.Size, 1<<40)
	if st.Blocks*512 > 1<<20 {
		t.Errorf("an empty sparse file takes %d bytes", st.Blocks*512)
	}
	f := open(t, path, os.O_RDONLY)
	buf := make([]byte, 4096)
	n, err := f.ReadAt(buf, 1<<39)
	must(t, err)
	sameBytes(t, "in the middle", buf[:n], make([]byte, 4096))
}

func truncateClearsSuid(t *testing.T, dir string) {
	must(t, os.Chmod(dir, 0o777))
	for i, cut := range []func(path string) error{
		func(path string) error { return unix.Truncate(path, 3) },
		func(path string) error {
			fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		},
	} {
		path := filepath.Join(dir, fmt.Sprintf("f-%d", i))
		write(t, path, []byte("0123456789"))
		must(t, os.Chown(path, userA, groupA))
		must(t, unix.Chmod(path, 0o6777))
		must(t, as(t, userB, groupB, nil, func() error { return cut(path) }))
		equal(t, "mode after a truncation by another", stat(t, path).Mode&0o7777, 0o777)
	}
}
