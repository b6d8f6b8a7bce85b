package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"dfs/test/lostfs"

	"golang.org/x/sys/unix"
)

var (
	powerCuts = flag.Int("power.cuts", 20, "how often TestPowerCuts, with -full, takes the power away")
	powerSeed = flag.Uint64("power.seed", 1, "what TestPowerCuts does when, and what of the unsynced is lost")
)

// promise is what a program was told, and has to find after a loss of power.
type promise interface {
	// work is one round of the program on a mount.
	work(root string, i int) error
	// check compares; what it finds of the unsynced has to stay from then on.
	check(root string) error
}

// powered is a cluster whose servers each have a disk that forgets what was not synced.
type powered struct {
	c        *cluster
	disks    []*lostfs.Disk
	m        *mount
	rng      *rand.Rand
	promises []promise
	rounds   [][]promise // of the last rounds, in folders of their own
	acked    int         // operations that were acknowledged
}

func newPowered(t *testing.T) *powered {
	t.Helper()
	p := &powered{rng: rand.New(rand.NewPCG(*powerSeed, 0))}
	var dirs []string
	for range 6 {
		dir := t.TempDir()
		d, err := lostfs.Mount(dir)
		must(t, err)
		t.Cleanup(func() {
			if err := d.Unmount(); err != nil {
				t.Error(err)
			}
		})
		p.disks, dirs = append(p.disks, d), append(dirs, filepath.Join(dir, "data"))
	}
	p.c = newCluster(t, options{
		masterDir: func(i int) string { return dirs[i] },
		chunkDir:  func(i int) string { return dirs[3+i] },
	})
	for i := range 4 {
		p.promises = append(p.promises, &replaced{name: fmt.Sprint("replaced-", i), seed: uint64(i) << 16})
	}
	p.promises = append(p.promises, &patched{name: "patched", blocks: make([][]byte, 32)})
	p.m = p.c.mount(t)
	return p
}

// cut loads the cluster, takes all power away in the middle of it, and gives it back, with
// the disks as lose leaves them.
func (p *powered) cut(t *testing.T, round int, lose func(*lostfs.Disk) error) {
	t.Helper()
	dir := fmt.Sprintf("r%03d", round)
	mkdir(t, filepath.Join(p.m.dir, dir))
	fresh := []promise{
		&created{dir: dir, seed: uint64(round)},
		&appended{name: filepath.Join(dir, "log-1"), seed: uint64(round)},
		&appended{name: filepath.Join(dir, "log-2"), seed: uint64(round) + 1<<20},
		&unsynced{dir: dir},
	}
	p.rounds = append(p.rounds, fresh)
	var workers []*worker
	root := p.m.dir
	for _, pr := range slices.Concat(p.promises, fresh) {
		workers = append(workers, work(func(i int) error { return pr.work(root, i) }))
	}
	progress(t, 3+p.rng.IntN(25), workers...)
	for _, w := range workers {
		select {
		case <-w.done:
			t.Fatalf("cut %d: before the cut: %v", round, w.err)
		default:
		}
	}

	daemons := p.c.all()
	p.rng.Shuffle(len(daemons), func(i, j int) { daemons[i], daemons[j] = daemons[j], daemons[i] })
	for _, d := range daemons {
		d.signal(syscall.SIGKILL)
	}
	p.m.kill()
	for _, d := range daemons {
		d.kill()
	}
	// Ends the programs' calls even if something still holds the mount's connection.
	_ = unix.Unmount(p.m.dir, unix.MNT_FORCE)
	for _, w := range workers {
		close(w.stop)
		select {
		case <-w.done: // with an error, as its mount is dead
		case <-time.After(stopTimeout):
			t.Fatalf("cut %d: a program hangs on a mount that is dead", round)
		}
		p.acked += w.count - 1
	}
	must(t, p.m.remove())
	for _, d := range p.disks {
		must(t, lose(d))
	}

	must(t, p.c.startAll())
	must(t, p.c.waitHealthy(healthyTimeout))
	p.m = p.c.mount(t)
}

