package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Readlink tells where a symbolic link points.
func (fs *FS) Readlink(ctx context.Context, ino dfs.Ino) (string, error) {
	if target := fs.leases.target(ino); target != "" {
		fs.accessedIno(ino)
		return target, nil
	}
	if err := fs.settleFor(ctx, ino); err != nil {
		return "", err
	}
	var reply *metapb.ReadlinkReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.Readlink(ctx, &metapb.ReadlinkRequest{Ino: uint64(ino), Session: fs.leases.session()})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil {
		return "", err
	}
	fs.leases.setTarget(ino, string(reply.Target))
	fs.accessedIno(ino)
	return string(reply.Target), nil
}
