package client

import (
	"context"

	"dfs"
)

// Fsync makes what was written durable, and what was changed of the file's attributes
// and names. fdatasync(2) is the same: size and extents have to be kept anyway. Of a file
// that is synced again and again the masters are told later; see docs/coherence.md.
func (f *File) Fsync(ctx context.Context, dataOnly bool) error {
	_ = dataOnly
	early, err := f.in.sync(ctx)
	if err != nil {
		return err
	}
	sync := f.in.fs.lane.sync
	if early {
		sync = f.in.fs.lane.failure
	}
	if err := sync(ctx); err != nil {
		return err
	}
	return f.failure(false)
}

// FsyncDir makes the names of a folder durable.
func (fs *FS) FsyncDir(ctx context.Context, ino dfs.Ino) error { return fs.lane.sync(ctx) }
