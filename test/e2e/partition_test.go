package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Bounds of what goes on while hosts are cut off.
const (
	cutPause = 30 * time.Second // of one call, at most
	cutTime  = 2 * time.Second
)

// witness works on one mount, and holds what it reads against what was acknowledged on
// all of them.
type witness struct {
	name  string
	dir   string
	all   *witnesses
	board *worker
}

// witnesses are the witnesses of one cluster.
type witnesses struct {
	mu     sync.Mutex
	synced map[string]uint64 // records of each journal that fsync has acknowledged
	list   []*witness
}

// recordBytes is the size of a journal's records: they cross pages.
const recordBytes = 300

func journalRecord(name string, n uint64) []byte {
	b := bytes.Repeat(binary.BigEndian.AppendUint64([]byte(name[len(name)-4:]), n), recordBytes/12)
	return b[:recordBytes]
}

func (ws *witnesses) add(name, dir string) *witness {
	w := &witness{name: name, dir: dir, all: ws}
	ws.list = append(ws.list, w)
	w.board = work(w.step)
	return w
}

// step appends to a journal and replaces a file, both synced, and reads those of all.
func (w *witness) step(i int) error {
	began := time.Now()
	f, err := os.OpenFile(filepath.Join(w.dir, "journal-"+w.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(journalRecord(w.name, uint64(i)))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	w.all.mu.Lock()
	w.all.synced[w.name] = uint64(i) + 1
	w.all.mu.Unlock()
	if err := replaceFile(w.dir, "state-"+w.name, journalRecord(w.name, uint64(i))); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	if err := w.all.check(w.dir); err != nil {
		return fmt.Errorf("seen by %s: %w", w.name, err)
	}
	if took := time.Since(began); took > cutPause {
		return fmt.Errorf("a pause of %v", took)
	}
	return nil
}

// replaceFile writes a file as careful programs do.
func replaceFile(dir, name string, data []byte) error {
	temp := filepath.Join(dir, name+".tmp")
	f, err := os.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, name))
}

// check reads what all have written, by one mount: what was synced before is there, in
// order, whole.
func (ws *witnesses) check(dir string) error {
	ws.mu.Lock()
	least := map[string]uint64{}
	for name, n := range ws.synced {
		least[name] = n
	}
	ws.mu.Unlock()
	for name, n := range least {
		got, err := os.ReadFile(filepath.Join(dir, "journal-"+name))
		if err != nil {
			return err
		}
		if uint64(len(got)) < n*recordBytes || len(got)%recordBytes != 0 {
			return fmt.Errorf("the journal of %s has %d bytes, %d records are synced", name, len(got), n)
		}
		for i := range uint64(len(got) / recordBytes) {
			if !bytes.Equal(got[i*recordBytes:(i+1)*recordBytes], journalRecord(name, i)) {
				return fmt.Errorf("record %d of the journal of %s is wrong", i, name)
			}
		}
		if n < 2 {
			continue
		}
		got, err = os.ReadFile(filepath.Join(dir, "state-"+name))
		if err != nil {
			return err
		}
		if len(got) != recordBytes || binary.BigEndian.Uint64(got[4:]) < n-2 || !bytes.Equal(got, journalRecord(name, binary.BigEndian.Uint64(got[4:]))) {
			return fmt.Errorf("the state of %s is %d bytes of %x, its journal has %d", name, len(got), got[:min(12, len(got))], n)
		}
	}
	return nil
}

// parting is one way to part hosts.
type parting struct {
	name  string
	brief bool // in each run
	do    func(t *testing.T, c *cluster)
}

var partings = []parting{
	{"leader cut off", true, func(t *testing.T, c *cluster) { c.cutFor(t, cutTime, c.leader(t).name) }},
	{"leader hears nothing", false, func(t *testing.T, c *cluster) { c.partFor(t, c.leader(t).name, true) }},
	{"leader is not heard", false, func(t *testing.T, c *cluster) { c.partFor(t, c.leader(t).name, false) }},
	{"a majority of masters cut off", false, func(t *testing.T, c *cluster) { c.cutFor(t, cutTime, "master-1", "master-2") }},
	{"a chunk server cut off", false, func(t *testing.T, c *cluster) { c.cutFor(t, 2*cutTime, "chunk-1") }},
	{"two chunk servers cut off", false, func(t *testing.T, c *cluster) { c.cutFor(t, cutTime, "chunk-1", "chunk-2") }},
	{"a chunk server hears nothing", false, func(t *testing.T, c *cluster) { c.partFor(t, "chunk-2", true) }},
	{"a mount cut off", false, func(t *testing.T, c *cluster) { c.cutFor(t, cutTime, "mount-1") }},
	{"leader flaps", false, func(t *testing.T, c *cluster) {
		for range 10 {
			c.cutFor(t, 300*time.Millisecond, c.leader(t).name)
		}
	}},
}

