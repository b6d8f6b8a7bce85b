package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pauseMax is how long programs may have to wait when a server dies.
const pauseMax = 3 * time.Second

// worker does one operation after the other until it is stopped, and knows the
// longest and the first failure.
type worker struct {
	stop    chan struct{}
	done    chan struct{}
	mu      sync.Mutex
	count   int
	longest time.Duration
	err     error
}

func work(op func(i int) error) *worker {
	w := &worker{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			default:
			}
			start := time.Now()
			err := op(i)
			w.mu.Lock()
			w.count++
			w.longest = max(w.longest, time.Since(start))
			w.err = err
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return w
}

func (w *worker) operations() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// finish stops the worker and wants no error and no pause over the bound.
func (w *worker) finish(t *testing.T, what string) {
	t.Helper()
	close(w.stop)
	<-w.done
	t.Logf("%s: %d operations, the longest %v", what, w.count, w.longest.Round(time.Millisecond))
	if w.err != nil {
		t.Errorf("%s: %v", what, w.err)
	}
	if w.longest > pauseMax {
		t.Errorf("%s: a pause of %v, want less than %v", what, w.longest, pauseMax)
	}
}

// progress waits until each worker has done n more operations.
func progress(t *testing.T, n int, workers ...*worker) {
	t.Helper()
	for _, w := range workers {
		from := w.operations()
		must(t, eventually(30*time.Second, "progress", func() error {
			select {
			case <-w.done:
				return nil // its error is told by finish
			default:
			}
			if now := w.operations(); now < from+n {
				return fmt.Errorf("%d operations, want %d", now-from, n)
			}
			return nil
		}))
	}
}

func createAndSync(dir string) func(int) error {
	return func(i int) error {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("f-%05d", i)))
		if err != nil {
			return err
		}
		if _, err := f.Write(random(5000+i, uint64(i))); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return f.Close()
	}
}

