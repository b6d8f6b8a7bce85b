package fuse

import (
	"dfs"
	"dfs/client"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open opens an existing file, and truncates it when asked (FUSE_ATOMIC_O_TRUNC).
func (fs *fileSystem) Open(cancel <-chan struct{}, input *gofuse.OpenIn, out *gofuse.OpenOut) (status gofuse.Status) {
	r := fs.begin(opOpen, cancel, &input.InHeader)
	defer r.end(&status)
	fs.dropResent(&input.InHeader)
	f, err := fs.client.Open(r, fs.cred(&input.InHeader), fs.ino(input.NodeId), input.Flags)
	if err != nil {
		return r.status(err)
	}
	if input.Mode&gofuse.OPEN_KILL_SUIDGID != 0 { // truncated by somebody who may not keep the bits
		attr, err := fs.client.SetAttr(r, fs.cred(&input.InHeader), f.Ino(), client.SetAttr{KillSuid: true})
		if err == nil {
			err = fs.killSetgid(r, &input.InHeader, &attr)
		}
		if err != nil {
			f.Release()
			return r.status(err)
		}
		fs.Invalidate([]dfs.Ino{f.Ino()})
	}
	fs.fillOpen(out, f, input.Flags, &input.InHeader)
	return gofuse.OK
}

// Create makes a file and opens it, or opens the one that is there.
func (fs *fileSystem) Create(cancel <-chan struct{}, input *gofuse.CreateIn, name string, out *gofuse.CreateOut) (status gofuse.Status) {
	r := fs.begin(opCreate, cancel, &input.InHeader)
	defer r.end(&status)
	fs.dropResent(&input.InHeader)
	f, attr, err := fs.client.Create(r, fs.maker(&input.InHeader, input.Umask), fs.ino(input.NodeId), name, input.Mode, input.Flags)
	if a, ok := fs.made(r, &input.InHeader, name, unix.S_IFREG, err); ok {
		attr = a
		f, err = fs.client.Open(r, fs.cred(&input.InHeader), attr.Ino, input.Flags)
	}
	if err != nil {
		return r.status(err)
	}
	fs.called(name, &attr)
	fs.fillEntry(&out.EntryOut, fs.ino(input.NodeId), &attr)
	if attr.Btime != attr.Ctime { // it was there already
		out.SetAttrTimeout(0) // as in SetAttr
	}
	fs.fillOpen(&out.OpenOut, f, input.Flags, &input.InHeader)
	return gofuse.OK
}

// fillOpen registers the handle and says how the kernel is to use it. The kernel
// drops the file's pages at each open but where a lease has kept them good: another
// mount may have changed the bytes and put the times back.
func (fs *fileSystem) fillOpen(out *gofuse.OpenOut, f *client.File, flags uint32, in *gofuse.InHeader) {
	out.Fh = fs.addFile(f, in, flags)
	if fs.client.KeepPages(f.Ino()) {
		out.OpenFlags |= gofuse.FOPEN_KEEP_CACHE
		if f.ReadUnseen() {
			fs.Invalidate([]dfs.Ino{f.Ino()})
		}
	}
	if flags&unix.O_DIRECT != 0 {
		// Past the page cache, and writers of one file need not wait for each other.
		out.OpenFlags |= gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY && !f.MayBeLocked() {
		// Nothing was written that close(2) could have to tell of, and there is no lock that
		// it could end.
		out.OpenFlags |= gofuse.FOPEN_NOFLUSH
	}
}
