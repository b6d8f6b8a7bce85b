package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/chunk/code"
	"dfs/client/cache"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// Bounds of reading from chunk servers.
const (
	readTimeout  = 5 * time.Second // of one server
	smallestRead = 16 << 10        // less costs the same, when a server has to be asked
)

// rankSlow and more have those sources that are slow, or do not work.
const rankSlow = 500

// source is a server that should have a fragment.
type source struct {
	position int
	server   dfs.NodeID
	addr     string
	rank     int
}

// sources lists where the fragments of a chunk should be, best first: servers that
// work, on this host, and the others by turns.
func (fs *FS) sources(m *dfs.ClusterMap, chunk dfs.ChunkID, turn uint32) []source {
	var out []source
	if m.Buckets == 0 {
		return nil
	}
	home := m.Home[chunk.PG(m.Buckets)]
	now := time.Now()
	for i, id := range home {
		s := m.Server(id)
		if id == 0 || s == nil {
			continue
		}
		src := source{position: i, server: id, addr: s.Addr, rank: (i + int(turn)) % len(home)}
		if (s.Host == "" || s.Host != fs.cfg.Host) && !fs.direct.here(id) {
			src.rank += 100
		}
		if fs.health.slow(id, now) {
			src.rank += rankSlow
		}
		if fs.health.demoted(id, now) {
			src.rank += 1000
		}
		if s.State != dfs.ServerUp && s.State != dfs.ServerDrain {
			src.rank += 10000
		}
		out = append(out, src)
	}
	slices.SortFunc(out, func(a, b source) int { return cmp.Compare(a.rank, b.rank) })
	return out
}

func keyOf(e dfs.Extent) cache.Key { return cache.Key{Chunk: e.Chunk, Record: e.Record} }

// fromCache fills the head of a part from memory, and returns what is left of it.
func (fs *FS) fromCache(pt part) part {
	n := fs.cache.Copy(pt.dst, keyOf(pt.extent), int(pt.extent.Start))
	pt.extent.Off += uint64(n)
	pt.extent.Start += uint32(n)
	pt.extent.Len -= uint32(n)
	pt.dst = pt.dst[n:]
	return pt
}

