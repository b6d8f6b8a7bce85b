package server

import (
	"context"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/internal/turn"
	"dfs/meta"
	"dfs/meta/replica"
)

// ledgerPage is how many chunk records are read at once: nothing is applied meanwhile.
const ledgerPage = 4096

// ranksMax is how many ranks of danger there are: a layout has at most 7 parity fragments.
const ranksMax = 8

// ledger is what a leader knows of where chunks are, and of what is missing or dead of
// them. It looks at all records once, when it begins to lead; from then on a look costs what
// the commands since have changed: the records that they wrote, the groups that they gave
// another home, the groups of servers that came or went. It takes some 50 bytes of memory
// for a chunk.
//
// Lock order: look, then mu.
type ledger struct {
	node *replica.Node
	feed *replica.Follower

	look turn.Mutex // one at a time; held over reads

	mu      sync.Mutex
	m       *dfs.ClusterMap                       // +checklocks:mu — that all is by; nil before the first look is done
	groups  map[dfs.PG]map[dfs.ChunkID]kept       // +checklocks:mu
	lacking map[dfs.ChunkID]lack                  // +checklocks:mu — chunks that are not whole
	tasks   map[dfs.NodeID][]map[dfs.ChunkID]bool // +checklocks:mu — fragments to make by server, and by how many the chunk has to spare, see rank
	pins    map[dfs.PG]int                        // +checklocks:mu — chunks of a group of which a server that is away may have all there is
	dying   map[dfs.ChunkID]struct{}              // +checklocks:mu — of which it may be worth to give dead records back
	again   map[dfs.ChunkID]struct{}              // +checklocks:mu — to be read again at the next look
	lacks   uint64                                // +checklocks:mu — how often a loss was told of
	state   repairState                           // +checklocks:mu — but for pinned
}

// kept is what is kept of a chunk's record.
type kept struct {
	live      uint64
	present   uint32
	committed uint32
	sealed    bool
}

// there is which positions have their fragment on a server that can be read.
func (k *kept) there(m *dfs.ClusterMap, home []dfs.NodeID) (there uint32) {
	for i, id := range home {
		if k.present>>i&1 == 1 && serves(m, id) {
			there |= 1 << i
		}
	}
	return there
}

// worthReclaim reports whether much of a chunk is dead, but not all.
func (k *kept) worthReclaim(id dfs.ChunkID) bool {
	return k.sealed && k.live > 0 && k.dead(id) >= max(reclaimMin, int64(k.committed)/reclaimPart)
}

// dead is how much of each fragment of a chunk is part of no file, with what its headers take.
func (k *kept) dead(id dfs.ChunkID) int64 {
	return int64(k.committed) - dfs.FirstRecord - int64(k.live)/int64(id.Layout().Data())
}

// keptOf is what is kept of a record.
func keptOf(c *meta.Chunk) kept {
	return kept{live: c.Live, present: c.Present, committed: c.Committed, sealed: c.Sealed}
}

// lack is what a chunk lacks by the map.
type lack struct {
	counts  bool   // it is part of some file
	pins    bool   // what a server that is away has of it may be all there is
	spare   int8   // fragments more than it takes to read it; negative: it cannot be read
	waiting uint8  // fragments whose server is down, or that have none
	tasks   uint32 // positions to be made now
	home    []dfs.NodeID
	bytes   uint32 // of a fragment
}

// repairState is what is missing of all chunks.
type repairState struct {
	epoch    dfs.Epoch // of the map that it is by; 0: it is not known to be so any more
	chunks   uint64    // that lack something
	critical uint64    // of them: that the next loss makes unreadable
	lost     uint64    // of them: that cannot be read now
	waiting  uint64    // fragments whose server is down, or that have none
	bytes    uint64    // to be made now
	dead     uint64    // chunks of which nothing is part of a file
	deadRaw  uint64    // bytes that they take on all servers
	dyingRaw uint64    // dead bytes of the others of which a good part is dead
	pinned   map[dfs.PG]bool
}

// newLedger begins to follow what is applied. It ends with close.
func newLedger(n *replica.Node) *ledger {
	g := &ledger{node: n, feed: n.Follow()}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clearLocked()
	return g
}

func (g *ledger) close() { g.feed.Close() }

// +checklocks:g.mu
func (g *ledger) clearLocked() {
	g.m, g.state = nil, repairState{}
	g.groups, g.lacking = map[dfs.PG]map[dfs.ChunkID]kept{}, map[dfs.ChunkID]lack{}
	g.tasks, g.pins = map[dfs.NodeID][]map[dfs.ChunkID]bool{}, map[dfs.PG]int{}
	g.dying, g.again = map[dfs.ChunkID]struct{}{}, map[dfs.ChunkID]struct{}{}
}

