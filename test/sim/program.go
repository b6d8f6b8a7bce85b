package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/client"
)

// Flags of open(2).
const (
	oRDWR   = 2
	oCreate = 0o100
	oTrunc  = 0o1000
	oAppend = 0o2000
)

// Sizes of what programs do.
const (
	cells    = 6 // of each file
	namesMax = 4 // in a folder
)

// cellBytes are the sizes of the cells of the files: less than a page, several files in one
// record, several records.
var cellBytes = [...]int{704, 3000, 40_000}

// replacedBytes is the size of the file that is replaced by rename.
const replacedBytes = 9000

var root = dfs.Cred{Checked: true}

// program is what runs on one client: it changes things of its own, appends to the
// journal, and reads what all have.
type program struct {
	*run
	w    *writer
	rng  *rand.Rand
	over *atomic.Bool // it shall end
	dead atomic.Bool  // its host is gone: what it is told counts no more
	done chan struct{}

	fs      *client.FS
	dir     dfs.Ino
	files   [len(cellBytes)]*client.File
	journal *client.File
	names   map[string]dfs.Ino // of its folder, as it was told
}

func key(writer int, what string, n ...int) string { return fmt.Sprint(writer, "/", what, n) }

// content is a cell's bytes in a state: each word tells which it is.
func content(writer, file, cell, state, n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.BigEndian.PutUint64(b[i:], uint64(writer+1)<<56|uint64(file)<<52|uint64(cell)<<48|uint64(state))
	}
	return b
}

// states reads which states the words of a cell are of; wrong is a word of another cell.
func states(writer, file, cell int, b []byte) (least, most int, wrong uint64) {
	least = 1 << 40
	for i := 0; i+8 <= len(b); i += 8 {
		v := binary.BigEndian.Uint64(b[i:])
		state := 0
		if v != 0 {
			state = int(v & (1<<48 - 1))
			if v>>48 != uint64(writer+1)<<8|uint64(file)<<4|uint64(cell) {
				return 0, 0, v
			}
		}
		least, most = min(least, state), max(most, state)
	}
	return least, most, 0
}

// setup makes what the programs work on.
func (r *run) setup(fs *client.FS, clients int) error {
	ctx := context.Background()
	if err := fs.SetPolicy(ctx, root, dfs.RootIno, r.layout); err != nil {
		return err
	}
	f, _, err := fs.Create(ctx, root, dfs.RootIno, "journal", 0o666, oRDWR|oCreate)
	if err != nil {
		return err
	}
	f.Release()
	for i := range clients {
		dir, err := fs.Mkdir(ctx, root, dfs.RootIno, fmt.Sprint("c", i), 0o777)
		if err != nil {
			return err
		}
		if _, err := fs.Mkdir(ctx, root, dir.Ino, "names", 0o777); err != nil {
			return err
		}
		for k := range cellBytes {
			f, _, err := fs.Create(ctx, root, dir.Ino, fmt.Sprint("f", k), 0o666, oRDWR|oCreate)
			if err != nil {
				return err
			}
			f.Release()
		}
		f, _, err := fs.Create(ctx, root, dir.Ino, "replaced", 0o666, oRDWR|oCreate)
		if err != nil {
			return err
		}
		if _, err := f.Write(ctx, content(i, 9, 0, 0, replacedBytes), 0); err != nil {
			return err
		}
		f.Release()
		w := r.writers[i]
		for k := range cellBytes {
			for c := range cells {
				r.model.add(key(i, "cell", k, c), w)
			}
		}
		r.model.add(key(i, "replaced"), w)
		r.model.add(key(i, "names"), w).states = map[int]map[string]dfs.Ino{0: {}}
	}
	return fs.Sync(ctx)
}

func (p *program) thing(what string, n ...int) *thing {
	p.model.mu.Lock()
	defer p.model.mu.Unlock()
	return p.model.things[key(p.w.id, what, n...)]
}

// open opens what the program works on.
func (p *program) open(ctx context.Context) error {
	dir, err := p.fs.Lookup(ctx, root, dfs.RootIno, fmt.Sprint("c", p.w.id))
	if err != nil {
		return err
	}
	p.dir = dir.Ino
	for k := range p.files {
		if p.files[k], err = p.fs.OpenPath(ctx, root, fmt.Sprintf("/c%d/f%d", p.w.id, k), oRDWR, 0); err != nil {
			return err
		}
	}
	p.journal, err = p.fs.OpenPath(ctx, root, "/journal", oRDWR|oAppend, 0)
	return err
}

