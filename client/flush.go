package client

import "context"

// Flush is close(2) of one descriptor: what was written is visible to every client
// when it returns, and durable. An error of writing back is told here once.
func (f *File) Flush(ctx context.Context) error {
	if err := f.in.flush(ctx); err != nil {
		return err
	}
	return f.failure()
}
