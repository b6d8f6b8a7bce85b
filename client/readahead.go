package client

import (
	"context"
	"sync"

	"dfs"
)

// Bounds of reading ahead.
const (
	aheadMin    = 1 << 20 // window once a reader is found to go on and on
	aheadBytes  = 8 << 20 // largest window
	aheadMax    = 16      // fetches ahead of all files at once
	aheadJitter = 2 << 20 // the kernel's own read-ahead comes out of order
)

// readAhead notices that a file is read from front to back.
type readAhead struct {
	mu     sync.Mutex
	next   int64 // +checklocks:mu — where the reader is expected
	window int64 // +checklocks:mu — 0: it jumps about
	upto   int64 // +checklocks:mu — fetched ahead, or under way
}

// advise takes over a read and answers what is to be fetched ahead.
func (ra *readAhead) advise(off int64, n int, limit int64) (from, to int64) {
	ra.mu.Lock()
	defer ra.mu.Unlock()
	end := off + int64(n)
	if off < ra.next-aheadJitter || off > ra.next+aheadJitter || off == 0 || n == 0 {
		ra.next, ra.window, ra.upto = end, 0, end
		return 0, 0
	}
	if off != ra.next && ra.window == 0 {
		ra.next = end
		return 0, 0
	}
	ra.next = max(ra.next, end)
	ra.window = min(max(2*ra.window, aheadMin), limit)
	from, to = max(ra.upto, ra.next), ra.next+ra.window
	if to-from < ra.window/2 {
		return 0, 0 // far enough ahead
	}
	ra.upto = to
	return from, to
}

// readAhead fetches what the reader will want next to memory.
func (f *File) readAhead(off int64, n int) {
	in := f.in
	fs := in.fs
	from, to := f.ahead.advise(off, n, min(aheadBytes, fs.cfg.CacheBytes/4))
	if from >= to {
		return
	}
	in.mu.Lock()
	to = min(to, int64(in.attr.Size))
	var list []dfs.Extent
	known := false
	if from < to {
		if known, _ = in.extents.known(from, to); known {
			list = in.extents.in(from, to)
		}
	}
	in.mu.Unlock()
	if from < to && !known {
		fs.aside(func(ctx context.Context) { _ = in.load(ctx, from) }) // for the next time
		return
	}
	for _, e := range list {
		if !fs.aside(func(ctx context.Context) { fs.prefetch(ctx, e) }) {
			return
		}
	}
}

// aside runs fn in the background, unless too much is running there.
func (fs *FS) aside(fn func(ctx context.Context)) bool {
	select {
	case fs.ahead <- struct{}{}:
	default:
		return false
	}
	if fs.ctx.Err() != nil {
		<-fs.ahead
		return false
	}
	fs.wg.Go(func() {
		defer func() { <-fs.ahead }()
		fn(fs.ctx)
	})
	return true
}

// prefetch brings an extent to memory. Errors are left to who reads it.
func (fs *FS) prefetch(ctx context.Context, e dfs.Extent) {
	from, to := int(e.Start), int(e.Start+e.Len)
	flight, mine := fs.cache.Begin(keyOf(e), from, to)
	if !mine {
		return
	}
	off, data, err := fs.fetchRecord(ctx, e, from, to)
	if err != nil {
		fs.cache.End(flight, 0, nil)
		return
	}
	fs.cache.End(flight, off, data)
}
