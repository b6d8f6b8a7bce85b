package fuse

import (
	"time"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// blockBytes is st_blksize, the size of request by which programs get on best: the
// C library's stdio takes it for its buffers, and each request that they save is
// a round trip between the kernel and us.
const blockBytes = 64 << 10

// fillAttr writes what stat(2) will tell.
func fillAttr(out *gofuse.Attr, a *dfs.Attr) {
	*out = gofuse.Attr{
		Ino:       uint64(a.Ino),
		Size:      a.Size,
		Blocks:    a.Blocks(),
		Atime:     uint64(a.Atime.Sec),
		Mtime:     uint64(a.Mtime.Sec),
		Ctime:     uint64(a.Ctime.Sec),
		Atimensec: a.Atime.Nsec,
		Mtimensec: a.Mtime.Nsec,
		Ctimensec: a.Ctime.Nsec,
		Mode:      a.Mode,
		Nlink:     a.Nlink,
		Owner:     gofuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev:      a.Rdev,
		Blksize:   blockBytes,
	}
}

// fillEntry answers a lookup, or an operation that made an inode.
func (fs *fileSystem) fillEntry(out *gofuse.EntryOut, parent dfs.Ino, a *dfs.Attr) {
	out.NodeId = fs.node(a.Ino)
	out.Generation = 0 // inode numbers are never reused
	fillAttr(&out.Attr, a)
	out.SetAttrTimeout(fs.keepFor(a))
	if fs.kernel.names.Load() {
		out.SetEntryTimeout(fs.client.CacheFor(parent))
	}
	fs.kernel.entry.Store(time.Now().UnixNano())
}
