package disk

import (
	"io"
	iofs "io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// memCapacity is what a Mem holds until SetCapacity, in bytes.
const memCapacity = 1 << 40

// sectorBytes is what a disk writes wholly or not at all.
const sectorBytes = 512

// Mem is a disk in memory. It keeps what lasts apart from what was only written:
// Crash makes a disk as it may be found after a loss of power. Fail makes
// operations fail. The root folder "/" is there from the start; a name without a
// leading slash is below it.
type Mem struct {
	mu       sync.Mutex
	root     *node      // +checklocks:mu
	journal  []dirOp    // +checklocks:mu — changes of folders that were not synced, in order
	capacity uint64     // +checklocks:mu — bytes
	used     uint64     // +checklocks:mu — bytes
	rules    []*Rule    // +checklocks:mu
	rng      *rand.Rand // +checklocks:mu — what a failed Sync has saved
}

var _ FS = (*Mem)(nil)

// node is a file or a folder.
type node struct {
	dir     bool
	entries map[string]*node // of a folder
	saved   map[string]*node // of a folder: what lasts

	data      []byte   // of a file
	durable   []byte   // of a file: what lasts
	pending   []fileOp // of a file: how durable becomes data
	allocated int64    // of a file: bytes reserved by Allocate
	names     int      // in folders
	locked    bool
}

// fileOp is a write, or a truncation when data is nil.
type fileOp struct {
	off  int64 // or size
	data []byte
}

// dirOp is a change of names that lasts as one: a rename has two edits.
type dirOp []edit

type edit struct {
	dir  *node
	name string
	node *node // nil: the name is gone
}

// NewMem makes an empty disk.
func NewMem() *Mem {
	return &Mem{root: newDir(), capacity: memCapacity, rng: rand.New(rand.NewPCG(1, 2))}
}

func newDir() *node {
	return &node{dir: true, entries: map[string]*node{}, saved: map[string]*node{}}
}

// SetCapacity limits the disk: what needs more than that many bytes is ENOSPC.
func (m *Mem) SetCapacity(bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Flip inverts bits of one byte of a file, at rest: also of what lasts.
func (m *Mem) Flip(name string, off int64, mask byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("flip", name)
	if err != nil {
		return err
	}
	if off >= int64(len(n.data)) {
		return fail("flip", name, syscall.EINVAL)
	}
	n.data[off] ^= mask
	if off < int64(len(n.durable)) {
		n.durable[off] ^= mask
	}
	return nil
}

// Crash returns the disk as it may be after a loss of power now: of all that was
// not synced, rng decides what has reached it, down to single sectors; nil: nothing.
// The disk itself goes on as it is, for whoever still has it. Rules are not taken over,
// nor locks.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	copies := map[*node]*node{}
	var clone func(n *node) *node
	clone = func(n *node) *node {
		if c := copies[n]; c != nil {
			return c
		}
		c := &node{dir: n.dir}
		copies[n] = c
		if !n.dir {
			c.durable = slices.Clone(n.durable)
			if rng != nil {
				c.durable = crashFile(n, rng)
			}
			c.data = slices.Clone(c.durable)
			return c
		}
		c.saved = make(map[string]*node, len(n.saved))
		for _, name := range slices.Sorted(maps.Keys(n.saved)) {
			c.saved[name] = clone(n.saved[name])
		}
		return c
	}
	out := &Mem{root: clone(m.root), capacity: m.capacity, rng: rand.New(rand.NewPCG(1, 2))}
	if rng != nil {
		out.rng = rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
	}
	for _, op := range m.journal {
		if rng == nil || rng.IntN(2) == 0 {
			continue
		}
		for _, e := range op {
			dir := clone(e.dir) // may not be reachable: then nobody sees it
			if e.node == nil {
				delete(dir.saved, e.name)
			} else {
				dir.saved[e.name] = clone(e.node)
			}
		}
	}
	var settle func(n *node)
	settle = func(n *node) {
		n.names++
		if !n.dir {
			if n.names == 1 {
				out.used += uint64(len(n.data))
			}
			return
		}
		if n.entries != nil {
			return
		}
		n.entries = maps.Clone(n.saved)
		for _, c := range n.entries {
			settle(c)
		}
	}
	settle(out.root)
	return out
}

// Kill returns the disk as the next process finds it when the one that uses it is killed
// now: all that was written is there, and what of it was not synced may still be lost by a
// Crash. What the dying process writes from then on goes nowhere. Rules are not taken over,
// nor locks.
func (m *Mem) Kill() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	copies := map[*node]*node{}
	var clone func(n *node) *node
	clone = func(n *node) *node {
		if n == nil {
			return nil
		}
		c := copies[n]
		if c != nil {
			return c
		}
		c = &node{
			dir: n.dir, data: slices.Clone(n.data), durable: slices.Clone(n.durable), pending: slices.Clone(n.pending),
			allocated: n.allocated, names: n.names,
		}
		copies[n] = c
		for _, side := range []struct{ from, to *map[string]*node }{{&n.entries, &c.entries}, {&n.saved, &c.saved}} {
			if *side.from != nil {
				*side.to = make(map[string]*node, len(*side.from))
			}
			for name, e := range *side.from {
				(*side.to)[name] = clone(e)
			}
		}
		return c
	}
	out := &Mem{root: clone(m.root), capacity: m.capacity, used: m.used, rng: rand.New(rand.NewPCG(m.rng.Uint64(), m.rng.Uint64()))}
	for _, op := range m.journal {
		again := make(dirOp, len(op))
		for i, e := range op {
			again[i] = edit{dir: clone(e.dir), name: e.name, node: clone(e.node)}
		}
		out.journal = append(out.journal, again)
	}
	return out
}

