package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Link gives an inode one more name.
func (fs *FS) Link(ctx context.Context, cred dfs.Cred, ino, parent dfs.Ino, name string) (dfs.Attr, error) {
	if attr, ok := fs.linkLocal(cred, ino, parent, name); ok {
		return fs.ours(attr), nil
	}
	if err := fs.flushIno(ctx, ino); err != nil {
		return dfs.Attr{}, err
	}
	reply, alone, err := fs.apply(ctx, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Link{
		Link: &metapb.Link{Ino: uint64(ino), Parent: uint64(parent), Name: []byte(name)},
	}}, parent, ino)
	if err != nil {
		return dfs.Attr{}, err
	}
	fs.leases.name(alone, parent, name, ino)
	return fs.seen(rpc.AttrFromProto(reply.Attr)), nil
}

// flushIno writes back what is dirty of an inode.
func (fs *FS) flushIno(ctx context.Context, ino dfs.Ino) error {
	in := fs.find(ino)
	if in == nil {
		return nil
	}
	defer in.release()
	return in.flush(ctx)
}
