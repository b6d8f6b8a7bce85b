package append

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/chunk/code"
	"dfs/proto/chunkpb"
)

// chunk is a chunk that this session writes, or has written and not yet sealed at
// the masters. Fields behind the blank line are guarded by Appender.mu.
type chunk struct {
	id      dfs.ChunkID
	session dfs.SessionID
	epoch   dfs.Epoch // of the map that named the servers
	lane    *lane
	servers []dfs.NodeID // by position; 0: nobody
	addrs   []string

	end         uint32    // where the next record begins
	acked       uint32    // every server has all up to here
	committed   uint32    // the masters know that; 0: they do not know the chunk
	records     []*record // behind acked, in order
	uncommitted int       // pieces that are on disk and not committed, with those that are owed
	used        time.Time // last written to
	over        bool      // not to be written to any more
	sealing     bool      // in a Batch only to be sealed
	overSince   time.Time
}

// suspect is a server that failed us.
type suspect struct {
	reporting bool      // the masters are being asked about it
	until     time.Time // not used before
	failures  int       // since it last answered an append
}

// Bounds on how long a server that fails, but is up for the masters, is left alone.
const (
	coolMin = 20 * time.Millisecond
	coolMax = 5 * time.Second
)

// unfit says why a placement group cannot take a new chunk now.
type unfit uint8

const (
	fits      unfit = iota
	slow            // one of its servers is left out as long as others do
	unknown         // it has no servers yet
	few             // too few servers are up
	suspected       // one of its servers does not answer
	noRoom          // one of its servers is full
)

// fitLocked judges an acting set.
//
// +checklocks:a.mu
func (a *Appender) fitLocked(layout dfs.Layout, acting []dfs.NodeID, now time.Time) unfit {
	if len(acting) != layout.Width() {
		return unknown
	}
	up, verdict := 0, fits
	for _, id := range acting {
		if id == 0 {
			continue
		}
		up++
		if s := a.suspects[id]; s != nil && (s.reporting || now.Before(s.until)) {
			verdict = max(verdict, suspected)
		}
		if now.Before(a.full[id]) {
			verdict = max(verdict, noRoom)
		}
		if a.asideLocked(id, now) {
			verdict = max(verdict, slow)
		}
	}
	if up < layout.MinWrite() {
		return few
	}
	return verdict
}

// openLocked takes a number for the lane's next chunk whose servers can take it. It
// answers false when there is none now; the lane is pumped again when that changes.
//
// +checklocks:a.mu
func (a *Appender) openLocked(l *lane) bool {
	now := time.Now()
	if now.Before(l.retryAt) || now.Before(l.fullUntil) {
		return false
	}
	if a.cluster == nil || a.session == 0 {
		l.trouble = "no cluster map or session yet"
		return false
	}
	if len(a.ids) < idsLow {
		a.grantLocked()
	}
	best, servers := a.chooseLocked(l.layout, now)
	if best < 0 {
		a.stuckLocked(l, now)
		return false
	}
	seq := a.ids[best]
	a.ids = slices.Delete(a.ids, best, best+1)
	id := dfs.MakeChunkID(l.layout, seq)
	c := &chunk{
		id: id, session: a.session, epoch: a.cluster.Epoch, lane: l,
		servers: servers, end: code.FirstRecord, acked: code.FirstRecord, used: now,
	}
	for _, sid := range c.servers {
		addr := ""
		if s := a.cluster.Server(sid); s != nil {
			addr = s.Addr
		}
		c.addrs = append(c.addrs, addr)
	}
	l.chunk, l.trouble = c, ""
	return true
}

// chooseLocked takes a number for a new chunk. When no group of the layout fits, servers that are
// full or slow are left out as long as enough others can take the chunk, which lacks something
// until it is made good; then slow ones are used. The answer is the number's index, -1 when there
// is none now, and who is to have the chunk.
//
// +checklocks:a.mu
func (a *Appender) chooseLocked(layout dfs.Layout, now time.Time) (index int, servers []dfs.NodeID) {
	if index, servers = a.bestLocked(layout, now, fits); index >= 0 {
		return index, servers
	}
	for pg, acting := range a.cluster.Acting {
		if pg.Layout() == layout && a.fitLocked(layout, acting, now) == fits {
			return -1, nil // it is worth to ask for its numbers
		}
	}
	if index, servers = a.withoutLocked(layout, now, func(id dfs.NodeID) bool {
		return now.Before(a.full[id]) || a.asideLocked(id, now)
	}); index >= 0 {
		return index, servers
	}
	if index, servers = a.bestLocked(layout, now, slow); index >= 0 {
		return index, servers
	}
	return a.withoutLocked(layout, now, func(id dfs.NodeID) bool { return now.Before(a.full[id]) })
}

