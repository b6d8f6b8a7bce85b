package fuse

import (
	"errors"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Link gives an inode another name.
func (fs *fileSystem) Link(cancel <-chan struct{}, input *gofuse.LinkIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	r := fs.begin(opLink, cancel, &input.InHeader)
	defer r.end(&status)
	attr, err := fs.client.Link(r, fs.cred(&input.InHeader), fs.ino(input.Oldnodeid), fs.ino(input.NodeId), name)
	if _, again := uniqueOf(input.Unique); again && errors.Is(err, dfs.EEXIST) {
		if a, lerr := fs.client.Lookup(r, fs.cred(&input.InHeader), fs.ino(input.NodeId), name); lerr == nil && a.Ino == fs.ino(input.Oldnodeid) {
			attr, err = a, nil // the process before this one has made it
		}
	}
	if err != nil {
		return r.status(err)
	}
	fs.fillEntry(out, fs.ino(input.NodeId), &attr)
	out.SetAttrTimeout(0) // as in SetAttr
	return gofuse.OK
}
