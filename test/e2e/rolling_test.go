package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var old = flag.String("old", "", "folder with the binaries of an older version, for TestUpgradeAndBackUnderLoad")

// checkedWork is programs that work on a mount and check what they see.
type checkedWork struct {
	dir, files string
	workers    map[string]*worker
}

func startWork(t *testing.T, dir string) *checkedWork {
	t.Helper()
	l := &checkedWork{dir: dir, files: filepath.Join(dir, "files")}
	names := filepath.Join(dir, "names")
	mkdir(t, l.files)
	mkdir(t, names)
	l.workers = map[string]*worker{
		"mkdir, rename, rmdir": work(makeAndRemove(names)),
		"create, write, fsync": work(createAndSync(l.files)),
		"overwrite and read": work(func(i int) error {
			name, want := filepath.Join(dir, "one"), []byte(fmt.Sprint("version ", i))
			if err := writeSynced(name, want); err != nil {
				return err
			}
			got, err := os.ReadFile(name)
			if err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("read %q, want %q", got, want)
			}
			return err
		}),
	}
	return l
}

// goesOn waits until everybody has done more.
func (l *checkedWork) goesOn(t *testing.T) {
	t.Helper()
	for _, w := range l.workers {
		progress(t, 2, w)
	}
}

// finish wants no error, and all that was written to be there.
func (l *checkedWork) finish(t *testing.T) {
	t.Helper()
	for what, w := range l.workers {
		close(w.stop)
		<-w.done
		t.Logf("%s: %d operations, the longest %v", what, w.count, w.longest.Round(time.Millisecond))
		if w.err != nil {
			t.Errorf("%s: %v", what, w.err)
		}
	}
	l.check(t, l.dir)
}

// check compares the files, on this mount or another.
func (l *checkedWork) check(t *testing.T, dir string) {
	t.Helper()
	checkCreated(t, filepath.Join(dir, "files"), l.workers["create, write, fsync"].count)
}

// renew stops a daemon in order and starts it again, with the programs of a folder.
func (c *cluster) renew(t *testing.T, p *process, programs string) {
	t.Helper()
	must(t, p.stop())
	p.args[0] = filepath.Join(programs, filepath.Base(p.args[0]))
	must(t, p.start())
	must(t, c.waitHealthy(healthyTimeout))
}

// TestRollingRestartIsNoError: every daemon in turn is stopped as an admin would and
// started again, while programs work.
func TestRollingRestartIsNoError(t *testing.T) {
	c := newCluster(t, options{})
	m := c.mount(t)
	l := startWork(t, m.dir)
	for _, p := range c.all() {
		c.renew(t, p, binaries)
		l.goesOn(t)
	}
	l.finish(t)
}

// TestUpgradeAndBackUnderLoad: masters and chunk servers of an older version are replaced by
// this one, one by one, while a mount of the older version works; as long as one master is
// old, the others can go back. See scripts/upgrade-test.
func TestUpgradeAndBackUnderLoad(t *testing.T) {
	if *old == "" {
		t.Skip("needs -old: run scripts/upgrade-test")
	}
	this := binaries
	binaries = *old
	c := newCluster(t, options{})
	m := c.mount(t)
	binaries = this // dfs itself, too
	before, err := c.status(10 * time.Second)
	must(t, err)
	l := startWork(t, m.dir)
	step := func(p *process, programs string) {
		c.renew(t, p, programs)
		l.goesOn(t)
	}
	last := c.masters[len(c.masters)-1]
	for _, p := range c.masters {
		if p != last {
			step(p, this)
		}
	}
	step(c.chunks[0], this)
	if s, err := c.status(10 * time.Second); err != nil || s.Level != before.Level {
		t.Errorf("the level became %d while a master is old, was %d: %v", s.Level, before.Level, err)
	}
	step(c.masters[0], *old) // and back
	step(c.chunks[0], *old)
	for _, p := range c.all() {
		if p.args[0] != filepath.Join(this, filepath.Base(p.args[0])) {
			step(p, this)
		}
	}
	var level uint32
	must(t, eventually(healthyTimeout, "the level of this version", func() error {
		s, err := c.status(10 * time.Second)
		if err == nil && s.Level < before.Level || s.Level == 0 {
			err = fmt.Errorf("it is %d", s.Level)
		}
		level = s.Level
		return err
	}))
	l.finish(t)
	fresh := c.mount(t)
	l.check(t, fresh.dir)
	t.Logf("level %d, was %d", level, max(before.Level, 1))
	if level == max(before.Level, 1) {
		return // both versions know the same
	}
	// An old master on newer state says so and ends.
	must(t, last.stop())
	last.args[0] = filepath.Join(*old, filepath.Base(last.args[0]))
	must(t, last.start())
	select {
	case <-last.done:
	case <-time.After(healthyTimeout):
		t.Error("an old master runs on newer metadata")
	}
	if text := lastLines(last.log, 3); !strings.Contains(text, "version") {
		t.Errorf("an old master ended with %q", text)
	}
}
