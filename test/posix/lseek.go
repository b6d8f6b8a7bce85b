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
	equal(t, "data after a hole", off, 4<<20)
	off, err = unix.Seek(int(f.Fd()), 100, unix.SEEK_HOLE)
	must(t, err)
	equal(t, "the first hole", off, 1<<16)
	off, err = unix.Seek(int(f.Fd()), 5<<20, unix.SEEK_HOLE)
	must(t, err)
	equal(t, "within a hole", off, 5<<20)
	_, err = unix.Seek(int(f.Fd()), 9<<20, unix.SEEK_DATA)
	refuse(t, "in the last hole", err, unix.ENXIO)
	// What is not synced counts, and so does the end of the file.
	_, err = f.WriteAt(data[:5000], 10<<20)
	must(t, err)
	off, err = unix.Seek(int(f.Fd()), 9<<20, unix.SEEK_DATA)
	must(t, err)
	equal(t, "data that was just written", off, 10<<20)
	must(t, f.Truncate(10<<20+5000))
	off, err = unix.Seek(int(f.Fd()), 10<<20, unix.SEEK_HOLE)
	must(t, err)
	equal(t, "the end", off, 10<<20+5000)
	must(t, f.Truncate(12<<20))
	for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
		_, err = unix.Seek(int(f.Fd()), 12<<20, whence)
		refuse(t, "past the end", err, unix.ENXIO)
	}
}
