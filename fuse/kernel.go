package fuse

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/client"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kernelCache is what has to be known to make the kernel forget. It caches attributes,
// names and pages for as long as the client's leases are good, and is told before a
// lease is given back.
//
// Attributes are invalidated by inode, and the kernel discards answers about them that
// were on their way. Pages of files are not invalidated. A read looks whether mtime or size have
// changed, once the attributes are not known any more, and drops the pages then
// (FUSE_AUTO_INVAL_DATA). To invalidate them from here would wait for the locks of pages,
// which reads and writes on their way to us have; the kernel does not let go of a process
// that waits there, not by kill -9 either, and so would never find out that nobody will
// answer them. And it would make the kernel discard the attributes that a read has just
// asked for. Those of folders are, see listings.
//
// Names are not invalidated one by one, since the kernel would take the lock of the
// folder for it, which a request that waits for a master may hold, which may wait for
// us. Instead all names that the mount knows are made doubtful at once (FUSE's epoch,
// Linux 6.16): the kernel looks each up again when it is used, which we answer from
// memory. Where that is missing, the kernel does not cache names.
type kernelCache struct {
	names atomic.Bool  // the kernel can be made to doubt all names
	entry atomic.Int64 // when an entry was answered last, Unix nanoseconds

	server *gofuse.Server
	mu     sync.Mutex
	device *os.File // +checklocks:mu — of the connection; nil: none
}

var _ client.Invalidator = (*fileSystem)(nil)

// entryGrace is how long an answer may be on its way into the kernel. An inode that it
// does not know yet has no version: an answer that makes it known must not come after
// the invalidation.
const entryGrace = 2 * time.Millisecond

// Invalidate implements client.Invalidator.
func (fs *fileSystem) Invalidate(inos []dfs.Ino) {
	srv := fs.kernel.server
	if srv == nil || len(inos) == 0 {
		return
	}
	fs.doubtNames()
	var unknown []uint64
	for _, ino := range inos {
		node := fs.node(ino)
		status, listed := fs.invalidateListing(ino)
		if !listed {
			status = srv.InodeNotify(node, attributesOnly, 0)
		}
		if status == gofuse.ENOENT {
			unknown = append(unknown, node)
		}
	}
	if len(unknown) > 0 && time.Since(time.Unix(0, fs.kernel.entry.Load())) < entryGrace {
		time.Sleep(entryGrace)
		for _, node := range unknown {
			srv.InodeNotify(node, attributesOnly, 0)
		}
	}
}

// ownPagesMin is the size, in bytes, from which on it is worth more that the kernel keeps
// the pages of a file which was written here than that it keeps the attributes.
const ownPagesMin = 256 << 10

// keepFor is how long the kernel may keep the attributes that it is about to be told. It
// drops a file's pages when it learns of another mtime, also of the one that its own
// writes have made. For a file that this mount alone has written, it is made to discard
// what it learns, by an invalidation that overtakes the answer: stat(2) tells it to
// the program, but the pages stay. A read that asks is answered in GetAttr.
func (fs *fileSystem) keepFor(a *dfs.Attr) time.Duration {
	if _, own := fs.ownPages(a, false); own {
		fs.kernel.server.InodeNotify(fs.node(a.Ino), attributesOnly, 0)
		return 0
	}
	t := fs.client.Tell(a)
	if t > 0 && fs.ledger != nil {
		if evicted := fs.ledger.known(fs.node(a.Ino)); evicted != 0 {
			fs.forget(evicted)
		}
	}
	return t
}

// forget makes the kernel forget what the ledger says that it may know.
func (fs *fileSystem) forget(known uint64) {
	if known&listedNode != 0 {
		fs.kernel.server.InodeNotify(known&^listedNode, 0, 0)
		return
	}
	fs.kernel.server.InodeNotify(known, attributesOnly, 0)
}

// ownPages reports whether the kernel shall keep the pages of a file that this mount alone
// has written, and the mtime by which it does.
func (fs *fileSystem) ownPages(a *dfs.Attr, read bool) (shown dfs.Time, own bool) {
	if !a.IsFile() || a.Size < ownPagesMin {
		return dfs.Time{}, false
	}
	return fs.client.OwnPages(a, read)
}

// attributesOnly as the offset of an invalidation leaves the pages.
const attributesOnly = -1

// Numbers of the kernel's protocol that go-fuse has no call for.
const (
	notifyIncEpoch  = 8
	epochMinor      = 44 // of protocol 7
	notifyHeaderLen = 16
)

// doubtNames makes the kernel look all names up again.
func (fs *fileSystem) doubtNames() {
	k := &fs.kernel
	if !k.names.Load() {
		return
	}
	msg := notification(notifyIncEpoch)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.device == nil {
		return
	}
	if _, err := k.device.Write(msg); err != nil && !errors.Is(err, unix.ENODEV) {
		k.names.Store(false)
		fs.logger.Warn("the kernel does not take an invalidation of names: it caches none from now on", "err", err)
	}
}

// attached takes up a connection: device is a copy of its descriptor, nil when it was
// not found.
func (fs *fileSystem) attached(srv *gofuse.Server, device *os.File) {
	k := &fs.kernel
	k.server = srv
	k.mu.Lock()
	k.device = device
	k.mu.Unlock()
	fs.client.SetInvalidator(fs)
}

// speaks is called once the kernel has said which protocol it speaks.
func (fs *fileSystem) speaks(in *gofuse.InitIn) {
	fs.kernel.mu.Lock()
	defer fs.kernel.mu.Unlock()
	fs.kernel.names.Store(fs.kernel.device != nil && in.SupportsVersion(7, epochMinor))
}

// detached gives the descriptor back.
func (fs *fileSystem) detached() {
	fs.kernel.names.Store(false)
	fs.kernel.mu.Lock()
	defer fs.kernel.mu.Unlock()
	if fs.kernel.device != nil {
		_ = fs.kernel.device.Close()
		fs.kernel.device = nil
	}
}

// attaching is held while a connection is made, so that its descriptor can be told from
// those of other mounts of this process.
var attaching sync.Mutex

// devices lists this process's descriptors of FUSE connections.
func devices() map[int]bool {
	out := map[int]bool{}
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return out
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if fd, aerr := strconv.Atoi(e.Name()); err == nil && aerr == nil && to == "/dev/fuse" {
			out[fd] = true
		}
	}
	return out
}

// newDevice copies the descriptor of the connection that was made since before was
// taken; nil when there is not exactly one.
func newDevice(before map[int]bool) *os.File {
	found := -1
	for fd := range devices() {
		if before[fd] {
			continue
		}
		if found >= 0 {
			return nil
		}
		found = fd
	}
	if found < 0 {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(found), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "/dev/fuse")
}
