package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// dataOnly is FUSE_FSYNC_FDATASYNC.
const dataOnly = 1

// Fsync makes a file's bytes, and unless it is fdatasync(2) its attributes,
// survive the loss of power everywhere.
func (fs *fileSystem) Fsync(cancel <-chan struct{}, input *gofuse.FsyncIn) (status gofuse.Status) {
	r := fs.begin(opFsync, cancel, &input.InHeader)
	defer r.end(&status)
	f := fs.file(input.Fh)
	if f == nil {
		return gofuse.EBADF
	}
	err := f.Fsync(r, input.FsyncFlags&dataOnly != 0)
	fs.told(f, err)
	fs.settled(f)
	return r.status(err)
}

// FsyncDir makes the names of a folder survive.
func (fs *fileSystem) FsyncDir(cancel <-chan struct{}, input *gofuse.FsyncIn) (status gofuse.Status) {
	r := fs.begin(opFsyncDir, cancel, &input.InHeader)
	defer r.end(&status)
	return r.status(fs.client.FsyncDir(r, fs.ino(input.NodeId)))
}
