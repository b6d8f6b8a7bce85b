package cache

import (
	"slices"
	"sync"
	"sync/atomic"

	"dfs"
)

// Key names a record: its payload is what offsets count in.
type Key struct {
	Chunk  dfs.ChunkID
	Record uint32
}

// shards is how many locks there are; the limit is shared out evenly among them.
const shards = 16

// spanOverhead is what a span costs besides its bytes.
const spanOverhead = 160

// Cache is a bounded set of spans of records, least recently used out first. Safe for
// concurrent use.
type Cache struct {
	free   func([]byte)
	shards [shards]shard

	hits, misses atomic.Uint64
}

type shard struct {
	mu      sync.Mutex
	records map[Key]*record // +checklocks:mu
	used    int64           // +checklocks:mu — bytes, overhead included
	max     int64
	oldest  *span // +checklocks:mu — ends of the list of spans by use
	newest  *span // +checklocks:mu
}

// record is what is kept of one record.
type record struct {
	spans   []*span // by off; they may overlap
	flights []*Flight
}

// span is bytes [off, off+len(data)) of a record's payload.
type span struct {
	key          Key
	off          int
	data         []byte
	refs         atomic.Int32 // the cache's own, and one for each reader who copies
	older, newer *span
}

// Flight is a fetch under way. Others wait for its Done.
type Flight struct {
	key      Key
	off, end int
	done     chan struct{}
}

// Done is closed when the fetch has ended, well or not.
func (f *Flight) Done() <-chan struct{} { return f.done }

// Range is the bytes [off, end) of the record's payload that are fetched.
func (f *Flight) Range() (off, end int) { return f.off, f.end }

// New makes a cache of at most max bytes. free is given each buffer that falls out,
// when nobody reads it any more; it may be nil.
func New(max int64, free func([]byte)) *Cache {
	c := &Cache{free: free}
	for i := range c.shards {
		c.shards[i].max = max / shards
		c.shards[i].records = map[Key]*record{}
	}
	return c
}

func (c *Cache) shard(k Key) *shard {
	h := (uint64(k.Chunk)*0x9e3779b97f4a7c15 + uint64(k.Record)) * 0xbf58476d1ce4e5b9
	return &c.shards[h>>60]
}

// Copy copies bytes of a record from off on to dst, as many as there are in one
// piece, and returns how many. 0 is a miss.
func (c *Cache) Copy(dst []byte, k Key, off int) int {
	n := 0
	for n < len(dst) {
		s := c.find(k, off+n)
		if s == nil {
			break
		}
		n += copy(dst[n:], s.data[off+n-s.off:])
		c.drop(s)
	}
	if n > 0 {
		c.hits.Add(1)
	} else {
		c.misses.Add(1)
	}
	return n
}

// find returns a span with the byte at off, held for the caller.
func (c *Cache) find(k Key, off int) *span {
	sh := c.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := sh.records[k]
	if r == nil {
		return nil
	}
	s := r.at(off)
	if s != nil {
		s.refs.Add(1)
		sh.touch(s)
	}
	return s
}

// at finds the span that goes furthest from off on.
func (r *record) at(off int) *span {
	// Spans that begin after off do not have it; of the others, the nearest is
	// most likely to.
	i, _ := slices.BinarySearchFunc(r.spans, off+1, func(s *span, off int) int { return s.off - off })
	for i--; i >= 0; i-- {
		if s := r.spans[i]; off < s.off+len(s.data) {
			return s
		}
	}
	return nil
}

func (c *Cache) drop(s *span) {
	if s.refs.Add(-1) == 0 && c.free != nil {
		c.free(s.data)
	}
}

// Begin asks who fetches bytes [off, end) of a record. fetch is true when it is the
// caller, who must call End then. Else somebody is fetching the byte at off: wait for
// the flight's Done, and look again. flight is nil, and fetch false, when the byte at
// off is here.
func (c *Cache) Begin(k Key, off, end int) (flight *Flight, fetch bool) {
	return c.BeginAround(k, off, end, off, end)
}

