package posix

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var timeCases = []Case{
	{Name: "times/utimensat keeps nanoseconds", Run: timesExact},
	{Name: "times/UTIME_NOW and UTIME_OMIT", Run: timesNow},
	{Name: "times/what moves mtime and ctime", Run: timesMove},
	{Name: "times/of the parent", Run: timesParent},
	{Name: "times/set ones survive close", Run: timesSurvive},
	{Name: "times/permission", Root: true, Run: timesPermission},
}

func timesExact(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("x"))
	for _, ts := range [][]unix.Timespec{
		{{Sec: 1, Nsec: 1}, {Sec: 2, Nsec: 999999999}},
		{{Sec: 1700000000, Nsec: 123456789}, {Sec: 1700000001, Nsec: 987654321}},
		{{Sec: -1000, Nsec: 5}, {Sec: -1, Nsec: 999999999}},
		{{Sec: 4102444800, Nsec: 7}, {Sec: 4102444801, Nsec: 8}}, // the year 2100
	} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0))
		st := stat(t, path)
		equal(t, "atime", st.Atim, ts[0])
		equal(t, "mtime", st.Mtim, ts[1])
	}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{{Sec: 10}, {Sec: 20, Nsec: 30}}, 0))
	equal(t, "mtime of a folder", stat(t, dir).Mtim, unix.Timespec{Sec: 20, Nsec: 30})
}

func timesNow(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}, 0))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0))
	st := stat(t, path)
	equal(t, "atime left out", st.Atim, unix.Timespec{Sec: 5, Nsec: 6})
	if d := time.Since(time.Unix(st.Mtim.Unix())); d < -time.Minute || d > time.Minute {
		t.Errorf("mtime now is %v off", d)
	}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 9, Nsec: 10}, {Nsec: unix.UTIME_OMIT}}, 0))
	equal(t, "mtime left out", stat(t, path).Mtim, st.Mtim)
	equal(t, "atime set", stat(t, path).Atim, unix.Timespec{Sec: 9, Nsec: 10})
}

// back sets both times far back, so that any change shows without waiting.
func back(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 100}, {Sec: 100}}, 0))
	time.Sleep(15 * time.Millisecond) // a tick of the coarsest clock that file systems take ctime from
	return stat(t, path)
}

func timesMove(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("0123456789"))
	f := open(t, path, os.O_RDWR)
	for _, c := range []struct {
		name  string
		mtime bool
		do    func() error
	}{
		{"write", true, func() error { _, err := f.WriteAt([]byte("x"), 3); return err }},
		{"write past the end", true, func() error { _, err := f.WriteAt([]byte("x"), 30); return err }},
		{"ftruncate", true, func() error { return f.Truncate(5) }},
		{"ftruncate to the same size", true, func() error { return f.Truncate(5) }},
		{"chmod", false, func() error { return os.Chmod(path, 0o600) }},
		{"link", false, func() error { return os.Link(path, filepath.Join(dir, "g")) }},
		{"unlink of the other name", false, func() error { return os.Remove(filepath.Join(dir, "g")) }},
		{"setxattr", false, func() error { return unix.Setxattr(path, "user.x", []byte("y"), 0) }},
		{"O_TRUNC", true, func() error {
			g, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
			if err == nil {
				err = g.Close()
			}
			return err
		}},
	} {
		before := back(t, path)
		must(t, c.do())
		after := stat(t, path)
		if c.mtime != (after.Mtim.Sec != 100) {
			t.Errorf("%s: mtime moved: %v, want %v", c.name, !c.mtime, c.mtime)
		}
		if after.Ctim.Nano() <= before.Ctim.Nano() {
			t.Errorf("%s: ctime did not move", c.name)
		}
	}
	before := back(t, path)
	_, _ = f.ReadAt(make([]byte, 1), 0)
	after := stat(t, path)
	equal(t, "mtime after a read", after.Mtim, before.Mtim)
	equal(t, "ctime after a read", after.Ctim, before.Ctim)
}

func timesParent(t *testing.T, dir string) {
	d, e := filepath.Join(dir, "d"), filepath.Join(dir, "e")
	must(t, os.Mkdir(d, 0o755))
	must(t, os.Mkdir(e, 0o755))
	at := func(s string) string { return filepath.Join(d, s) }
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error { return os.WriteFile(at("f"), nil, 0o644) }},
		{"mkdir", func() error { return os.Mkdir(at("sub"), 0o755) }},
		{"symlink", func() error { return os.Symlink("f", at("l")) }},
		{"link", func() error { return os.Link(at("f"), at("g")) }},
		{"rename", func() error { return os.Rename(at("g"), at("h")) }},
		{"rename away", func() error { return os.Rename(at("h"), filepath.Join(e, "h")) }},
		{"unlink", func() error { return os.Remove(at("f")) }},
		{"rmdir", func() error { return os.Remove(at("sub")) }},
		{"mkfifo", func() error { return unix.Mkfifo(at("p"), 0o644) }},
	} {
		before := back(t, d)
		must(t, c.do())
		after := stat(t, d)
		if after.Mtim.Sec == 100 || after.Ctim.Nano() <= before.Ctim.Nano() {
			t.Errorf("%s: the folder's times did not move", c.name)
		}
	}
	if stat(t, e).Mtim.Sec == 100 {
		t.Error("rename: the times of the folder that it came to did not move")
	}
	before := back(t, d)
	must(t, os.WriteFile(at("p2"), nil, 0o644))
	before = back(t, d)
	must(t, os.WriteFile(at("p2"), []byte("content"), 0o644))
	equal(t, "the folder's mtime after a write to a file in it", stat(t, d).Mtim, before.Mtim)
}

func timesSurvive(t *testing.T, dir string) {
	// tar and rsync set the times through the descriptor or right after the
	// close; bytes written back later must not move them again.
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_RDWR|os.O_CREATE)
	_, err := f.Write(pattern(100000, 1))
	must(t, err)
	ts := []unix.Timespec{{Sec: 1000, Nsec: 11}, {Sec: 2000, Nsec: 22}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0))
	equal(t, "mtime before close", stat(t, path).Mtim, ts[1])
	must(t, f.Sync())
	equal(t, "mtime after fsync", stat(t, path).Mtim, ts[1])
	must(t, f.Close())
	equal(t, "mtime after close", stat(t, path).Mtim, ts[1])
	must(t, os.Rename(path, path+"2"))
	equal(t, "mtime after rename", stat(t, path+"2").Mtim, ts[1])
}

func timesPermission(t *testing.T, dir string) {
	must(t, os.Chmod(dir, 0o777))
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Chmod(path, 0o666))
	set := []unix.Timespec{{Sec: 5}, {Sec: 6}}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	refuse(t, "setting times as another who may write", as(t, userA, groupA, nil, func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, set, 0)
	}), unix.EPERM)
	must(t, as(t, userA, groupA, nil, func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, now, 0) }))
	must(t, os.Chmod(path, 0o644))
	refuse(t, "touching as another who may not write", as(t, userA, groupA, nil, func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, now, 0)
	}), unix.EACCES)
}
