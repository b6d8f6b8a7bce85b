package fuse

import gofuse "github.com/hanwen/go-fuse/v2/fuse"

// What of the kernel's protocol is implemented; together with docs/posix.md it
// is the feature list. Requests not listed are answered by the embedded default
// with ENOSYS, and Linux then does without:
// access(2) is checked by the kernel, ioctl(2) is refused.
var _ interface {
	gofuse.RawFileSystem

	attrOps
	nameOps
	fileOps
	dirOps
	xattrOps
	lockOps
} = (*fileSystem)(nil)

type attrOps interface {
	Lookup(cancel <-chan struct{}, header *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status
	GetAttr(cancel <-chan struct{}, input *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status
	SetAttr(cancel <-chan struct{}, input *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status
	Statx(cancel <-chan struct{}, input *gofuse.StatxIn, out *gofuse.StatxOut) gofuse.Status
	StatFs(cancel <-chan struct{}, header *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status
	Forget(nodeid, nlookup uint64)
}

type nameOps interface {
	Mknod(cancel <-chan struct{}, input *gofuse.MknodIn, name string, out *gofuse.EntryOut) gofuse.Status
	Mkdir(cancel <-chan struct{}, input *gofuse.MkdirIn, name string, out *gofuse.EntryOut) gofuse.Status
	Unlink(cancel <-chan struct{}, header *gofuse.InHeader, name string) gofuse.Status
	Rmdir(cancel <-chan struct{}, header *gofuse.InHeader, name string) gofuse.Status
	Rename(cancel <-chan struct{}, input *gofuse.RenameIn, name, newName string) gofuse.Status
	Link(cancel <-chan struct{}, input *gofuse.LinkIn, name string, out *gofuse.EntryOut) gofuse.Status
	Symlink(cancel <-chan struct{}, header *gofuse.InHeader, target, name string, out *gofuse.EntryOut) gofuse.Status
	Readlink(cancel <-chan struct{}, header *gofuse.InHeader) ([]byte, gofuse.Status)
}

type fileOps interface {
	Create(cancel <-chan struct{}, input *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status
	Tmpfile(cancel <-chan struct{}, input *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status
	Open(cancel <-chan struct{}, input *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status
	Read(cancel <-chan struct{}, input *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status)
	Write(cancel <-chan struct{}, input *gofuse.WriteIn, data []byte) (uint32, gofuse.Status)
	Flush(cancel <-chan struct{}, input *gofuse.FlushIn) gofuse.Status
	Fsync(cancel <-chan struct{}, input *gofuse.FsyncIn) gofuse.Status
	Fallocate(cancel <-chan struct{}, input *gofuse.FallocateIn) gofuse.Status
	CopyFileRange(cancel <-chan struct{}, input *gofuse.CopyFileRangeIn) (uint32, gofuse.Status)
	Lseek(cancel <-chan struct{}, input *gofuse.LseekIn, out *gofuse.LseekOut) gofuse.Status
	Release(cancel <-chan struct{}, input *gofuse.ReleaseIn)
}

type dirOps interface {
	OpenDir(cancel <-chan struct{}, input *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status
	ReadDir(cancel <-chan struct{}, input *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status
	ReadDirPlus(cancel <-chan struct{}, input *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status
	ReleaseDir(input *gofuse.ReleaseIn)
	FsyncDir(cancel <-chan struct{}, input *gofuse.FsyncIn) gofuse.Status
}

type lockOps interface {
	GetLk(cancel <-chan struct{}, input *gofuse.LkIn, out *gofuse.LkOut) gofuse.Status
	SetLk(cancel <-chan struct{}, input *gofuse.LkIn) gofuse.Status
	SetLkw(cancel <-chan struct{}, input *gofuse.LkIn) gofuse.Status
}

type xattrOps interface {
	GetXAttr(cancel <-chan struct{}, header *gofuse.InHeader, attr string, dest []byte) (uint32, gofuse.Status)
	ListXAttr(cancel <-chan struct{}, header *gofuse.InHeader, dest []byte) (uint32, gofuse.Status)
	SetXAttr(cancel <-chan struct{}, input *gofuse.SetXAttrIn, attr string, data []byte) gofuse.Status
	RemoveXAttr(cancel <-chan struct{}, header *gofuse.InHeader, attr string) gofuse.Status
}
