package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
)

// Tmpfile is open(2) with O_TMPFILE: it makes a regular file that has no name in the
// folder, and opens it. It is gone when it is closed, unless Link has given it a name,
// which O_EXCL forbids. The umask is cred's.
func (fs *FS) Tmpfile(ctx context.Context, cred dfs.Cred, parent dfs.Ino, mode, flags uint32) (*File, dfs.Attr, error) {
	attr, _, err := fs.create(ctx, cred, &metapb.Create{
		Parent: uint64(parent), Mode: dfs.TypeFile | mode&0o7777,
		Excl: flags&flagExcl != 0, Open: true, Tmpfile: true, Umask: cred.Umask,
	})
	if err != nil {
		return nil, dfs.Attr{}, err
	}
	if err := openable(&attr); err != nil {
		fs.unopened(attr.Ino)
		return nil, dfs.Attr{}, err
	}
	return fs.created(cred, attr, parent, "", flags, true), attr, nil
}
