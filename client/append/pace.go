package append

import (
	"fmt"
	"slices"
	"time"

	"dfs"
)

// A record that enough servers have on disk (dfs.Layout.MinWrite) does not wait long for
// the others: they are slow, and are left out of new chunks for a while. Their fragments
// are made good by repair, as those of servers that were down.

// Bounds of how servers are judged by their answers.
const (
	moveAfter  = time.Second            // so much longer than enough others an append may take
	lateMin    = 200 * time.Millisecond // an answer that takes less is never late
	lateFactor = 10                     // nor is one that takes less than so many times what enough others took
	lateSpan   = time.Second            // late answers and no other for so long: the server is slow
	lateLeast  = 3                      // and so many

	asideMin = 10 * time.Second // a slow server is left out for so long, and twice as long the next time
	asideMax = 5 * time.Minute
)

// pace is how a server answers, compared with others that got the same records.
type pace struct {
	late  int       // late answers since the last one in time
	since time.Time // the first of them was sent
	aside time.Time // left out of new chunks until then
	times int       // that it was, without an answer in time since
}

// +checklocks:a.mu
func (a *Appender) asideLocked(id dfs.NodeID, now time.Time) bool {
	p := a.paces[id]
	return p != nil && now.Before(p.aside)
}

// slowLocked leaves a server out of new chunks.
//
// +checklocks:a.mu
func (a *Appender) slowLocked(id dfs.NodeID, now time.Time, reason string) {
	p := a.paces[id]
	if p == nil {
		p = &pace{}
		a.paces[id] = p
	}
	p.late = 0
	if now.Before(p.aside) {
		return // it was sent before
	}
	d := min(asideMin<<min(p.times, 10), asideMax)
	p.aside = now.Add(d)
	p.times++
	a.stats.ServerSlow++
	a.cfg.Logger.Warn("chunk server is slow and left out of new chunks", "server", id.String(), "for", d, "reason", reason)
	for _, l := range a.lanes {
		if c := l.chunk; c != nil && slices.Contains(c.servers, id) {
			a.retireLocked(c)
		}
	}
}

// judgeLocked compares how long a server took for a record with how long others did.
//
// +checklocks:a.mu
func (a *Appender) judgeLocked(r *record, server dfs.NodeID, now time.Time) {
	took := now.Sub(r.at)
	if r.enough == 0 {
		if count(r.chunk.servers)-r.waiting >= r.chunk.lane.layout.MinWrite() {
			r.enough = max(took, 1)
		}
		delete(a.paces, server)
		return
	}
	if took < max(lateFactor*r.enough, lateMin) {
		delete(a.paces, server)
		return
	}
	p := a.paces[server]
	if p == nil {
		p = &pace{}
		a.paces[server] = p
	}
	if p.late == 0 {
		p.since = r.at
	}
	if p.late++; p.late >= lateLeast && now.Sub(p.since) >= lateSpan {
		a.slowLocked(server, now, fmt.Sprintf("%v for an append that others did in %v", took.Round(time.Millisecond), r.enough.Round(time.Microsecond)))
	}
}

// moveLocked gives up the chunk when its oldest record waits only for servers that take
// much longer than others.
//
// +checklocks:a.mu
func (a *Appender) moveLocked(c *chunk, now time.Time) {
	for _, r := range c.records {
		more := now.Sub(r.at) - r.enough
		if r.enough == 0 || r.acked || more < max(moveAfter, lateFactor*r.enough) {
			continue
		}
		for i, id := range c.servers {
			if id != 0 && r.got>>i&1 == 0 {
				a.slowLocked(id, now, fmt.Sprintf("no answer after %v to an append that others did in %v", (more+r.enough).Round(time.Millisecond), r.enough.Round(time.Microsecond)))
			}
		}
		a.breakLocked(c)
		signal(a.kick)
		return
	}
}
