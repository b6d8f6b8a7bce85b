package client

import (
	"context"
	"math"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// roomAsked is from how many bytes on an allocation is refused when there is no room for it.
const roomAsked = 64 << 20

// Fallocate is fallocate(2) with the modes dfs.FallocKeepSize, dfs.FallocPunchHole and
// dfs.FallocZeroRange. Room is not set aside: a later write can fail with ENOSPC, but for
// what there is no room at all this does.
func (f *File) Fallocate(ctx context.Context, mode uint32, off, n int64) error {
	if f.flags&flagAccess == flagRead {
		return dfs.EBADF
	}
	if off < 0 || n <= 0 {
		return dfs.EINVAL
	}
	in := f.in
	if mode&(dfs.FallocPunchHole|dfs.FallocZeroRange) == 0 && n >= roomAsked {
		st, err := in.fs.StatFS(ctx)
		if err != nil {
			return err
		}
		in.mu.Lock()
		has := in.attr.Alloc
		in.mu.Unlock()
		if uint64(n) > st.FreeBytes+has {
			return dfs.ENOSPC
		}
	}
	if err := in.lockWriting(ctx); err != nil {
		return err
	}
	defer in.unlockWriting()
	// The masters must have all that was written before, in its order.
	if err := in.settle(ctx, math.MaxInt64); err != nil {
		return err
	}
	in.file.Unmark()
	m := &metapb.Mutation{Cred: rpc.CredToProto(f.cred), Op: &metapb.Mutation_Fallocate{Fallocate: &metapb.Fallocate{
		Ino: uint64(in.ino), Mode: mode, Off: uint64(off), Len: uint64(n),
	}}}
	for {
		reply, _, err := in.fs.apply(ctx, m, in.ino)
		if err != nil {
			return err
		}
		in.changed(reply)
		if !reply.More {
			return nil
		}
	}
}

// changed takes over what the masters did to the bytes of a file.
func (in *inode) changed(reply *metapb.MutationReply) {
	fs := in.fs
	fs.leases.disown(in.ino)
	in.mu.Lock()
	in.extents.reset()
	in.mu.Unlock()
	if reply.Attr != nil {
		fs.seen(rpc.AttrFromProto(reply.Attr))
	}
}
