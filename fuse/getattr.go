package fuse

import (
	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// GetAttr answers stat(2) and its kin.
func (fs *fileSystem) GetAttr(cancel <-chan struct{}, input *gofuse.GetAttrIn, out *gofuse.AttrOut) (status gofuse.Status) {
	r := fs.begin(opGetAttr, cancel, &input.InHeader)
	defer r.end(&status)
	var attr dfs.Attr
	var err error
	if input.NodeId == gofuse.FUSE_ROOT_ID {
		attr, err = fs.rootAttr(r)
	} else {
		attr, err = fs.client.GetAttr(r, dfs.Ino(input.NodeId))
	}
	if err != nil {
		return r.status(err)
	}
	if input.Flags()&gofuse.FUSE_GETATTR_FH != 0 {
		// A read asks whether its pages are still right, stat(2) never does by a handle. They
		// are when mtime is the one that the kernel has. It keeps it no longer than until
		// somebody asks for it.
		if shown, own := fs.ownPages(&attr, true); own {
			attr.Mtime = shown
			fillAttr(&out.Attr, &attr)
			return gofuse.OK
		}
	}
	fillAttr(&out.Attr, &attr)
	out.SetTimeout(fs.keepFor(&attr))
	return gofuse.OK
}

func (fs *fileSystem) rootAttr(r *request) (dfs.Attr, error) {
	stop := r.orUmount()
	attr, err := fs.client.GetAttr(r, fs.root)
	cut := stop()
	fs.known.mu.Lock()
	defer fs.known.mu.Unlock()
	switch {
	case err == nil:
		fs.known.root = attr
	case cut:
		return fs.known.root, nil
	}
	return attr, err
}

// Statx answers statx(2) when it asks for the time of birth, which GETATTR has
// no room for.
func (fs *fileSystem) Statx(cancel <-chan struct{}, input *gofuse.StatxIn, out *gofuse.StatxOut) (status gofuse.Status) {
	r := fs.begin(opStatx, cancel, &input.InHeader)
	defer r.end(&status)
	a, err := fs.client.GetAttr(r, fs.ino(input.NodeId))
	if err != nil {
		return r.status(err)
	}
	out.Statx = gofuse.Statx{
		Mask:      unix.STATX_BASIC_STATS | unix.STATX_BTIME,
		Blksize:   blockBytes,
		Nlink:     a.Nlink,
		Uid:       a.UID,
		Gid:       a.GID,
		Mode:      uint16(a.Mode),
		Ino:       uint64(a.Ino),
		Size:      a.Size,
		Blocks:    a.Blocks(),
		Atime:     sxTime(a.Atime),
		Btime:     sxTime(a.Btime),
		Ctime:     sxTime(a.Ctime),
		Mtime:     sxTime(a.Mtime),
		RdevMajor: unix.Major(kernelDev(a.Rdev)),
		RdevMinor: unix.Minor(kernelDev(a.Rdev)),
	}
	return gofuse.OK
}

func sxTime(t dfs.Time) gofuse.SxTime { return gofuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }

// kernelDev widens a device number from the kernel's 32 bits on the wire
// (new_encode_dev: minor bits 19..8 above the major) to the C library's 64. The
// two agree below 2^32.
func kernelDev(rdev uint32) uint64 { return uint64(rdev) }
