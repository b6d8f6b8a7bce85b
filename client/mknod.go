package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
)

// Mknod makes an inode of any type but a folder or a symlink. mode holds the type,
// rdev the Linux device number. The umask is cred's.
func (fs *FS) Mknod(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string, mode, rdev uint32) (dfs.Attr, error) {
	switch mode & dfs.TypeMask {
	case 0:
		mode |= dfs.TypeFile
	case dfs.TypeFile, dfs.TypeFIFO, dfs.TypeSocket, dfs.TypeChar, dfs.TypeBlock:
	case dfs.TypeDir:
		return dfs.Attr{}, dfs.EPERM
	default:
		return dfs.Attr{}, dfs.EINVAL
	}
	return fs.make(ctx, cred, &metapb.Create{
		Parent: uint64(parent), Name: []byte(name), Mode: mode, Rdev: rdev, Excl: true, Umask: cred.Umask,
	})
}
