package server

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"

	"dfs"
	"dfs/meta"
	"dfs/placement"
	"dfs/proto/metapb"
)

// Times and bounds of moves.
const (
	rebalanceEvery = 2 * time.Second
	movesMax       = 8 // placement groups that move at once
)

// move is a position of a placement group that is to go to another server. First that one
// makes the fragments of all sealed chunks, then the home is changed, then the old server
// deletes what it has. So nothing is lost whoever dies at whichever step; a new leader, or one that finds
// the map changed, begins anew.
type move struct {
	pg       dfs.PG
	home     []dfs.NodeID // while it moves
	position int
	from, to dfs.NodeID
	todo     []dfs.ChunkID        // as of the last look
	done     map[dfs.ChunkID]bool // made by the server, not yet counted by the masters
}

// rebalance moves placement groups to where the ring wants them.
func (l *leadership) rebalance() {
	quiet := dfs.Epoch(0) // of the last map in which all was in place
	for pause(l.ctx, rebalanceEvery) {
		l.log("cannot rebalance", l.rebalanceOnce(&quiet))
	}
}

func (l *leadership) rebalanceOnce(quiet *dfs.Epoch) error {
	var m *dfs.ClusterMap
	filled := map[dfs.PG]bool{}
	late := l.absent()
	same := false
	err := l.s.node.Read(l.ctx, func(v meta.View) error {
		epoch, err := v.Epoch()
		if same = err == nil && epoch == *quiet && len(late) == 0; same || err != nil {
			return err
		}
		if m, err = v.Map(); err != nil {
			return err
		}
		for pg := range m.Home {
			n, err := v.GroupChunks(pg)
			if err != nil {
				return err
			}
			filled[pg] = n > 0
		}
		return nil
	})
	if err != nil || same {
		return err
	}
	st := l.ledger.result()
	repairing := st.epoch != m.Epoch || st.bytes > 0
	r := &l.repairs
	r.mu.Lock()
	active := l.keepMovesLocked(m)
	r.mu.Unlock()
	if !repairing && active < movesMax {
		fresh := wantedMoves(m, filled, late)
		if len(fresh) == 0 && active == 0 {
			*quiet = m.Epoch
			return nil
		}
		r.mu.Lock()
		for _, mv := range fresh {
			if len(r.moves) < movesMax && r.moves[mv.pg] == nil {
				r.moves[mv.pg] = mv
				l.s.logger.Info("a placement group moves", "group", mv.pg, "from", mv.from, "to", mv.to)
			}
		}
		active = len(r.moves)
		r.mu.Unlock()
	}
	if active == 0 {
		return nil
	}
	return l.advanceMoves(m)
}

// keepMovesLocked gives up moves that a new map has overtaken, and answers how many are left.
//
// +checklocks:l.repairs.mu
func (l *leadership) keepMovesLocked(m *dfs.ClusterMap) int {
	r := &l.repairs
	if r.moves == nil {
		r.moves = map[dfs.PG]*move{}
	}
	maps.DeleteFunc(r.moves, func(pg dfs.PG, mv *move) bool {
		to := m.Server(mv.to)
		return !slices.Equal(m.Home[pg], mv.home) || to == nil || to.State != dfs.ServerUp
	})
	return len(r.moves)
}

// absent lists the servers that have been down for so long that others have their places.
func (l *leadership) absent() map[dfs.NodeID]bool {
	r := &l.repairs
	after := l.s.duration("repair-after", l.s.cfg.RepairAfter)
	r.mu.Lock()
	defer r.mu.Unlock()
	late := map[dfs.NodeID]bool{}
	for id, since := range r.away {
		if time.Since(since) >= after {
			late[id] = true
		}
	}
	return late
}

// wantedMoves lists one move of each group that has chunks and is not where the ring wants
// it, those first that leave a server which drains.
func wantedMoves(m *dfs.ClusterMap, filled map[dfs.PG]bool, late map[dfs.NodeID]bool) []*move {
	servers := slices.Clone(m.Servers)
	for i := range servers {
		if late[servers[i].ID] {
			servers[i].State = dfs.ServerDrain // it takes nothing
		}
	}
	var out, draining []*move
	for _, layout := range slices.Sorted(maps.Keys(layoutsOf(m))) {
		for b, target := range placement.Assign(servers, layout, m.Buckets) {
			pg := dfs.MakePG(layout, uint16(b))
			if mv := moveOf(m, pg, target); filled[pg] && mv != nil {
				if m.Server(mv.from).State == dfs.ServerDrain {
					draining = append(draining, mv)
				} else {
					out = append(out, mv)
				}
			}
		}
	}
	return append(draining, out...)
}

// layoutsOf are those that have placement groups.
func layoutsOf(m *dfs.ClusterMap) map[dfs.Layout]bool {
	layouts := map[dfs.Layout]bool{}
	for pg := range m.Home {
		layouts[pg.Layout()] = true
	}
	return layouts
}

// moveOf is a move that brings a group nearer to its target; nil when there is none.
func moveOf(m *dfs.ClusterMap, pg dfs.PG, target []dfs.NodeID) *move {
	home := m.Home[pg]
	to := slices.IndexFunc(target, func(id dfs.NodeID) bool {
		s := m.Server(id)
		return s != nil && s.State == dfs.ServerUp && !slices.Contains(home, id)
	})
	// Of a server that is down repair disposes.
	from := slices.IndexFunc(home, func(id dfs.NodeID) bool { return serves(m, id) && !slices.Contains(target, id) })
	if to < 0 || from < 0 || slices.Contains(target, 0) {
		return nil
	}
	return &move{pg: pg, home: slices.Clone(home), position: from, from: home[from], to: target[to], done: map[dfs.ChunkID]bool{}}
}

