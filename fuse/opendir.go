package fuse

import (
	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// OpenDir is asked for once: the answer ENOSYS has the kernel open and close folders by
// itself from then on, and keep what it has listed (FUSE_NO_OPENDIR_SUPPORT); see
// listings. Whether a folder may be listed the kernel has checked, and that it exists shows
// at the first ReadDir, which needs no handle.
func (fs *fileSystem) OpenDir(cancel <-chan struct{}, input *gofuse.OpenIn, out *gofuse.OpenOut) (status gofuse.Status) {
	r := fs.begin(opOpenDir, cancel, &input.InHeader)
	defer r.end(&status)
	switch {
	case !fs.keepsListings():
	case fs.kernel.server.KernelSettings().Flags&gofuse.CAP_NO_OPENDIR_SUPPORT != 0:
		return gofuse.ENOSYS
	default:
		out.OpenFlags |= gofuse.FOPEN_CACHE_DIR
		if fs.client.KeepPages(fs.ino(input.NodeId)) {
			out.OpenFlags |= gofuse.FOPEN_KEEP_CACHE
		}
	}
	return gofuse.OK
}

// keepsListings reports whether the kernel may list folders from its memory. It may not
// where each listing counts as an access, or where the masters check who lists.
func (fs *fileSystem) keepsListings() bool {
	return !fs.client.CountsEachListing() && fs.restrict&dfs.SquashRoot == 0
}

// ReleaseDir closes a folder, of which nothing is kept.
func (fs *fileSystem) ReleaseDir(*gofuse.ReleaseIn) {}
