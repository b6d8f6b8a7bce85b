package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// Fallocate is fallocate(2). The kernel passes on those modes only that do not move
// bytes, and drops the pages of holes itself.
func (fs *fileSystem) Fallocate(cancel <-chan struct{}, input *gofuse.FallocateIn) (status gofuse.Status) {
	r := fs.begin(opFallocate, cancel, &input.InHeader)
	defer r.end(&status)
	h := fs.file(input.Fh)
	if h == nil {
		return gofuse.EBADF
	}
	if err := fs.killSetgidOf(r, &input.InHeader, h); err != nil {
		return r.status(err)
	}
	return r.status(h.Fallocate(r, input.Mode, int64(input.Offset), int64(input.Length)))
}
