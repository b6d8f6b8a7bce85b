package append

import (
	"slices"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/chunk/code"
	"dfs/rpc"
)

// lane is what is written in one layout.
type lane struct {
	layout dfs.Layout

	// All guarded by Appender.mu.
	queue       []*Piece // of state queued, in order
	queuedBytes int
	chunk       *chunk // the open one; nil: take another
	pumping     bool   // somebody sends records; there is only one, so that they go in order
	records     int    // on their way
	bytes       int    // payload of them
	fullUntil   time.Time
	retryAt     time.Time // nothing is sent before
	failures    int       // chunks given up since the last success
	trouble     string    // why nothing is sent, for people
}

// laneLocked finds the lane of a layout.
//
// +checklocks:a.mu
func (a *Appender) laneLocked(layout dfs.Layout) *lane {
	l := a.lanes[layout]
	if l == nil {
		l = &lane{layout: layout}
		a.lanes[layout] = l
	}
	return l
}

// drop takes a piece out of the queue; Appender.mu is held.
func (l *lane) drop(p *Piece) {
	if i := slices.Index(l.queue, p); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
		l.queuedBytes -= len(p.Data)
	}
}

// requeueLocked puts pieces at the head of their lanes' queues, in the given order.
//
// +checklocks:a.mu
func (a *Appender) requeueLocked(pieces []*Piece) {
	pieces = a.doomedLocked(pieces)
	for len(pieces) > 0 {
		// From the end, as many as share a lane.
		n := len(pieces) - 1
		for n > 0 && pieces[n-1].Layout == pieces[len(pieces)-1].Layout {
			n--
		}
		run := pieces[n:]
		pieces = pieces[:n]
		l := a.laneLocked(run[0].Layout)
		l.queue = slices.Concat(run, l.queue)
		for _, p := range run {
			p.state, p.rec, p.told = queued, nil, false
			l.queuedBytes += len(p.Data)
		}
		a.stats.Rewritten += uint64(len(run))
	}
}

// record is one append to a chunk.
type record struct {
	chunk   *chunk
	off     uint32 // in the fragment files
	end     uint32 // where the next record begins
	length  int    // payload over all data fragments
	pieces  []*Piece
	at      time.Time     // sent
	waiting int           // servers that have not answered; Appender.mu
	got     uint32        // positions that have; Appender.mu
	enough  time.Duration // until as many had as must; 0: they have not yet; Appender.mu
	acked   bool          // by all; Appender.mu
	dead    bool          // given up; Appender.mu

	sends  atomic.Int32 // messages that gRPC still needs the payload for
	buffer *Buffer      // of the only piece; nil when packed
	packed []byte       // from rpc.Alloc

	intents []byte // of the pieces, nil: none
}

// sentOne is called when gRPC is done with one of the messages.
func (r *record) sentOne() {
	if r.sends.Add(-1) > 0 {
		return
	}
	if r.buffer != nil {
		r.buffer.Drop()
	} else {
		rpc.Free(r.packed)
	}
}

// Push sends what can be sent of all that was submitted. It does not wait for
// answers.
func (a *Appender) Push() {
	var lanes [4]*lane // more layouts than that at once are rare
	a.mu.Lock()
	todo := lanes[:0]
	for _, l := range a.lanes {
		if len(l.queue) > 0 && !l.pumping {
			todo = append(todo, l)
		}
	}
	a.mu.Unlock()
	for _, l := range todo {
		a.pump(l)
	}
}

func (a *Appender) pumpLoop() {
	for {
		select {
		case <-a.kick:
			a.Push()
		case <-a.ctx.Done():
			return
		}
	}
}

// pumpMax is how many records a caller of Push sends before it leaves the rest to
// pumpLoop: others may add to the queue as fast as it is emptied.
const pumpMax = windowRecords

// pump sends records of a lane while there are some and the window allows. Only one
// goroutine does at a time; the others leave their pieces to it.
func (a *Appender) pump(l *lane) {
	a.mu.Lock()
	if l.pumping {
		a.mu.Unlock()
		return
	}
	l.pumping = true
	for n := 0; ; n++ {
		if n == pumpMax {
			signal(a.kick)
			break
		}
		r := a.nextLocked(l)
		if r == nil {
			break
		}
		a.mu.Unlock()
		a.send(r)
		a.mu.Lock()
	}
	l.pumping = false
	timed := len(l.queue) > 0
	a.mu.Unlock()
	if timed {
		signal(a.timed)
	}
}