// bestLocked takes, of the numbers whose groups are no worse than that, one with the most servers.
//
// +checklocks:a.mu
func (a *Appender) bestLocked(layout dfs.Layout, now time.Time, worst unfit) (index int, servers []dfs.NodeID) {
	index = -1
	most := 0
	for i, seq := range a.ids {
		acting := a.cluster.ActingOf(dfs.MakeChunkID(layout, seq))
		if a.fitLocked(layout, acting, now) > worst {
			continue
		}
		if up := count(acting); up > most {
			index, servers, most = i, acting, up
		}
		if most == layout.Width() {
			break
		}
	}
	return index, slices.Clone(servers)
}

// withoutLocked takes a number whose servers could take a chunk but for those that are left out.
//
// +checklocks:a.mu
func (a *Appender) withoutLocked(layout dfs.Layout, now time.Time, out func(dfs.NodeID) bool) (index int, servers []dfs.NodeID) {
	for i, seq := range a.ids {
		servers := slices.Clone(a.cluster.ActingOf(dfs.MakeChunkID(layout, seq)))
		for k, id := range servers {
			if out(id) {
				servers[k] = 0
			}
		}
		if a.fitLocked(layout, servers, now) > slow {
			continue
		}
		for id, until := range a.full {
			if now.Before(until) {
				a.full[id] = now.Add(fullAside) // to be asked again and again would cost a chunk each time
			}
		}
		return i, servers
	}
	return -1, nil
}

func count(acting []dfs.NodeID) int {
	n := 0
	for _, id := range acting {
		if id != 0 {
			n++
		}
	}
	return n
}

// stuckLocked finds out why no number fits: are other numbers worth asking for, is
// there no room anywhere, or have servers to come back?
//
// +checklocks:a.mu
func (a *Appender) stuckLocked(l *lane, now time.Time) {
	groups := 0
	var seen [noRoom + 1]int
	for pg, acting := range a.cluster.Acting {
		if pg.Layout() == l.layout {
			groups++
			seen[a.fitLocked(l.layout, acting, now)]++
		}
	}
	switch {
	case seen[fits]+seen[slow] > 0 || len(a.ids) == 0:
		if len(a.ids) > 0 {
			// These are of groups that do not fit; others will be.
			a.ids = a.ids[max(0, len(a.ids)-idsMax):]
		}
		a.grantLocked()
		l.trouble = "waiting for chunk numbers"
	case groups == 0:
		l.trouble = fmt.Sprintf("no servers were chosen yet for %s", l.layout)
	case seen[suspected] > 0:
		l.trouble = "a chunk server does not answer"
	case seen[noRoom] > 0:
		a.fullLocked(l, now)
	default:
		l.trouble = fmt.Sprintf("too few chunk servers are up: %s needs %d", l.layout, l.layout.MinWrite())
	}
}

// fullLocked lets all who wait for the lane's pieces know that there is no room.
//
// +checklocks:a.mu
func (a *Appender) fullLocked(l *lane, now time.Time) {
	l.fullUntil = now.Add(fullPause)
	l.trouble = "no space left on the chunk servers"
	for _, p := range l.queue {
		p.file.wakeLocked()
	}
}

// grantLocked asks for chunk numbers, unless that is under way.
//
// +checklocks:a.mu
func (a *Appender) grantLocked() {
	if a.granting || a.closed {
		return
	}
	a.granting = true
	a.wg.Go(func() {
		session, from, to, err := a.cfg.Masters.ChunkIDs(a.ctx)
		a.mu.Lock()
		a.granting = false
		if err == nil && session == a.session {
			for seq := from; seq < to; seq++ {
				a.ids = append(a.ids, seq)
			}
		}
		a.mu.Unlock()
		if err != nil && a.ctx.Err() == nil {
			a.cfg.Logger.Warn("cannot get chunk numbers", "err", err)
			signal(a.timed) // try again, but not at once
			return
		}
		signal(a.kick)
	})
}

