package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// This file asks for what programs are going to ask for: of a program that goes through
// the files of a folder or through files that were made one after the other, each question
// would cost a round trip. What is told ahead is told under leases, like everything else,
// but others are not disturbed for it (hints), and it comes in place of a question or in
// the background. docs/coherence.md has the protocol.

// Bounds of asking ahead.
const (
	listFirst  = 2           // lookups in a folder by which it is seen that somebody goes through it
	listPays   = 128         // so many entries cost about as much as a lookup
	listMost   = 16 << 10    // entries of a folder; of a larger one nothing is listed
	listInline = 64          // entries that are listed in place of a lookup; more are in the background
	listTired  = 6           // times that the price doubles, when it was in vain
	hintWait   = time.Second // for an answer in place of another question

	nearSpan    = 512      // inode numbers between two files that are near each other
	nearFirst   = 64       // inode numbers asked for at once, and four times as many the next time
	nearMost    = 512      // at most; the masters look at no more
	nearBytes   = 1 << 20  // a larger file is none of the small ones
	nearExtents = 8        // nor is one with more
	packedBytes = 64 << 10 // files of which a record may hold many

	packedSpan  = 512 << 10 // bytes of a chunk between two files that are near each other
	packedFirst = 64 << 10  // bytes fetched at once, and twice as many the next time
	packedMost  = 256 << 10

	streamsMax = 16 // programs that are followed, in each of the two ways
)

// listing is what is remembered of a folder to decide whether to list it.
type listing struct {
	asked int  // lookups that the masters had to answer since it was listed
	times int  // that it was listed
	under bool // it is being listed
}

// asked counts a lookup that the masters have answered.
func (l *leases) asked(parent dfs.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[parent]; n != nil {
		n.listing.asked++
	}
}

// beginList reports whether it pays to list a folder in which the masters are about to be
// asked for a name, and how many entries there are. endList must follow.
func (l *leases) beginList(parent dfs.Ino) (entries int, pays bool) {
	if !l.good() {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[parent]
	// The masters do not know yet what is on the lane.
	if n == nil || n.recalled || n.listing.under || n.pending > 0 {
		return 0, false
	}
	if n.known {
		if n.attr.Size > listMost {
			return 0, false
		}
		entries = int(n.attr.Size)
	}
	if n.listing.asked+1 < max(listFirst, entries/listPays)<<min(n.listing.times, listTired) {
		return 0, false
	}
	n.listing = listing{times: n.listing.times + 1, under: true}
	return entries, true
}

func (l *leases) endList(parent dfs.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[parent]; n != nil {
		n.listing.under = false
	}
}

// listAhead lists a folder when somebody goes through its names. It reports whether a
// name that was not known may be known now.
func (fs *FS) listAhead(ctx context.Context, cred dfs.Cred, parent dfs.Ino) bool {
	entries, pays := fs.leases.beginList(parent)
	if !pays {
		return false
	}
	if entries <= listInline {
		defer fs.leases.endList(parent)
		ctx, cancel := context.WithTimeout(ctx, hintWait)
		defer cancel()
		_, _ = fs.listPage(ctx, cred, parent, 0, listInline) // else the name is asked for
		return true
	}
	began := fs.aside(func(ctx context.Context) {
		defer fs.leases.endList(parent)
		for cookie, more := uint64(0), true; more && ctx.Err() == nil; {
			cookie, more = fs.listPage(ctx, cred, parent, cookie, listMax)
		}
	})
	if !began {
		fs.leases.endList(parent)
	}
	return false
}

// listPage takes over entries of a folder after the one with that cookie, as far as nobody
// else may be changing them. more says that there are others after next.
func (fs *FS) listPage(ctx context.Context, cred dfs.Cred, parent dfs.Ino, cookie uint64, limit int) (next uint64, more bool) {
	at := fs.leases.now()
	if fs.lane.settle(ctx) != nil {
		return 0, false
	}
	var reply *metapb.ReadDirReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.ReadDir(ctx, &metapb.ReadDirRequest{
			Ino: uint64(parent), Cookie: cookie, Limit: uint32(limit), Plus: true, Hint: true,
			Cred: rpc.CredToProto(cred), Session: fs.leases.session(),
		})
		return err
	})
	if err != nil || reply.Errno != 0 {
		return 0, false
	}
	fs.leases.take(at, reply.Leases)
	if reply.Attr != nil {
		dir := rpc.AttrFromProto(reply.Attr)
		fs.leases.attrs(at, &dir)
		more = !reply.End && dir.Size <= listMost
	}
	for _, e := range reply.Entries {
		fs.leases.name(at, parent, string(e.Name), dfs.Ino(e.Ino))
		if e.Attr != nil {
			attr := rpc.AttrFromProto(e.Attr)
			fs.leases.attrs(at, &attr)
			fs.seen(attr)
		}
		next = e.Cookie
	}
	return next, more && next > cookie
}

// streams follows programs that go from one place to the next one.
type streams[K comparable] struct {
	mu   sync.Mutex
	list [streamsMax]stream[K] // +checklocks:mu
	turn int                   // +checklocks:mu — the next one to be given up
}

