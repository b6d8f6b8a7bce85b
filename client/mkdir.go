package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
)

// Mkdir makes a folder. The umask is cred's.
func (fs *FS) Mkdir(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string, mode uint32) (dfs.Attr, error) {
	return fs.make(ctx, cred, &metapb.Create{
		Parent: uint64(parent), Name: []byte(name), Mode: dfs.TypeDir | mode&0o7777, Excl: true, Umask: cred.Umask,
	})
}