// fetchPart fills one part, from memory or from the servers.
func (fs *FS) fetchPart(ctx context.Context, pt part) error {
	for {
		if pt = fs.fromCache(pt); len(pt.dst) == 0 {
			return nil
		}
		e := pt.extent
		from, to := int(e.Start), int(e.Start+e.Len)
		if to-from < smallestRead && !fs.direct.some.Load() { // up to the end of the record, not more
			to = min(from+smallestRead, int(e.RecordLen))
		}
		lo, hi := from, to
		if pt.packed {
			lo, hi = fs.packedWindow(e, to)
			pt.packed = false // once
		}
		flight, mine := fs.cache.BeginAround(keyOf(e), from, to, lo, hi)
		switch {
		case mine:
			lo, hi = flight.Range()
			off, data, err := fs.fetchRecord(ctx, e, lo, hi)
			if err != nil {
				fs.cache.End(flight, 0, nil)
				return err
			}
			copy(pt.dst, data[from-off:])
			fs.cache.End(flight, off, data)
			return nil
		case flight != nil:
			select {
			case <-flight.Done():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

// fetchRecord reads at least [from, to) of a record's payload from the servers, and
// waits for them when none answers. data begins at off and is from rpc.Alloc.
func (fs *FS) fetchRecord(ctx context.Context, e dfs.Extent, from, to int) (off int, data []byte, err error) {
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	for {
		m, err := fs.waitMap(ctx)
		if err != nil {
			return 0, nil, err
		}
		if e.Chunk.Layout().Data() == 1 {
			off, data, err = fs.fetchCopy(ctx, m, e, from, to)
		} else {
			off, data, err = fs.fetchPieces(ctx, m, e, from, to)
		}
		if err == nil || errors.Is(err, errGone) {
			return off, data, err
		}
		t := time.NewTimer(serverPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return 0, nil, fmt.Errorf("chunk %s: %w: %w", e.Chunk, err, context.Cause(ctx))
		}
	}
}

// fetchCopy reads from one of the copies. When the first server takes long, the
// others are tried beside it, one after the other, and the first answer counts.
func (fs *FS) fetchCopy(ctx context.Context, m *dfs.ClusterMap, e dfs.Extent, from, to int) (int, []byte, error) {
	all := fs.sources(m, e.Chunk, e.Record>>20)
	if len(all) == 0 {
		return 0, nil, fmt.Errorf("the map has no servers for chunk %s", e.Chunk)
	}
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &race{fs: fs, e: e, from: from, to: to, sources: all, cancel: cancel, done: make(chan struct{}, 1)}
	first := make(chan struct{}) // closed when the first runner is through
	bound := fs.health.hedge(all, to-from, time.Now())
	hedge := time.AfterFunc(bound, func() {
		if r.hedged.CompareAndSwap(0, 1) { // else the first was faster
			if fs.health.mayHedge() || elapsed(first, hedgeMax-bound) {
				r.run(ctx)
			}
			r.done <- struct{}{}
		}
	})
	r.run(ctx)
	close(first)
	hedge.Stop()
	if !r.hedged.CompareAndSwap(0, 2) {
		<-r.done // it ends at once when there is a result: the context has
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.data != nil {
		return r.off, r.data, nil
	}
	if r.absent == len(all) {
		return 0, nil, fmt.Errorf("%w: %w", errGone, r.err)
	}
	if r.err == nil { // it was given up before anybody was asked
		r.err = cmp.Or(context.Cause(outer), errUnasked)
	}
	return 0, nil, r.err
}

// errUnasked says that no server was asked.
var errUnasked = errors.New("no server was asked")

// elapsed waits for d, and reports false when over is closed before.
func elapsed(over <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-over:
		return false
	}
}

// race is one read tried at several servers.
type race struct {
	fs       *FS
	e        dfs.Extent
	from, to int
	sources  []source
	next     atomic.Int32 // index of the next one to try
	hedged   atomic.Int32 // 1: the second runner has begun, 2: it never will
	cancel   context.CancelFunc
	done     chan struct{}

	mu     sync.Mutex
	off    int    // +checklocks:mu
	data   []byte // +checklocks:mu — of the winner
	absent int    // +checklocks:mu — servers that answered that they have not got it
	err    error  // +checklocks:mu — the last one
}

// run tries the servers that nobody has tried, until one answers.
func (r *race) run(ctx context.Context) {
	for ctx.Err() == nil {
		i := int(r.next.Add(1)) - 1
		if i >= len(r.sources) {
			return
		}
		off, data, err := r.fs.readFragment(ctx, r.sources[i], r.e, r.from, r.to)
		r.mu.Lock()
		switch {
		case err == nil && r.data == nil:
			r.off, r.data = off, data
			r.cancel()
		case err == nil:
			rpc.Free(data)
		default:
			if rpc.IsVerdict(err) {
				r.absent++
			}
			if ctx.Err() == nil || r.err == nil {
				r.err = err
			}
		}
		won := r.data != nil
		r.mu.Unlock()
		if won {
			return
		}
	}
}

// readFragment reads [from, to) of the payload that one server has of a record, in
// whole pages, and verifies it. A verdict says that the server has not got it, or not
// whole.
func (fs *FS) readFragment(ctx context.Context, src source, e dfs.Extent, from, to int) (int, []byte, error) {
	fs.fetched.Add(1)
	if off, data, ok := fs.direct.read(ctx, src, e, from, to); ok {
		return off, data, nil
	}
	conn, err := fs.pool.Conn(src.addr)
	if err != nil {
		return 0, nil, err
	}
	tryCtx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	start := time.Now()
	reply, err := chunkpb.NewChunkClient(conn).Read(tryCtx, &chunkpb.ReadRequest{
		Chunk: uint64(e.Chunk), Fragment: uint32(src.position), Record: e.Record,
		Off: uint32(from), Len: uint32(to - from), Cluster: uint64(fs.pool.Cluster()),
	})
	if err != nil {
		if now := time.Now(); ctx.Err() == nil {
			fs.health.failed(src.server, now)
		} else { // somebody else won
			fs.health.gaveUp(src.server, to-from, now.Sub(start), now)
		}
		return 0, nil, fmt.Errorf("server %s: %w", src.server, err)
	}
	if err := rpc.Errno(reply.Errno); err != nil {
		if errors.Is(err, dfs.EIO) {
			fs.cfg.Logger.Warn("a server has bad bytes", "server", src.server.String(), "chunk", e.Chunk.String(), "record", e.Record, "reason", reply.Error)
		}
		return 0, nil, fmt.Errorf("server %s: %s: %w", src.server, reply.Error, err)
	}
	now := time.Now()
	fs.health.answered(src.server, to-from, now.Sub(start), now)
	off, data := int(reply.Off), reply.Data
	if off > from || off%dfs.PageBytes != 0 || off+len(data) < to {
		rpc.Free(data)
		return 0, nil, fmt.Errorf("server %s answered bytes %d to %d, not %d to %d: %w", src.server, off, off+len(data), from, to, dfs.EIO)
	}
	if err := code.CheckPages(reply.Off, data, reply.Crcs); err != nil {
		rpc.Free(data)
		fs.cfg.Logger.Warn("bytes changed on the way", "server", src.server.String(), "chunk", e.Chunk.String(), "record", e.Record, "err", err)
		return 0, nil, fmt.Errorf("server %s: %w", src.server, err)
	}
	return off, data, nil
}

// fetchPieces reads of a record that is cut in k data fragments.
func (fs *FS) fetchPieces(ctx context.Context, m *dfs.ClusterMap, e dfs.Extent, from, to int) (int, []byte, error) {
	size := code.FragmentLen(e.Chunk.Layout(), int(e.RecordLen))
	data := rpc.Alloc(to - from)
	for at := from; at < to; {
		i := at / size
		lo, hi := at-i*size, min(to-i*size, size)
		off, got, err := fs.fetchPiece(ctx, m, e, i, lo, hi)
		if err != nil {
			rpc.Free(data)
			return 0, nil, err
		}
		at += copy(data[at-from:], got[lo-off:hi-off])
		rpc.Free(got)
	}
	return from, data, nil
}
