package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Release closes an open file after the last descriptor and mapping of it are
// gone.
func (fs *fileSystem) Release(_ <-chan struct{}, input *gofuse.ReleaseIn) {
	fs.gate.RLock()
	defer fs.gate.RUnlock()
	fs.release(input.Fh)
}