// lost notes an error of a call that changes something.
func (p *program) lost(what string, err error) {
	if p.dead.Load() {
		return
	}
	p.logger.Info("a program was told of an error", "client", p.w.name, "call", what, "err", err)
	p.model.shake(p.w)
}

// work makes calls until it is over.
func (p *program) work() {
	defer close(p.done)
	ctx := context.Background()
	if !p.again("open", func() error { return p.open(ctx) }) || !p.resync(ctx) {
		return
	}
	for !p.over.Load() && !p.dead.Load() && !p.failed() {
		p.step(ctx)
		switch p.rng.IntN(12) {
		case 0:
			time.Sleep(time.Duration(p.rng.Int64N(int64(2 * time.Second))))
		case 1, 2, 3, 4, 5:
			time.Sleep(time.Duration(p.rng.Int64N(int64(30 * time.Millisecond))))
		}
	}
}

// again makes a call until it succeeds; false when the program's time is over.
func (p *program) again(what string, fn func() error) bool {
	for end := time.Now().Add(healTimeout); !p.dead.Load() && !p.failed(); time.Sleep(pollInterval) {
		err := fn()
		if err == nil {
			return true
		}
		if time.Now().After(end) {
			p.failf("%s: %s does not succeed within %v: %v", p.w.name, what, healTimeout, err)
		}
	}
	return false
}

func (p *program) step(ctx context.Context) {
	k := p.rng.IntN(100)
	if p.heavy && k >= 40 && k < 90 { // mostly appends
		k = 40
	}
	switch {
	case k < 20:
		p.write(ctx)
	case k < 28:
		p.fsync(ctx)
	case k < 32:
		p.syncAll(ctx)
	case k < 50:
		p.append(ctx)
	case k < 60:
		p.rename(ctx)
	case k < 64:
		p.replace(ctx)
	default:
		p.read(ctx)
	}
}

// write writes one cell.
func (p *program) write(ctx context.Context) {
	k, c := p.rng.IntN(len(cellBytes)), p.rng.IntN(cells)
	th := p.thing("cell", k, c)
	state, era := p.model.begin(th), p.model.era(p.w)
	b := content(p.w.id, k, c, state, cellBytes[k])
	if n, err := p.files[k].Write(ctx, b, int64(c*len(b))); err != nil || n < len(b) {
		p.lost("write", err)
		return
	}
	p.model.ack(th, state, era)
	if p.rng.IntN(3) == 0 { // fsync of one file again and again is answered early
		p.fsyncFile(ctx, k)
	}
}

func (p *program) fsync(ctx context.Context) { p.fsyncFile(ctx, p.rng.IntN(len(cellBytes))) }

func (p *program) fsyncFile(ctx context.Context, k int) {
	things := []*thing{}
	for c := range cells {
		things = append(things, p.thing("cell", k, c))
	}
	s := p.model.sync(p.w, things...)
	if err := p.files[k].Fsync(ctx, false); err != nil {
		p.lost("fsync", err)
		return
	}
	if !p.dead.Load() {
		p.model.synced(p.w, s)
	}
}

// syncAll syncs everything: sync(2).
func (p *program) syncAll(ctx context.Context) {
	s := p.model.sync(p.w)
	era, list := p.model.logSyncing(p.w)
	if err := p.fs.Sync(ctx); err != nil {
		p.lost("sync", err)
		return
	}
	if !p.dead.Load() {
		p.model.synced(p.w, s)
		p.model.logSynced(p.w, era, list)
	}
}

// append appends a record to the journal.
func (p *program) append(ctx context.Context) {
	p.w.next++
	e, era := entry{p.w.id, p.w.next}, p.model.era(p.w)
	p.model.appending(e)
	if n, err := p.journal.Write(ctx, e.encode(), 0); err != nil || n < entryBytes {
		p.lost("append", err)
		return
	}
	p.model.appended(p.w, e, era)
	if p.rng.IntN(2) == 0 {
		era, list := p.model.logSyncing(p.w)
		if err := p.journal.Fsync(ctx, true); err != nil {
			p.lost("fsync of the journal", err)
		} else if !p.dead.Load() {
			p.model.logSynced(p.w, era, list)
		}
	}
}

