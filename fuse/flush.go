package fuse

import (
	"errors"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Flush is close(2) of one descriptor: what was written is visible to every
// mount when it returns, and an error of writing it back is told here.
func (fs *fileSystem) Flush(cancel <-chan struct{}, input *gofuse.FlushIn) (status gofuse.Status) {
	r := fs.begin(opFlush, cancel, &input.InHeader)
	defer r.end(&status)
	f := fs.file(input.Fh)
	if f == nil {
		return gofuse.EBADF
	}
	err := f.Flush(r)
	fs.told(f, err)
	// Whatever has become of the bytes, the process has closed a descriptor.
	err = errors.Join(err, f.CloseLocks(r, input.LockOwner))
	fs.locked(f)
	return r.status(err)
}
