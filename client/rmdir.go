package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Rmdir removes an empty folder.
func (fs *FS) Rmdir(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) error {
	if _, _, ok := fs.removeLocal(cred, parent, name, true); ok {
		return nil
	}
	_, alone, err := fs.apply(ctx, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Rmdir{
		Rmdir: &metapb.Rmdir{Parent: uint64(parent), Name: []byte(name)},
	}}, parent, fs.leases.child(parent, name))
	if err == nil {
		fs.leases.name(alone, parent, name, 0)
	}
	return err
}
