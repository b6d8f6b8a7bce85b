package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAccessTimes: a read counts by the rule of the mount, once the program that reads
// looks, and on other mounts once the masters have been told.
func TestAccessTimes(t *testing.T) {
	c := shared.get(t)
	relatime, strict, none := c.mount(t), c.mount(t, "strictatime"), c.mount(t, "noatime")
	top := "atimes"
	mkdir(t, filepath.Join(relatime.dir, top, "sub"))
	in := func(m *mount, name string) string { return filepath.Join(m.dir, top, name) }
	must(t, os.WriteFile(in(relatime, "f"), []byte("x"), 0o644))
	must(t, os.Symlink("f", in(relatime, "l")))
	times := func(path string) unix.Stat_t {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		return st
	}
	later := func(a, b unix.Timespec) bool { return a.Nano() > b.Nano() }
	read := func(path string) {
		t.Helper()
		switch info, err := os.Lstat(path); {
		case err != nil:
			t.Fatal(err)
		case info.IsDir():
			_, err = os.ReadDir(path)
			must(t, err)
		case info.Mode()&os.ModeSymlink != 0:
			_, err = os.Readlink(path)
			must(t, err)
		default:
			_, err = os.ReadFile(path)
			must(t, err)
		}
	}
	for _, name := range []string{"f", "sub", "l"} {
		was := times(in(relatime, name))
		read(in(none, name))
		if now := times(in(none, name)); now.Atim != was.Atim {
			t.Errorf("%s: noatime moved atime from %v to %v", name, was.Atim, now.Atim)
		}
		read(in(relatime, name))
		first := times(in(relatime, name))
		if !later(first.Atim, was.Atim) || first.Ctim != was.Ctim || first.Mtim != was.Mtim {
			t.Errorf("%s: the first read after a change made of the times %v %v %v these: %v %v %v", name, was.Atim, was.Mtim, was.Ctim, first.Atim, first.Mtim, first.Ctim)
		}
		read(in(relatime, name))
		if again := times(in(relatime, name)); again.Atim != first.Atim {
			t.Errorf("%s: the second read moved atime from %v to %v", name, first.Atim, again.Atim)
		}
		// Who asks anew sees it: leases are not recalled for it.
		must(t, eventually(20*time.Second, "atime on another mount", func() error {
			time.Sleep(time.Second)
			fresh := c.mount(t)
			st := times(in(fresh, name))
			must(t, fresh.umount(10*time.Second))
			if st.Atim != first.Atim {
				return fmt.Errorf("%s: %v, want %v", name, st.Atim, first.Atim)
			}
			return nil
		}))
	}
	// Set times stay as they are set.
	must(t, os.Chtimes(in(relatime, "f"), time.Unix(5, 6), time.Unix(1, 0)))
	if st := times(in(relatime, "f")); st.Atim != (unix.Timespec{Sec: 5, Nsec: 6}) {
		t.Errorf("atime set to 5.6 is %v", st.Atim)
	}
	read(in(relatime, "f")) // older than ctime
	if st := times(in(relatime, "f")); st.Atim.Sec == 5 {
		t.Error("a read after atime was set long ago did not move it")
	}
	// O_NOATIME.
	must(t, os.Chtimes(in(relatime, "f"), time.Unix(5, 6), time.Unix(1, 0)))
	fd, err := unix.Open(in(relatime, "f"), unix.O_RDONLY|unix.O_NOATIME, 0)
	must(t, err)
	_, err = unix.Pread(fd, make([]byte, 1), 0)
	must(t, errors.Join(err, unix.Close(fd)))
	if st := times(in(relatime, "f")); st.Atim.Sec != 5 {
		t.Errorf("a read with O_NOATIME moved atime to %v", st.Atim)
	}
	// strictatime: each read that reaches the file system.
	strictly := func() unix.Timespec {
		_, err := os.Readlink(in(strict, "l"))
		must(t, err)
		_, err = os.ReadDir(in(strict, "sub"))
		must(t, err)
		return times(in(strict, "sub")).Atim
	}
	if a, b := strictly(), strictly(); !later(b, a) {
		t.Errorf("strictatime: %v, then %v", a, b)
	}
}

// TestRemount: mount -o remount through the helper changes what the kernel allows, at once,
// and nothing else.
func TestRemount(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t)
	helper := filepath.Join(t.TempDir(), "mount.fuse.dfs")
	must(t, os.Symlink(filepath.Join(binaries, "dfs-mount"), helper))
	file := filepath.Join(m.dir, "remounted")
	must(t, os.WriteFile(file, []byte("before"), 0o644))
	// The words of the mount table, as mount(8) gives them.
	table := "relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576"
	command(t, "/", helper, strings.Join(c.addrs, ","), m.dir, "-o", "remount,ro,nosuid,"+table)
	var st unix.Statfs_t
	must(t, unix.Statfs(m.dir, &st))
	if st.Flags&unix.ST_RDONLY == 0 || st.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags %#x after remount,ro,nosuid", st.Flags)
	}
	if err := os.WriteFile(file, []byte("x"), 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing after remount,ro: %v, want EROFS", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "before" {
		t.Errorf("reading after remount,ro: %q, %v", got, err)
	}
	command(t, "/", helper, strings.Join(c.addrs, ","), m.dir, "-o", "remount,rw,"+table)
	must(t, os.WriteFile(file, []byte("after"), 0o644))
	must(t, os.Remove(file))

	out, err := exec.Command(helper, strings.Join(c.addrs, ","), "/proc", "-o", "remount,ro").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not the mount point of a dfs file system") {
		t.Errorf("remount of what is no mount of dfs: %v, %s", err, out)
	}
}
