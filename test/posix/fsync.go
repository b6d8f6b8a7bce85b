package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var fsyncCases = []Case{
	{Name: "fsync/file, data and folder", Run: fsyncAll},
	{Name: "fsync/O_SYNC and O_DSYNC", Run: fsyncFlags},
	{Name: "fsync/sync_file_range and syncfs", Run: fsyncOther},
}

func fsyncAll(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	must(t, unix.Fsync(int(f.Fd())))
	var want []byte
	for i := range 10 {
		piece := pattern(1000*(i+1), uint64(i))
		_, err := f.Write(piece)
		must(t, err)
		want = append(want, piece...)
		if i%2 == 0 {
			must(t, unix.Fsync(int(f.Fd())))
		} else {
			must(t, unix.Fdatasync(int(f.Fd())))
		}
		same(t, path, want)
	}
	r := open(t, path, os.O_RDONLY)
	must(t, unix.Fsync(int(r.Fd())))
	d := open(t, dir, os.O_RDONLY)
	must(t, unix.Fsync(int(d.Fd())))
	must(t, os.Remove(path))
	must(t, unix.Fsync(int(f.Fd())))
}

func fsyncFlags(t *testing.T, dir string) {
	for i, flag := range []int{unix.O_SYNC, unix.O_DSYNC} {
		path := filepath.Join(dir, string(rune('a'+i)))
		f := open(t, path, os.O_RDWR|os.O_CREATE|flag)
		data := pattern(20000, uint64(i))
		for off := 0; off < len(data); off += 3000 {
			_, err := f.Write(data[off:min(off+3000, len(data))])
			must(t, err)
		}
		same(t, path, data)
	}
}

func fsyncOther(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	_, err := f.Write(pattern(10000, 1))
	must(t, err)
	must(t, unix.SyncFileRange(int(f.Fd()), 0, 10000, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
	must(t, unix.Syncfs(int(f.Fd())))
}