// cutFor cuts hosts off for a while.
func (c *cluster) cutFor(t *testing.T, d time.Duration, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, c.hosts.cut(name, true))
	}
	<-time.After(d)
	for _, name := range names {
		must(t, c.hosts.cut(name, false))
	}
}

// partFor parts a host from all others in one direction, for a while.
func (c *cluster) partFor(t *testing.T, name string, hears bool) {
	t.Helper()
	for other := range c.hosts.all {
		if other == name {
			continue
		}
		if hears {
			must(t, c.hosts.part(other, name))
		} else {
			must(t, c.hosts.part(name, other))
		}
	}
	<-time.After(cutTime)
	for other := range c.hosts.all {
		must(t, c.hosts.join(other))
	}
}

// TestPartitions cuts hosts off while programs work on mounts of hosts of their own: no
// call fails, nobody reads less than was acknowledged, and the cluster is healthy again by
// itself.
func TestPartitions(t *testing.T) {
	c := newCluster(t, options{hosts: newHosts(t)})
	ws := &witnesses{synced: map[string]uint64{}}
	var boards []*worker
	for range 2 {
		m := c.mount(t)
		boards = append(boards, ws.add(m.name, m.dir).board)
	}
	progress(t, 3, boards...)
	for _, p := range partings {
		if !p.brief && !*full {
			continue
		}
		p.do(t, c)
		progress(t, 5, boards...)
		must(t, c.waitHealthy(2*healthyTimeout))
		t.Logf("%s: well again", p.name)
	}
	for i, b := range boards {
		close(b.stop)
		<-b.done
		t.Logf("%s: %d rounds, the longest %v", ws.list[i].name, b.count, b.longest.Round(time.Millisecond))
		if b.err != nil {
			t.Errorf("%s: %v", ws.list[i].name, b.err)
		}
	}
	must(t, ws.check(c.mount(t).dir))
}

// TestKillsOfEveryDaemonInTurn kills one daemon after the other under load.
func TestKillsOfEveryDaemonInTurn(t *testing.T) {
	c := newCluster(t, options{})
	ws := &witnesses{synced: map[string]uint64{}}
	var boards []*worker
	for range 2 {
		m := c.mount(t)
		boards = append(boards, ws.add(m.name, m.dir).board)
	}
	progress(t, 3, boards...)
	victims := []*process{c.leader(t), c.chunks[0]}
	end := time.Now()
	if *full {
		victims, end = c.all(), time.Now().Add(10*time.Minute)
	}
	kills := 0
	for round := 0; round == 0 || time.Now().Before(end); round++ {
		for _, p := range victims {
			p.kill()
			progress(t, 2, boards...)
			must(t, p.start())
			must(t, c.waitHealthy(2*healthyTimeout))
			kills++
		}
	}
	t.Logf("%d kills", kills)
	for i, b := range boards {
		close(b.stop)
		<-b.done
		t.Logf("%s: %d rounds, the longest %v", ws.list[i].name, b.count, b.longest.Round(time.Millisecond))
		if b.err != nil {
			t.Errorf("%s: %v", ws.list[i].name, b.err)
		}
	}
	must(t, ws.check(c.mount(t).dir))
}

// TestDamagedFilesAreRepaired flips bits in the files of a running chunk server: nobody
// reads them, and, in the full size, they are whole again after a while.
func TestDamagedFilesAreRepaired(t *testing.T) {
	c := newCluster(t, options{chunkArgs: []string{"--scrub-every", "5s"}})
	m := c.mount(t)
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(m.dir, fmt.Sprint("f", i)), random(200_000, uint64(i)), 0o644))
	}
	must(t, exec.Command("sync", m.dir).Run())
	flipped := map[string]byte{} // what was there
	must(t, filepath.WalkDir(filepath.Join(c.dir, "chunk-1"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Base(filepath.Dir(filepath.Dir(path))) != "chunks" {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		var b [1]byte
		if _, err := f.ReadAt(b[:], 100_000); err != nil {
			return nil // a small one
		}
		flipped[path] = b[0]
		b[0] ^= 4
		_, err = f.WriteAt(b[:], 100_000)
		return err
	}))
	if len(flipped) == 0 {
		t.Fatal("no chunk file was found")
	}
	dropCaches(t)
	other := c.mount(t)
	for i := range 20 {
		got, err := os.ReadFile(filepath.Join(other.dir, fmt.Sprint("f", i)))
		must(t, err)
		if !bytes.Equal(got, random(200_000, uint64(i))) {
			t.Errorf("file %d is wrong", i)
		}
	}
	if !*full {
		return // chunks that are still written are restored half a minute later
	}
	must(t, eventually(healthyTimeout, "whole files", func() error {
		for path, want := range flipped {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			var b [1]byte
			_, err = f.ReadAt(b[:], 100_000)
			if err = errors.Join(err, f.Close()); err != nil || b[0] != want {
				return errors.Join(err, fmt.Errorf("%s is still damaged", path))
			}
		}
		return nil
	}))
}
