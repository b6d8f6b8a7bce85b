package lostfs

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"sync"
	"syscall"

	"dfs/internal/disk"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is a file or folder that the kernel knows, found by its name.
type node struct {
	fs.Inode
	disk *Disk
	mem  *disk.Mem // of this mount

	mu   sync.Mutex
	open map[*handle]bool // +checklocks:mu
}

// handle is an open file, which stays the same when its name changes.
type handle struct{ disk.File }

var (
	_ fs.NodeStatfser  = (*node)(nil)
	_ fs.NodeLookuper  = (*node)(nil)
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeSetattrer = (*node)(nil)
	_ fs.NodeReaddirer = (*node)(nil)
	_ fs.NodeMkdirer   = (*node)(nil)
	_ fs.NodeCreater   = (*node)(nil)
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeLinker    = (*node)(nil)
	_ fs.NodeRenamer   = (*node)(nil)
	_ fs.NodeUnlinker  = (*node)(nil)
	_ fs.NodeRmdirer   = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
	_ fs.NodeWriter    = (*node)(nil)
	_ fs.NodeAllocater = (*node)(nil)
	_ fs.NodeFsyncer   = (*node)(nil)
	_ fs.NodeReleaser  = (*node)(nil)
)

// opened notes an open file of the node.
func (n *node) opened(f disk.File) *handle {
	h := &handle{f}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		n.open = map[*handle]bool{}
	}
	n.open[h] = true
	return h
}

// info is what Stat tells, also of a file that is open and has no name any more.
func (n *node) info() (disk.Info, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for h := range n.open {
		size, err := h.Size()
		return disk.Info{Size: size}, err
	}
	return n.mem.Stat(n.name())
}

func (n *node) name() string             { return "/" + n.Path(nil) }
func (n *node) below(name string) string { return path.Join(n.name(), name) }

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, iofs.ErrClosed):
		return syscall.EBADF
	default:
		return syscall.EIO
	}
}

func attr(info disk.Info, out *fuse.Attr) {
	out.Mode, out.Nlink, out.Blksize = syscall.S_IFREG|0o600, 1, 4096
	if info.Dir {
		out.Mode, out.Nlink = syscall.S_IFDIR|0o700, 2
	}
	out.Size, out.Blocks = uint64(info.Size), uint64(info.Size+511)/512
}

// child is the node of a name, with its attributes in out.
func (n *node) child(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	info, err := n.mem.Stat(n.below(name))
	if err != nil {
		return nil, errnoOf(err)
	}
	attr(info, &out.Attr)
	if known := n.GetChild(name); known != nil && known.IsDir() == info.Dir {
		return known, 0
	}
	return n.NewInode(ctx, &node{disk: n.disk, mem: n.mem}, fs.StableAttr{Mode: out.Mode & syscall.S_IFMT}), 0
}

// Statfs tells the disk's room.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	total, free, err := n.mem.Usage("/")
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	out.Blocks, out.Bfree, out.Bavail = total/4096, free/4096, free/4096
	return errnoOf(err)
}

// Lookup finds a name.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.child(ctx, name, out)
}

// Getattr tells size and kind.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	info, err := n.info()
	attr(info, &out.Attr)
	return errnoOf(err)
}

// Setattr sets the size. Modes, owners and times are not kept.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		h, isOpen := f.(*handle)
		if !isOpen {
			file, err := n.mem.OpenFile(n.name(), os.O_RDWR)
			if err != nil {
				return errnoOf(err)
			}
			defer file.Close()
			h = &handle{file} // not of the node: it ends here
		}
		if err := h.Truncate(int64(size)); err != nil {
			return errnoOf(err)
		}
	}
	return n.Getattr(ctx, f, out)
}

// Readdir lists a folder.
func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	entries, err := n.mem.ReadDir(n.name())
	if err != nil {
		return nil, errnoOf(err)
	}
	list := make([]fuse.DirEntry, len(entries))
	for i, e := range entries {
		list[i] = fuse.DirEntry{Name: e.Name, Mode: syscall.S_IFREG}
		if e.Dir {
			list[i].Mode = syscall.S_IFDIR
		}
	}
	return fs.NewListDirStream(list), 0
}