// crashFile is what is left of a file.
func crashFile(n *node, rng *rand.Rand) []byte {
	data := slices.Clone(n.durable)
	for _, op := range n.pending {
		data = tear(data, op, rng)
	}
	return data
}

// tear does all of an operation, nothing, or a part.
func tear(data []byte, op fileOp, rng *rand.Rand) []byte {
	switch rng.IntN(3) {
	case 0:
		return data
	case 1:
		return apply(data, op)
	}
	if op.data == nil {
		return data
	}
	for from := op.off; from < op.off+int64(len(op.data)); {
		to := min((from/sectorBytes+1)*sectorBytes, op.off+int64(len(op.data)))
		if rng.IntN(2) == 0 {
			data = apply(data, fileOp{off: from, data: op.data[from-op.off : to-op.off]})
		}
		from = to
	}
	return data
}

func apply(data []byte, op fileOp) []byte {
	if op.data == nil {
		return resize(data, op.off)
	}
	if end := op.off + int64(len(op.data)); end > int64(len(data)) {
		data = resize(data, end)
	}
	copy(data[op.off:], op.data)
	return data
}

func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		clear(data[size:]) // what is cut and grown again reads as zeros
		return data[:size]
	}
	if size <= int64(cap(data)) {
		return data[:size]
	}
	return append(make([]byte, 0, size+size/2), data...)[:size]
}

func fail(op, name string, err error) error { return &os.PathError{Op: op, Path: name, Err: err} }

func split(name string) []string {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	return strings.Split(name[1:], "/")
}

// walk finds a node.
//
// +checklocks:m.mu
func (m *Mem) walk(op, name string) (*node, error) {
	n := m.root
	for _, part := range split(name) {
		if !n.dir {
			return nil, fail(op, name, syscall.ENOTDIR)
		}
		if n = n.entries[part]; n == nil {
			return nil, fail(op, name, syscall.ENOENT)
		}
	}
	return n, nil
}

// +checklocks:m.mu
func (m *Mem) file(op, name string) (*node, error) {
	n, err := m.walk(op, name)
	if err == nil && n.dir {
		err = fail(op, name, syscall.EISDIR)
	}
	return n, err
}

// parent finds the folder of a name.
//
// +checklocks:m.mu
func (m *Mem) parent(op, name string) (*node, string, error) {
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return nil, "", fail(op, name, syscall.EBUSY) // the root
	}
	n, err := m.walk(op, dir)
	if err == nil && !n.dir {
		err = fail(op, name, syscall.ENOTDIR)
	}
	return n, base, err
}

// change carries out a change of names, which does not last yet.
//
// +checklocks:m.mu
func (m *Mem) change(op dirOp) {
	for _, e := range op {
		if old := e.dir.entries[e.name]; old != nil {
			if old.names--; old.names == 0 && !old.dir {
				m.used -= old.room()
			}
		}
		if e.node == nil {
			delete(e.dir.entries, e.name)
			continue
		}
		if e.node.names++; e.node.names == 1 && !e.node.dir {
			m.used += e.node.room()
		}
		e.dir.entries[e.name] = e.node
	}
	m.journal = append(m.journal, op)
}

// room is how many bytes of the disk a file takes.
func (n *node) room() uint64 { return uint64(max(int64(len(n.data)), n.allocated)) }

// grow makes room for a file to have size bytes, allocated or written.
//
// +checklocks:m.mu
func (m *Mem) grow(n *node, size int64) error {
	more := uint64(max(size-int64(n.room()), 0))
	if more > 0 && m.used+more > m.capacity {
		return syscall.ENOSPC
	}
	if n.names > 0 {
		m.used += more
	}
	return nil
}