// checkCreated compares what createAndSync has made in a folder.
func checkCreated(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("f-%05d", i)))
		if err != nil || !bytes.Equal(got, random(5000+i, uint64(i))) {
			t.Errorf("file %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// makeAndRemove makes a folder, renames and removes it. Exactly once: a retry after a lost answer
// must not see its own change.
func makeAndRemove(dir string) func(int) error {
	return func(i int) error {
		a, b := filepath.Join(dir, fmt.Sprint("a", i)), filepath.Join(dir, fmt.Sprint("b", i))
		if err := os.Mkdir(a, 0o755); err != nil {
			return err
		}
		if err := os.Rename(a, b); err != nil {
			return err
		}
		return os.Remove(b)
	}
}

func TestKillOfLeadingMasterIsAPauseAndNoError(t *testing.T) {
	c := newCluster(t, options{})
	m := c.mount(t)
	names, files, look := filepath.Join(m.dir, "names"), filepath.Join(m.dir, "files"), filepath.Join(m.dir, "look")
	for _, dir := range []string{names, files, look} {
		mkdir(t, dir)
	}
	must(t, os.WriteFile(filepath.Join(look, "f"), []byte("x"), 0o644))
	workers := map[string]*worker{
		"mkdir, rename, rmdir": work(makeAndRemove(names)),
		"create, write, fsync": work(createAndSync(files)),
		"stat and read": work(func(int) error {
			data, err := os.ReadFile(filepath.Join(look, "f"))
			if err == nil && string(data) != "x" {
				err = fmt.Errorf("read %q", data)
			}
			return err
		}),
	}
	all := func(n int) {
		for _, w := range workers {
			progress(t, n, w)
		}
	}
	all(5)
	for range 2 {
		leader := c.leader(t)
		leader.kill()
		all(10)
		must(t, leader.start())
		must(t, c.waitHealthy(healthyTimeout))
		all(10)
	}
	for what, w := range workers {
		w.finish(t, what)
	}
	checkCreated(t, files, workers["create, write, fsync"].count)
	entries, err := os.ReadDir(names)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("%d folders are left", len(entries))
	}
}

func TestPausedLeaderIsReplaced(t *testing.T) {
	c := newCluster(t, options{})
	m := c.mount(t)
	w := work(func(i int) error {
		dir := filepath.Join(m.dir, fmt.Sprint("d", i))
		return errors.Join(os.Mkdir(dir, 0o755), os.Remove(dir))
	})
	progress(t, 5, w)
	leader := c.leader(t)
	leader.signal(syscall.SIGSTOP)
	progress(t, 10, w)
	leader.signal(syscall.SIGCONT)
	must(t, c.waitHealthy(healthyTimeout))
	progress(t, 10, w)
	w.finish(t, "mkdir and rmdir")
}

func TestKillOfChunkServerWithinAWrite(t *testing.T) {
	size := int64(384 << 20)
	if *full {
		size = 2 << 30
	}
	c := newCluster(t, options{})
	m := c.mount(t)
	path := filepath.Join(m.dir, "large")
	f, err := os.Create(path)
	must(t, err)
	const block = 1 << 20
	written := int64(0)
	victim := c.chunks[1]
	longest := time.Duration(0)
	for ; written < size; written += block {
		if written == size/2 {
			victim.kill()
		}
		start := time.Now()
		if _, err := f.Write(random(block, uint64(written/block))); err != nil {
			t.Fatalf("write at %d: %v", written, err)
		}
		longest = max(longest, time.Since(start))
	}
	start := time.Now()
	must(t, f.Sync())
	t.Logf("longest write %v, fsync %v", longest, time.Since(start))
	if longest > pauseMax {
		t.Errorf("a pause of %v", longest)
	}
	must(t, f.Close())
	check := func(what, path string) {
		t.Helper()
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		buf := make([]byte, block)
		for at := int64(0); at < size; at += block {
			if _, err := f.ReadAt(buf, at); err != nil {
				t.Fatalf("%s: read at %d: %v", what, at, err)
			}
			if !bytes.Equal(buf, random(block, uint64(at/block))) {
				t.Fatalf("%s: the bytes at %d are wrong", what, at)
			}
		}
	}
	dropCaches(t)
	check("while the server is away", path)
	must(t, victim.start())
	must(t, c.waitHealthy(healthyTimeout))
	// It lacks what was written while it was away, and must never answer with less.
	other := c.mount(t)
	check("after it came back", filepath.Join(other.dir, "large"))
	// It is used again: with another one away there are still enough.
	c.chunks[0].kill()
	must(t, os.WriteFile(filepath.Join(m.dir, "after"), random(3<<20, 7), 0o644))
	got, err := os.ReadFile(filepath.Join(other.dir, "after"))
	must(t, err)
	if !bytes.Equal(got, random(3<<20, 7)) {
		t.Error("what was written with another server away is wrong")
	}
	check("with another server away", path)
}

func TestKillOfEverythingKeepsWhatWasSynced(t *testing.T) {
	c := newCluster(t, options{})
	type state struct{ synced, written int } // versions of a file
	const files = 8
	versions := make([]state, files)
	content := func(file, version int) []byte { return random(20_000+file*777+version*13, uint64(file*1000+version)) }
	for round := range 2 {
		m := c.mount(t)
		var mu sync.Mutex
		var workers []*worker
		for i := range files {
			path := filepath.Join(m.dir, fmt.Sprint("f", i))
			workers = append(workers, work(func(int) error {
				mu.Lock()
				v := versions[i].written + 1
				versions[i].written = v
				mu.Unlock()
				// A new version replaces the old one as an editor does it.
				tmp := fmt.Sprint(path, ".tmp")
				f, err := os.Create(tmp)
				if err != nil {
					return err
				}
				defer f.Close()
				if _, err := f.Write(content(i, v)); err != nil {
					return err
				}
				if err := f.Sync(); err != nil {
					return err
				}
				if err := os.Rename(tmp, path); err != nil {
					return err
				}
				d, err := os.Open(m.dir)
				if err != nil {
					return err
				}
				defer d.Close()
				if err := d.Sync(); err != nil {
					return err
				}
				mu.Lock()
				versions[i].synced = v
				mu.Unlock()
				return nil
			}))
		}
		progress(t, 5+3*round, workers...)
		for _, p := range c.all() {
			p.signal(syscall.SIGKILL)
		}
		m.kill()
		for _, p := range c.all() {
			p.kill()
		}
		must(t, m.remove())
		for _, w := range workers {
			close(w.stop)
			<-w.done // with an error, as its mount is dead
		}
		must(t, c.startAll())
		must(t, c.waitHealthy(healthyTimeout))
		after := c.mount(t)
		for i, v := range versions {
			got, err := os.ReadFile(filepath.Join(after.dir, fmt.Sprint("f", i)))
			must(t, err)
			found := -1
			for candidate := v.synced; candidate <= v.written; candidate++ {
				if bytes.Equal(got, content(i, candidate)) {
					found = candidate
				}
			}
			if found < 0 {
				t.Errorf("round %d, file %d: none of the versions %d (synced) to %d: %d bytes", round, i, v.synced, v.written, len(got))
			}
			versions[i] = state{max(found, 0), v.written}
			// What was not synced is readable, whatever it is.
			if data, err := os.ReadFile(filepath.Join(after.dir, fmt.Sprint("f", i, ".tmp"))); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("round %d: the unfinished file %d cannot be read: %v (%d bytes)", round, i, err, len(data))
			}
		}
		must(t, after.umount(stopTimeout))
	}
}