// rename makes, renames or removes a name in the folder of names.
func (p *program) rename(ctx context.Context) {
	dir, err := p.fs.Lookup(ctx, root, p.dir, "names")
	if err != nil {
		return
	}
	names := maps.Clone(p.names)
	have := slices.Sorted(maps.Keys(names))
	th, era := p.thing("names"), p.model.era(p.w)
	target := fmt.Sprint("n", p.rng.IntN(namesMax))
	var state int
	switch {
	case len(have) == 0 || names[target] == 0 && p.rng.IntN(2) == 0:
		p.w.next++
		temp := fmt.Sprint("n", p.w.next+namesMax)
		// An inode's number is known when it is made: what is begun has a number later.
		f, attr, cerr := p.fs.Create(ctx, root, p.dir, temp, 0o666, oRDWR|oCreate)
		if cerr != nil {
			p.lost("create", cerr)
			p.resync(ctx)
			return
		}
		f.Release()
		names[target] = attr.Ino
		state = p.model.beginNames(th, names)
		err = p.fs.Rename(ctx, root, p.dir, temp, dir.Ino, target, 0)
	case p.rng.IntN(3) == 0:
		source := have[p.rng.IntN(len(have))]
		delete(names, source)
		state = p.model.beginNames(th, names)
		err = p.fs.Unlink(ctx, root, dir.Ino, source)
	default:
		source := have[p.rng.IntN(len(have))]
		if source == target {
			return
		}
		names[target] = names[source]
		delete(names, source)
		state = p.model.beginNames(th, names)
		err = p.fs.Rename(ctx, root, dir.Ino, source, dir.Ino, target, 0)
	}
	if err != nil {
		p.lost("rename", err)
		p.resync(ctx)
		return
	}
	p.model.ack(th, state, era)
	p.names = names
	if p.rng.IntN(4) == 0 {
		p.syncNames(ctx)
	}
}

// syncNames syncs a folder, and with it all names that were changed before.
func (p *program) syncNames(ctx context.Context) {
	s := p.model.sync(p.w, p.thing("names"), p.thing("replaced"))
	if err := p.fs.FsyncDir(ctx, p.dir); err != nil {
		p.lost("fsync of a folder", err)
		p.resync(ctx)
		return
	}
	if !p.dead.Load() {
		p.model.synced(p.w, s)
	}
}

// replace writes a new file, syncs it, and puts it in the place of another, as careful
// programs do.
func (p *program) replace(ctx context.Context) {
	th, era := p.thing("replaced"), p.model.era(p.w)
	state := p.model.begin(th)
	err := func() error {
		f, _, err := p.fs.Create(ctx, root, p.dir, "new", 0o666, oRDWR|oCreate|oTrunc)
		if err != nil {
			return err
		}
		defer f.Release()
		b := content(p.w.id, 9, 0, state, replacedBytes)
		if n, err := f.Write(ctx, b, 0); err != nil || n < len(b) {
			return errors.Join(err, errors.New("short write"))
		}
		if err := f.Fsync(ctx, false); err != nil {
			return err
		}
		return p.fs.Rename(ctx, root, p.dir, "new", p.dir, "replaced", 0)
	}()
	if err != nil {
		p.lost("replace", err)
		p.resync(ctx)
		return
	}
	p.model.ack(th, state, era)
	if p.rng.IntN(2) == 0 {
		p.syncNames(ctx)
	}
}

// resync finds out what is there after an error, and goes on from it.
func (p *program) resync(ctx context.Context) bool {
	th := p.thing("names")
	return p.again("resync", func() error {
		// An error may be told once more, of what is known to be in doubt.
		if err := p.fs.Sync(ctx); err != nil {
			p.lost("sync", err)
			return err
		}
		b := p.model.look(th)
		list, err := p.list(ctx, p.w.id)
		if err != nil {
			return err
		}
		if p.dead.Load() {
			return nil
		}
		p.model.sawNames(p.w, key(p.w.id, "names"), th, b, list)
		if err := p.fs.FsyncDir(ctx, p.dir); err != nil {
			p.lost("fsync of a folder", err)
			return err
		}
		if !p.dead.Load() {
			p.model.settle(th, list)
			p.names = list
		}
		return nil
	})
}

// list lists the names of a writer.
func (p *program) list(ctx context.Context, writer int) (map[string]dfs.Ino, error) {
	attr, err := p.fs.Stat(ctx, fmt.Sprintf("/c%d/names", writer))
	if err != nil {
		return nil, err
	}
	l, err := p.fs.ReadDir(ctx, root, attr.Ino, 0, 100, true)
	if err != nil {
		return nil, err
	}
	names := map[string]dfs.Ino{}
	for _, e := range l.Entries {
		if e.Name != "." && e.Name != ".." {
			names[e.Name] = e.Ino
		}
	}
	return names, nil
}