// Mkdir makes a folder.
func (n *node) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if _, err := n.mem.Stat(n.below(name)); err == nil {
		return nil, syscall.EEXIST
	}
	if err := n.mem.MkdirAll(n.below(name)); err != nil {
		return nil, errnoOf(err)
	}
	return n.child(ctx, name, out)
}

// openFlags are those that the disk knows: the kernel does the others.
const openFlags = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_EXCL | os.O_TRUNC

// Create makes a file and opens it.
func (n *node) Create(ctx context.Context, name string, flags, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	f, err := n.mem.OpenFile(n.below(name), int(flags)&openFlags|os.O_CREATE)
	if err != nil {
		return nil, nil, 0, errnoOf(err)
	}
	child, errno := n.child(ctx, name, out)
	if errno != 0 {
		f.Close()
		return nil, nil, 0, errno
	}
	made, ok := child.Operations().(*node)
	if !ok {
		f.Close()
		return nil, nil, 0, syscall.EIO
	}
	return child, made.opened(f), 0, 0
}

// Open opens a file. The kernel keeps its pages: nobody else changes it.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, err := n.mem.OpenFile(n.name(), int(flags)&openFlags)
	if err != nil {
		return nil, 0, errnoOf(err)
	}
	return n.opened(f), fuse.FOPEN_KEEP_CACHE, 0
}

// Link gives a file one more name.
func (n *node) Link(_ context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	source, ok := target.(*node)
	if !ok {
		return nil, syscall.EXDEV
	}
	if err := n.mem.Link(source.name(), n.below(name)); err != nil {
		return nil, errnoOf(err)
	}
	info, err := n.mem.Stat(n.below(name))
	attr(info, &out.Attr)
	return source.EmbeddedInode(), errnoOf(err)
}

// Rename replaces the target if it is there.
func (n *node) Rename(_ context.Context, name string, parent fs.InodeEmbedder, target string, flags uint32) syscall.Errno {
	to, ok := parent.(*node)
	if !ok || flags != 0 {
		return syscall.EINVAL
	}
	return errnoOf(n.mem.Rename(n.below(name), to.below(target)))
}

// Unlink removes the name of a file.
func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return errnoOf(n.mem.Remove(n.below(name)))
}

// Rmdir removes an empty folder.
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return errnoOf(n.mem.Remove(n.below(name)))
}

// Read reads; what is behind the end is not there.
func (n *node) Read(_ context.Context, f fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h, ok := f.(*handle)
	if !ok {
		return nil, syscall.EBADF
	}
	got, err := h.ReadAt(dest, off)
	if err == io.EOF {
		err = nil
	}
	return fuse.ReadResultData(dest[:got]), errnoOf(err)
}

// Write writes, which does not last yet, O_SYNC or not: the kernel follows with an fsync.
func (n *node) Write(_ context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	h, ok := f.(*handle)
	if !ok {
		return 0, syscall.EBADF
	}
	done, err := h.WriteAt(data, off)
	return uint32(done), errnoOf(err)
}

// Allocate reserves room, extends, or punches a hole.
func (n *node) Allocate(_ context.Context, f fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	h, ok := f.(*handle)
	if !ok {
		return syscall.EBADF
	}
	switch mode {
	case unix.FALLOC_FL_KEEP_SIZE:
		return errnoOf(h.Allocate(int64(off), int64(size)))
	case unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE:
		return errnoOf(h.Punch(int64(off), int64(size)))
	case 0:
		err := h.Allocate(int64(off), int64(size))
		if now, serr := h.Size(); err == nil && serr == nil && now < int64(off+size) {
			err = h.Truncate(int64(off + size))
		}
		return errnoOf(err)
	default:
		return syscall.EOPNOTSUPP
	}
}

// Fsync makes a file or a folder last, unless the disk lies.
func (n *node) Fsync(_ context.Context, f fs.FileHandle, _ uint32) syscall.Errno {
	if n.disk.lies.Load() {
		return 0
	}
	if h, ok := f.(*handle); ok {
		return errnoOf(h.Sync())
	}
	return errnoOf(n.mem.SyncDir(n.name()))
}

// Release closes a file.
func (n *node) Release(_ context.Context, f fs.FileHandle) syscall.Errno {
	h, ok := f.(*handle)
	if !ok {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, h)
	return errnoOf(h.Close())
}
