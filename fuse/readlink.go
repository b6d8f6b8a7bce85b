package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Readlink answers where a symbolic link points.
func (fs *fileSystem) Readlink(cancel <-chan struct{}, header *gofuse.InHeader) (target []byte, status gofuse.Status) {
	r := fs.begin(opReadlink, cancel, header)
	defer r.end(&status)
	s, err := fs.client.Readlink(r, fs.ino(header.NodeId))
	if err != nil {
		return nil, r.status(err)
	}
	return []byte(s), gofuse.OK
}
