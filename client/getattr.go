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
	var reply *metapb.GetAttrReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.GetAttr(ctx, &metapb.GetAttrRequest{Ino: uint64(ino)})
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
