package posix

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var readCases = []Case{
	{Name: "read/at and past the end", Run: readEnd},
	{Name: "read/vectors", Run: readVectors},
	{Name: "read/a hole is zeros", Run: readHole},
	{Name: "read/own writes before close", Run: readOwnWrites},
	{Name: "read/another descriptor sees writes at once", Run: readOther},
	{Name: "read/a folder", Run: readFolder},
	{Name: "read/sequential in odd steps", Run: readSteps},
}

func readEnd(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("0123456789"))
	f := open(t, path, os.O_RDONLY)
	buf := make([]byte, 100)
	for _, c := range []struct {
		off int64
		n   int
	}{{0, 10}, {5, 5}, {9, 1}, {10, 0}, {11, 0}, {1 << 40, 0}} {
		n, err := unix.Pread(int(f.Fd()), buf, c.off)
		must(t, err)
		equal(t, "bytes read", n, c.n)
	}
	_, err := unix.Pread(int(f.Fd()), buf, -1)
	refuse(t, "negative offset", err, unix.EINVAL)
	n, err := unix.Read(int(f.Fd()), nil)
	must(t, err)
	equal(t, "empty read", n, 0)
}

func readVectors(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	data := pattern(10000, 2)
	n, err := unix.Pwritev(int(f.Fd()), [][]byte{data[:1], data[1:5000], nil, data[5000:]}, 100)
	must(t, err)
	equal(t, "pwritev", n, len(data))
	got := make([]byte, len(data))
	n, err = unix.Preadv(int(f.Fd()), [][]byte{got[:4096], got[4096:4097], got[4097:]}, 100)
	must(t, err)
	equal(t, "preadv", n, len(data))
	sameBytes(t, "preadv", got, data)
}

func readHole(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	_, err := f.WriteAt([]byte("end"), 5<<20+17)
	must(t, err)
	want := make([]byte, 5<<20+20)
	copy(want[5<<20+17:], "end")
	same(t, path, want)
	_, err = f.WriteAt([]byte("middle"), 1<<20)
	must(t, err)
	copy(want[1<<20:], "middle")
	same(t, path, want)
	must(t, f.Close())
	same(t, path, want)
}

func readOwnWrites(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	data := pattern(300000, 3)
	for off := 0; off < len(data); off += 7001 {
		end := min(off+7001, len(data))
		_, err := f.WriteAt(data[off:end], int64(off))
		must(t, err)
		got := make([]byte, end)
		_, err = f.ReadAt(got, 0)
		must(t, err)
		sameBytes(t, "own writes", got, data[:end])
	}
}

func readOther(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	w := open(t, path, os.O_WRONLY|os.O_CREATE)
	r := open(t, path, os.O_RDONLY)
	for i := range 20 {
		line := pattern(1000+i, uint64(i))
		_, err := w.WriteAt(line, int64(i)*500)
		must(t, err)
		got := make([]byte, len(line))
		_, err = r.ReadAt(got, int64(i)*500)
		must(t, err)
		sameBytes(t, "the other descriptor", got, line)
		equal(t, "size", stat(t, path).Size, int64(i)*500+int64(len(line)))
	}
}

func readFolder(t *testing.T, dir string) {
	f := open(t, dir, os.O_RDONLY)
	_, err := unix.Read(int(f.Fd()), make([]byte, 10))
	refuse(t, "read of a folder", err, unix.EISDIR)
}

func readSteps(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(3<<20+123, 4)
	write(t, path, data)
	for _, step := range []int{1 << 20, 4096, 65537, 999} {
		f := open(t, path, os.O_RDONLY)
		var got []byte
		buf := make([]byte, step)
		for {
			n, err := f.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			must(t, err)
		}
		sameBytes(t, "sequential", got, data)
		f.Close()
	}
}
