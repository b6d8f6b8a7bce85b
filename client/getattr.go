package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// GetAttr tells an inode's attributes, with the size and mtime of bytes that this
// client has not written back yet.
func (fs *FS) GetAttr(ctx context.Context, ino dfs.Ino) (dfs.Attr, error) {
	for {
		if attr, ok := fs.leases.attr(ino); ok {
			return fs.ours(attr), nil
		}
		if err := fs.confirm(ctx, ino); err != nil {
			return dfs.Attr{}, err
		}
		attr, certain, err := fs.askAttr(ctx, ino)
		if err != nil || certain {
			return attr, err
		}
	}
}

// askAttr has the masters tell attributes, and adds bytes that are not committed; certain is
// what inode.certain says.
func (fs *FS) askAttr(ctx context.Context, ino dfs.Ino) (_ dfs.Attr, certain bool, err error) {
	at := fs.leases.now() // first: what is changed from here on is not settled
	if err := fs.settleFor(ctx, ino); err != nil {
		return dfs.Attr{}, false, err
	}
	var reply *metapb.GetAttrReply
	err = fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.GetAttr(ctx, &metapb.GetAttrRequest{Ino: uint64(ino), Session: fs.leases.session()})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil {
		return dfs.Attr{}, false, err
	}
	attr := rpc.AttrFromProto(reply.Attr)
	fs.leases.take(at, reply.Leases)
	fs.leases.attrs(at, &attr)
	attr, certain = fs.withWritten(attr, (*inode).validate)
	return attr, certain, nil
}
