package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Two and three mounts work on the same things without waiting for each other: no sleep
// stands between what one does and what the other sees.

// Who reads a file that is replaced all the time, on another mount, sees one version as a
// whole, and none that is older than what he has seen.
func TestRenameOverIsAtomicForOthers(t *testing.T) {
	c := shared.get(t)
	writer, reader := c.mount(t), c.mount(t)
	const name = "renamed-over"
	version := func(i int) []byte {
		return bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(i)), 1+i*37%3000)
	}
	must(t, os.WriteFile(filepath.Join(writer.dir, name), version(0), 0o644))
	rounds := 300
	if *full {
		rounds = 10000
	}
	var done atomic.Int64 // the last version that is there
	var wrong atomic.Pointer[error]
	var writes sync.WaitGroup
	defer writes.Wait()
	writes.Go(func() {
		for i := 1; i <= rounds; i++ {
			next := filepath.Join(writer.dir, fmt.Sprint(name, " ", i%3))
			err := os.WriteFile(next, version(i), 0o644)
			if err == nil {
				err = os.Rename(next, filepath.Join(writer.dir, name))
			}
			if err != nil {
				wrong.Store(&err)
				return
			}
			done.Store(int64(i))
		}
	})
	seen, reads := 0, 0
	for ; seen < rounds; reads++ {
		if err := wrong.Load(); err != nil {
			t.Fatal(*err)
		}
		least := max(seen, int(done.Load()))
		got, err := os.ReadFile(filepath.Join(reader.dir, name))
		if err != nil {
			t.Fatalf("after version %d: %v", least, err)
		}
		if len(got) < 4 {
			t.Fatalf("after version %d: %d bytes", least, len(got))
		}
		seen = int(binary.BigEndian.Uint32(got))
		if seen < least || !bytes.Equal(got, version(seen)) {
			t.Fatalf("version %d in %d bytes of its %d, after version %d", seen, len(got), len(version(seen)), least)
		}
	}
	t.Logf("%d reads of %d versions", reads, rounds)
}

