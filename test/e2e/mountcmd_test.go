package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// detached is a mount in the background, as dfs-mount makes it by default.
func detached(t *testing.T, run func(dir, pidFile string) *exec.Cmd) (dir string, pid int) {
	t.Helper()
	base := t.TempDir()
	must(t, os.Chmod(filepath.Dir(base), 0o755))
	must(t, os.Chmod(base, 0o777))
	dir, pidFile := filepath.Join(base, "mnt"), filepath.Join(base, "pid")
	must(t, os.Mkdir(dir, 0o755))
	cmd := run(dir, pidFile)
	// CombinedOutput ends when the daemon has let go of the pipe, too.
	out, err := cmd.CombinedOutput()
	t.Cleanup(func() {
		if mounted(dir) {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	})
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(out) > 0 {
		t.Errorf("a mount in the background says %q", out)
	}
	if !mounted(dir) {
		t.Fatal("it returned before it was mounted")
	}
	text, err := os.ReadFile(pidFile)
	must(t, err)
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	return dir, pid
}

func gone(t *testing.T, pid int) {
	t.Helper()
	must(t, eventually(stopTimeout, "the daemon to end", func() error {
		// Not kill(pid, 0): a machine whose first process does not collect orphans
		// keeps what has ended as a zombie.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	}))
}

func TestMountInBackground(t *testing.T) {
	c := shared.get(t)
	dir, pid := detached(t, func(dir, pidFile string) *exec.Cmd {
		return exec.Command(filepath.Join(binaries, "dfs-mount"), "--pid-file", pidFile, strings.Join(c.addrs, ","), dir)
	})
	must(t, os.WriteFile(filepath.Join(dir, "background"), []byte("x"), 0o644))
	must(t, os.Remove(filepath.Join(dir, "background")))
	command(t, "/", "umount", dir)
	gone(t, pid)
}

func TestMountHelper(t *testing.T) {
	c := shared.get(t)
	first := c.mount(t)
	mkdir(t, filepath.Join(first.dir, "helper", "sub"))
	must(t, os.WriteFile(filepath.Join(first.dir, "helper", "sub", "f"), []byte("below"), 0o644))
	link := filepath.Join(t.TempDir(), "mount.fuse.dfs")
	must(t, os.Symlink(filepath.Join(binaries, "dfs-mount"), link))
	// As mount(8) calls a helper for a line of /etc/fstab.
	dir, pid := detached(t, func(dir, pidFile string) *exec.Cmd {
		return exec.Command(link, strings.Join(c.addrs, ","), dir, "-o", "ro,nosuid,_netdev,noatime,path=/helper/sub,pid-file="+pidFile)
	})
	got, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || string(got) != "below" {
		t.Errorf("path=: %q, %v", got, err)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if st.Flags&unix.ST_NODEV != 0 || st.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags %#x: want nosuid, as it was said, and not nodev", st.Flags)
	}
	if err := os.WriteFile(filepath.Join(dir, "g"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a mount with ro: %v, want EROFS", err)
	}
	must(t, unix.Kill(pid, syscall.SIGTERM))
	gone(t, pid)
	if mounted(dir) {
		t.Error("still mounted after SIGTERM")
	}
}

func TestMountAsOrdinaryUser(t *testing.T) {
	tool(t, "fusermount3", "fuse3")
	c := shared.get(t)
	m := c.mount(t)
	const uid = 65534 // nobody: fusermount3 wants a user with a name
	if info, err := os.Stat("/dev/fuse"); err != nil || info.Mode().Perm()&0o006 != 0o006 {
		// As distributions set it; some containers do not.
		must(t, os.Chmod("/dev/fuse", 0o666))
		t.Cleanup(func() { _ = os.Chmod("/dev/fuse", info.Mode().Perm()) })
	}
	home := filepath.Join(m.dir, "user")
	mkdir(t, home)
	must(t, os.Chown(home, uid, uid))
	must(t, os.Chmod(binaries, 0o755))
	dir, pid := detached(t, func(dir, pidFile string) *exec.Cmd {
		must(t, os.Chown(dir, uid, uid))
		cmd := exec.Command(filepath.Join(binaries, "dfs-mount"), "--pid-file", pidFile, "-o", "path=/user", strings.Join(c.addrs, ","), dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return cmd
	})
	cmd := exec.Command("sh", "-c", "echo hello >f && cat f && mkdir d && ls")
	cmd.Dir = "/"
	cmd.Args[2] = "cd " + dir + " && " + cmd.Args[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "hello\nd\nf\n" {
		t.Errorf("the user's programs: %v, %q", err, out)
	}
	info, err := os.Stat(filepath.Join(home, "f"))
	must(t, err)
	if got := info.Sys().(*syscall.Stat_t).Uid; got != uid {
		t.Errorf("the user's file belongs to %d", got)
	}
	end := exec.Command("fusermount3", "-u", dir)
	end.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := end.CombinedOutput(); err != nil {
		t.Errorf("fusermount3 -u: %v: %s", err, out)
	}
	gone(t, pid)
}

func TestMountRefusals(t *testing.T) {
	c := shared.get(t)
	dir := t.TempDir()
	masters := strings.Join(c.addrs, ",")
	refusal(t, "an unknown option", `unknown mount option "frobnicate"`, "dfs-mount", "-o", "frobnicate", masters, dir)
	refusal(t, "a mountpoint that is not there", "no such file or directory", "dfs-mount", masters, filepath.Join(dir, "x"))
	refusal(t, "a path that is not there", "path=/no/such", "dfs-mount", "-o", "path=/no/such", masters, dir)
	start := time.Now()
	refusal(t, "masters that are not there", "127.0.0.1:1", "dfs-mount", "-o", "op-timeout=2s,no-wait", "127.0.0.1:1", dir)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("masters that are not there: %v for a bound of 2s", took)
	}
	if mounted(dir) {
		t.Error("something is mounted")
	}
}