func TestNoQuorumIsBoundedAndInterruptible(t *testing.T) {
	const opTimeout = 4 * time.Second
	c := newCluster(t, options{})
	m := c.mount(t, "op-timeout="+opTimeout.String())
	dir := filepath.Join(m.dir, "d")
	mkdir(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644))
	leader := c.leader(t)
	leader.kill()
	for _, p := range c.masters {
		if p != leader {
			p.signal(syscall.SIGSTOP) // as a hung machine: connected, and silent
		}
	}

	// For some seconds the mount answers under its leases. What that is worth, fsync says.
	must(t, os.Mkdir(filepath.Join(dir, "w"), 0o755))
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	start := time.Now()
	if err := d.Sync(); !errors.Is(err, unix.ETIMEDOUT) || time.Since(start) > opTimeout+2*time.Second {
		t.Errorf("fsync of a folder without a quorum: %v after %v, want ETIMEDOUT within %v", err, time.Since(start), opTimeout)
	}
	time.Sleep(2 * time.Second)
	start = time.Now()
	err = os.Mkdir(filepath.Join(dir, "x"), 0o755)
	if took := time.Since(start); !errors.Is(err, unix.ETIMEDOUT) || took > opTimeout+2*time.Second {
		t.Errorf("mkdir without a quorum: %v after %v, want ETIMEDOUT within %v", err, took, opTimeout)
	}
	start = time.Now()
	out, err := exec.Command("ls", "-l", dir).CombinedOutput()
	if took := time.Since(start); err == nil || took > 5*opTimeout {
		t.Errorf("ls without a quorum: %v after %v: %s", err, took, out)
	}
	interrupt(t, "ls", 2*time.Second, syscall.SIGINT, "ls", "-l", dir)
	interrupt(t, "cat", time.Second+500*time.Millisecond, syscall.SIGKILL, "cat", filepath.Join(dir, "f"))
	interrupt(t, "sh", 3*time.Second, syscall.SIGTERM, "sh", "-c", "cd "+dir+" && mkdir y")

	for _, p := range c.masters {
		p.signal(syscall.SIGCONT)
	}
	must(t, leader.start())
	must(t, c.waitHealthy(healthyTimeout))
	// No remount, no leftover: the same mount goes on.
	must(t, os.WriteFile(filepath.Join(dir, "g"), []byte("again"), 0o644))
	got, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || string(got) != "x" {
		t.Errorf("after the masters came back: %q, %v", got, err)
	}
}

