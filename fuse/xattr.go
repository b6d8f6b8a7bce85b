package fuse

import (
	"strings"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Attributes that change what the kernel permits. We do not carry out access
// control lists and file capabilities, so we must not seem to hold them: setting
// one is refused, as by a file system without them, and the question, which the
// kernel asks at each first write and ls(1) for each file, needs no master.
const (
	xattrCapability = "security.capability"
	xattrACL        = "system."
)

func unsupported(name string) bool {
	return name == xattrCapability || strings.HasPrefix(name, xattrACL)
}

// GetXAttr reads an extended attribute; an empty buffer asks for the size.
func (fs *fileSystem) GetXAttr(cancel <-chan struct{}, header *gofuse.InHeader, name string, dest []byte) (size uint32, status gofuse.Status) {
	r := fs.begin(opGetXattr, cancel, header)
	defer r.end(&status)
	if name == xattrCapability {
		return 0, gofuse.ENODATA
	}
	if unsupported(name) {
		return 0, gofuse.Status(dfs.EOPNOTSUPP)
	}
	value, err := fs.client.GetXattr(r, cred(header), fs.ino(header.NodeId), name)
	if err != nil {
		return 0, r.status(err)
	}
	return fitXattr(dest, value)
}

// ListXAttr lists the names, each with a NUL behind.
func (fs *fileSystem) ListXAttr(cancel <-chan struct{}, header *gofuse.InHeader, dest []byte) (size uint32, status gofuse.Status) {
	r := fs.begin(opListXattr, cancel, header)
	defer r.end(&status)
	names, err := fs.client.ListXattr(r, cred(header), fs.ino(header.NodeId))
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
	if unsupported(name) {
		return gofuse.Status(dfs.EOPNOTSUPP)
	}
	value := append([]byte(nil), data...) // data is go-fuse's
	return r.status(fs.client.SetXattr(r, cred(&input.InHeader), fs.ino(input.NodeId), name, value, input.Flags))
}

// RemoveXAttr removes an extended attribute.
func (fs *fileSystem) RemoveXAttr(cancel <-chan struct{}, header *gofuse.InHeader, name string) (status gofuse.Status) {
	r := fs.begin(opRemoveXattr, cancel, header)
	defer r.end(&status)
	if name == xattrCapability {
		return gofuse.ENODATA
	}
	if unsupported(name) {
		return gofuse.Status(dfs.EOPNOTSUPP)
	}
	return r.status(fs.client.RemoveXattr(r, cred(header), fs.ino(header.NodeId), name))
}
