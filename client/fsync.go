package client

import (
	"context"

	"dfs"
)

// Fsync makes what was written durable, and what was changed of the file's attributes
// and names. fdatasync(2) is the same: size and extents have to be committed anyway.
func (f *File) Fsync(ctx context.Context, dataOnly bool) error {
	_ = dataOnly
	if err := f.in.flush(ctx); err != nil {
		return err
	}
	if err := f.in.fs.lane.sync(ctx); err != nil {
		return err
	}
	return f.failure()
}

// FsyncDir makes the names of a folder durable.
func (fs *FS) FsyncDir(ctx context.Context, ino dfs.Ino) error { return fs.lane.sync(ctx) }
