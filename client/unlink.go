package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Unlink removes a name of anything but a folder.
func (fs *FS) Unlink(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) error {
	if ino, gone, ok := fs.removeLocal(cred, parent, name, false); ok {
		if gone {
			fs.discard(ino)
		}
		return nil
	}
	_, alone, err := fs.apply(ctx, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Unlink{
		Unlink: &metapb.Unlink{Parent: uint64(parent), Name: []byte(name)},
	}}, parent, fs.leases.child(parent, name))
	if err == nil {
		fs.leases.name(alone, parent, name, 0)
	}
	return err
}

// discard drops bytes that nobody will ever read: their file has no name, and nobody has
// it open.
func (fs *FS) discard(ino dfs.Ino) {
	in := fs.find(ino)
	if in == nil {
		return
	}
	fs.mu.RLock()
	open := in.opens > 0
	fs.mu.RUnlock()
	if !open {
		in.drop()
	}
	in.release()
}
