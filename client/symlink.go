package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
)

// Symlink makes a symbolic link.
func (fs *FS) Symlink(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name, target string) (dfs.Attr, error) {
	return fs.make(ctx, cred, &metapb.Create{
		Parent: uint64(parent), Name: []byte(name), Mode: dfs.TypeLink | 0o777, Target: []byte(target), Excl: true,
	})
}