// Create is as FS tells.
func (m *Mem) Create(name string) (File, error) {
	return m.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

// Open is as FS tells.
func (m *Mem) Open(name string) (File, error) { return m.OpenFile(name, os.O_RDONLY) }

// OpenFile is as FS tells.
func (m *Mem) OpenFile(name string, flag int) (File, error) {
	if err := m.fault(OpOpen, name); err != nil {
		return nil, fail("open", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("open", name)
	if err != nil {
		return nil, err
	}
	n := dir.entries[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, fail("open", name, syscall.ENOENT)
	case n == nil:
		n = &node{}
		m.change(dirOp{{dir, base, n}})
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, fail("open", name, syscall.EEXIST)
	case n.dir:
		return nil, fail("open", name, syscall.EISDIR)
	}
	if flag&os.O_TRUNC != 0 && len(n.data)+int(n.allocated) > 0 {
		m.truncate(n, 0)
	}
	return &memFile{fs: m, node: n, name: name, write: flag&(os.O_RDWR|os.O_WRONLY) != 0}, nil
}

// +checklocks:m.mu
func (m *Mem) truncate(n *node, size int64) {
	before := n.room()
	op := fileOp{off: size}
	n.data = apply(n.data, op)
	n.allocated = min(n.allocated, size)
	n.pending = append(n.pending, op)
	if n.names > 0 {
		m.used += n.room() - before
	}
}

// Rename is as FS tells.
func (m *Mem) Rename(source, target string) error {
	if err := m.fault(OpRename, source); err != nil {
		return fail("rename", source, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fromDir, from, err := m.parent("rename", source)
	if err != nil {
		return err
	}
	toDir, to, err := m.parent("rename", target)
	if err != nil {
		return err
	}
	n, old := fromDir.entries[from], toDir.entries[to]
	switch {
	case n == nil:
		return fail("rename", source, syscall.ENOENT)
	case n == old:
		return nil
	case old != nil && old.dir && !n.dir:
		return fail("rename", target, syscall.EISDIR)
	case old != nil && !old.dir && n.dir:
		return fail("rename", target, syscall.ENOTDIR)
	case old != nil && old.dir && len(old.entries) > 0:
		return fail("rename", target, syscall.ENOTEMPTY)
	case n.dir && strings.HasPrefix(path.Clean("/"+target), path.Clean("/"+source)+"/"):
		return fail("rename", target, syscall.EINVAL)
	}
	m.change(dirOp{{toDir, to, n}, {fromDir, from, nil}})
	return nil
}

// Link gives a file one more name, which must not be there yet. It is not synced.
func (m *Mem) Link(source, target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("link", source)
	if err != nil {
		return err
	}
	dir, base, err := m.parent("link", target)
	if err != nil {
		return err
	}
	if dir.entries[base] != nil {
		return fail("link", target, syscall.EEXIST)
	}
	m.change(dirOp{{dir, base, n}})
	return nil
}

// Remove is as FS tells.
func (m *Mem) Remove(name string) error {
	if err := m.fault(OpRemove, name); err != nil {
		return fail("remove", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	n := dir.entries[base]
	switch {
	case n == nil:
		return fail("remove", name, syscall.ENOENT)
	case n.dir && len(n.entries) > 0:
		return fail("remove", name, syscall.ENOTEMPTY)
	}
	m.change(dirOp{{dir, base, nil}})
	return nil
}

// MkdirAll is as FS tells.
func (m *Mem) MkdirAll(name string) error {
	if err := m.fault(OpMkdir, name); err != nil {
		return fail("mkdir", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for _, part := range split(name) {
		next := n.entries[part]
		switch {
		case next == nil:
			next = newDir()
			m.change(dirOp{{n, part, next}})
		case !next.dir:
			return fail("mkdir", name, syscall.ENOTDIR)
		}
		n = next
	}
	return nil
}

// ReadDir is as FS tells.
func (m *Mem) ReadDir(name string) ([]Entry, error) {
	if err := m.fault(OpReadDir, name); err != nil {
		return nil, fail("readdir", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.walk("readdir", name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, fail("readdir", name, syscall.ENOTDIR)
	}
	out := make([]Entry, 0, len(n.entries))
	for _, e := range slices.Sorted(maps.Keys(n.entries)) {
		out = append(out, Entry{Name: e, Dir: n.entries[e].dir})
	}
	return out, nil
}

// Stat is as FS tells.
func (m *Mem) Stat(name string) (Info, error) {
	if err := m.fault(OpStat, name); err != nil {
		return Info{}, fail("stat", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.walk("stat", name)
	if err != nil {
		return Info{}, err
	}
	return Info{Size: int64(len(n.data)), Dir: n.dir}, nil
}

// SyncDir is as FS tells.
func (m *Mem) SyncDir(name string) error {
	if err := m.fault(OpSyncDir, name); err != nil {
		return fail("syncdir", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.walk("syncdir", name)
	if err != nil {
		return err
	}
	if !n.dir {
		return fail("syncdir", name, syscall.ENOTDIR)
	}
	m.journal = slices.DeleteFunc(m.journal, func(op dirOp) bool {
		if !slices.ContainsFunc(op, func(e edit) bool { return e.dir == n }) {
			return false
		}
		for _, e := range op {
			if e.node == nil {
				delete(e.dir.saved, e.name)
			} else {
				e.dir.saved[e.name] = e.node
			}
		}
		return true
	})
	return nil
}

// Lock is as FS tells.
func (m *Mem) Lock(name string) (io.Closer, error) {
	if err := m.fault(OpLock, name); err != nil {
		return nil, fail("lock", name, err)
	}
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	n := f.(*memFile).node
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.locked {
		return nil, fail("lock", name, ErrLocked)
	}
	n.locked = true
	return memLock{m, n}, nil
}

type memLock struct {
	fs   *Mem
	node *node
}

func (l memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	l.node.locked = false
	return nil
}

// Usage is as FS tells.
func (m *Mem) Usage(name string) (total, free uint64, err error) {
	if err := m.fault(OpUsage, name); err != nil {
		return 0, 0, fail("usage", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.walk("usage", name); err != nil {
		return 0, 0, err
	}
	return m.capacity, m.capacity - min(m.used, m.capacity), nil
}

// memFile is an open file of a Mem.
type memFile struct {
	fs     *Mem
	node   *node
	name   string
	write  bool
	closed bool // under fs.mu
}

// begin meets the rules, locks the disk and refuses a closed file.
func (f *memFile) begin(op Op) error {
	if err := f.fs.fault(op, f.name); err != nil {
		return fail(op.String(), f.name, err)
	}
	f.fs.mu.Lock()
	if f.closed {
		f.fs.mu.Unlock()
		return fail(op.String(), f.name, iofs.ErrClosed)
	}
	if !f.write && (op == OpWrite || op == OpTruncate || op == OpAllocate) {
		f.fs.mu.Unlock()
		return fail(op.String(), f.name, syscall.EBADF)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin(OpRead); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	if off < 0 {
		return 0, fail("read", f.name, syscall.EINVAL)
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.begin(OpWrite); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	if off < 0 {
		return 0, fail("write", f.name, syscall.EINVAL)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.fs.grow(f.node, off+int64(len(p))); err != nil {
		return 0, fail("write", f.name, err)
	}
	op := fileOp{off: off, data: slices.Clone(p)}
	f.node.data = apply(f.node.data, op)
	f.node.pending = append(f.node.pending, op)
	return len(p), nil
}

// Sync that fails has saved some of what was written, and the rest never lasts.
func (f *memFile) Sync() error {
	if err := f.fs.fault(OpSync, f.name); err != nil {
		f.fs.mu.Lock()
		defer f.fs.mu.Unlock()
		for _, op := range f.node.pending {
			f.node.durable = tear(f.node.durable, op, f.fs.rng)
		}
		f.node.pending = nil
		return fail("sync", f.name, err)
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return fail("sync", f.name, iofs.ErrClosed)
	}
	for _, op := range f.node.pending {
		f.node.durable = apply(f.node.durable, op)
	}
	f.node.pending = nil
	return nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.begin(OpTruncate); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if size < 0 {
		return fail("truncate", f.name, syscall.EINVAL)
	}
	if size > int64(f.node.room()) && f.fs.used+uint64(size)-f.node.room() > f.fs.capacity {
		return fail("truncate", f.name, syscall.ENOSPC)
	}
	f.fs.truncate(f.node, size)
	return nil
}

func (f *memFile) Allocate(off, n int64) error {
	if err := f.begin(OpAllocate); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if off < 0 || n <= 0 {
		return fail("allocate", f.name, syscall.EINVAL)
	}
	if err := f.fs.grow(f.node, off+n); err != nil {
		return fail("allocate", f.name, err)
	}
	f.node.allocated = max(f.node.allocated, off+n)
	return nil
}

// Punch is a write of zeros, of which the space is not counted any less.
func (f *memFile) Punch(off, n int64) error {
	if err := f.begin(OpWrite); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if off < 0 || n <= 0 {
		return fail("punch", f.name, syscall.EINVAL)
	}
	if n = min(n, int64(len(f.node.data))-off); n > 0 {
		op := fileOp{off: off, data: make([]byte, n)}
		f.node.data = apply(f.node.data, op)
		f.node.pending = append(f.node.pending, op)
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return 0, fail("size", f.name, iofs.ErrClosed)
	}
	return int64(len(f.node.data)), nil
}

func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return fail("close", f.name, iofs.ErrClosed)
	}
	f.closed = true
	return nil
}