// advanceMoves finds out what is still to be made for the moves, and ends those for which all
// is there.
func (l *leadership) advanceMoves(m *dfs.ClusterMap) error {
	if err := l.ledger.update(l.ctx); err != nil {
		return err
	}
	r := &l.repairs
	r.mu.Lock()
	positions := map[dfs.PG]int{}
	for pg, mv := range r.moves {
		positions[pg] = mv.position
	}
	r.mu.Unlock()
	todo, waits := map[dfs.PG][]dfs.ChunkID{}, map[dfs.PG]bool{}
	for pg, position := range positions {
		todo[pg] = nil
		l.ledger.eachOf(pg, func(id dfs.ChunkID, k kept, there uint32) {
			switch {
			case k.sealed && k.committed > 0 && k.live > 0:
				todo[pg] = append(todo[pg], id)
			case !k.sealed:
				// It is restored when it is sealed, if the others are enough for that.
				waits[pg] = waits[pg] || bits.OnesCount32(there&^(1<<position)) < id.Layout().Data()
			}
		})
	}
	var over []*move
	r.mu.Lock()
	for pg, list := range todo {
		mv := r.moves[pg]
		if mv == nil {
			continue
		}
		if mv.todo = slices.DeleteFunc(list, func(id dfs.ChunkID) bool { return mv.done[id] }); len(mv.todo) == 0 && !waits[pg] {
			over = append(over, mv)
		}
	}
	r.mu.Unlock()
	if len(over) == 0 {
		return nil
	}
	return l.endMoves(m.Epoch, over)
}

// endMoves changes the homes, and has what the new servers have made counted.
func (l *leadership) endMoves(epoch dfs.Epoch, over []*move) error {
	op := &meta.PutMap{Epoch: epoch}
	for _, mv := range over {
		home := slices.Clone(mv.home)
		home[mv.position] = mv.to
		op.Acting = append(op.Acting, meta.Home{PG: mv.pg, Servers: home})
	}
	l.mapMu.Lock()
	defer l.mapMu.Unlock()
	reply, err := l.s.propose(l.ctx, op)
	switch {
	case err != nil:
		return err
	case reply.Errno == dfs.EAGAIN:
		return nil // the next round sees the new map
	case reply.Errno != dfs.OK:
		return fmt.Errorf("change the homes of placement groups: %w", reply.Errno)
	}
	l.s.logger.Info("placement groups have moved", "epoch", reply.Epoch, "groups", len(over))
	made := map[dfs.NodeID]*meta.SetPresent{}
	r := &l.repairs
	r.mu.Lock()
	for _, mv := range over {
		delete(r.moves, mv.pg)
		if made[mv.to] == nil {
			made[mv.to] = &meta.SetPresent{Server: mv.to}
		}
		made[mv.to].Have = append(made[mv.to].Have, slices.Sorted(maps.Keys(mv.done))...)
	}
	r.mu.Unlock()
	for _, op := range made {
		for part := range slices.Chunk(op.Have, reportsMax) {
			if _, err := l.s.propose(l.ctx, &meta.SetPresent{Server: op.Server, Have: part}); err != nil {
				return err
			}
		}
	}
	kick(r.kick)
	return nil
}

// moved takes over what a server has made for a move, and answers the other chunks.
func (r *repairs) moved(server dfs.NodeID, buckets uint32, have []uint64) (others []dfs.ChunkID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range have {
		id := dfs.ChunkID(n)
		mv := r.moves[id.PG(buckets)]
		if mv == nil || mv.to != server {
			others = append(others, id)
			continue
		}
		mv.done[id] = true
		mv.todo = slices.DeleteFunc(mv.todo, func(c dfs.ChunkID) bool { return c == id })
	}
	return others
}

// moving lists what a server is to make for moves: chunks with the position that they are
// for.
func (r *repairs) moving(server dfs.NodeID, most int) map[dfs.ChunkID]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[dfs.ChunkID]int{}
	for _, mv := range r.moves {
		if mv.to != server {
			continue
		}
		for _, id := range mv.todo {
			if len(out) == most {
				return out
			}
			out[id] = mv.position
		}
	}
	return out
}

// notArriving keeps of chunks those that are not on their way to a server.
func (r *repairs) notArriving(server dfs.NodeID, buckets uint32, chunks []dfs.ChunkID) []dfs.ChunkID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(chunks, func(id dfs.ChunkID) bool {
		mv := r.moves[id.PG(buckets)]
		return mv != nil && mv.to == server
	})
}

// repairFor is what a server needs to make the fragment at a position of a chunk.
func repairFor(m *dfs.ClusterMap, c *meta.Chunk, position int) *metapb.RepairsReply_Repair {
	r := &metapb.RepairsReply_Repair{Fragment: &metapb.Fragment{Chunk: uint64(c.ID), Fragment: uint32(position), End: c.Committed}}
	for i, id := range m.Home[c.ID.PG(m.Buckets)] {
		if c.Present>>i&1 == 1 && serves(m, id) {
			r.Sources = append(r.Sources, &metapb.RepairsReply_Source{Fragment: uint32(i), Addr: m.Server(id).Addr})
		}
	}
	return r
}
