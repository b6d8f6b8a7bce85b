package client

import (
	"context"
	"math"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// CopyRange is copy_file_range(2): it makes bytes of f part of another file, or of f
// itself at another place, without copying them. It answers how many; fewer than n are at
// the end of the file, or in a file of very many pieces. EOPNOTSUPP when the files have
// different policies: then they have to be copied.
func (f *File) CopyRange(ctx context.Context, off int64, to *File, toOff, n int64) (int64, error) {
	if f.flags&flagAccess == flagWrite || to.flags&flagAccess == flagRead {
		return 0, dfs.EBADF
	}
	if off < 0 || toOff < 0 || n < 0 {
		return 0, dfs.EINVAL
	}
	in := to.in
	if f.in != in {
		if err := f.in.flush(ctx); err != nil {
			return 0, err
		}
	}
	if err := in.lockWriting(ctx); err != nil {
		return 0, err
	}
	defer in.unlockWriting()
	if err := in.settle(ctx, math.MaxInt64); err != nil {
		return 0, err
	}
	in.file.Unmark()
	reply, _, err := in.fs.apply(ctx, &metapb.Mutation{Cred: rpc.CredToProto(to.cred), Op: &metapb.Mutation_CopyRange{CopyRange: &metapb.CopyRange{
		From: uint64(f.in.ino), FromOff: uint64(off), To: uint64(in.ino), ToOff: uint64(toOff), Len: uint64(n),
	}}}, f.in.ino, in.ino)
	if err != nil {
		return 0, err
	}
	in.changed(reply)
	return int64(reply.Copied), nil
}
