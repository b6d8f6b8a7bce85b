package fuse

import (
	"context"

	"dfs"
	"dfs/client"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// Write hands bytes to the client, which copies them before it returns: data is
// go-fuse's buffer and is used again for the next request.
func (fs *fileSystem) Write(cancel <-chan struct{}, input *gofuse.WriteIn, data []byte) (written uint32, status gofuse.Status) {
	r := fs.begin(opWrite, cancel, &input.InHeader)
	defer r.end(&status)
	h := fs.file(input.Fh)
	if h == nil {
		return 0, gofuse.EBADF
	}
	if input.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0 && h.byRoot {
		if err := fs.killSuid(r, cred(&input.InHeader), h); err != nil {
			return 0, r.status(err)
		}
	}
	n, err := h.Write(r, data, int64(input.Offset))
	if n > 0 {
		fs.wrote(h)
		return uint32(n), gofuse.OK // a short write: the program hears of the error at the next one
	}
	return 0, r.status(err)
}

const (
	setuid    = 0o4000
	setgid    = 0o2000
	groupExec = 0o010
)

// killSuid clears setuid and setgid before a write by somebody who may not keep
// them (FUSE_HANDLE_KILLPRIV_V2: the kernel leaves it to us, and saves a GETXATTR
// before each write). The client does so for files that an ordinary user opened;
// this is for a descriptor that root opened and handed on. Once per handle: who
// sets the bits later through this mount makes SetAttr forget that it was done.
func (fs *fileSystem) killSuid(ctx context.Context, who dfs.Cred, h *fileHandle) error {
	if h.harmless.Load() {
		return nil
	}
	attr, err := h.Attr(ctx)
	if err != nil {
		return err
	}
	if attr.Mode&setuid != 0 || attr.Mode&(setgid|groupExec) == setgid|groupExec {
		if _, err := fs.client.SetAttr(ctx, who, h.Ino(), client.SetAttr{KillSuid: true}); err != nil {
			return err
		}
		fs.Invalidate([]dfs.Ino{h.Ino()}) // the kernel does not know that a write changes the mode
	}
	h.harmless.Store(true)
	return nil
}
