package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Mknod makes a regular or special file.
func (fs *fileSystem) Mknod(cancel <-chan struct{}, input *gofuse.MknodIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	r := fs.begin(opMknod, cancel, &input.InHeader)
	defer r.end(&status)
	attr, err := fs.client.Mknod(r, fs.maker(&input.InHeader, input.Umask), fs.ino(input.NodeId), name, input.Mode, input.Rdev)
	if a, ok := fs.made(r, &input.InHeader, name, input.Mode, err); ok {
		attr, err = a, nil
	}
	if err != nil {
		return r.status(err)
	}
	fs.fillEntry(out, fs.ino(input.NodeId), &attr)
	return gofuse.OK
}
