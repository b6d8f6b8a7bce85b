package fuse

import (
	"dfs"
	"dfs/client"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// SetAttr is chmod, chown, truncate, ftruncate and utimensat.
func (fs *fileSystem) SetAttr(cancel <-chan struct{}, input *gofuse.SetAttrIn, out *gofuse.AttrOut) (status gofuse.Status) {
	r := fs.begin(opSetAttr, cancel, &input.InHeader)
	defer r.end(&status)
	ino := fs.ino(input.NodeId)
	set := setOf(&input.SetAttrInCommon)
	var attr dfs.Attr
	var err error
	if input.Valid&gofuse.FATTR_KILL_SUIDGID != 0 && set.Size != nil {
		if attr, err = fs.client.GetAttr(r, ino); err == nil {
			err = fs.killSetgid(r, &input.InHeader, &attr)
		}
	}
	if err == nil {
		attr, err = fs.client.SetAttr(r, fs.cred(&input.InHeader), ino, set)
	}
	if input.Valid&gofuse.FATTR_MODE != 0 {
		fs.forgetHarmless(ino)
	}
	if err != nil {
		return r.status(err)
	}
	fillAttr(&out.Attr, &attr)
	fs.client.Tell(&attr)
	// The kernel takes this answer over even if an invalidation has overtaken it. So it must
	// ask again before it tells anybody.
	out.SetTimeout(0)
	return gofuse.OK
}

// setOf reads which attributes the kernel wants changed.
func setOf(in *gofuse.SetAttrInCommon) client.SetAttr {
	var set client.SetAttr
	if in.Valid&gofuse.FATTR_MODE != 0 {
		mode := in.Mode & 0o7777
		set.Mode = &mode
	}
	if in.Valid&gofuse.FATTR_UID != 0 {
		uid := in.Uid
		set.UID = &uid
	}
	if in.Valid&gofuse.FATTR_GID != 0 {
		gid := in.Gid
		set.GID = &gid
	}
	if in.Valid&gofuse.FATTR_SIZE != 0 {
		size := in.Size
		set.Size = &size
		set.Handle = in.Valid&gofuse.FATTR_FH != 0
	}
	if in.Valid&gofuse.FATTR_ATIME != 0 {
		set.AtimeNow = in.Valid&gofuse.FATTR_ATIME_NOW != 0
		set.Atime = &dfs.Time{Sec: int64(in.Atime), Nsec: in.Atimensec}
	}
	if in.Valid&gofuse.FATTR_MTIME != 0 {
		set.MtimeNow = in.Valid&gofuse.FATTR_MTIME_NOW != 0
		set.Mtime = &dfs.Time{Sec: int64(in.Mtime), Nsec: in.Mtimensec}
	}
	// FUSE_HANDLE_KILLPRIV_V2: a change of owner always clears the bits, a change
	// of size when the caller may not keep them.
	set.KillSuid = in.Valid&gofuse.FATTR_KILL_SUIDGID != 0 || set.UID != nil || set.GID != nil
	return set
}
