package fuse

import (
	"sync"
	"time"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// listings is what the kernel may have cached of the entries of folders. It keeps what it
// was told from a folder's beginning to its end, and lists from that as long as the folder's
// mtime, which it asks for when it does not know it any more, and its own changes say that
// nothing has happened. That does not do when mtime was set back. So all of a cached listing
// has to have been answered under one lease on the folder, with which it goes (Invalidate).
//
// When something else may be among it, its pages are dropped before the kernel is told that
// the listing is complete: it finds that the beginning is missing, and asks again. An answer
// may have been on its way while the pages were dropped, so they are
// doubted for answerGrace longer.
//
// Pages are not dropped while attributes are answered: with them the kernel would drop
// the answer, and decide by an old mode.
type listings struct {
	mu sync.Mutex
	of map[dfs.Ino]*listing // +checklocks:mu
}

// listing is what the kernel may have cached of one folder.
type listing struct {
	lease    uint64    // all of it was answered under this one; 0: not so
	last     time.Time // when something was asked for
	doubtful time.Time // when something may have been answered last that must not be kept; zero: nothing since the pages were dropped
}

// Bounds of listings.
const (
	answerGrace = time.Second // for an answer to reach the kernel
	listingsMax = 32 << 10    // folders
)

// beginList is called before a part of a folder is asked for, so that Invalidate knows of it.
func (fs *fileSystem) beginList(ino dfs.Ino) {
	now := time.Now()
	var other dfs.Ino
	l := &fs.listings
	l.mu.Lock()
	dir := l.of[ino]
	if dir == nil {
		if len(l.of) >= listingsMax {
			for other = range l.of { // any one
				delete(l.of, other)
				break
			}
		}
		dir = &listing{}
		l.of[ino] = dir
	}
	dir.last = now
	l.mu.Unlock()
	if other != 0 {
		fs.dropListing(other)
	}
}

// endList is called when the kernel is about to be told a part, from the folder's beginning
// or not, which was answered under a lease; end says that it is told that there is no more.
func (fs *fileSystem) endList(ino dfs.Ino, beginning, end bool, lease uint64) {
	if fs.ledger != nil && beginning {
		if evicted := fs.ledger.known(fs.node(ino) | listedNode); evicted != 0 {
			fs.forget(evicted)
		}
	}
	l := &fs.listings
	l.mu.Lock()
	dir := l.of[ino]
	drop := dir == nil // another folder has taken its place: a moment later it is known again
	if dir != nil {
		drop = dir.answer(time.Now(), beginning, end, lease)
	}
	l.mu.Unlock()
	if drop {
		fs.dropListing(ino)
	}
}

// answer notes an answer, and reports whether the pages have to go first.
func (dir *listing) answer(now time.Time, beginning, end bool, lease uint64) (drop bool) {
	switch {
	case lease != 0 && lease == dir.lease:
		return false
	case lease == 0 || dir.lease != 0:
		dir.lease, dir.doubtful = 0, now
	case beginning && now.Sub(dir.doubtful) > answerGrace:
		drop = dir.doubtful != (time.Time{})
		dir.lease, dir.doubtful = lease, time.Time{}
		return drop
	}
	return end
}

// invalidateListing makes the kernel forget what it has listed of a folder, with the attributes.
// It reports whether it has listed any of it.
func (fs *fileSystem) invalidateListing(ino dfs.Ino) (status gofuse.Status, listed bool) {
	l := &fs.listings
	l.mu.Lock()
	dir := l.of[ino]
	if dir != nil {
		dir.lease, dir.doubtful = 0, time.Time{}
		if time.Since(dir.last) <= answerGrace {
			dir.doubtful = dir.last
		}
	}
	l.mu.Unlock()
	if dir == nil {
		return gofuse.OK, false
	}
	if status = fs.dropListing(ino); status == gofuse.ENOENT {
		l.mu.Lock()
		if l.of[ino] == dir && dir.lease == 0 {
			delete(l.of, ino)
		}
		l.mu.Unlock()
	}
	return status, true
}

// dropListing drops the pages of a folder. The kernel holds those for moments only, while it
// copies from them.
func (fs *fileSystem) dropListing(ino dfs.Ino) gofuse.Status {
	return fs.kernel.server.InodeNotify(fs.node(ino), 0, 0)
}
