package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Rmdir removes an empty folder.
func (fs *FS) Rmdir(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) error {
	_, err := fs.apply(ctx, false, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Rmdir{
		Rmdir: &metapb.Rmdir{Parent: uint64(parent), Name: []byte(name)},
	}})
	return err
}
