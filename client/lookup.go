package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Lookup finds a name in a folder.
func (fs *FS) Lookup(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) (dfs.Attr, error) {
	var reply *metapb.LookupReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.Lookup(ctx, &metapb.LookupRequest{Parent: uint64(parent), Name: []byte(name), Cred: rpc.CredToProto(cred)})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil {
		return dfs.Attr{}, err
	}
	return fs.seen(rpc.AttrFromProto(reply.Attr)), nil
}
