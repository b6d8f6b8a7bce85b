package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// comesBackIn is how long a mount may be without an answer when the process that serves it
// is killed.
const comesBackIn = 2 * time.Second

// childOf finds the one process that another has started; 0: none.
func childOf(parent int) int {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // without looking at each: processes come and go
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", name, "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[0] != "Z" && f[1] == strconv.Itoa(parent) {
			return pid
		}
	}
	return 0
}

// worker is the process that serves the mount.
func (m *mount) worker() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return childOf(m.cmd.Process.Pid)
}

// kill is the death of the machine: of both processes at once. The supervisor is stopped
// first, so that it does nothing about the worker's death. (The other way round the kernel would wake a
// stopped worker when its parent ends, and it would say goodbye.)
func (m *mount) kill() {
	worker, supervisor := m.worker(), m.cmd.Process.Pid
	if worker != 0 {
		m.signal(unix.SIGSTOP)
		for deadline := time.Now().Add(stopTimeout); !stopped(supervisor) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		_ = unix.Kill(worker, unix.SIGKILL)
		for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", worker))
			if err != nil || strings.Contains(string(stat), ") Z ") {
				break
			}
		}
	}
	m.process.kill()
}

// stopped reports whether all threads of a process have stopped, or are gone.
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, name := range threads {
		stat, rerr := os.ReadFile(name)
		if rerr == nil && !strings.Contains(string(stat), ") T ") && !strings.Contains(string(stat), ") Z ") {
			return false
		}
	}
	return err == nil
}

// load is programs that use a mount, and fail the test when they are told an error, or
// something wrong.
type load struct {
	stop     chan struct{}
	wg       sync.WaitGroup
	programs []*atomic.Int64 // rounds of each
}

// rounds is how many each program has done.
func (l *load) rounds() []int64 {
	all := make([]int64, len(l.programs))
	for i, n := range l.programs {
		all[i] = n.Load()
	}
	return all
}

func (l *load) run(t *testing.T, name string, round func(i int) error) {
	rounds := &atomic.Int64{}
	l.programs = append(l.programs, rounds)
	l.wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-l.stop:
				return
			default:
			}
			if err := round(i); err != nil {
				t.Errorf("%s, round %d: %v", name, i, err)
				return
			}
			rounds.Add(1)
		}
	})
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

// startLoad starts those programs in a folder.
func startLoad(t *testing.T, dir string) *load {
	l := &load{stop: make(chan struct{})}
	fixed := bytes.Repeat([]byte("what was synced stays. "), 20000)
	must(t, writeSynced(filepath.Join(dir, "fixed"), fixed))
	reader, err := os.Open(filepath.Join(dir, "fixed"))
	must(t, err)
	t.Cleanup(func() { reader.Close() })
	l.run(t, "read of an open file", func(int) error {
		got := make([]byte, len(fixed))
		if _, err := reader.ReadAt(got, 0); err != nil {
			return err
		}
		if !bytes.Equal(got, fixed) {
			return errors.New("other bytes")
		}
		return nil
	})
	// A program that writes and syncs: what was synced is there, and an error is told at
	// most for bytes since the sync before; then it writes them again.
	journal, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_CREATE|os.O_RDWR, 0o644)
	must(t, err)
	must(t, journal.Sync())
	t.Cleanup(func() { journal.Close() })
	var synced bytes.Buffer
	l.run(t, "journal", func(i int) error {
		line := fmt.Appendf(nil, "line %d\n", i)
		for {
			_, err := journal.WriteAt(line, int64(synced.Len()))
			if err == nil {
				err = journal.Sync()
			}
			if errors.Is(err, unix.EIO) {
				continue
			}
			if err != nil {
				return err
			}
			synced.Write(line)
			break
		}
		if i%16 != 0 {
			return nil
		}
		got, err := os.ReadFile(journal.Name())
		if err != nil {
			return err
		}
		if !bytes.Equal(got, synced.Bytes()) {
			at := 0
			for at < len(got) && at < synced.Len() && got[at] == synced.Bytes()[at] {
				at++
			}
			return fmt.Errorf("%d bytes, want the %d that were synced; they differ from byte %d on: %q", len(got), synced.Len(), at, got[at:])
		}
		return nil
	})
	// A file without a name.
	orphan, err := os.OpenFile(filepath.Join(dir, "orphan"), os.O_CREATE|os.O_RDWR, 0o644)
	must(t, err)
	t.Cleanup(func() { orphan.Close() })
	_, err = orphan.Write(fixed)
	must(t, err)
	must(t, orphan.Sync())
	must(t, os.Remove(orphan.Name()))
	folder, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { folder.Close() })
	must(t, folder.Sync())
	l.run(t, "unlinked file", func(int) error {
		got := make([]byte, len(fixed))
		if _, err := orphan.ReadAt(got, 0); err != nil {
			return err
		}
		if !bytes.Equal(got, fixed) {
			return errors.New("other bytes")
		}
		return nil
	})
	// Names: each is synced before the next step is expected to find it.
	l.run(t, "names", func(i int) error {
		a, b := filepath.Join(dir, fmt.Sprint("a", i)), filepath.Join(dir, fmt.Sprint("b", i))
		steps := []func() error{
			func() error { return os.Mkdir(a, 0o755) },
			folder.Sync,
			func() error { return os.Rename(a, b) },
			folder.Sync,
			func() error { return os.Remove(b) },
			folder.Sync,
		}
		for n, step := range steps {
			err := step()
			if errors.Is(err, unix.EIO) || n > 0 && errors.Is(err, unix.ENOENT) {
				return nil // a step that was not synced was lost, and is told
			}
			if err != nil {
				return fmt.Errorf("step %d: %w", n, err)
			}
		}
		return nil
	})
	return l
}

