package posix

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

var directCases = []Case{
	{Name: "direct/write and read", Run: directBoth},
	{Name: "direct/and buffered see each other", Run: directMixed},
}

// aligned is memory as O_DIRECT wants it.
func aligned(n int) []byte {
	p := make([]byte, n+4096)
	skip := int(-uintptr(unsafe.Pointer(&p[0])) & 4095)
	return p[skip : skip+n : skip+n]
}

func directBoth(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT)
	data := aligned(2 << 20)
	copy(data, pattern(len(data), 13))
	for off := 0; off < len(data); off += 512 << 10 {
		n, err := unix.Pwrite(int(f.Fd()), data[off:off+512<<10], int64(off))
		must(t, err)
		equal(t, "written", n, 512<<10)
	}
	got := aligned(2 << 20)
	n, err := unix.Pread(int(f.Fd()), got, 0)
	must(t, err)
	sameBytes(t, "direct", got[:n], data)
	n, err = unix.Pread(int(f.Fd()), got[:8192], 2<<20-4096)
	must(t, err)
	equal(t, "across the end", n, 4096)
	n, err = unix.Pread(int(f.Fd()), got[:8192], 2<<20)
	must(t, err)
	equal(t, "at the end", n, 0)
	must(t, f.Close())
	same(t, path, data)
}

func directMixed(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	buffered := open(t, path, os.O_RDWR|os.O_CREATE)
	direct := open(t, path, os.O_RDWR|unix.O_DIRECT)
	page := aligned(4096)
	for i := range 8 {
		want := pattern(4096, uint64(20+i))
		_, err := buffered.WriteAt(want, int64(i)*4096)
		must(t, err)
		_, err = unix.Pread(int(direct.Fd()), page, int64(i)*4096)
		must(t, err)
		sameBytes(t, "direct after buffered", page, want)
		copy(page, pattern(4096, uint64(40+i)))
		_, err = unix.Pwrite(int(direct.Fd()), page, int64(i)*4096)
		must(t, err)
		got := make([]byte, 4096)
		_, err = buffered.ReadAt(got, int64(i)*4096)
		must(t, err)
		sameBytes(t, "buffered after direct", got, page)
	}
}
