package client

import (
	"context"
	"errors"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// SetAttr is what chmod, chown, truncate and utimensat change; nil stays as it is.
type SetAttr struct {
	Mode     *uint32 // permission bits
	UID      *uint32
	GID      *uint32
	Size     *uint64
	Atime    *dfs.Time
	Mtime    *dfs.Time
	AtimeNow bool // the masters' clock; Atime is ignored
	MtimeNow bool
	Handle   bool // on an open descriptor (ftruncate): no permission check for the size
	KillSuid bool // clear setuid and setgid as chown(2) and write(2) do
}

// times reports whether times are set: they must not be overwritten by bytes that
// were written before and are committed after.
func (s *SetAttr) times() bool { return s.Atime != nil || s.Mtime != nil || s.AtimeNow || s.MtimeNow }

// owner reports whether set-id bits can be concerned.
func (s *SetAttr) owner() bool { return s.Mode != nil || s.UID != nil || s.GID != nil }

// SetAttr changes attributes and answers all of them.
func (fs *FS) SetAttr(ctx context.Context, cred dfs.Cred, ino dfs.Ino, set SetAttr) (dfs.Attr, error) {
	in := fs.find(ino)
	if in == nil {
		return fs.setAttr(ctx, cred, ino, set)
	}
	defer in.release()
	if set.Size != nil {
		return in.truncate(ctx, cred, set)
	}
	if err := in.lockWriting(ctx); err != nil {
		return dfs.Attr{}, err
	}
	defer in.unlockWriting()
	in.mu.Lock()
	flush := set.owner() && (in.kill || in.attr.Mode&0o6000 != 0)
	if set.times() {
		// Bytes that are on their way take the time of their write with them.
		flush = flush || len(in.flight) > 0 || !fs.leases.changeable(ino)
	}
	in.mu.Unlock()
	if flush {
		if err := in.flush(ctx); err != nil {
			return dfs.Attr{}, err
		}
	}
	if set.Mtime != nil || set.MtimeNow {
		in.mu.Lock()
		in.mtime = dfs.Time{} // of what is dirty: it is set
		in.mu.Unlock()
	}
	return fs.setAttr(ctx, cred, ino, set)
}

func (fs *FS) setAttr(ctx context.Context, cred dfs.Cred, ino dfs.Ino, set SetAttr) (dfs.Attr, error) {
	p := &metapb.SetAttr{
		Ino: uint64(ino), Mode: set.Mode, Uid: set.UID, Gid: set.GID, Size: set.Size,
		AtimeNow: set.AtimeNow, MtimeNow: set.MtimeNow, Handle: set.Handle, KillSuid: set.KillSuid,
	}
	if set.Atime != nil {
		p.Atime = rpc.TimeToProto(*set.Atime)
	}
	if set.Mtime != nil {
		p.Mtime = rpc.TimeToProto(*set.Mtime)
	}
	if attr, ok := fs.setLocal(cred, ino, &set, p); ok {
		return fs.ours(attr), nil
	}
	reply, _, err := fs.apply(ctx, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_SetAttr{SetAttr: p}}, ino)
	if err != nil {
		return dfs.Attr{}, err
	}
	return fs.seen(rpc.AttrFromProto(reply.Attr)), nil
}

// truncate sets the size. What is dirty before the new size is written back first,
// what is behind it is dropped: nothing that is committed later may bring back bytes
// or times of before.
func (in *inode) truncate(ctx context.Context, cred dfs.Cred, set SetAttr) (dfs.Attr, error) {
	if err := in.lockWriting(ctx); err != nil {
		return dfs.Attr{}, err
	}
	defer in.unlockWriting()
	if *set.Size > dfs.FileMax {
		return dfs.Attr{}, dfs.EFBIG
	}
	size := int64(*set.Size)
	if err := in.settle(ctx, size); err != nil {
		return dfs.Attr{}, err
	}
	in.file.Unmark()
	attr, err := in.fs.setAttr(ctx, cred, in.ino, set)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cut = forever
	if err != nil {
		return attr, err
	}
	in.dirty.cut(size)
	in.end = in.dirty.end()
	if size == 0 && in.attr.Size == 0 {
		in.extents.load(0, forever, nil)
	}
	return in.overlay(), nil
}

// settle waits until nothing is on its way, and nothing before size is dirty, and keeps it
// so until in.cut is taken back; in.writing is held.
func (in *inode) settle(ctx context.Context, size int64) error {
	for {
		in.mu.Lock()
		if len(in.dirty.segs) > 0 && in.dirty.segs[0].off < size {
			in.submitLocked()
		}
		pending := len(in.flight) > 0
		seq := in.file.Last()
		if !pending {
			in.cut = size
		}
		in.mu.Unlock()
		if !pending {
			return nil
		}
		if size == 0 {
			in.file.Discard(errDropped) // so that a full disk can be emptied
		}
		in.fs.app.Push()
		err := in.await(ctx, seq)
		if errors.Is(err, dfs.ENOSPC) && size == 0 {
			continue
		}
		if err != nil {
			return err
		}
	}
}