// check is what is wrong with what was promised.
func (p *powered) check() (errs []error) {
	for _, pr := range slices.Concat(append(p.rounds, p.promises)...) {
		if err := pr.check(p.m.dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func TestPowerCuts(t *testing.T) {
	if !*full {
		return // half a minute for each cut; TestKillOfEverythingKeepsWhatWasSynced is a part of it
	}
	p := newPowered(t)
	for i := range *powerCuts {
		start := time.Now()
		mode, rng := "forget", (*rand.Rand)(nil)
		if i%2 == 1 {
			mode, rng = "tear", p.rng
		}
		p.cut(t, i, func(d *lostfs.Disk) error { return d.Cut(rng) })
		for _, err := range p.check() {
			t.Errorf("cut %d (%s): %v", i, mode, err)
		}
		must(t, p.c.waitHealthy(healthyTimeout))
		t.Logf("cut %d (%s): %d operations acknowledged so far, %v", i, mode, p.acked, time.Since(start).Round(time.Millisecond))
		if t.Failed() {
			return
		}
		if len(p.rounds) > 3 { // the next cut finds the servers freeing its bytes
			p.rounds = p.rounds[1:]
			must(t, os.RemoveAll(filepath.Join(p.m.dir, fmt.Sprintf("r%03d", i-3))))
		}
	}
}

// The proof that TestPowerCuts can fail.
func TestDisksThatLieAreFoundOut(t *testing.T) {
	if !*full {
		return
	}
	p := newPowered(t)
	for _, d := range p.disks {
		d.Lie()
	}
	p.cut(t, 0, func(d *lostfs.Disk) error { return d.Cut(nil) })
	errs := p.check()
	if len(errs) < 3 {
		t.Errorf("disks whose fsync does nothing lost only %v", errs)
	}
	for _, err := range errs {
		t.Log(err)
	}
}

// replaced is a file of which each version replaces the one before, as an editor does it.
type replaced struct {
	name            string
	seed            uint64
	synced, written int // versions
}

func (r *replaced) content(version int) []byte {
	return random(10_000+version*131%50_000, r.seed+uint64(version))
}

func (r *replaced) work(root string, _ int) error {
	r.written++
	path := filepath.Join(root, r.name)
	if err := writeSynced(path+".tmp", r.content(r.written)); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	d, err := os.Open(root)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return err
	}
	r.synced = r.written
	return nil
}

func (r *replaced) check(root string) error {
	got, err := os.ReadFile(filepath.Join(root, r.name))
	if errors.Is(err, fs.ErrNotExist) && r.synced == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for v := r.synced; v <= r.written; v++ {
		if v > 0 && bytes.Equal(got, r.content(v)) {
			r.synced = v
			return nil
		}
	}
	return fmt.Errorf("%s: none of the versions %d (synced) to %d: %d bytes", r.name, r.synced, r.written, len(got))
}

// appended is a log: each record is synced.
type appended struct {
	name   string
	seed   uint64
	text   []byte // that was written
	synced int    // bytes
}

func (a *appended) work(root string, i int) error {
	f, err := os.OpenFile(filepath.Join(root, a.name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for j := range 4 {
		record := random(1+(i*4+j)*317%9000, a.seed+uint64(i*4+j))
		a.text = append(a.text, record...)
		if _, err := f.Write(record); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		a.synced = len(a.text)
	}
	return nil
}

func (a *appended) check(root string) error {
	got, err := os.ReadFile(filepath.Join(root, a.name))
	if err != nil && (a.synced > 0 || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if len(got) < a.synced || !bytes.HasPrefix(a.text, got) {
		return fmt.Errorf("%s: %d bytes, %d of them as written, want %d (synced) to %d", a.name, len(got), same(got, a.text), a.synced, len(a.text))
	}
	a.text, a.synced = got, len(got)
	return nil
}

// same is how many bytes are equal from the start.
func same(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// patched is a file that is overwritten in place, a block and an fsync at a time.
type patched struct {
	name   string
	blocks [][]byte // as synced; nil: never written
	at     int      // the block that is being written
	next   []byte   // and what; nil: none
	count  uint64
}

const (
	patchBytes = 64 << 10
	pageBytes  = 4 << 10
)

func (p *patched) work(root string, i int) error {
	f, err := os.OpenFile(filepath.Join(root, p.name), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	p.count++
	p.at, p.next = int(p.count*7)%len(p.blocks), random(patchBytes, 1<<22+p.count)
	if _, err := f.WriteAt(p.next, int64(p.at)*patchBytes); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	p.blocks[p.at], p.next = p.next, nil
	return nil
}

func (p *patched) check(root string) error {
	got, err := os.ReadFile(filepath.Join(root, p.name))
	if err != nil {
		return err
	}
	got = append(got, make([]byte, max(0, len(p.blocks)*patchBytes-len(got)))...)
	zeros := make([]byte, patchBytes)
	for i, want := range p.blocks {
		if want == nil {
			want = zeros
		}
		block := got[i*patchBytes : (i+1)*patchBytes]
		for at := 0; at < patchBytes; at += pageBytes {
			page := block[at : at+pageBytes]
			if bytes.Equal(page, want[at:at+pageBytes]) || i == p.at && p.next != nil && bytes.Equal(page, p.next[at:at+pageBytes]) {
				continue
			}
			return fmt.Errorf("%s: block %d (being written: %d) is wrong at %d", p.name, i, p.at, at)
		}
		p.blocks[i] = block
	}
	p.next = nil
	return nil
}

// created is one new file after the other, each synced.
type created struct {
	dir    string
	seed   uint64
	synced int // files
}

func (c *created) path(root string, i int) string {
	return filepath.Join(root, c.dir, fmt.Sprintf("f-%05d", i))
}
func (c *created) content(i int) []byte { return random(1000+i*977%30_000, c.seed<<12+uint64(i)) }

func (c *created) work(root string, i int) error {
	if err := writeSynced(c.path(root, i), c.content(i)); err != nil {
		return err
	}
	c.synced = i + 1
	return nil
}

func (c *created) check(root string) error {
	for i := range c.synced {
		if got, err := os.ReadFile(c.path(root, i)); err != nil || !bytes.Equal(got, c.content(i)) {
			return fmt.Errorf("%s: %w, %d bytes, %d of them as written, want %d", c.path(root, i), err, len(got), same(got, c.content(i)), len(c.content(i)))
		}
	}
	return nil
}

// unsynced is files that nobody syncs: of what was written some is there, from the start.
type unsynced struct {
	dir   string
	count int
}

func (u *unsynced) path(root string, i int) string {
	return filepath.Join(root, u.dir, fmt.Sprintf("u-%05d", i))
}

func (u *unsynced) work(root string, i int) error {
	u.count = i + 1
	time.Sleep(time.Millisecond) // it is there to disturb the others, not to fill the disks
	return os.WriteFile(u.path(root, i), random(20_000, uint64(i)), 0o644)
}

func (u *unsynced) check(root string) error {
	for i := range u.count {
		got, err := os.ReadFile(u.path(root, i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if want := random(20_000, uint64(i)); !bytes.HasPrefix(want, got) {
			return fmt.Errorf("%s: %d bytes, of which %d are as written", u.path(root, i), len(got), same(got, want))
		}
	}
	return nil
}
