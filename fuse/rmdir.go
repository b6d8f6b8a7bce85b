package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Rmdir removes an empty folder.
func (fs *fileSystem) Rmdir(cancel <-chan struct{}, header *gofuse.InHeader, name string) (status gofuse.Status) {
	r := fs.begin(opRmdir, cancel, header)
	defer r.end(&status)
	err := fs.client.Rmdir(r, fs.cred(header), fs.ino(header.NodeId), name)
	if gone(header, err) {
		return gofuse.OK
	}
	return r.status(err)
}
