package client

import "context"

// Flush is close(2) of one descriptor: what was written is visible to every client
// when it returns. Under an exclusive lease it is anyway, since whoever wants to see it
// asks for the lease first, and nothing is written back yet. An error of writing back is
// told here once, and again by Fsync.
func (f *File) Flush(ctx context.Context) error {
	if !f.in.fs.leases.changeable(f.in.ino) {
		if err := f.in.flush(ctx); err != nil {
			return err
		}
	}
	return f.failure(true)
}