// interrupt runs a program that hangs on the mount, sends it a signal, and wants
// it gone soon.
func interrupt(t *testing.T, what string, bound time.Duration, sig syscall.Signal, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	must(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		t.Errorf("%s ended by itself: %v", what, err)
		return
	case <-time.After(700 * time.Millisecond): // it hangs in the kernel now
	}
	start := time.Now()
	must(t, cmd.Process.Signal(sig))
	select {
	case <-done:
		t.Logf("%s ended %v after %v", what, time.Since(start).Round(time.Millisecond), sig)
	case <-time.After(bound):
		t.Errorf("%s is still there %v after %v", what, bound, sig)
		_ = cmd.Process.Kill()
		<-done
	}
}

func TestUnmountWithAllServersDead(t *testing.T) {
	const opTimeout = 3 * time.Second
	c := newCluster(t, options{masters: 1})
	idle := c.mount(t, "op-timeout="+opTimeout.String())
	mkdir(t, filepath.Join(idle.dir, "d"))
	for _, p := range c.all() {
		p.kill()
	}
	start := time.Now()
	must(t, idle.umount(opTimeout+10*time.Second))
	// umount(8) itself must not wait for the cluster; dfs-mount does, to close its
	// session.
	if took := time.Since(start); took > opTimeout+3*time.Second {
		t.Errorf("umount of an idle mount took %v", took)
	}

	must(t, c.startAll())
	must(t, c.waitHealthy(healthyTimeout))
	dirty := c.mount(t, "op-timeout="+opTimeout.String())
	signalled := c.mount(t, "op-timeout="+opTimeout.String())
	f, err := os.Create(filepath.Join(dirty.dir, "f"))
	must(t, err)
	_, err = f.Write(random(100_000, 1))
	must(t, err)
	for _, p := range c.all() {
		p.kill()
	}
	// Bytes that nobody can take are an error of fsync(2), not a hang.
	start = time.Now()
	err = f.Sync()
	if took := time.Since(start); err == nil || took > opTimeout+2*time.Second {
		t.Errorf("fsync of unwritten bytes: %v after %v, want an error within %v", err, took, opTimeout)
	}
	_ = f.Close()
	start = time.Now()
	must(t, dirty.umount(2*opTimeout+10*time.Second))
	t.Logf("umount after a failed write took %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	must(t, signalled.stop())
	t.Logf("SIGTERM took %v", time.Since(start).Round(time.Millisecond))
	if mounted(signalled.dir) {
		t.Error("the mount is still there after SIGTERM")
	}
}

func TestTooFewChunkServers(t *testing.T) {
	const opTimeout = 4 * time.Second
	c := newCluster(t, options{})
	m := c.mount(t, "op-timeout="+opTimeout.String())
	must(t, writeSynced(filepath.Join(m.dir, "before"), random(1<<20, 1)))
	c.chunks[0].kill()
	c.chunks[1].kill()
	// One copy of three is there: reads go on.
	got, err := os.ReadFile(filepath.Join(m.dir, "before"))
	must(t, err)
	if !bytes.Equal(got, random(1<<20, 1)) {
		t.Error("read from the last copy is wrong")
	}
	// Writes need two: they wait, and fail after the bound.
	start := time.Now()
	err = writeSynced(filepath.Join(m.dir, "during"), random(1<<20, 2))
	if took := time.Since(start); err == nil || took > opTimeout+3*time.Second {
		t.Errorf("write with one chunk server of three: %v after %v, want an error within %v", err, took, opTimeout)
	}
	// Names need none.
	must(t, os.Mkdir(filepath.Join(m.dir, "d"), 0o755))
	must(t, c.chunks[0].start())
	must(t, eventually(30*time.Second, "a write after a server came back", func() error {
		return writeSynced(filepath.Join(m.dir, "after"), random(1<<20, 3))
	}))
}

func TestCtrlCOfALargeCopy(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t)
	dir := filepath.Join(m.dir, "ctrl-c")
	mkdir(t, dir)
	cmd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(dir, "f"), "bs=1M", "count=100000")
	must(t, cmd.Start())
	time.Sleep(700 * time.Millisecond)
	start := time.Now()
	must(t, cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("dd ended %v after Ctrl-C", took)
	}
	must(t, os.Remove(filepath.Join(dir, "f")))
	must(t, os.Remove(dir))
}