// nextLocked takes the next record out of the queue; nil when there is none that
// may be sent now.
//
// +checklocks:a.mu
func (a *Appender) nextLocked(l *lane) *record {
	if len(l.queue) == 0 || a.closed || l.bytes >= windowBytes || l.records >= windowRecords ||
		l.records >= gatherRecords && l.queuedBytes < gatherBelow {
		return nil
	}
	if l.chunk == nil && !a.openLocked(l) {
		return nil
	}
	n, length := gather(l.queue)
	c := l.chunk
	space := code.RecordSpace(code.FragmentLen(l.layout, length))
	if int(c.end)+space > dfs.ChunkBytes {
		a.retireLocked(c)
		if !a.openLocked(l) {
			return nil
		}
		c = l.chunk
	}
	r := &record{chunk: c, off: c.end, end: c.end + uint32(space), length: length, pieces: slices.Clone(l.queue[:n])}
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	end := 0
	for i, p := range r.pieces {
		p.state, p.rec, p.start = sent, r, 0
		if i > 0 {
			p.start = place(end, r.pieces[i-1], p)
		}
		end = p.start + len(p.Data)
		l.queuedBytes -= len(p.Data)
	}
	for _, p := range r.pieces {
		p.Buffer.Hold() // until packed or sent
	}
	r.tell()
	if n == 1 {
		r.buffer = r.pieces[0].Buffer
	}
	for _, id := range c.servers {
		if id != 0 {
			r.waiting++
		}
	}
	r.sends.Store(int32(r.waiting))
	c.end = r.end
	r.at = time.Now()
	c.used = r.at
	c.records = append(c.records, r)
	l.records++
	l.bytes += length
	a.stats.Records++
	a.stats.Bytes += uint64(length)
	return r
}

// gather says how many pieces from the head of the queue go in one record, and how
// long its payload is.
func gather(queue []*Piece) (n, length int) {
	length = len(queue[0].Data)
	for n = 1; n < len(queue); n++ {
		p := queue[n]
		start := place(length, queue[n-1], p)
		if length >= bigPiece || len(p.Data) >= bigPiece || start+len(p.Data) > dfs.RecordBytes {
			break
		}
		length = start + len(p.Data)
	}
	return n, length
}

// place says where in a record's payload the piece p begins, when prev ends at end.
// What goes on in the same file follows at once: it becomes one extent. What fills a
// page begins one, so that reading it touches no more pages than it has; what is
// smaller is aligned to 8 bytes and does not straddle two pages.
func place(end int, prev, p *Piece) int {
	if prev.file == p.file && prev.Off+int64(len(prev.Data)) == p.Off {
		return end
	}
	const page = dfs.PageBytes
	start := (end + 7) &^ 7
	if len(p.Data) >= page || start/page != (start+len(p.Data)-1)/page {
		start = (end + page - 1) &^ (page - 1)
	}
	return start
}

// pack is the record's payload.
func (r *record) pack() []byte {
	if r.buffer != nil {
		return r.pieces[0].Data
	}
	r.packed = rpc.Alloc(r.length)
	end := 0
	for _, p := range r.pieces {
		clear(r.packed[end:p.start]) // the buffer holds other people's bytes
		end = p.start + copy(r.packed[p.start:], p.Data)
		p.Buffer.Drop()
	}
	return r.packed
}

// send encodes a record and hands it to the servers of its chunk.
func (a *Appender) send(r *record) {
	c := r.chunk
	fragments, err := code.Encode(c.id.Layout(), r.pack())
	if err != nil {
		// It cannot be: Submit takes known layouts only. The bytes are kept.
		r.sends.Store(1)
		r.sentOne()
		a.mu.Lock()
		a.breakLocked(c)
		c.lane.retryAt, c.lane.trouble = time.Now().Add(fullPause), err.Error()
		a.mu.Unlock()
		return
	}
	for i, id := range c.servers {
		if id == 0 {
			continue
		}
		a.link(id, c.addrs[i]).send(&outgoing{rec: r, position: i, fragment: fragments[i]})
	}
}
