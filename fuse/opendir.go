package fuse

import (
	"sync"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// dirHandle is an open folder: entries that were listed and did not fit in the
// kernel's buffer. They are used only when the kernel goes on where it stopped;
// after a seek or a rewind they are asked for again.
type dirHandle struct {
	mu     sync.Mutex
	ahead  []dfs.Entry // +checklocks:mu
	at     uint64      // +checklocks:mu; the cookie that ahead comes after
	end    bool        // +checklocks:mu; nothing comes after ahead
	parent dfs.Ino     // +checklocks:mu; for ".."
}

// OpenDir opens a folder for listing. Whether it may be listed the kernel has
// checked, and that it exists shows at the first ReadDir.
func (fs *fileSystem) OpenDir(cancel <-chan struct{}, input *gofuse.OpenIn, out *gofuse.OpenOut) (status gofuse.Status) {
	r := fs.begin(opOpenDir, cancel, &input.InHeader)
	defer r.end(&status)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.nextHandle++
	fs.dirs[fs.nextHandle] = &dirHandle{}
	out.Fh = fs.nextHandle
	// The kernel may keep what it has read, and drops it when the folder's mtime is another
	// one, or it has changed the folder itself.
	out.OpenFlags |= gofuse.FOPEN_CACHE_DIR
	if fs.client.KeepPages(fs.ino(input.NodeId)) {
		out.OpenFlags |= gofuse.FOPEN_KEEP_CACHE
	}
	return gofuse.OK
}

// ReleaseDir closes it.
func (fs *fileSystem) ReleaseDir(input *gofuse.ReleaseIn) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.dirs, input.Fh)
}

// dir finds an open folder. One that a process before this one has opened goes on with
// nothing listed ahead: cookies stay what they are.
func (fs *fileSystem) dir(handle uint64) *dirHandle {
	fs.mu.RLock()
	h := fs.dirs[handle]
	fs.mu.RUnlock()
	if h != nil || fs.ledger == nil || handle > fs.ledger.firstHandle() {
		return h
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if h = fs.dirs[handle]; h == nil {
		h = &dirHandle{}
		fs.dirs[handle] = h
	}
	return h
}