func TestKilledMountIsToldAndCanBeReplaced(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t)
	path := filepath.Join(m.dir, "killed-mount")
	must(t, writeSynced(path, []byte("synced")))
	// The kernel keeps the root's attributes, and goes on telling them after the kill.
	_, err := os.Stat(m.dir)
	must(t, err)
	m.kill()
	out, err := exec.Command(filepath.Join(binaries, "dfs-mount"), strings.Join(c.addrs, ","), m.dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "fusermount3 -uz "+m.dir) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("mounting over a dead mount: %v, %q; want one line with the command to run", err, out)
	}
	command(t, "/", "fusermount3", "-uz", m.dir)
	must(t, m.start())
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "synced" {
		t.Errorf("after a new mount: %q, %v", got, err)
	}
	must(t, os.Remove(path))
}

func TestBusyMountIsDetachedOnSIGTERM(t *testing.T) {
	c := shared.get(t)
	m := c.mount(t, "op-timeout=3s")
	f, err := os.Create(filepath.Join(m.dir, "busy"))
	must(t, err)
	_, err = f.WriteString("before")
	must(t, err)
	m.signal(syscall.SIGTERM)
	must(t, eventually(10*time.Second, "the mount to be gone from the tree", func() error {
		if mounted(m.dir) {
			return errors.New("still mounted")
		}
		return nil
	}))
	if _, err := f.WriteString(" after"); err != nil {
		t.Errorf("a write to a file that is still open: %v", err)
	}
	must(t, f.Close())
	select {
	case <-m.done:
	case <-time.After(15 * time.Second):
		t.Error("dfs-mount did not end after the last file was closed")
	}
	must(t, m.start())
	got, err := os.ReadFile(filepath.Join(m.dir, "busy"))
	if err != nil || string(got) != "before after" {
		t.Errorf("the file: %q, %v", got, err)
	}
	must(t, os.Remove(filepath.Join(m.dir, "busy")))
}

func TestTwoMountsSeeEachOther(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	at := func(m *mount, name string) string { return filepath.Join(m.dir, "two-mounts", name) }
	mkdir(t, filepath.Join(a.dir, "two-mounts"))
	for i := range 50 {
		name := fmt.Sprint("f", i)
		must(t, os.WriteFile(at(a, name), random(1000+i*100, uint64(i)), 0o644))
		got, err := os.ReadFile(at(b, name))
		must(t, err)
		if !bytes.Equal(got, random(1000+i*100, uint64(i))) {
			t.Fatalf("file %d: what one mount closed, the other does not see", i)
		}
		// Over it, the same size: only the bytes tell.
		must(t, os.WriteFile(at(b, name), random(1000+i*100, uint64(i+1000)), 0o644))
		got, err = os.ReadFile(at(a, name))
		must(t, err)
		if !bytes.Equal(got, random(1000+i*100, uint64(i+1000))) {
			t.Fatalf("file %d: an overwrite of the same size is not seen", i)
		}
		must(t, os.Rename(at(b, name), at(b, name+"x")))
		if _, err := os.Stat(at(a, name)); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("file %d: the old name is still seen: %v", i, err)
		}
		must(t, os.Chmod(at(a, name+"x"), 0o600))
		info, err := os.Stat(at(b, name+"x"))
		must(t, err)
		if info.Mode() != 0o600 {
			t.Fatalf("file %d: mode %v", i, info.Mode())
		}
		must(t, os.Remove(at(a, name+"x")))
		if _, err := os.Stat(at(b, name+"x")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("file %d: still there: %v", i, err)
		}
	}
	// An open file: fsync on one side, read on the other.
	w, err := os.Create(at(a, "open"))
	must(t, err)
	defer w.Close()
	r, err := os.Open(at(b, "open"))
	must(t, err)
	defer r.Close()
	buf := make([]byte, 5000)
	for i := range 20 {
		_, err = w.WriteAt(random(5000, uint64(i)), 0)
		must(t, err)
		must(t, w.Sync())
		n, err := r.ReadAt(buf, 0)
		if err != nil || !bytes.Equal(buf[:n], random(5000, uint64(i))) {
			t.Fatalf("round %d: what was fsynced is not read (%d bytes, %v)", i, n, err)
		}
	}
	// Unlinked on one side while open on the other.
	must(t, os.Remove(at(a, "open")))
	n, err := r.ReadAt(buf, 0)
	if err != nil || n != 5000 {
		t.Errorf("read of a file that the other mount unlinked: %d, %v", n, err)
	}
}

