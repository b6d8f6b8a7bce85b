package fuse

import (
	"math"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// CopyFileRange is copy_file_range(2) within this mount. When it is refused with
// EOPNOTSUPP the kernel copies by itself.
func (fs *fileSystem) CopyFileRange(cancel <-chan struct{}, input *gofuse.CopyFileRangeIn) (written uint32, status gofuse.Status) {
	r := fs.begin(opCopyFileRange, cancel, &input.InHeader)
	defer r.end(&status)
	from, to := fs.file(input.FhIn), fs.file(input.FhOut)
	if from == nil || to == nil {
		return 0, gofuse.EBADF
	}
	if input.Flags != 0 {
		return 0, gofuse.EINVAL
	}
	if err := fs.killSetgidOf(r, &input.InHeader, to); err != nil {
		return 0, r.status(err)
	}
	n, err := from.CopyRange(r, int64(input.OffIn), to.File, int64(input.OffOut), int64(min(input.Len, math.MaxUint32)))
	if err != nil {
		return 0, r.status(err)
	}
	return uint32(n), gofuse.OK
}
