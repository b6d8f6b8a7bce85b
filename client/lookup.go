package client

import (
	"context"
	"errors"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Lookup finds a name in a folder.
func (fs *FS) Lookup(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) (dfs.Attr, error) {
	if cred.Checked {
		if attr, err, known := fs.leases.lookup(parent, name); known {
			if err != nil {
				return dfs.Attr{}, err
			}
			return fs.ours(attr), nil
		}
	}
	if err := fs.lane.settle(ctx); err != nil {
		return dfs.Attr{}, err
	}
	at := fs.leases.now()
	var reply *metapb.LookupReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.Lookup(ctx, &metapb.LookupRequest{Parent: uint64(parent), Name: []byte(name), Cred: rpc.CredToProto(cred), Session: fs.leases.session()})
		return err
	})
	if err != nil {
		return dfs.Attr{}, err
	}
	fs.leases.take(at, reply.Leases)
	if err := rpc.Errno(reply.Errno); err != nil {
		if errors.Is(err, dfs.ENOENT) && nameable(name) {
			fs.leases.absent(at, parent, name)
		}
		return dfs.Attr{}, err
	}
	attr := rpc.AttrFromProto(reply.Attr)
	fs.leases.attrs(at, &attr)
	if nameable(name) {
		fs.leases.name(at, parent, name, attr.Ino)
	}
	return fs.seen(attr), nil
}