type stream[K comparable] struct {
	of     K
	at     int64
	window int64
	used   bool
}

// advise takes over where somebody is, of what is counted in of, and answers how far to
// go ahead: nothing at first, then first, and then factor times as far each time.
func (s *streams[K]) advise(of K, at, span, first, factor, most int64) (window int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if m := &s.list[i]; m.used && m.of == of && at >= m.at-span && at <= m.at+span {
			m.at, m.window = at, min(max(factor*m.window, first), most)
			return m.window
		}
	}
	s.list[s.turn] = stream[K]{of: of, at: at, used: true}
	s.turn = (s.turn + 1) % streamsMax
	return 0
}

// near asks for small files that were made one after the other.
type near struct {
	streams streams[struct{}]

	mu      sync.Mutex
	flights []*nearFlight // +checklocks:mu
}

// nearFlight is a question about inode numbers [from, to).
type nearFlight struct {
	from, to dfs.Ino
	done     chan struct{}
}

// nearTo asks for the extents of a small file together with those of its neighbours, when
// somebody goes through them. It reports whether they may be known now.
func (fs *FS) nearTo(ctx context.Context, ino dfs.Ino) bool {
	w := dfs.Ino(fs.near.streams.advise(struct{}{}, int64(ino), nearSpan, nearFirst, 4, nearMost))
	if w == 0 || !fs.leases.good() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, hintWait)
	defer cancel()
	from, to := ino, ino+w
	if back := min(w/4, ino-1); !fs.leases.knowsExtents(ino - 1) {
		from, to = ino-back, to-back
	}
	f, mine := fs.near.begin(ino, from, to)
	if !mine {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		return true
	}
	defer fs.near.end(f)
	fs.askNear(ctx, from, to)
	return true
}

// begin joins a question about ino that is under way, or lets the caller ask about
// [from, to); end must follow.
func (n *near) begin(ino, from, to dfs.Ino) (f *nearFlight, mine bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.flights {
		if f.from <= ino && ino < f.to {
			return f, false
		}
	}
	f = &nearFlight{from, to, make(chan struct{})}
	n.flights = append(n.flights, f)
	return f, true
}

func (n *near) end(f *nearFlight) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.flights = slices.DeleteFunc(n.flights, func(o *nearFlight) bool { return o == f })
	close(f.done)
}

func (fs *FS) askNear(ctx context.Context, from, to dfs.Ino) {
	at := fs.leases.now()
	if fs.lane.settle(ctx) != nil {
		return
	}
	var reply *metapb.NearReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.Near(ctx, &metapb.NearRequest{Session: fs.leases.session(), From: uint64(from), To: uint64(to)})
		return err
	})
	if err != nil { // also from masters that do not know the question
		return
	}
	fs.leases.take(at, reply.Leases)
	for _, f := range reply.Files {
		attr := rpc.AttrFromProto(f.Attr)
		fs.leases.attrs(at, &attr)
		fs.leases.setExtents(at, &attr, f.Extents)
		fs.seen(attr)
	}
}

// setExtents takes over all extents of a small file in the state of attr.
func (l *leases) setExtents(at uint64, attr *dfs.Attr, list []*metapb.Extent) {
	if attr.Size > nearBytes || len(list) > nearExtents {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[attr.Ino]; n != nil && l.fresh(attr.Ino, at) && n.known && n.attr.Change == attr.Change && n.pending == 0 {
		n.extents, n.extentsOf = rpc.ExtentsFromProto(list), attr.Change
	}
}

// dropExtents forgets them: they lead nowhere.
func (l *leases) dropExtents(ino dfs.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[ino]; n != nil {
		n.extents, n.extentsOf = nil, 0
	}
}

// knowsExtents reports whether the extents of a file are known.
func (l *leases) knowsExtents(ino dfs.Ino) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[ino]
	return n != nil && n.extentsOf != 0 && n.extentsOf == n.attr.Change
}

// recallExtents takes over extents that are known under the lease. Under in.mu, so that
// whoever gives the lease back finds them there, and forgets them.
func (in *inode) recallExtents() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.fs.leases
	if !in.known || !l.good() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[in.ino]
	if n == nil || n.recalled || !n.known || !n.settled() || n.extentsOf == 0 || n.extentsOf != n.attr.Change || n.extentsOf != in.attr.Change {
		return false
	}
	in.extents.load(0, forever, n.extents)
	return true
}

// packedWindow answers which bytes of a record to fetch together with those of a small
// file, up to to at least: neighbours in a record were written one after the other, and are
// often read so.
func (fs *FS) packedWindow(e dfs.Extent, to int) (lo, hi int) {
	from := int(e.Start)
	w := int(fs.packed.advise(e.Chunk, int64(e.Record)+int64(from), packedSpan, packedFirst, 2, min(packedMost, fs.cfg.CacheBytes/16)))
	return max(from-w/4, 0), min(max(to, from+w), int(e.RecordLen))
}