// answers waits until the mount answers something that its kernel does not know. One request
// may be answered with EIO: that which was being copied when the process was killed.
func answers(dir string) (err error) {
	var st unix.Stat_t
	for range 2 {
		err = unix.Stat(filepath.Join(dir, fmt.Sprint("no such name ", time.Now().UnixNano())), &st)
		if !errors.Is(err, unix.EIO) {
			break
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("stat: %w", err)
}

func TestMountComesBackWhenItsProcessIsKilled(t *testing.T) {
	c := shared.get(t)
	m, other := c.mount(t), c.mount(t)
	dir := filepath.Join(m.dir, "takeover")
	mkdir(t, dir)
	l := startLoad(t, dir)
	const kills = 50
	var worst, sum time.Duration
	for i := range kills {
		before := l.rounds()
		worker := m.worker()
		start := time.Now()
		must(t, unix.Kill(worker, unix.SIGKILL))
		must(t, answers(m.dir))
		took := time.Since(start)
		worst, sum = max(worst, took), sum+took
		if took > comesBackIn {
			t.Errorf("kill %d: back after %v", i, took)
		}
		must(t, eventually(10*time.Second, "the programs to go on", func() error {
			if t.Failed() {
				return nil
			}
			for p, n := range l.rounds() {
				if n < before[p]+2 { // the first may have been under way
					return fmt.Errorf("program %d has done %d rounds", p, n-before[p])
				}
			}
			return nil
		}))
		// The other mount sees what this one has synced.
		if _, err := os.Stat(filepath.Join(other.dir, "takeover", "fixed")); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d kills: back after %v on average, %v at most", kills, sum/kills, worst)
	l.end()
	must(t, os.RemoveAll(dir))
}

// TestNothingIsStaleAfterATakeover: attributes, names and bytes that the kernel had cached
// under leases of the process that was killed are those that another mount has set since.
func TestNothingIsStaleAfterATakeover(t *testing.T) {
	c := shared.get(t)
	m, other := c.mount(t), c.mount(t)
	mkdir(t, filepath.Join(m.dir, "stale"))
	path, there := filepath.Join(m.dir, "stale", "f"), filepath.Join(other.dir, "stale", "f")
	must(t, writeSynced(path, []byte("round 00")))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	folder, err := unix.Open(filepath.Join(m.dir, "stale"), unix.O_PATH, 0) // as a working folder: no OPEN tells of it
	must(t, err)
	defer unix.Close(folder)
	for i := 1; i <= 10; i++ {
		// All of it is known to the kernel.
		var st unix.Stat_t
		must(t, unix.Fstat(folder, &st))
		links := st.Nlink
		_, err := f.Stat()
		must(t, err)
		absent := filepath.Join("stale", fmt.Sprint("d", i))
		if _, err := os.Stat(filepath.Join(m.dir, absent)); !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		must(t, unix.Kill(m.worker(), unix.SIGKILL))
		want := fmt.Appendf(nil, "round %02d", i)
		must(t, writeSynced(there, want))
		must(t, os.Mkdir(filepath.Join(other.dir, absent), 0o755))
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("an open file: %q, %v; want %q", got, err, want)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("a file: %q, %v; want %q", got, err, want)
		}
		if _, err := os.Stat(filepath.Join(m.dir, absent)); err != nil {
			t.Errorf("a name that was absent: %v", err)
		}
		if must(t, unix.Fstat(folder, &st)); st.Nlink != links+1 {
			t.Errorf("a working folder has %d links, want %d", st.Nlink, links+1)
		}
	}
	must(t, os.RemoveAll(filepath.Join(m.dir, "stale")))
}

func TestMountIsReplacedUnderLoad(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t)
	dir := filepath.Join(m.dir, "replaced")
	mkdir(t, dir)
	l := startLoad(t, dir)
	f, err := os.Create(filepath.Join(dir, "not synced"))
	must(t, err)
	defer f.Close()
	var want bytes.Buffer
	for i := range 5 {
		line := fmt.Appendf(nil, "written before %d\n", i)
		_, err := f.Write(line)
		must(t, err)
		want.Write(line)
		worker := m.worker()
		m.signal(syscall.SIGHUP)
		must(t, eventually(20*time.Second, "another process", func() error {
			if now := m.worker(); now == 0 || now == worker {
				return errors.New("the same")
			}
			return nil
		}))
		must(t, answers(m.dir))
		must(t, f.Sync()) // nothing was lost
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%q, %v; want %q", got, err, want.Bytes())
		}
	}
	l.end()
	must(t, os.RemoveAll(dir))
}