func TestDiskFullIsENOSPCAndDeletesGoOn(t *testing.T) {
	// Chunk servers on small file systems of their own.
	c := newCluster(t, options{masters: 1, chunkDir: func(i int) string { return smallDisk(t, fmt.Sprint("chunk-", i+1), 192<<20) },
		chunkArgs: smallReserve()})
	m := c.mount(t)
	keep := filepath.Join(m.dir, "keep")
	must(t, os.WriteFile(keep, random(8<<20, 1), 0o644))
	full := filepath.Join(m.dir, "full")
	var err error
	written := 0
	f, err := os.Create(full)
	must(t, err)
	for written < 1<<30 && err == nil {
		if _, err = f.Write(random(1<<20, 2)); err == nil {
			written += 1 << 20
			if written%(8<<20) == 0 {
				err = f.Sync()
			}
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disks: %v after %d MiB, want ENOSPC", err, written>>20)
	}
	t.Logf("ENOSPC after %d MiB", written>>20)
	got, err := os.ReadFile(keep)
	must(t, err)
	if !bytes.Equal(got, random(8<<20, 1)) {
		t.Error("a file from before is wrong")
	}
	must(t, os.Mkdir(filepath.Join(m.dir, "d"), 0o755))
	must(t, os.Remove(full))
	// Space comes back by itself.
	must(t, eventually(3*time.Minute, "space after the file was removed", func() error {
		path := filepath.Join(m.dir, "again")
		if err := os.WriteFile(path, random(16<<20, 3), 0o644); err != nil {
			os.Remove(path)
			time.Sleep(time.Second)
			return err
		}
		return nil
	}))
	got, err = os.ReadFile(filepath.Join(m.dir, "again"))
	must(t, err)
	if !bytes.Equal(got, random(16<<20, 3)) {
		t.Error("what was written afterwards is wrong")
	}
}

// smallDisk mounts a file system of that size for the time of the test.
func smallDisk(t *testing.T, name string, bytes int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	mkdir(t, dir)
	must(t, unix.Mount("dfs-e2e", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return filepath.Join(dir, "data")
}

// lines runs a program that must fail at once with a clear line.
func refusal(t *testing.T, what, want string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, args[0]), args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Errorf("%s: it did not end", what)
	case !errors.As(err, &exit):
		t.Errorf("%s: %v, want an exit code", what, err)
	case !strings.Contains(stderr.String(), want):
		t.Errorf("%s: exit code %d, stderr %q, want %q in it", what, exit.ExitCode(), stderr.String(), want)
	default:
		t.Logf("%s: exit code %d: %s", what, exit.ExitCode(), strings.TrimSpace(stderr.String()))
	}
}
