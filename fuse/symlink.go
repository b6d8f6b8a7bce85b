package fuse

import (
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Symlink makes a symbolic link.
func (fs *fileSystem) Symlink(cancel <-chan struct{}, header *gofuse.InHeader, target, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	r := fs.begin(opSymlink, cancel, header)
	defer r.end(&status)
	attr, err := fs.client.Symlink(r, fs.cred(header), fs.ino(header.NodeId), name, target)
	if a, ok := fs.made(r, header, name, unix.S_IFLNK, err); ok {
		attr, err = a, nil
	}
	if err != nil {
		return r.status(err)
	}
	fs.fillEntry(out, fs.ino(header.NodeId), &attr)
	return gofuse.OK
}
