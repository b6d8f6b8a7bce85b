package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Unlink takes a name from an inode that is not a folder.
func (fs *fileSystem) Unlink(cancel <-chan struct{}, header *gofuse.InHeader, name string) (status gofuse.Status) {
	r := fs.begin(opUnlink, cancel, header)
	defer r.end(&status)
	err := fs.client.Unlink(r, fs.cred(header), fs.ino(header.NodeId), name)
	if gone(header, err) {
		return gofuse.OK
	}
	return r.status(err)
}
