package fuse

import (
	"errors"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Lookup finds a name in a folder.
func (fs *fileSystem) Lookup(cancel <-chan struct{}, header *gofuse.InHeader, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	r := fs.begin(opLookup, cancel, header)
	defer r.end(&status)
	if name == "." || name == ".." {
		return fs.lookupHandle(r, header, name, out)
	}
	attr, err := fs.client.Lookup(r, fs.cred(header), fs.ino(header.NodeId), name)
	if errors.Is(err, dfs.ENOENT) && fs.kernel.names.Load() {
		if t := fs.client.CacheFor(fs.ino(header.NodeId)); t > 0 {
			out.SetEntryTimeout(t) // of node 0, which is that there is none
			return gofuse.OK
		}
	}
	if err != nil {
		return r.status(err)
	}
	fs.called(name, &attr)
	fs.fillEntry(out, fs.ino(header.NodeId), &attr)
	return gofuse.OK
}

// lookupHandle finds an inode, or the folder that a folder is in, for who has its number
// only: open_by_handle_at(2), and servers of NFS (FUSE_EXPORT_SUPPORT).
func (fs *fileSystem) lookupHandle(r *request, header *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	ino := fs.ino(header.NodeId)
	if name == ".." && ino != fs.root {
		part, err := fs.client.ReadDir(r, fs.cred(header), ino, 0, 1, false)
		if err != nil {
			return r.status(err)
		}
		ino = part.Parent
	}
	attr, err := fs.client.GetAttr(r, ino)
	if err != nil {
		return r.status(err)
	}
	if attr.Nlink == 0 {
		return gofuse.Status(dfs.ESTALE)
	}
	fs.fillEntry(out, ino, &attr)
	return gofuse.OK
}

// Forget is of use for WAL indexes alone: a node is its inode number, and nothing else is
// kept for it.
func (fs *fileSystem) Forget(nodeid, nlookup uint64) { fs.walIndexes.forget(fs.ino(nodeid), nlookup) }
