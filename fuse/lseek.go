package fuse

import (
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Lseek finds data and holes; other positions are the kernel's.
func (fs *fileSystem) Lseek(cancel <-chan struct{}, input *gofuse.LseekIn, out *gofuse.LseekOut) (status gofuse.Status) {
	r := fs.begin(opLseek, cancel, &input.InHeader)
	defer r.end(&status)
	h := fs.file(input.Fh)
	if h == nil {
		return gofuse.EBADF
	}
	var at int64
	var err error
	switch input.Whence {
	case unix.SEEK_DATA:
		at, err = h.SeekData(r, int64(input.Offset))
	case unix.SEEK_HOLE:
		at, err = h.SeekHole(r, int64(input.Offset))
	default:
		return gofuse.EINVAL
	}
	if err != nil {
		return r.status(err)
	}
	out.Offset = uint64(at)
	return gofuse.OK
}
