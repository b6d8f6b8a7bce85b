package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/test/posix"

	"golang.org/x/sys/unix"
)

// TestLocksOfTwoMounts runs each case of locks with its programs on two mounts.
func TestLocksOfTwoMounts(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	for i, lc := range posix.LockCases {
		t.Run(lc.Name, func(t *testing.T) {
			name := fmt.Sprintf("locks-%d", i)
			mkdir(t, filepath.Join(a.dir, name))
			lc.Run(t, filepath.Join(a.dir, name), filepath.Join(b.dir, name))
		})
	}
}

// TestLocksExcludeOverMounts has programs of two mounts count in one file, each under a
// lock: every number must be there once.
func TestLocksExcludeOverMounts(t *testing.T) {
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t)}
	const programs, rounds = 2, 100
	for call, lock := range map[string]func(f *os.File, on bool) error{
		"flock": func(f *os.File, on bool) error {
			how := unix.LOCK_UN
			if on {
				how = unix.LOCK_EX
			}
			return unix.Flock(int(f.Fd()), how)
		},
		"fcntl": func(f *os.File, on bool) error {
			lk := unix.Flock_t{Type: unix.F_UNLCK, Start: 100, Len: 1}
			if on {
				lk.Type = unix.F_WRLCK
			}
			return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &lk)
		},
	} {
		t.Run(call, func(t *testing.T) {
			name := "counter-" + call
			must(t, os.WriteFile(filepath.Join(mounts[0].dir, name), []byte("0"), 0o644))
			var wg sync.WaitGroup
			for i := range programs * len(mounts) {
				wg.Go(func() {
					f, err := os.OpenFile(filepath.Join(mounts[i%len(mounts)].dir, name), os.O_RDWR, 0)
					if err != nil {
						t.Error(err)
						return
					}
					defer f.Close()
					for range rounds {
						if err := count(f, lock); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			got, err := os.ReadFile(filepath.Join(mounts[1].dir, name))
			must(t, err)
			if want := programs * len(mounts) * rounds; string(got) != strconv.Itoa(want) {
				t.Errorf("counted to %s, want %d", got, want)
			}
		})
	}
}

// count adds one to the number in a file, under a lock.
func count(f *os.File, lock func(f *os.File, on bool) error) error {
	if err := lock(f, true); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	v, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(v+1)), 0); err != nil {
		return err
	}
	return lock(f, false)
}

func TestLocksSurviveTheLeadingMaster(t *testing.T) {
	c := newCluster(t, options{})
	a, b := c.mount(t), c.mount(t)
	must(t, os.WriteFile(filepath.Join(a.dir, "f"), []byte("x"), 0o644))
	p, q := posix.NewLocker(t), posix.NewLocker(t)
	p.Open(1, filepath.Join(a.dir, "f"))
	q.Open(1, filepath.Join(b.dir, "f"))
	must(t, p.Ask("setlk", 1, unix.F_WRLCK, 0, 10)) // the mount alone knows of it
	c.leader(t).kill()
	if err := q.Ask("setlk", 1, unix.F_WRLCK, 5, 10); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("under the next leader: %v, want EAGAIN", err)
	}
	waits := q.Begin("setlkw", 1, unix.F_WRLCK, 5, 10)
	if !posix.Waiting(waits) {
		t.Fatal("it does not wait")
	}
	for _, m := range c.masters {
		if !m.alive() {
			must(t, m.start())
		}
	}
	must(t, c.waitHealthy(healthyTimeout))
	c.leader(t).kill()
	must(t, p.Ask("setlk", 1, unix.F_UNLCK, 0, 0))
	must(t, posix.Done(t, waits))
	if err := p.Ask("setlk", 1, unix.F_RDLCK, 5, 1); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("beside who has waited: %v, want EAGAIN", err)
	}
}

