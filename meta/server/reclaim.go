package server

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/meta"
	"dfs/proto/metapb"
)

// Times and bounds of giving dead bytes back.
const (
	defaultReclaimEvery = 10 * time.Minute
	reclaimChunks       = 4096    // in one round, those with most dead bytes first
	reclaimPart         = 4       // a chunk is worth it when this part of it is dead
	reclaimMin          = 1 << 20 // bytes, and at least so many
	reclaimAgain        = 8       // once more when another such part has died
	reclaimAsked        = 16      // chunks that a server is given at once
)

// reclaims is the sealed chunks of which many records are not part of any file any more.
// Their servers make holes there, one after the other: if a crash tears the block that says how
// far a hole goes, there are other copies. A record that nothing refers to stays so: extents of
// sealed chunks come from extents only.
type reclaims struct {
	mu     sync.Mutex
	orders map[dfs.ChunkID]*reclaim // +checklocks:mu
	done   map[dfs.ChunkID]uint64   // +checklocks:mu — live bytes when its dead ones were given back last
}

// reclaim is the order to make holes in a chunk.
type reclaim struct {
	end      uint32
	live     []uint32 // where runs of live records begin and end, by turns
	position int      // whose turn it is
}

// reclaimDead looks for dead bytes now and then.
func (l *leadership) reclaimDead() {
	for pause(l.ctx, l.s.cfg.ReclaimEvery) {
		l.log("cannot find dead bytes", l.findDead())
	}
}

// dying is a chunk that it may be worth to make holes in.
type dying struct {
	chunk meta.Chunk
	dead  int64
	live  map[uint32]uint32 // payload of each live record by its offset
}

func (l *leadership) findDead() error {
	r := &l.reclaims
	found := map[dfs.ChunkID]*dying{}
	if err := l.ledger.update(l.ctx); err != nil || len(l.ledger.dead()) == 0 {
		return err
	}
	err := l.s.node.Frozen(func(v meta.View) error {
		list, err := l.dyingChunks(v)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, d := range list {
			found[d.chunk.ID] = d
		}
		return v.EachExtent(func(e dfs.Extent) error {
			if d := found[e.Chunk]; d != nil {
				d.live[e.Record] = e.RecordLen
			}
			return l.ctx.Err()
		})
	})
	if err != nil || len(found) == 0 {
		return err
	}
	// Somebody may be about to read by extents of before; what takes longer begins anew.
	if !pause(l.ctx, l.s.cfg.DropWait) {
		return l.ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.orders == nil {
		r.orders = map[dfs.ChunkID]*reclaim{}
	}
	for id, d := range found {
		r.orders[id] = &reclaim{end: d.chunk.Committed, live: d.spans()}
		r.done[id] = d.chunk.Live
	}
	l.s.logger.Info("dead bytes are given back", "chunks", len(found))
	return nil
}

// dyingChunks lists the chunks that it is worth to make holes in.
func (l *leadership) dyingChunks(v meta.View) ([]*dying, error) {
	r := &l.reclaims
	var list []*dying
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.done
	r.done = map[dfs.ChunkID]uint64{} // of what is not on the list any more it is forgotten
	for _, id := range l.ledger.dead() {
		c, ok, err := v.Chunk(id)
		if err != nil {
			return nil, err
		}
		k := keptOf(&c)
		had, again := last[id]
		if again {
			r.done[id] = had
		}
		switch {
		case !ok || !k.worthReclaim(id) || r.orders[id] != nil:
		case again && c.Live+uint64(c.Committed)*uint64(id.Layout().Data())/reclaimAgain > had:
		default:
			list = append(list, &dying{chunk: c, dead: k.dead(id), live: map[uint32]uint32{}})
		}
	}
	slices.SortFunc(list, func(a, b *dying) int { return cmp.Compare(b.dead, a.dead) })
	return list[:min(len(list), reclaimChunks)], nil
}

// spans are the runs of live records in a fragment's file.
func (d *dying) spans() []uint32 {
	var out []uint32
	layout := d.chunk.ID.Layout()
	offsets := make([]uint32, 0, len(d.live))
	for off := range d.live {
		offsets = append(offsets, off)
	}
	slices.Sort(offsets)
	for _, off := range offsets {
		end := off + uint32(dfs.RecordSpace(layout.FragmentLen(int(d.live[off]))))
		if n := len(out); n > 0 && out[n-1] == off {
			out[n-1] = end
			continue
		}
		out = append(out, off, end)
	}
	return out
}

// next lists what a server is to make holes in now. Where it is the turn of one that is
// not there, it is the next one's.
func (r *reclaims) next(m *dfs.ClusterMap, server dfs.NodeID) []*metapb.RepairsReply_Reclaim {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*metapb.RepairsReply_Reclaim
	for id, o := range r.orders {
		home := m.Home[id.PG(m.Buckets)]
		for o.position < len(home) && !serves(m, home[o.position]) {
			o.position++
		}
		switch {
		case o.position >= len(home):
			delete(r.orders, id)
		case home[o.position] == server:
			out = append(out, &metapb.RepairsReply_Reclaim{
				Fragment: &metapb.Fragment{Chunk: uint64(id), Fragment: uint32(o.position), End: o.end}, Live: o.live,
			})
		}
		if len(out) == reclaimAsked {
			break
		}
	}
	return out
}

// made takes over that a server has made its holes, or could not.
func (r *reclaims) made(m *dfs.ClusterMap, server dfs.NodeID, chunks []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range chunks {
		id := dfs.ChunkID(n)
		home := m.Home[id.PG(m.Buckets)]
		if o := r.orders[id]; o != nil && o.position < len(home) && home[o.position] == server {
			o.position++
		}
	}
}

// none reports whether there is nothing to do.
func (r *reclaims) none() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.orders) == 0
}
