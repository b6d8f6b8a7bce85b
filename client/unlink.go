package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Unlink removes a name of anything but a folder.
func (fs *FS) Unlink(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) error {
	_, err := fs.apply(ctx, false, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Unlink{
		Unlink: &metapb.Unlink{Parent: uint64(parent), Name: []byte(name)},
	}})
	return err
}