// TestLostBytesAreToldOnce: what was written and not synced before the process was killed
// is either there or told.
func TestLostBytesAreToldOnce(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t)
	path := filepath.Join(m.dir, "lost")
	must(t, writeSynced(path, []byte("synced")))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("SYNCED"), 0)
	must(t, err)
	must(t, unix.Kill(m.worker(), unix.SIGKILL))
	if err := f.Sync(); !errors.Is(err, unix.EIO) {
		t.Errorf("fsync after bytes were lost: %v, want EIO", err)
	}
	if err := f.Sync(); err != nil {
		t.Errorf("the second fsync: %v", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "synced" {
		t.Errorf("%q, %v; want what was synced", got, err)
	}
	_, err = f.WriteAt([]byte("again!"), 0)
	must(t, err)
	must(t, f.Sync())
	got, err = os.ReadFile(path)
	if err != nil || string(got) != "again!" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, os.Remove(path))
}

// TestWhatWasJustSyncedOutlivesTheMountsProcess: of a file that is synced again and again
// the masters hear late what fsync has acknowledged.
func TestWhatWasJustSyncedOutlivesTheMountsProcess(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t)
	other := c.mount(t)
	path := filepath.Join(m.dir, "just synced")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	line := func(i int) string { return fmt.Sprintf("%09d\n", i) }
	var want strings.Builder
	for round := range 5 {
		for i := range 20 {
			want.WriteString(line(100*round + i))
			_, err = f.WriteString(line(100*round + i))
			must(t, err)
			must(t, f.Sync())
		}
		must(t, unix.Kill(m.worker(), unix.SIGKILL))
		seen, err := os.ReadFile(filepath.Join(other.dir, "just synced"))
		if err != nil || string(seen) != want.String() {
			t.Fatalf("round %d: another mount sees %d bytes, %v; want %d", round, len(seen), err, want.Len())
		}
		if err := f.Sync(); err != nil {
			t.Fatalf("round %d: fsync after nothing was lost: %v", round, err)
		}
		seen, err = os.ReadFile(path)
		if err != nil || string(seen) != want.String() {
			t.Fatalf("round %d: the mount sees %d bytes, %v; want %d", round, len(seen), err, want.Len())
		}
	}
	must(t, os.Remove(path))
}

// TestMountLeavesNoProcess: whichever way a mount ends, both of its processes do.
func TestMountLeavesNoProcess(t *testing.T) {
	c := shared.get(t)
	for _, end := range []struct {
		name string
		how  func(dir string, worker, supervisor int)
	}{
		{"umount", func(dir string, _, _ int) { command(t, "/", "umount", dir) }},
		{"umount -l", func(dir string, _, _ int) { command(t, "/", "umount", "-l", dir) }},
		{"fusermount3 -u", func(dir string, _, _ int) { command(t, "/", "fusermount3", "-u", dir) }},
		{"SIGTERM", func(_ string, worker, _ int) { must(t, unix.Kill(worker, unix.SIGTERM)) }},
		{"SIGTERM to the supervisor", func(_ string, _, supervisor int) { must(t, unix.Kill(supervisor, unix.SIGTERM)) }},
		{"umount after a takeover", func(dir string, worker, _ int) {
			must(t, unix.Kill(worker, unix.SIGKILL))
			must(t, answers(dir))
			command(t, "/", "umount", dir)
		}},
	} {
		dir, worker := detached(t, func(dir, pidFile string) *exec.Cmd {
			return exec.Command(filepath.Join(binaries, "dfs-mount"), "--pid-file", pidFile, strings.Join(c.addrs, ","), dir)
		})
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", worker))
		must(t, err)
		_, rest, _ := strings.Cut(string(stat), ") ")
		supervisor, err := strconv.Atoi(strings.Fields(rest)[1])
		must(t, err)
		path := filepath.Join(dir, "left by "+end.name)
		must(t, os.WriteFile(path, []byte("written"), 0o644))
		must(t, answers(dir))
		if end.name == "umount after a takeover" {
			must(t, writeSynced(path, []byte("written")))
		}
		end.how(dir, worker, supervisor)
		gone(t, worker)
		gone(t, supervisor)
		if mounted(dir) {
			t.Errorf("%s: still mounted", end.name)
		}
		m := c.mount(t)
		got, err := os.ReadFile(filepath.Join(m.dir, filepath.Base(path)))
		if err != nil || string(got) != "written" {
			t.Errorf("%s: %q, %v", end.name, got, err)
		}
	}
}

