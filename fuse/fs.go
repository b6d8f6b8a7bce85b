package fuse

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/client"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// complainEvery bounds how often failures of one kind are logged: a dead
// cluster fails each request of each program.
const complainEvery = 10 * time.Second

// fileSystem answers the kernel's requests.
type fileSystem struct {
	gofuse.RawFileSystem // ENOSYS to all that is not implemented

	client   *client.FS
	root     dfs.Ino
	restrict dfs.Restrictions
	logger   *slog.Logger
	metrics  [opCount]opMetrics

	base     context.Context // ends when the mount is gone
	stop     context.CancelFunc
	watchers sync.WaitGroup // of request.watchSignals

	mu         sync.RWMutex
	nextHandle uint64                 // +checklocks:mu
	files      map[uint64]*fileHandle // +checklocks:mu
	openedBy   map[uint64]uint64      // +checklocks:mu — handles of a process before, by the request that opened them

	known      lastKnown
	kernel     kernelCache
	listings   listings
	ledger     *Ledger // nil: the mount ends with the process
	walIndexes walIndexes
	gate       sync.RWMutex // held by each request, and for good by who makes room for another process

	complainMu sync.Mutex
	complained map[string]time.Time // +checklocks:complainMu; by operation
}

func newFileSystem(ctx context.Context, cfg Config, root dfs.Attr) *fileSystem {
	fs := &fileSystem{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(),
		client:        cfg.FS,
		root:          cfg.Root,
		restrict:      cfg.Restrict,
		logger:        cfg.Logger.With("mountpoint", cfg.Mountpoint),
		metrics:       newMetrics(cfg.Registerer),
		files:         map[uint64]*fileHandle{},
		listings:      listings{of: map[dfs.Ino]*listing{}},
		openedBy:      map[uint64]uint64{},
		ledger:        cfg.Ledger,
		complained:    map[string]time.Time{},
		known:         lastKnown{root: root},
	}
	// The mount outlives the call that made it; close ends it.
	fs.base, fs.stop = context.WithCancel(context.WithoutCancel(ctx))
	if fs.ledger != nil {
		fs.nextHandle = fs.ledger.firstHandle()
		fs.watchers.Go(fs.settleLoop)
	}
	return fs
}

// close lets go of what the kernel left open: it does not send RELEASE for
// files of a connection that was aborted.
func (fs *fileSystem) close() {
	fs.stop()
	fs.watchers.Wait()
	fs.mu.Lock()
	files := fs.files
	fs.files = map[uint64]*fileHandle{}
	fs.mu.Unlock()
	for _, f := range files {
		f.Release()
	}
}

func (fs *fileSystem) String() string { return "dfs" }

// ino is the inode that the kernel means.
func (fs *fileSystem) ino(node uint64) dfs.Ino {
	if node == gofuse.FUSE_ROOT_ID {
		return fs.root
	}
	return dfs.Ino(node)
}

// node is what the kernel calls an inode.
func (fs *fileSystem) node(ino dfs.Ino) uint64 {
	if ino == fs.root {
		return gofuse.FUSE_ROOT_ID
	}
	return uint64(ino)
}

// fileHandle is an open file.
type fileHandle struct {
	*client.File
	byRoot   bool
	walIndex bool
	harmless atomic.Bool // the file has neither setuid nor setgid; see killSuid
	slot     int         // in the ledger; -1: none

	dirtyMu sync.Mutex
	dirty   bool // +checklocks:dirtyMu — as the ledger says
	untold  bool // +checklocks:dirtyMu — a process before has lost bytes, and nobody knows

	writingMu sync.Mutex
	writing   writing // +checklocks:writingMu
}

func (fs *fileSystem) addFile(f *client.File, in *gofuse.InHeader, flags uint32) uint64 {
	h := &fileHandle{File: f, byRoot: in.Uid == 0, slot: -1}
	if h.walIndex = fs.walIndexes.has(f.Ino()); h.walIndex {
		flags |= flagWALIndex
	}
	fs.mu.Lock()
	fs.nextHandle++
	handle := fs.nextHandle
	fs.files[handle] = h
	fs.mu.Unlock()
	if fs.ledger != nil {
		unique, _ := uniqueOf(in.Unique)
		h.slot = fs.ledger.add(&openFile{handle: handle, unique: unique, Adopted: client.Adopted{Ino: f.Ino(), Flags: flags, Cred: fs.cred(in)}})
	}
	return handle
}

// release closes a file; one that is not there was closed before.
func (fs *fileSystem) release(handle uint64) {
	h := fs.removeFile(handle)
	if h == nil {
		return
	}
	h.Release()
	if fs.ledger != nil {
		fs.ledger.remove(h.slot)
	}
}

// forgetHarmless makes the next write to the inode look at its mode again.
func (fs *fileSystem) forgetHarmless(ino dfs.Ino) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	for _, h := range fs.files {
		if h.Ino() == ino {
			h.harmless.Store(false)
		}
	}
}

// file finds an open file; nil when the kernel names a handle that we never
// gave, which it does not.
func (fs *fileSystem) file(handle uint64) *fileHandle {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.files[handle]
}

func (fs *fileSystem) removeFile(handle uint64) *fileHandle {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.files[handle]
	delete(fs.files, handle)
	return f
}

// complain logs a failure that a program is told of by an errno only.
func (fs *fileSystem) complain(op, errno string, err error) {
	now := time.Now()
	fs.complainMu.Lock()
	quiet := now.Sub(fs.complained[op]) < complainEvery
	if !quiet {
		fs.complained[op] = now
	}
	fs.complainMu.Unlock()
	if !quiet {
		fs.logger.Warn("request failed; more of the same are not logged for a while", "op", op, "errno", errno, "err", err)
	}
}
