package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of reading.
const (
	extentsOpen  = 64   // extents asked for by Open
	extentsPage  = 1024 // by one later request
	extentsTries = 64   // requests for extents in one read
	staleTries   = 3    // reads with extents anew, when their chunks are gone
	fetchMax     = 8    // fetches of one read at once
	serverPause  = 100 * time.Millisecond
)

// errGone says that every server that could have the bytes answered that it has not,
// or not whole.
var errGone = errors.New("no server has the bytes")

// Read reads up to len(p) bytes at off. Fewer mean the end of the file: there is no
// io.EOF.
func (f *File) Read(ctx context.Context, p []byte, off int64) (int, error) {
	switch {
	case f.flags&flagAccess == flagWrite:
		return 0, dfs.EBADF
	case off < 0:
		return 0, dfs.EINVAL
	case off > dfs.FileMax-int64(len(p)):
		return 0, nil
	}
	in := f.in
	for try := 0; ; try++ {
		attr, err := in.fs.GetAttr(ctx, in.ino)
		if err != nil {
			return 0, err // the extents must be those of now
		}
		n, err := in.read(ctx, p, off)
		switch {
		case err == nil:
			f.readAhead(off, n)
			f.accessed(&attr)
			return n, nil
		case errors.Is(err, errUncertain):
			continue
		case !errors.Is(err, errGone):
			return 0, err
		}
		// The extents may be old: other bytes took the place of these, and theirs
		// were freed.
		if try >= staleTries {
			return 0, fmt.Errorf("inode %d at %d: %w: %w", in.ino, off, err, dfs.EIO)
		}
		in.fs.leases.dropExtents(in.ino)
		in.mu.Lock()
		in.extents.reset()
		in.mu.Unlock()
		if try > 0 {
			in.fs.sleep(serverPause)
		}
	}
}

// errUncertain says that bytes which are not committed may be too late: others may have changed
// the file since. GetAttr waits until that is known.
var errUncertain = errors.New("whether others have changed the file since is not known")

// part is a piece of a read that has to be fetched.
type part struct {
	extent dfs.Extent
	dst    []byte
	packed bool // of a small file
}

// read fills p: unsubmitted bytes over submitted ones over extents over zeros.
func (in *inode) read(ctx context.Context, p []byte, off int64) (int, error) {
	for try := 0; try < extentsTries; try++ {
		in.mu.Lock()
		n, parts, missing := in.planLocked(p, off)
		certain, losses := in.certain(), in.losses
		in.mu.Unlock()
		if !certain {
			return 0, errUncertain
		}
		if missing.from < missing.to {
			if err := in.load(ctx, missing.from); err != nil {
				return 0, err
			}
			continue
		}
		if err := in.fs.fetch(ctx, parts); err != nil {
			return 0, err
		}
		// That may have taken long. What was written here and is lost since is not shown.
		in.mu.Lock()
		lost := in.losses != losses
		in.mu.Unlock()
		if lost {
			return 0, errUncertain
		}
		return n, nil
	}
	return 0, fmt.Errorf("inode %d: the file changes too fast to be read: %w", in.ino, dfs.EIO)
}

// planLocked copies what is in memory, and says what has to be fetched into which
// part of p, or which extents are missing.
//
// +checklocks:in.mu
func (in *inode) planLocked(p []byte, off int64) (n int, parts []part, missing span) {
	if size := in.size(); off >= size {
		return 0, nil, span{}
	} else if int64(len(p)) > size-off {
		p = p[:size-off]
	}
	var first [1]gap
	first[0] = gap{0, len(p)}
	gaps := first[:]
	for i := in.dirty.after(off); i < len(in.dirty.segs) && in.dirty.segs[i].off < off+int64(len(p)); i++ {
		gaps = lay(gaps, p, off, in.dirty.segs[i].bytes(), in.dirty.segs[i].off)
	}
	for i := len(in.flight) - 1; i >= in.dropped && len(gaps) > 0; i-- {
		gaps = lay(gaps, p, off, in.flight[i].Data, in.flight[i].Off)
	}
	for _, g := range gaps {
		from, to := off+int64(g.from), off+int64(g.to)
		// Behind what is committed there is nothing but holes.
		if to = min(to, int64(in.attr.Size)); from < to {
			if ok, at := in.extents.known(from, to); !ok {
				return 0, nil, span{at, to}
			}
		}
		at := g.from
		if from < to {
			for _, e := range in.extents.in(from, to) {
				lo := int(int64(e.Off) - off)
				clear(p[at:lo])
				at = lo + int(e.Len)
				parts = append(parts, part{e, p[lo:at], in.attr.Size <= packedBytes})
			}
		}
		clear(p[at:g.to])
	}
	return len(p), parts, span{}
}

// load fetches extents from off on.
func (in *inode) load(ctx context.Context, off int64) error {
	if in.recallExtents() || in.small() && in.fs.nearTo(ctx, in.ino) && in.recallExtents() {
		return nil
	}
	at := in.fs.leases.now() // first: what is changed from here on is not settled
	if err := in.fs.settleFor(ctx, in.ino); err != nil {
		return err
	}
	var reply *metapb.ExtentsReply
	err := in.fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.Extents(ctx, &metapb.ExtentsRequest{Ino: uint64(in.ino), Off: uint64(off), Limit: extentsPage, Session: in.fs.leases.session()})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil {
		return err
	}
	attr := rpc.AttrFromProto(reply.Attr)
	in.fs.leases.take(at, reply.Leases)
	in.fs.leases.attrs(at, &attr)
	if off == 0 && !reply.More {
		in.fs.leases.setExtents(at, &attr, reply.Extents)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.fs.leases.overtaken(in.ino, at) {
		in.validate(&attr) // who still wants the extents asks again
		return nil
	}
	in.loadLocked(attr, off, reply.Extents, reply.More)
	return nil
}

// loadLocked takes over extents, as of attr, that the masters listed from off on.
//
// +checklocks:in.mu
func (in *inode) loadLocked(attr dfs.Attr, off int64, list []*metapb.Extent, more bool) {
	in.validate(&attr)
	if in.attr.Change != attr.Change {
		return // they are of an older state
	}
	extents := rpc.ExtentsFromProto(list)
	end := int64(forever)
	if more && len(extents) > 0 {
		end = int64(extents[len(extents)-1].End())
	}
	in.extents.load(off, end, extents)
}

// fetch fills the parts, several at once.
func (fs *FS) fetch(ctx context.Context, parts []part) error {
	switch len(parts) {
	case 0:
		return nil
	case 1:
		return fs.fetchPart(ctx, parts[0])
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	slots := make(chan struct{}, fetchMax)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, pt := range parts {
		// Most small ones are in memory, or in the same page as the one before.
		pt = fs.fromCache(pt)
		if len(pt.dst) == 0 {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := fs.fetchPart(ctx, pt); err != nil {
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	return first
}
