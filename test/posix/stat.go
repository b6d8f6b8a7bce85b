package posix

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var statCases = []Case{
	{Name: "stat/of a new file", Run: statNew},
	{Name: "stat/the time of birth stays", Run: statBirth},
	{Name: "stat/blocks of a file and of a hole", Run: statBlocks},
	{Name: "stat/inode numbers are unique and stay", Run: statIno},
	{Name: "stat/size while writing", Run: statSize},
}

func statNew(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	before := time.Now().Add(-time.Second)
	write(t, path, []byte("12345"))
	st := stat(t, path)
	equal(t, "mode", st.Mode, unix.S_IFREG|0o644)
	equal(t, "links", st.Nlink, 1)
	equal(t, "uid", st.Uid, uint32(os.Geteuid()))
	equal(t, "gid", st.Gid, uint32(os.Getegid()))
	equal(t, "size", st.Size, 5)
	for what, ts := range map[string]unix.Timespec{"atime": st.Atim, "mtime": st.Mtim, "ctime": st.Ctim} {
		if at := time.Unix(ts.Unix()); at.Before(before) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("%s is %v", what, at)
		}
	}
}

func statx(t *testing.T, path string) unix.Statx_t {
	t.Helper()
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_ALL|unix.STATX_BTIME, &st))
	return st
}

func statBirth(t *testing.T, dir string) {
	for _, kind := range []string{"file", "folder"} {
		path := filepath.Join(dir, kind)
		if kind == "file" {
			write(t, path, nil)
		} else {
			must(t, os.Mkdir(path, 0o755))
		}
		first := statx(t, path)
		if first.Mask&unix.STATX_BTIME == 0 {
			t.Fatalf("%s: no time of birth", kind)
		}
		if at := time.Unix(first.Btime.Sec, int64(first.Btime.Nsec)); time.Since(at) > time.Minute || time.Since(at) < -time.Minute {
			t.Errorf("%s: born at %v", kind, at)
		}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
		must(t, os.Chmod(path, 0o700))
		must(t, os.Rename(path, path+"2"))
		equal(t, "time of birth", statx(t, path+"2").Btime, first.Btime)
		equal(t, "mtime by statx", statx(t, path+"2").Mtime.Sec, 2)
	}
}

func statBlocks(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	equal(t, "blocks of an empty file", fstat(t, f.Fd()).Blocks, 0)
	_, err := f.WriteAt(pattern(100000, 1), 10<<20)
	must(t, err)
	must(t, f.Sync())
	st := fstat(t, f.Fd())
	if n := st.Blocks * 512; n < 100000 || n > 1<<20 {
		t.Errorf("100000 bytes after a hole take %d", n)
	}
	must(t, f.Truncate(0))
	must(t, f.Sync())
	equal(t, "blocks after truncation", fstat(t, f.Fd()).Blocks, 0)
}

func statIno(t *testing.T, dir string) {
	seen := map[uint64]bool{}
	for i := range 50 {
		path := filepath.Join(dir, string(rune('A'+i)))
		write(t, path, nil)
		ino := stat(t, path).Ino
		if seen[ino] || ino == 0 {
			t.Fatalf("inode %d twice", ino)
		}
		seen[ino] = true
		must(t, os.Rename(path, path+"x"))
		equal(t, "inode after rename", stat(t, path+"x").Ino, ino)
	}
}

func statSize(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_WRONLY|os.O_CREATE)
	for i := range 50 {
		_, err := f.Write(make([]byte, 777))
		must(t, err)
		equal(t, "by name", stat(t, path).Size, int64(777*(i+1)))
		equal(t, "by descriptor", fstat(t, f.Fd()).Size, int64(777*(i+1)))
	}
}