func TestLocksOfAKilledMountAreReleased(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	must(t, os.WriteFile(filepath.Join(a.dir, "killed"), []byte("x"), 0o644))
	p, q := posix.NewLocker(t), posix.NewLocker(t)
	p.Open(1, filepath.Join(a.dir, "killed"))
	q.Open(1, filepath.Join(b.dir, "killed"))
	must(t, p.Ask("flock", 1, unix.LOCK_EX, 0, 0))
	if err := q.Ask("flock", 1, unix.LOCK_EX|unix.LOCK_NB, 0, 0); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatalf("beside the other mount: %v, want EWOULDBLOCK", err)
	}
	waits := q.Begin("flock", 1, unix.LOCK_EX, 0, 0)
	if !posix.Waiting(waits) {
		t.Fatal("it does not wait")
	}
	a.kill()
	start := time.Now()
	select {
	case err := <-waits:
		must(t, err)
	case <-time.After(time.Minute):
		t.Fatal("the lock of a mount that is gone is not released")
	}
	t.Logf("released after %v", time.Since(start).Round(time.Second))
}

// TestWaitingForALockCanBeInterrupted: a signal ends the wait, and the lock is not taken
// afterwards.
func TestWaitingForALockCanBeInterrupted(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	name := filepath.Join(a.dir, "interrupted")
	must(t, os.WriteFile(name, []byte("x"), 0o644))
	p := posix.NewLocker(t)
	p.Open(1, name)
	must(t, p.Ask("flock", 1, unix.LOCK_EX, 0, 0))
	interrupt(t, "flock", 2*time.Second, unix.SIGINT, "flock", filepath.Join(b.dir, "interrupted"), "true")
	must(t, p.Ask("flock", 1, unix.LOCK_UN, 0, 0))
	must(t, eventually(5*time.Second, "the lock to be free", func() error {
		return p.Ask("flock", 1, unix.LOCK_EX|unix.LOCK_NB, 0, 0)
	}))
}

func TestLockRun(t *testing.T) {
	c := shared.get(t)
	dir := t.TempDir()
	run := func(args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(binaries, "dfs"), append([]string{"--masters", strings.Join(c.addrs, ","), "lock"}, args...)...)
		cmd.Dir = dir
		return cmd
	}
	code := func(cmd *exec.Cmd) (string, int) {
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	must(t, os.WriteFile(filepath.Join(dir, "n"), []byte("0"), 0o644))
	var wg sync.WaitGroup
	const programs = 6
	for range programs {
		wg.Go(func() {
			out, err := run("run", "count", "--", "sh", "-c", `n=$(cat n); sleep 0.05; echo $((n+1)) >n; echo $DFS_LOCK_NAME $DFS_LOCK_TOKEN >>tokens`).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if n := strings.TrimSpace(command(t, dir, "cat", "n")); n != strconv.Itoa(programs) {
		t.Errorf("counted to %s, want %d", n, programs)
	}
	last := 0
	for line := range strings.Lines(command(t, dir, "cat", "tokens")) {
		token, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "count ")))
		if err != nil || token <= last {
			t.Errorf("token %q after %d", line, last)
		}
		last = token
	}

	holder := run("run", "held", "--", "sh", "-c", "touch held; sleep 1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, holder.Start())
	t.Cleanup(func() { _ = syscall.Kill(-holder.Process.Pid, syscall.SIGKILL); _ = holder.Wait() })
	must(t, eventually(10*time.Second, "the lock to be held", func() error {
		_, err := os.Stat(filepath.Join(dir, "held"))
		return err
	}))
	for _, args := range [][]string{{"--no-wait"}, {"--wait", "300ms"}, {"--no-wait", "--shared"}} {
		if out, n := code(run(append(append([]string{"run"}, args...), "held", "--", "true")...)); n != 4 || !strings.Contains(out, "somebody else has the lock") {
			t.Errorf("%v beside it: %d, %s", args, n, out)
		}
	}
	if out, n := code(run("list")); n != 0 || !strings.Contains(out, "held") || !strings.Contains(out, "exclusive") {
		t.Errorf("list: %d, %s", n, out)
	}
	must(t, holder.Process.Signal(syscall.SIGTERM))
	_ = holder.Wait()
	if out, n := code(run("run", "--wait", "5s", "held", "--", "sh", "-c", "exit 7")); n != 7 {
		t.Errorf("after it: %d, %s", n, out)
	}
	if out, n := code(run("run", "held", "true")); n != 2 || !strings.Contains(out, "then -- and a command") {
		t.Errorf("without --: %d, %s", n, out)
	}
}
