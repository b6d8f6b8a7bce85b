package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
)

// StatFS tells the room in the file system.
func (fs *FS) StatFS(ctx context.Context) (dfs.StatFS, error) {
	var reply *metapb.StatFSReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.StatFS(ctx, &metapb.StatFSRequest{Ino: uint64(dfs.RootIno)})
		return err
	})
	if err != nil {
		return dfs.StatFS{}, err
	}
	return dfs.StatFS{TotalBytes: reply.TotalBytes, FreeBytes: reply.FreeBytes, Files: reply.Files}, nil
}
