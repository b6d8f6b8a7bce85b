package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Lookup finds a name in a folder.
func (fs *fileSystem) Lookup(cancel <-chan struct{}, header *gofuse.InHeader, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	r := fs.begin(opLookup, cancel, header)
	defer r.end(&status)
	attr, err := fs.client.Lookup(r, cred(header), fs.ino(header.NodeId), name)
	if err != nil {
		return r.status(err)
	}
	fs.fillEntry(out, &attr)
	return gofuse.OK
}

// Forget has nothing to do: a node is its inode number and nothing is kept for it.
func (fs *fileSystem) Forget(nodeid, nlookup uint64) {}