// update brings it to what is applied now.
func (g *ledger) update(ctx context.Context) error {
	g.look.Lock()
	defer g.look.Unlock()
	// The map first: changes that it does not have yet do no harm, those that only it has would.
	var m *dfs.ClusterMap
	err := g.node.LocalRead(func(v meta.View) (err error) {
		is, err := v.Bootstrapped()
		if err == nil && is {
			m, err = v.Map()
		}
		return err
	})
	changes, all := g.feed.Take()
	g.mu.Lock()
	lacks := g.lacks
	begun := g.m != nil && !all
	if begun {
		for id := range g.again {
			changes.Chunks = append(changes.Chunks, id)
		}
		clear(g.again)
	} else {
		g.clearLocked()
	}
	g.mu.Unlock()
	if err == nil && m != nil {
		if begun {
			err = g.follow(ctx, m, changes)
		} else {
			err = g.readAll(ctx, m)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil || m == nil {
		g.m, g.state.epoch = nil, 0 // what was taken from the feed is lost: begin anew
		return err
	}
	g.m, g.state.epoch = m, m.Epoch
	if g.lacks != lacks {
		g.state.epoch = 0 // something was lost meanwhile
	}
	return nil
}

// readAll looks at all records.
func (g *ledger) readAll(ctx context.Context, m *dfs.ClusterMap) error {
	for after := dfs.ChunkID(0); ; {
		var page []meta.Chunk
		err := g.node.LocalRead(func(v meta.View) (err error) {
			page, err = v.Chunks(after, ledgerPage)
			return err
		})
		if err != nil {
			return err
		}
		g.mu.Lock()
		for i := range page {
			g.putLocked(m, &page[i])
		}
		g.mu.Unlock()
		if len(page) < ledgerPage {
			return ctx.Err()
		}
		after = page[len(page)-1].ID
		if !pause(ctx, time.Millisecond) {
			return ctx.Err()
		}
	}
}

// follow takes over what has changed.
func (g *ledger) follow(ctx context.Context, m *dfs.ClusterMap, changes meta.Changes) error {
	g.mu.Lock()
	old := g.m
	// Records of groups with another home are read again: which fragments are there
	// depends on when each position was given away.
	for _, pg := range changes.Groups {
		for id := range g.groups[pg] {
			changes.Chunks = append(changes.Chunks, id)
		}
	}
	for pg := range altered(old, m) {
		for id, k := range g.groups[pg] {
			g.judgeLocked(m, pg, id, k)
		}
	}
	g.mu.Unlock()
	for list := changes.Chunks; len(list) > 0; list = list[min(len(list), ledgerPage):] {
		part := list[:min(len(list), ledgerPage)]
		rows := make([]meta.Chunk, 0, len(part))
		var gone []dfs.ChunkID
		err := g.node.LocalRead(func(v meta.View) error {
			for _, id := range part {
				c, ok, err := v.Chunk(id)
				switch {
				case err != nil:
					return err
				case ok:
					rows = append(rows, c)
				default:
					gone = append(gone, id)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		g.mu.Lock()
		for i := range rows {
			g.putLocked(m, &rows[i])
		}
		for _, id := range gone {
			g.dropLocked(m, id)
		}
		g.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// altered are the groups that have another home, or a server that came or went, between two
// maps.
func altered(old, now *dfs.ClusterMap) map[dfs.PG]bool {
	out := map[dfs.PG]bool{}
	if old.Epoch == now.Epoch {
		return out
	}
	for pg, home := range now.Home {
		was := old.Home[pg]
		out[pg] = !slices.Equal(home, was) || slices.ContainsFunc(home, func(id dfs.NodeID) bool { return serves(old, id) != serves(now, id) })
	}
	maps.DeleteFunc(out, func(_ dfs.PG, yes bool) bool { return !yes })
	return out
}

// +checklocks:g.mu
func (g *ledger) putLocked(m *dfs.ClusterMap, c *meta.Chunk) {
	pg := c.ID.PG(m.Buckets)
	if g.groups[pg] == nil {
		g.groups[pg] = map[dfs.ChunkID]kept{}
	}
	k := keptOf(c)
	g.freeLocked(c.ID, g.groups[pg][c.ID], -1)
	g.freeLocked(c.ID, k, 1)
	g.groups[pg][c.ID] = k
	if k.worthReclaim(c.ID) {
		g.dying[c.ID] = struct{}{}
	} else {
		delete(g.dying, c.ID)
	}
	g.judgeLocked(m, pg, c.ID, k)
}

// +checklocks:g.mu
func (g *ledger) dropLocked(m *dfs.ClusterMap, id dfs.ChunkID) {
	pg := id.PG(m.Buckets)
	g.freeLocked(id, g.groups[pg][id], -1)
	delete(g.groups[pg], id)
	delete(g.dying, id)
	g.setLackLocked(pg, id, lack{})
}

// freeLocked adds a chunk to what is about to be freed, or takes it away again.
//
// +checklocks:g.mu
func (g *ledger) freeLocked(id dfs.ChunkID, k kept, n int) {
	width := id.Layout().Width()
	switch {
	case k.sealed && k.live == 0:
		g.state.dead += uint64(n)
		g.state.deadRaw += uint64(n * width * int(k.committed))
	case k.worthReclaim(id):
		g.state.dyingRaw += uint64(n * width * int(k.dead(id)))
	}
}

// judgeLocked works out what a chunk lacks.
//
// +checklocks:g.mu
func (g *ledger) judgeLocked(m *dfs.ClusterMap, pg dfs.PG, id dfs.ChunkID, k kept) {
	home := m.Home[pg]
	there := k.there(m, home)
	layout := id.Layout()
	have := bits.OnesCount32(there)
	l := lack{home: home, bytes: k.committed}
	switch {
	case have == layout.Width():
	case k.committed == 0 || k.live == 0:
		// Nothing of it is part of a file, but something may have been synced and not told.
		l.pins = !k.sealed && have < layout.Data()
	default:
		l.counts, l.spare = true, int8(have-layout.Data())
		// What a server that is away has of it may be all that there is.
		l.pins = l.spare < 0
		for i, server := range home {
			switch {
			case there>>i&1 == 1:
			case server == 0 || !serves(m, server):
				l.waiting++
			case k.sealed:
				l.tasks |= 1 << i
			}
		}
	}
	g.setLackLocked(pg, id, l)
}

// rank is where a chunk stands among what a server is to make: unreadable ones, which are tried
// too, count as those that the next loss makes unreadable.
func (l *lack) rank() int { return int(max(l.spare, 0)) }

// setLackLocked replaces what is known of what a chunk lacks.
//
// +checklocks:g.mu
func (g *ledger) setLackLocked(pg dfs.PG, id dfs.ChunkID, now lack) {
	if was, ok := g.lacking[id]; ok {
		g.countLocked(pg, &was, -1)
		g.eachTaskLocked(id, &was, func(tasks map[dfs.ChunkID]bool) { delete(tasks, id) })
		delete(g.lacking, id)
	}
	if !now.counts && !now.pins {
		return
	}
	g.lacking[id] = now
	g.countLocked(pg, &now, 1)
	g.eachTaskLocked(id, &now, func(tasks map[dfs.ChunkID]bool) { tasks[id] = true })
}

// countLocked adds a chunk to the figures, or takes it away again.
//
// +checklocks:g.mu
func (g *ledger) countLocked(pg dfs.PG, l *lack, n int) {
	if l.pins {
		if g.pins[pg] += n; g.pins[pg] == 0 {
			delete(g.pins, pg)
		}
	}
	if !l.counts {
		return
	}
	st := &g.state
	st.chunks += uint64(n)
	switch {
	case l.spare < 0:
		st.lost += uint64(n)
	case l.spare == 0:
		st.critical += uint64(n)
	}
	st.waiting += uint64(n * int(l.waiting))
	st.bytes += uint64(n * bits.OnesCount32(l.tasks) * int(l.bytes))
}

// eachTaskLocked calls fn with the list of each server that is to make a fragment of a chunk.
//
// +checklocks:g.mu
func (g *ledger) eachTaskLocked(id dfs.ChunkID, l *lack, fn func(tasks map[dfs.ChunkID]bool)) {
	for i, server := range l.home {
		if l.tasks>>i&1 == 0 {
			continue
		}
		lists := g.tasks[server]
		if lists == nil {
			lists = make([]map[dfs.ChunkID]bool, ranksMax)
			g.tasks[server] = lists
		}
		if lists[l.rank()] == nil {
			lists[l.rank()] = map[dfs.ChunkID]bool{}
		}
		fn(lists[l.rank()])
	}
}

// next is what a server should make, the most endangered first.
func (g *ledger) next(server dfs.NodeID) (list []dfs.ChunkID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, tasks := range g.tasks[server] {
		for id := range tasks {
			if len(list) == repairsAsked {
				return list
			}
			list = append(list, id)
		}
	}
	return list
}

// made takes fragments off the list, and answers their bytes. The next look reads what became of them.
func (g *ledger) made(server dfs.NodeID, chunks []uint64) (bytes uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		return 0
	}
	for _, n := range chunks {
		id := dfs.ChunkID(n)
		l, ok := g.lacking[id]
		i := slices.Index(l.home, server)
		if !ok || i < 0 || l.tasks>>i&1 == 0 {
			continue
		}
		now := l
		now.tasks &^= 1 << i
		g.setLackLocked(id.PG(g.m.Buckets), id, now)
		g.again[id] = struct{}{}
		bytes += uint64(l.bytes)
	}
	return bytes
}

// lost says that it is not as it was at the last look.
func (g *ledger) lost() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lacks++
	g.state.epoch = 0
}

// result is what is missing as of the last look.
func (g *ledger) result() repairState {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.state
	st.pinned = make(map[dfs.PG]bool, len(g.pins))
	for pg := range g.pins {
		st.pinned[pg] = true
	}
	return st
}

// eachOf calls fn for the chunks of a placement group, with the fragments that can be read.
func (g *ledger) eachOf(pg dfs.PG, fn func(id dfs.ChunkID, k kept, there uint32)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		return
	}
	for id, k := range g.groups[pg] {
		fn(id, k, k.there(g.m, g.m.Home[pg]))
	}
}

// dead lists the chunks of which it may be worth to give dead records back.
func (g *ledger) dead() []dfs.ChunkID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.dying))
}