// TestMountWaitsForTheCluster: it says so, can be interrupted, and does not wait when told.
func TestMountWaitsForTheCluster(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(binaries, "dfs-mount")
	out, err := exec.Command(program, "--no-wait", "--op-timeout=1s", "127.0.0.1:1", dir).CombinedOutput()
	if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "127.0.0.1:1") {
		t.Errorf("--no-wait: %v, %q; want one line", err, out)
	}
	for _, args := range [][]string{{"-f"}, {}} {
		cmd := exec.Command(program, append(args, "--op-timeout=1s", "127.0.0.1:1", dir)...)
		var said lockedBuffer
		cmd.Stderr = &said
		must(t, cmd.Start())
		err = eventually(10*time.Second, "the word that it waits", func() error {
			if !strings.Contains(said.String(), "waiting for the masters") {
				return errors.New(said.String())
			}
			return nil
		})
		must(t, cmd.Process.Signal(syscall.SIGINT))
		// Wait returns when nobody has stderr any more: the child in the background has
		// ended, too.
		if werr := cmd.Wait(); werr == nil {
			t.Error("Ctrl-C while waiting: exit code 0")
		}
		must(t, err)
		if mounted(dir) {
			t.Error("mounted without a cluster")
		}
	}
}

// lockedBuffer is what a program says while it runs.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestNewerProgramGoesOnWithTheMount: SIGHUP starts what is at the program's path now.
func TestNewerProgramGoesOnWithTheMount(t *testing.T) {
	c := shared.get(t)
	program := filepath.Join(t.TempDir(), "dfs-mount")
	install := func() {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(binaries, "dfs-mount"))
		must(t, err)
		must(t, os.WriteFile(program+".new", data, 0o755))
		must(t, os.Rename(program+".new", program))
	}
	install()
	var pidFile string
	dir, worker := detached(t, func(dir, pid string) *exec.Cmd {
		pidFile = pid
		return exec.Command(program, "--pid-file", pid, strings.Join(c.addrs, ","), dir)
	})
	f, err := os.Create(filepath.Join(dir, "newer program"))
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("before")
	must(t, err)
	install()
	must(t, unix.Kill(worker, unix.SIGHUP))
	gone(t, worker)
	must(t, answers(dir))
	var now int
	must(t, eventually(10*time.Second, "the pid file", func() error {
		text, err := os.ReadFile(pidFile)
		if err != nil {
			return err
		}
		if now, err = strconv.Atoi(strings.TrimSpace(string(text))); err == nil && now == worker {
			err = errors.New("of the process before")
		}
		return err
	}))
	var old, runs unix.Stat_t
	must(t, unix.Stat(program, &old))
	must(t, unix.Stat(fmt.Sprintf("/proc/%d/exe", now), &runs))
	if old.Ino != runs.Ino {
		t.Error("the process that serves the mount runs the old program")
	}
	_, err = f.WriteString(" after")
	must(t, err)
	must(t, f.Close())
	got, err := os.ReadFile(filepath.Join(dir, "newer program"))
	if err != nil || string(got) != "before after" {
		t.Errorf("%q, %v", got, err)
	}
	command(t, "/", "umount", dir)
	gone(t, now)
}

// TestCrashAgainAndAgainEndsTheMount: what crashes at once each time is given up, and leaves
// no dead mount behind.
func TestCrashAgainAndAgainEndsTheMount(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t)
	last := 0
	must(t, eventually(30*time.Second, "the first process to serve", func() error { // who ends before is not replaced
		if said := lastLines(m.log, 10); !strings.Contains(said, "msg=mounted") {
			return fmt.Errorf("it says %q", said)
		}
		return nil
	}))
	must(t, eventually(60*time.Second, "the supervisor to give up", func() error {
		if !m.alive() {
			return nil
		}
		if worker := m.worker(); worker != 0 && worker != last {
			_ = unix.Kill(worker, unix.SIGABRT) // as a Go program that crashes
			last = worker
		}
		return errors.New("it goes on")
	}))
	if mounted(m.dir) {
		t.Error("a dead mount is left")
	}
	if said := lastLines(m.log, 3); !strings.Contains(said, "is unmounted: the process that serves it died 12 times") {
		t.Errorf("it says %q", said)
	}
}
