package fuse

import (
	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// isACL reports whether the kernel carries out what the attribute says, and caches it.
func isACL(name string) bool { return name == dfs.XattrAccessACL || name == dfs.XattrDefaultACL }

// GetXAttr reads an extended attribute; an empty buffer asks for the size.
func (fs *fileSystem) GetXAttr(cancel <-chan struct{}, header *gofuse.InHeader, name string, dest []byte) (size uint32, status gofuse.Status) {
	r := fs.begin(opGetXattr, cancel, header)
	defer r.end(&status)
	ino := fs.ino(header.NodeId)
	if !isACL(name) {
		value, err := fs.client.GetXattr(r, fs.cred(header), ino, name)
		if err != nil {
			return 0, r.status(err)
		}
		return fitXattr(dest, value)
	}
	value, kept, err := fs.client.GetXattrKept(r, fs.cred(header), ino, name)
	if !kept {
		// The kernel would keep the list until the attributes are invalidated, which
		// nobody does without a lease: an invalidation that overtakes the answer makes it
		// discard what it learns. It discards attributes too that are on their way, and
		// decides by those of before: so this is the last resort.
		fs.kernel.server.InodeNotify(header.NodeId, attributesOnly, 0)
	}
	if err != nil {
		return 0, r.status(err)
	}
	return fitXattr(dest, value)
}

// ListXAttr lists the names, each with a NUL behind.
func (fs *fileSystem) ListXAttr(cancel <-chan struct{}, header *gofuse.InHeader, dest []byte) (size uint32, status gofuse.Status) {
	r := fs.begin(opListXattr, cancel, header)
	defer r.end(&status)
	names, err := fs.client.ListXattr(r, fs.cred(header), fs.ino(header.NodeId))
	if err != nil {
		return 0, r.status(err)
	}
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return fitXattr(dest, list)
}

// fitXattr copies to the caller's buffer. ERANGE of an empty one only tells the
// size; go-fuse makes it a success.
func fitXattr(dest, value []byte) (uint32, gofuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), gofuse.ERANGE
	}
	return uint32(copy(dest, value)), gofuse.OK
}

// SetXAttr sets an extended attribute.
func (fs *fileSystem) SetXAttr(cancel <-chan struct{}, input *gofuse.SetXAttrIn, name string, data []byte) (status gofuse.Status) {
	r := fs.begin(opSetXattr, cancel, &input.InHeader)
	defer r.end(&status)
	flags := input.Flags
	if isACL(name) && input.SetXAttrFlags&gofuse.SETXATTR_ACL_KILL_SGID != 0 {
		flags |= dfs.XattrKillSetgid
	}
	value := append([]byte(nil), data...) // data is go-fuse's
	return r.status(fs.client.SetXattr(r, fs.cred(&input.InHeader), fs.ino(input.NodeId), name, value, flags))
}

// RemoveXAttr removes an extended attribute.
func (fs *fileSystem) RemoveXAttr(cancel <-chan struct{}, header *gofuse.InHeader, name string) (status gofuse.Status) {
	r := fs.begin(opRemoveXattr, cancel, header)
	defer r.end(&status)
	return r.status(fs.client.RemoveXattr(r, fs.cred(header), fs.ino(header.NodeId), name))
}
