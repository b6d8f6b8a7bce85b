package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// SetPolicy sets the layout of new chunks of a file or of new children of a folder.
func (fs *FS) SetPolicy(ctx context.Context, cred dfs.Cred, ino dfs.Ino, layout dfs.Layout) error {
	if !layout.Valid() {
		return dfs.EINVAL
	}
	reply, _, err := fs.apply(ctx, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_SetPolicy{
		SetPolicy: &metapb.SetPolicy{Ino: uint64(ino), Layout: uint32(layout)},
	}}, ino)
	if err == nil && reply.Attr != nil {
		fs.seen(rpc.AttrFromProto(reply.Attr))
	}
	return err
}
