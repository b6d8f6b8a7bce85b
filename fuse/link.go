package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Link gives an inode another name.
func (fs *fileSystem) Link(cancel <-chan struct{}, input *gofuse.LinkIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	r := fs.begin(opLink, cancel, &input.InHeader)
	defer r.end(&status)
	attr, err := fs.client.Link(r, cred(&input.InHeader), fs.ino(input.Oldnodeid), fs.ino(input.NodeId), name)
	if err != nil {
		return r.status(err)
	}
	fs.fillEntry(out, fs.ino(input.NodeId), &attr)
	return gofuse.OK
}
