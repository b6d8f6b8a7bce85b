package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Mkdir makes a folder.
func (fs *fileSystem) Mkdir(cancel <-chan struct{}, input *gofuse.MkdirIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	r := fs.begin(opMkdir, cancel, &input.InHeader)
	defer r.end(&status)
	attr, err := fs.client.Mkdir(r, maker(&input.InHeader, input.Umask), fs.ino(input.NodeId), name, input.Mode)
	if err != nil {
		return r.status(err)
	}
	fs.fillEntry(out, fs.ino(input.NodeId), &attr)
	return gofuse.OK
}