// read reads something of somebody, and holds it against the model. An error says
// nothing: it is not an answer.
func (p *program) read(ctx context.Context) {
	writer := p.rng.IntN(len(p.writers))
	k := p.rng.IntN(10)
	var err error
	switch {
	case k < 2:
		err = p.readJournal(ctx)
	case k < 4:
		err = p.readNames(ctx, writer)
	case k < 6:
		err = p.readReplaced(ctx, writer)
	default:
		err = p.readFile(ctx, writer, p.rng.IntN(len(cellBytes)), p.rng.IntN(cells), 1)
	}
	var verdict dfs.Errno
	if errors.As(err, &verdict) && verdict != dfs.EIO && verdict != dfs.ETIMEDOUT && verdict != dfs.ESTALE && !p.dead.Load() {
		p.failf("%s: a read of what is there: %v", p.w.name, err)
	}
}

// readAll reads everything.
func (p *program) readAll(ctx context.Context) error {
	errs := []error{p.readJournal(ctx)}
	for w := range p.writers {
		errs = append(errs, p.readNames(ctx, w), p.readReplaced(ctx, w))
		for k := range cellBytes {
			errs = append(errs, p.readFile(ctx, w, k, 0, cells))
		}
	}
	return errors.Join(errs...)
}

// whole reads a file from some place on.
func whole(ctx context.Context, f *client.File, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	for at := 0; ; {
		k, err := f.Read(ctx, b[at:], off+int64(at))
		if err != nil {
			return nil, err
		}
		if at += k; k == 0 || at == n {
			return b[:at], nil
		}
	}
}

func (p *program) readJournal(ctx context.Context) error {
	must := p.model.logNow()
	f, err := p.fs.OpenPath(ctx, root, "/journal", 0, 0)
	if err != nil {
		return err
	}
	defer f.Release()
	b, err := whole(ctx, f, 0, 1<<20)
	if err == nil && !p.dead.Load() {
		p.model.sawLog(p.w, must, b)
	}
	return err
}

func (p *program) readNames(ctx context.Context, writer int) error {
	k := key(writer, "names")
	p.model.mu.Lock()
	th := p.model.things[k]
	p.model.mu.Unlock()
	b := p.model.look(th)
	list, err := p.list(ctx, writer)
	if err == nil && !p.dead.Load() {
		p.model.sawNames(p.w, k, th, b, list)
	}
	return err
}

func (p *program) readReplaced(ctx context.Context, writer int) error {
	k := key(writer, "replaced")
	p.model.mu.Lock()
	th := p.model.things[k]
	p.model.mu.Unlock()
	b := p.model.look(th)
	f, err := p.fs.OpenPath(ctx, root, fmt.Sprintf("/c%d/replaced", writer), 0, 0)
	if err != nil {
		return err
	}
	defer f.Release()
	data, err := whole(ctx, f, 0, replacedBytes+1)
	if err != nil || p.dead.Load() {
		return err
	}
	least, most, wrong := states(writer, 9, 0, data)
	if len(data) != replacedBytes || least != most || wrong != 0 {
		p.failf("%s read a file that is replaced by rename as %d bytes of states %d to %d, or %x", p.w.name, len(data), least, most, wrong)
		return nil
	}
	p.model.saw(p.w, k, th, b, least, most)
	return nil
}

// readFile reads cells of a file.
func (p *program) readFile(ctx context.Context, writer, file, from, n int) error {
	size := cellBytes[file]
	things, looks := make([]*thing, n), make([]bounds, n)
	for i := range n {
		p.model.mu.Lock()
		things[i] = p.model.things[key(writer, "cell", file, from+i)]
		p.model.mu.Unlock()
		looks[i] = p.model.look(things[i])
	}
	f := p.files[file]
	if writer != p.w.id || p.rng.IntN(2) == 0 {
		var err error
		if f, err = p.fs.OpenPath(ctx, root, fmt.Sprintf("/c%d/f%d", writer, file), 0, 0); err != nil {
			return err
		}
		defer f.Release()
	}
	data, err := whole(ctx, f, int64(from*size), n*size)
	if err != nil || p.dead.Load() {
		return err
	}
	data = append(data, make([]byte, n*size-len(data))...) // behind the end nothing was written
	for i := range n {
		least, most, wrong := states(writer, file, from+i, data[i*size:(i+1)*size])
		if wrong != 0 {
			p.failf("%s read %x in cell %d of file %d of client %d", p.w.name, wrong, from+i, file, writer)
			return nil
		}
		p.model.saw(p.w, key(writer, "cell", file, from+i), things[i], looks[i], least, most)
	}
	return nil
}