// A listing shows what was there all the time exactly once, whatever another mount makes,
// renames and removes meanwhile.
func TestListingShowsOnceWhatStays(t *testing.T) {
	c := shared.get(t)
	lister, changer := c.mount(t), c.mount(t)
	const stable = 150
	dir := func(m *mount) string { return filepath.Join(m.dir, "changing-listing") }
	mkdir(t, dir(lister))
	for i := range stable {
		must(t, os.WriteFile(filepath.Join(dir(lister), fmt.Sprintf("stays-%d", i)), nil, 0o644))
	}
	rng := rand.New(rand.NewPCG(3, uint64(os.Getpid())))
	there := map[string]bool{}
	var stop atomic.Bool
	var changes atomic.Int64
	var changing sync.WaitGroup
	defer changing.Wait()
	defer stop.Store(true)
	changing.Go(func() {
		for ; !stop.Load(); changes.Add(1) {
			name, to := fmt.Sprintf("goes-%d", rng.IntN(60)), fmt.Sprintf("goes-%d", rng.IntN(60))
			path := filepath.Join(dir(changer), name)
			var err error
			switch {
			case !there[name]:
				there[name] = true
				err = os.WriteFile(path, nil, 0o644)
			case rng.IntN(2) == 0:
				delete(there, name)
				there[to] = true
				err = os.Rename(path, filepath.Join(dir(changer), to))
			default:
				delete(there, name)
				err = os.Remove(path)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	rounds := 200
	if *full {
		rounds = 5000
	}
	fd, err := unix.Open(dir(lister), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	for round := range rounds {
		if round%2 == 0 { // one folder anew, one that is open
			unix.Close(fd)
			fd, err = unix.Open(dir(lister), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		} else {
			_, err = unix.Seek(fd, 0, io.SeekStart)
		}
		must(t, err)
		part := buf[:600+round*1237%7000]
		times := map[string]int{}
		for {
			n, err := unix.ReadDirent(fd, part)
			must(t, err)
			if n == 0 {
				break
			}
			_, _, names := unix.ParseDirent(part[:n], -1, nil)
			for _, name := range names {
				times[name]++
			}
		}
		for i := range stable {
			if name := fmt.Sprintf("stays-%d", i); times[name] != 1 {
				t.Fatalf("round %d: %s is listed %d times", round, name, times[name])
			}
		}
	}
	t.Logf("%d changes in %d listings", changes.Load(), rounds)
}

// Two mounts write the records of one file, each every other one, and lose none.
func TestRecordsSideBySide(t *testing.T) {
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t)}
	const record = 100
	rounds := 200
	if *full {
		rounds = 20000
	}
	path := func(m *mount) string { return filepath.Join(m.dir, "records") }
	must(t, os.WriteFile(path(mounts[0]), nil, 0o644))
	of := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, record) }
	var writers sync.WaitGroup
	for who, m := range mounts {
		writers.Go(func() {
			f, err := os.OpenFile(path(m), os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for i := who; i < 2*rounds; i += 2 {
				if _, err := f.WriteAt(of(i), int64(i*record)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	for _, m := range mounts {
		got, err := os.ReadFile(path(m))
		must(t, err)
		if len(got) != 2*rounds*record {
			t.Errorf("%s: %d bytes", m.name, len(got))
			continue
		}
		for i := range 2 * rounds {
			if !bytes.Equal(got[i*record:(i+1)*record], of(i)) {
				t.Errorf("%s: record %d is %.20q", m.name, i, got[i*record:])
				break
			}
		}
	}
}

// Three mounts append lines to one file: none is lost, torn, or out of its writer's order.
func TestAppendFromThreeMounts(t *testing.T) {
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t), c.mount(t)}
	rounds := 150
	if *full {
		rounds = 10000
	}
	var writers sync.WaitGroup
	for who, m := range mounts {
		writers.Go(func() {
			f, err := os.OpenFile(filepath.Join(m.dir, "appended"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for i := range rounds {
				if _, err := fmt.Fprintf(f, "%d %d %s\n", who, i, bytes.Repeat([]byte{'x'}, i*97%3000)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	for _, m := range mounts {
		got, err := os.ReadFile(filepath.Join(m.dir, "appended"))
		must(t, err)
		next := make([]int, len(mounts))
		lines := bytes.Split(bytes.TrimSuffix(got, []byte("\n")), []byte("\n"))
		for _, line := range lines {
			var who, i int
			var rest string
			_, err := fmt.Sscanf(string(line)+".", "%d %d %s", &who, &i, &rest)
			if err != nil || who >= len(mounts) || i != next[who] || len(rest) != i*97%3000+1 {
				t.Fatalf("%s: a line of %d bytes, %.30q (%v); the next ones are %v", m.name, len(line), line, err, next)
			}
			next[who]++
		}
		if len(lines) != rounds*len(mounts) {
			t.Errorf("%s: %d lines, want %d", m.name, len(lines), rounds*len(mounts))
		}
	}
}

// Of two small writes that overlap one is there as a whole, also within a page and over
// the bounds of pages.
func TestSmallOverlappingWritesAreWhole(t *testing.T) {
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t)}
	rng := rand.New(rand.NewPCG(13, uint64(os.Getpid())))
	var files [2]*os.File
	for i := range files {
		var err error
		files[i], err = os.OpenFile(filepath.Join(mounts[i].dir, "small-overlap"), os.O_RDWR|os.O_CREATE, 0o644)
		must(t, err)
		defer files[i].Close()
	}
	rounds := 200
	if *full {
		rounds = 10000
	}
	for round := range rounds {
		var from, to [2]int
		var writers sync.WaitGroup
		middle := 20000 + rng.IntN(20000)
		size := 1 << rng.IntN(15)
		for i := range files {
			from[i], to[i] = middle-rng.IntN(size)-1, middle+rng.IntN(size)+1
			data := bytes.Repeat([]byte{byte('a' + 2*(round%10) + i)}, to[i]-from[i])
			writers.Go(func() {
				if _, err := files[i].WriteAt(data, int64(from[i])); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		lo, hi := max(from[0], from[1]), min(to[0], to[1])
		var first byte
		for i := range files {
			got := make([]byte, hi-lo)
			_, err := files[i].ReadAt(got, int64(lo))
			must(t, err)
			if i == 0 {
				first = got[0]
			}
			if n := bytes.Count(got, []byte{first}); n != len(got) || int(first-'a')/2 != round%10 {
				t.Fatalf("round %d, by mount %d: %d bytes of %d are %q, the first on mount 0", round, i, n, len(got), first)
			}
		}
	}
}

// What a stranger may not do any more he is refused on the other mount at once, and what he
// may do again he is allowed.
func TestRevokedAccessIsRefusedAtOnce(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	here, there := filepath.Join(a.dir, "revoked"), filepath.Join(b.dir, "revoked")
	mkdir(t, filepath.Join(here, "folder"))
	for _, name := range []string{"file", "folder/inside"} {
		must(t, os.WriteFile(filepath.Join(here, name), []byte("x"), 0o644))
	}
	rounds := 150
	if *full {
		rounds = 5000
	}
	for round := range rounds {
		path := here
		if round%4 == 3 {
			path = there
		}
		for _, allowed := range []bool{false, true} {
			mode := map[bool]os.FileMode{false: 0o700, true: 0o755}[allowed]
			must(t, errors.Join(os.Chmod(filepath.Join(path, "file"), mode), os.Chmod(filepath.Join(path, "folder"), mode)))
			for _, m := range []string{here, there} {
				for _, name := range []string{"file", "folder/inside"} {
					err := asStranger(func() error { return readable(filepath.Join(m, name)) })
					if allowed && err != nil || !allowed && !errors.Is(err, unix.EACCES) {
						t.Fatalf("round %d, mode %v: %s: %v", round, mode, filepath.Join(m, name), err)
					}
				}
			}
		}
	}
}

// Two mounts use git in one folder, in turn: each sees the tree as the other has left it.
func TestGitFromTwoMountsInTurn(t *testing.T) {
	tool(t, "git", "git")
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t)}
	git := func(m *mount, args ...string) string {
		t.Helper()
		args = append([]string{"-c", "user.name=e2e", "-c", "user.email=e2e@example.org", "-c", "init.defaultBranch=main", "-c", "safe.directory=*", "-c", "gc.auto=0"}, args...)
		return command(t, filepath.Join(m.dir, "in-turn"), "git", args...)
	}
	mkdir(t, filepath.Join(mounts[0].dir, "in-turn"))
	git(mounts[0], "init", "-q")
	rounds := 10
	if *full {
		rounds = 200
	}
	for round := range rounds {
		m, other := mounts[round%2], mounts[1-round%2]
		if round > 0 {
			if out := git(m, "status", "--porcelain"); out != fmt.Sprintf("?? new-%d\n", round-1) {
				t.Fatalf("round %d: git status says %q", round, out)
			}
		}
		must(t, os.WriteFile(filepath.Join(m.dir, "in-turn", "changed"), random(5000, uint64(round)), 0o644))
		git(m, "add", "-A")
		git(m, "commit", "-q", "-m", fmt.Sprint("round ", round))
		must(t, os.WriteFile(filepath.Join(m.dir, "in-turn", fmt.Sprint("new-", round)), nil, 0o644))
		if out := git(other, "log", "-1", "--format=%s"); out != fmt.Sprintf("round %d\n", round) {
			t.Fatalf("round %d: the other mount's last commit is %q", round, out)
		}
	}
	for _, m := range mounts {
		git(m, "fsck", "--full", "--strict")
	}
}

// A mount is stopped while it has things in memory, until others have changed them. When it
// goes on it shows nothing that is old, and what it had not written does not come over what
// others have written; fsync says so, once.
func TestStoppedMountShowsNothingOldAndWritesNothingLate(t *testing.T) {
	c := shared.get(t)
	stopped, other := c.mount(t), c.mount(t)
	dir := func(m *mount) string { return filepath.Join(m.dir, "stopped-mount") }
	mkdir(t, dir(stopped))
	must(t, os.WriteFile(filepath.Join(dir(stopped), "read"), []byte("old"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir(stopped), "gone"), []byte("old"), 0o644))
	f, err := os.OpenFile(filepath.Join(dir(stopped), "written"), os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer f.Close()
	must(t, errors.Join(writeAt(f, "synced...."), f.Sync()))
	must(t, readable(filepath.Join(dir(stopped), "read")))
	must(t, writeAt(f, "late"))

	processes := []int{stopped.worker(), stopped.cmd.Process.Pid}
	signal := func(s unix.Signal) {
		for _, pid := range processes {
			must(t, unix.Kill(pid, s))
		}
	}
	signal(unix.SIGSTOP)
	resumed := false
	defer func() {
		if !resumed {
			signal(unix.SIGCONT)
		}
	}()
	// These wait until no lease of the mount that is stopped is good any more.
	before, err := os.ReadFile(filepath.Join(dir(other), "written"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir(other), "read"), []byte("new"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir(other), "written"), []byte("by others!"), 0o644))
	must(t, os.Remove(filepath.Join(dir(other), "gone")))
	must(t, os.WriteFile(filepath.Join(dir(other), "made"), []byte("new"), 0o644))
	signal(unix.SIGCONT)
	resumed = true
	for name, want := range map[string]string{"read": "new", "made": "new", "written": "by others!"} {
		got, err := os.ReadFile(filepath.Join(dir(stopped), name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir(stopped), "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed file: %v", err)
	}
	if string(before) == "synced...." { // else it was stopped after it had written all
		if err := f.Sync(); !errors.Is(err, unix.EIO) {
			t.Errorf("fsync of what was lost: %v, want EIO", err)
		}
	}
	must(t, f.Sync())
	for _, m := range []*mount{stopped, other} {
		got, err := os.ReadFile(filepath.Join(dir(m), "written"))
		if err != nil || string(got) != "by others!" {
			t.Errorf("%s: %q, %v", m.name, got, err)
		}
	}
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}