// BeginAround is Begin where the caller would fetch [lo, hi) as well, around [off, end):
// as much of it as is neither here nor being fetched. The flight's Range tells how much.
func (c *Cache) BeginAround(k Key, off, end, lo, hi int) (flight *Flight, fetch bool) {
	sh := c.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := sh.records[k]
	if r == nil {
		r = &record{}
		sh.records[k] = r
	}
	if r.at(off) != nil {
		return nil, false
	}
	for _, f := range r.flights {
		if f.off <= off && off < f.end {
			return f, false
		}
	}
	room := func(from, to int) { // is not available
		if to <= off {
			lo = max(lo, to)
		} else {
			hi = min(hi, from)
		}
	}
	for _, s := range r.spans {
		room(s.off, s.off+len(s.data))
	}
	for _, f := range r.flights {
		room(f.off, f.end)
	}
	f := &Flight{key: k, off: min(lo, off), end: max(hi, end), done: make(chan struct{})}
	r.flights = append(r.flights, f)
	return f, true
}

// End ends the caller's flight. data is what was fetched, from off in the payload on;
// nil when nothing was. The cache owns it from now on.
func (c *Cache) End(f *Flight, off int, data []byte) {
	sh := c.shard(f.key)
	var out []*span
	sh.mu.Lock()
	r := sh.records[f.key]
	if i := slices.Index(r.flights, f); i >= 0 {
		r.flights = slices.Delete(r.flights, i, i+1)
	}
	if len(data) > 0 {
		out = sh.put(r, f.key, off, data)
	}
	sh.tidy(f.key)
	sh.mu.Unlock()
	close(f.done)
	for _, s := range out {
		c.drop(s)
	}
}

// put adds a span and returns those that fall out for it.
//
// +checklocks:sh.mu
func (sh *shard) put(r *record, k Key, off int, data []byte) (out []*span) {
	s := &span{key: k, off: off, data: data}
	s.refs.Store(1)
	// What lies wholly within the new span is not needed any more.
	for i := len(r.spans) - 1; i >= 0; i-- {
		if o := r.spans[i]; off <= o.off && o.off+len(o.data) <= off+len(data) {
			sh.unlist(o)
			r.spans = slices.Delete(r.spans, i, i+1)
			out = append(out, o)
		}
	}
	i, _ := slices.BinarySearchFunc(r.spans, off, func(s *span, off int) int { return s.off - off })
	r.spans = slices.Insert(r.spans, i, s)
	sh.list(s)
	for sh.used > sh.max && sh.oldest != nil {
		o := sh.oldest
		sh.unlist(o)
		ro := sh.records[o.key]
		if i := slices.Index(ro.spans, o); i >= 0 {
			ro.spans = slices.Delete(ro.spans, i, i+1)
		}
		sh.tidy(o.key)
		out = append(out, o)
	}
	return out
}

// tidy forgets a record of which nothing is left.
//
// +checklocks:sh.mu
func (sh *shard) tidy(k Key) {
	if r := sh.records[k]; r != nil && len(r.spans) == 0 && len(r.flights) == 0 {
		delete(sh.records, k)
	}
}

// +checklocks:sh.mu
func (sh *shard) list(s *span) {
	s.older, s.newer = sh.newest, nil
	if sh.newest != nil {
		sh.newest.newer = s
	} else {
		sh.oldest = s
	}
	sh.newest = s
	sh.used += int64(cap(s.data)) + spanOverhead
}

// +checklocks:sh.mu
func (sh *shard) unlist(s *span) {
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		sh.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		sh.newest = s.older
	}
	s.older, s.newer = nil, nil
	sh.used -= int64(cap(s.data)) + spanOverhead
}

// +checklocks:sh.mu
func (sh *shard) touch(s *span) {
	if sh.newest != s {
		sh.unlist(s)
		sh.list(s)
	}
}

// Stats counts a cache's use.
type Stats struct {
	Hits, Misses uint64 // of Copy
	Bytes        int64
}

// Stats tells the use so far.
func (c *Cache) Stats() Stats {
	st := Stats{Hits: c.hits.Load(), Misses: c.misses.Load()}
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		st.Bytes += sh.used
		sh.mu.Unlock()
	}
	return st
}
