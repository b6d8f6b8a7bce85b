package disk

import (
	"io"
	"slices"
	"sync"
	"time"
)

// Bounds of what a Watch remembers.
const (
	watchSyncs = 11              // times of syncs
	watchFor   = 2 * time.Minute // older ones say nothing
)

// Watch passes everything on to another disk, and knows for how long operations have been
// under way: a disk that hangs says nothing by itself.
type Watch struct {
	under FS

	mu    sync.Mutex
	first *underWay // +checklocks:mu — the one that has been under way for longest
	last  *underWay // +checklocks:mu
	syncs []synced  // +checklocks:mu — the newest
	turn  int       // +checklocks:mu — the oldest of them
}

// underWay is an operation that has not returned.
type underWay struct {
	op         Op
	name       string
	since      time.Time
	prev, next *underWay
}

// synced is a sync that has returned.
type synced struct {
	at   time.Time
	took time.Duration
}

// NewWatch watches a disk.
func NewWatch(under FS) *Watch { return &Watch{under: under} }

// Longest tells which operation has been under way for longest, and for how long; 0 when
// there is none.
func (w *Watch) Longest(now time.Time) (op Op, name string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == nil {
		return OpAny, "", 0
	}
	return w.first.op, w.first.name, now.Sub(w.first.since)
}

// SyncTime is how long syncs of files took lately, the median of count of them.
func (w *Watch) SyncTime(now time.Time) (median time.Duration, count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var took []time.Duration
	for _, s := range w.syncs {
		if now.Sub(s.at) < watchFor {
			took = append(took, s.took)
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)/2], len(took)
}

// LastSync is when the last sync of a file returned, and how long it took; zero when there was none.
func (w *Watch) LastSync() (at time.Time, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.syncs {
		if s.at.After(at) {
			at, took = s.at, s.took
		}
	}
	return at, took
}

func (w *Watch) begin(op Op, name string) *underWay {
	u := &underWay{op: op, name: name, since: time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if u.prev = w.last; u.prev != nil {
		u.prev.next = u
	} else {
		w.first = u
	}
	w.last = u
	return u
}

func (w *Watch) end(u *underWay) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if u.prev != nil {
		u.prev.next = u.next
	} else {
		w.first = u.next
	}
	if u.next != nil {
		u.next.prev = u.prev
	} else {
		w.last = u.prev
	}
	if u.op != OpSync {
		return
	}
	now := time.Now()
	s := synced{now, now.Sub(u.since)}
	if len(w.syncs) < watchSyncs {
		w.syncs = append(w.syncs, s)
		return
	}
	w.syncs[w.turn] = s
	w.turn = (w.turn + 1) % watchSyncs
}

func (w *Watch) file(f File, name string, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &watchedFile{File: f, w: w, name: name}, nil
}

// Create is FS's.
func (w *Watch) Create(name string) (File, error) {
	defer w.end(w.begin(OpOpen, name))
	f, err := w.under.Create(name)
	return w.file(f, name, err)
}

// Open is FS's.
func (w *Watch) Open(name string) (File, error) {
	defer w.end(w.begin(OpOpen, name))
	f, err := w.under.Open(name)
	return w.file(f, name, err)
}

// OpenFile is FS's.
func (w *Watch) OpenFile(name string, flag int) (File, error) {
	defer w.end(w.begin(OpOpen, name))
	f, err := w.under.OpenFile(name, flag)
	return w.file(f, name, err)
}

// Rename is FS's.
func (w *Watch) Rename(source, target string) error {
	defer w.end(w.begin(OpRename, target))
	return w.under.Rename(source, target)
}

// Remove is FS's.
func (w *Watch) Remove(name string) error {
	defer w.end(w.begin(OpRemove, name))
	return w.under.Remove(name)
}

// MkdirAll is FS's.
func (w *Watch) MkdirAll(name string) error {
	defer w.end(w.begin(OpMkdir, name))
	return w.under.MkdirAll(name)
}

// ReadDir is FS's.
func (w *Watch) ReadDir(name string) ([]Entry, error) {
	defer w.end(w.begin(OpReadDir, name))
	return w.under.ReadDir(name)
}

// Stat is FS's.
func (w *Watch) Stat(name string) (Info, error) {
	defer w.end(w.begin(OpStat, name))
	return w.under.Stat(name)
}

// SyncDir is FS's.
func (w *Watch) SyncDir(name string) error {
	defer w.end(w.begin(OpSyncDir, name))
	return w.under.SyncDir(name)
}

// Lock is FS's.
func (w *Watch) Lock(name string) (io.Closer, error) {
	defer w.end(w.begin(OpLock, name))
	return w.under.Lock(name)
}

// Usage is FS's.
func (w *Watch) Usage(name string) (total, free uint64, err error) {
	defer w.end(w.begin(OpUsage, name))
	return w.under.Usage(name)
}

// watchedFile is a file of a Watch.
type watchedFile struct {
	File
	w    *Watch
	name string
}

func (f *watchedFile) ReadAt(p []byte, off int64) (int, error) {
	defer f.w.end(f.w.begin(OpRead, f.name))
	return f.File.ReadAt(p, off)
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	defer f.w.end(f.w.begin(OpWrite, f.name))
	return f.File.WriteAt(p, off)
}

func (f *watchedFile) Sync() error {
	defer f.w.end(f.w.begin(OpSync, f.name))
	return f.File.Sync()
}

func (f *watchedFile) Truncate(size int64) error {
	defer f.w.end(f.w.begin(OpTruncate, f.name))
	return f.File.Truncate(size)
}

func (f *watchedFile) Allocate(off, n int64) error {
	defer f.w.end(f.w.begin(OpAllocate, f.name))
	return f.File.Allocate(off, n)
}

func (f *watchedFile) Punch(off, n int64) error {
	defer f.w.end(f.w.begin(OpAllocate, f.name))
	return f.File.Punch(off, n)
}
