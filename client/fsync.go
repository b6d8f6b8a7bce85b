package client

import (
	"context"

	"dfs"
)

// Fsync makes what was written durable. Attributes always are, since the masters
// answer a change when it is on the disks of a majority, so dataOnly makes no
// difference.
func (f *File) Fsync(ctx context.Context, dataOnly bool) error {
	_ = dataOnly
	return f.Flush(ctx)
}

// FsyncDir makes the names of a folder durable. They are, as soon as the call that
// changed them has returned.
func (fs *FS) FsyncDir(ctx context.Context, ino dfs.Ino) error { return ctx.Err() }
