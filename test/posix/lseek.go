package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var lseekCases = []Case{
	{Name: "lseek/positions", Run: lseekPositions},
	{Name: "lseek/SEEK_DATA and SEEK_HOLE", Run: lseekHoles},
}

func lseekPositions(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	_, err := f.Write(make([]byte, 1000))
	must(t, err)
	for _, c := range []struct {
		off    int64
		whence int
		want   int64
	}{{0, unix.SEEK_CUR, 1000}, {10, unix.SEEK_SET, 10}, {-5, unix.SEEK_CUR, 5}, {0, unix.SEEK_END, 1000}, {500, unix.SEEK_END, 1500}} {
		off, err := unix.Seek(int(f.Fd()), c.off, c.whence)
		must(t, err)
		equal(t, "position", off, c.want)
	}
	_, err = unix.Seek(int(f.Fd()), -1, unix.SEEK_SET)
	refuse(t, "before the start", err, unix.EINVAL)
	_, err = unix.Seek(int(f.Fd()), 0, 99)
	refuse(t, "unknown whence", err, unix.EINVAL)
	equal(t, "size after seeking", fstat(t, f.Fd()).Size, 1000)
}

func lseekHoles(t *testing.T, dir string) {
	// A file system may say that all is data; what it must not do is to call data
	// a hole.
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	data := pattern(1<<16, 3)
	for _, at := range []int64{0, 4 << 20, 8 << 20} {
		_, err := f.WriteAt(data, at)
		must(t, err)
	}
	must(t, f.Truncate(12<<20))
	must(t, f.Sync())
	for _, at := range []int64{0, 100, 4 << 20, 4<<20 + 1<<16 - 1, 8 << 20} {
		off, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		must(t, err)
		equal(t, "data begins where it is", off, at)
	}
	off, err := unix.Seek(int(f.Fd()), 1<<20, unix.SEEK_DATA)
	must(t, err)
	if off < 1<<20 || off > 4<<20 {
		t.Errorf("from 1 MiB the data begins at %d: it skipped some", off)
	}
	off, err = unix.Seek(int(f.Fd()), 100, unix.SEEK_HOLE)
	must(t, err)
	if off < 1<<16 || off > 12<<20 {
		t.Errorf("a hole at %d, where data is", off)
	}
	for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
		_, err = unix.Seek(int(f.Fd()), 12<<20, whence)
		refuse(t, "past the end", err, unix.ENXIO)
	}
}
