package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var mmapCases = []Case{
	{Name: "mmap/shared writes reach the file", Run: mmapShared},
	{Name: "mmap/private writes do not", Run: mmapPrivate},
	{Name: "mmap/sees what write(2) writes", Run: mmapSees},
	{Name: "mmap/outlives its descriptor", Run: mmapOutlives},
	{Name: "mmap/of an unlinked file", Run: mmapUnlinked},
	{Name: "mmap/the page after the end is zeros", Run: mmapTail},
	{Name: "mmap/refusals", Run: mmapRefuse},
}

func mapped(t *testing.T, f *os.File, n, prot, flags int) []byte {
	t.Helper()
	m, err := unix.Mmap(int(f.Fd()), 0, n, prot, flags)
	must(t, err)
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return m
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

func mmapShared(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(100000, 14)
	write(t, path, data)
	f := open(t, path, os.O_RDWR)
	m := mapped(t, f, len(data), readWrite, unix.MAP_SHARED)
	sameBytes(t, "the mapping", m, data)
	for _, at := range []int{0, 4095, 4096, 50000, len(data) - 1} {
		m[at]++
		data[at]++
	}
	same(t, path, data) // read(2) sees the page cache
	must(t, unix.Msync(m, unix.MS_SYNC))
	g := open(t, path, os.O_RDONLY|unix.O_DIRECT)
	page := aligned(4096)
	_, err := unix.Pread(int(g.Fd()), page, 4096)
	must(t, err)
	sameBytes(t, "past the page cache", page, data[4096:8192])
	m[7]++
	data[7]++
	must(t, unix.Munmap(m))
	must(t, f.Close())
	same(t, path, data)
}

func mmapPrivate(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(10000, 15)
	write(t, path, data)
	f := open(t, path, os.O_RDONLY)
	m := mapped(t, f, len(data), readWrite, unix.MAP_PRIVATE)
	sameBytes(t, "the mapping", m, data)
	m[5000]++
	equal(t, "own copy", m[5000], data[5000]+1)
	same(t, path, data)
}

func mmapSees(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, make([]byte, 20000))
	f := open(t, path, os.O_RDWR)
	m := mapped(t, f, 20000, readWrite, unix.MAP_SHARED)
	equal(t, "before", m[10000], 0)
	for i := range 10 {
		piece := pattern(3000, uint64(i))
		_, err := f.WriteAt(piece, int64(i*1500))
		must(t, err)
		sameBytes(t, "the mapping after write(2)", m[i*1500:i*1500+3000], piece)
		m[i*1500] = byte(i)
		got := make([]byte, 1)
		_, err = f.ReadAt(got, int64(i*1500))
		must(t, err)
		equal(t, "read(2) after the mapping", got[0], byte(i))
	}
}

func mmapOutlives(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, make([]byte, 8192))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, readWrite, unix.MAP_SHARED)
	must(t, err)
	must(t, f.Close())
	copy(m[100:], "after close")
	must(t, unix.Msync(m, unix.MS_SYNC))
	must(t, unix.Munmap(m))
	want := make([]byte, 8192)
	copy(want[100:], "after close")
	same(t, path, want)
}

func mmapUnlinked(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(20000, 16)
	write(t, path, data)
	f := open(t, path, os.O_RDWR)
	m := mapped(t, f, len(data), readWrite, unix.MAP_SHARED)
	must(t, os.Remove(path))
	sameBytes(t, "the mapping", m, data)
	m[0]++
	must(t, unix.Msync(m, unix.MS_SYNC))
	got := make([]byte, 1)
	_, err := f.ReadAt(got, 0)
	must(t, err)
	equal(t, "first byte", got[0], data[0]+1)
}

func mmapTail(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("abc"))
	f := open(t, path, os.O_RDWR)
	m := mapped(t, f, 4096, readWrite, unix.MAP_SHARED)
	sameBytes(t, "the page", m[:10], []byte("abc\x00\x00\x00\x00\x00\x00\x00"))
	m[100] = 'x' // goes nowhere
	must(t, unix.Msync(m, unix.MS_SYNC))
	equal(t, "size", stat(t, path).Size, 3)
	same(t, path, []byte("abc"))
}

func mmapRefuse(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("abc"))
	f := open(t, path, os.O_RDONLY)
	_, err := unix.Mmap(int(f.Fd()), 0, 4096, readWrite, unix.MAP_SHARED)
	refuse(t, "shared and writable of a descriptor for reading", err, unix.EACCES)
	d := open(t, dir, os.O_RDONLY)
	_, err = unix.Mmap(int(d.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	refuse(t, "of a folder", err, unix.ENODEV)
}