// retireLocked ends writing to a chunk that is well.
//
// +checklocks:a.mu
func (a *Appender) retireLocked(c *chunk) {
	if c.over {
		return
	}
	c.over, c.overSince = true, time.Now()
	if c.lane.chunk == c {
		c.lane.chunk = nil
	}
	if c.session == a.session { // else it was sealed with its session
		a.closing = append(a.closing, c)
		signal(a.timed)
	}
}

// breakLocked gives a chunk up at the last record that all servers have: the others
// are written again elsewhere.
//
// +checklocks:a.mu
func (a *Appender) breakLocked(c *chunk) {
	a.retireLocked(c)
	var again []*Piece
	for _, r := range c.records {
		r.dead = true
		c.lane.records--
		c.lane.bytes -= r.length
		again = append(again, r.pieces...)
	}
	c.records = nil
	a.requeueLocked(again)
}

// refitLocked compares an open chunk with a new map.
//
// +checklocks:a.mu
func (a *Appender) refitLocked(c *chunk) {
	acting := a.cluster.ActingOf(c.id)
	for i, id := range c.servers {
		switch {
		case i >= len(acting) || id != 0 && acting[i] != id:
			a.breakLocked(c) // the masters would not count that server
			return
		case id == 0 && acting[i] != 0:
			a.retireLocked(c) // new chunks can have all their fragments again
			return
		}
	}
}

// failedLocked gives up the chunk of a failed append. When it goes on like that,
// there is a pause before the next try.
//
// +checklocks:a.mu
func (a *Appender) failedLocked(c *chunk) {
	if c.over && len(c.records) == 0 {
		return
	}
	a.breakLocked(c)
	l := c.lane
	l.failures++
	if l.failures > 1 {
		l.retryAt = time.Now().Add(cool(l.failures - 1))
		signal(a.timed)
	}
}

func cool(failures int) time.Duration { return min(coolMin<<min(failures, 10), coolMax) }

// reportLocked asks the masters about a server that does not answer. It is left
// alone until they have decided.
//
// +checklocks:a.mu
func (a *Appender) reportLocked(id dfs.NodeID, reason string) {
	s := a.suspects[id]
	if s == nil {
		s = &suspect{}
		a.suspects[id] = s
	}
	if s.reporting || a.closed {
		return
	}
	s.reporting = true
	s.failures++
	a.wg.Go(func() { a.report(id, reason) })
}

func (a *Appender) report(id dfs.NodeID, reason string) {
	a.cfg.Logger.Warn("chunk server does not answer", "server", id.String(), "reason", reason)
	up, epoch, err := a.cfg.Masters.Report(a.ctx, id, reason)
	if err == nil && !up {
		a.awaitMap(epoch)
	}
	a.mu.Lock()
	s := a.suspects[id]
	if s != nil {
		s.reporting = false
		if up || err != nil {
			s.until = time.Now().Add(cool(s.failures))
		}
	}
	a.mu.Unlock()
	signal(a.kick)
	signal(a.timed)
}

// awaitMap waits until the map of that epoch is here; it is on its way.
func (a *Appender) awaitMap(epoch dfs.Epoch) {
	ctx, cancel := context.WithTimeout(a.ctx, time.Second)
	defer cancel()
	for {
		a.mu.Lock()
		m, wait := a.cluster, a.mapWait
		a.mu.Unlock()
		if m != nil && m.Epoch >= epoch {
			return
		}
		select {
		case <-wait:
		case <-ctx.Done():
			if err := a.cfg.Masters.Refresh(a.ctx); err != nil {
				a.cfg.Logger.Warn("cannot get the cluster map", "err", err)
			}
			return
		}
	}
}

// tellSealed tells a chunk's servers that it will not grow, so that they can give
// back what they had reserved for it. It is a hint: who misses it learns of it from
// the masters.
func (a *Appender) tellSealed(c *chunk) {
	ctx, cancel := context.WithTimeout(a.ctx, sealTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i, id := range c.servers {
		if id == 0 {
			continue
		}
		conn, err := a.cfg.Pool.Conn(c.addrs[i])
		if err != nil {
			continue
		}
		wg.Go(func() {
			req := &chunkpb.SealRequest{Chunk: uint64(c.id), Cluster: uint64(a.cfg.Pool.Cluster())}
			if _, err := chunkpb.NewChunkClient(conn).Seal(ctx, req); err != nil {
				a.cfg.Logger.Debug("seal not told", "chunk", c.id.String(), "server", id.String(), "err", err)
			}
		})
	}
	wg.Wait()
}
