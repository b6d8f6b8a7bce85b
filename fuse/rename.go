package fuse

import (
	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Rename is rename(2) and renameat2(2).
func (fs *fileSystem) Rename(cancel <-chan struct{}, input *gofuse.RenameIn, name, newName string) (status gofuse.Status) {
	r := fs.begin(opRename, cancel, &input.InHeader)
	defer r.end(&status)
	if input.Flags&^(dfs.RenameNoReplace|dfs.RenameExchange|dfs.RenameWhiteout) != 0 {
		return gofuse.EINVAL
	}
	err := fs.client.Rename(r, fs.cred(&input.InHeader), fs.ino(input.NodeId), name, fs.ino(input.Newdir), newName, input.Flags)
	if gone(&input.InHeader, err) {
		// The source is gone; if the target is there the process before this one has moved it.
		if _, lerr := fs.client.Lookup(r, fs.cred(&input.InHeader), fs.ino(input.Newdir), newName); lerr == nil {
			return gofuse.OK
		}
	}
	return r.status(err)
}
