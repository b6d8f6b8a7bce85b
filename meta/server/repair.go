package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/meta"
	"dfs/proto/metapb"
)

// DefaultRepairAfter is after how long others take over what a server that is down had.
const DefaultRepairAfter = 10 * time.Minute

// Times and bounds of repair.
const (
	repairsEvery = 2 * time.Second // between looks at what has changed
	repairsPage  = 4096            // chunks read at once
	repairsAsked = 8               // fragments that a server is given to make before it tells of them
	rateOver     = 10 * time.Second
)

// repairs is how what is missing comes to be made. What is there the masters know from
// commits and from the servers (meta.SetPresent), what is missing the ledger; the servers make
// it and ask for it themselves.
type repairs struct {
	kick chan struct{} // look at once

	mu    sync.Mutex
	moves map[dfs.PG]*move         // +checklocks:mu
	done  []progress               // +checklocks:mu — what was made lately
	away  map[dfs.NodeID]time.Time // +checklocks:mu — servers that are down, since when at the latest

	scrubs map[dfs.NodeID]scrubbing // +checklocks:mu — what servers have told of theirs last
}

// scrubbing is how far a server was with its scrub, and when it said so.
type scrubbing struct {
	at    time.Time
	scrub *metapb.Scrub
}

// scrubHeard is how long what a server said of its scrub counts.
const scrubHeard = 30 * time.Second

// scrubbed takes over how far a server is with its scrub.
func (r *repairs) scrubbed(server dfs.NodeID, scrub *metapb.Scrub) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if scrub == nil {
		delete(r.scrubs, server)
		return
	}
	if r.scrubs == nil {
		r.scrubs = map[dfs.NodeID]scrubbing{}
	}
	r.scrubs[server] = scrubbing{time.Now(), scrub}
}

// scrubOf is how far a server is with its scrub; nil when it does none.
func (r *repairs) scrubOf(server dfs.NodeID) *metapb.Scrub {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.scrubs[server]; ok && time.Since(s.at) < scrubHeard {
		return s.scrub
	}
	return nil
}

// progress is bytes that were made at a time.
type progress struct {
	at    time.Time
	bytes uint64
}

// findRepairs looks at what has changed of the chunks.
func (l *leadership) findRepairs() {
	for {
		l.log("cannot look for what is to be repaired", l.ledger.update(l.ctx))
		t := time.NewTimer(repairsEvery)
		select {
		case <-t.C:
		case <-l.repairs.kick:
			t.Stop()
			if !pause(l.ctx, repairsEvery/10) {
				return
			}
		case <-l.ctx.Done():
			t.Stop()
			return
		}
	}
}

// serves reports whether a server's fragments can be read.
func serves(m *dfs.ClusterMap, id dfs.NodeID) bool {
	s := m.Server(id)
	return s != nil && (s.State == dfs.ServerUp || s.State == dfs.ServerDrain)
}

// rate is how many bytes a second were made lately.
func (r *repairs) rate() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rateOf(&r.done)
}

// rateOf is how many bytes a second there were lately; what is older is forgotten.
func rateOf(done *[]progress) uint64 {
	since := time.Now().Add(-rateOver)
	*done = slices.DeleteFunc(*done, func(p progress) bool { return p.at.Before(since) })
	sum := uint64(0)
	for _, p := range *done {
		sum += p.bytes
	}
	return sum / uint64(rateOver/time.Second)
}

// made takes fragments off the list.
func (l *leadership) made(server dfs.NodeID, chunks []uint64) {
	if bytes := l.ledger.made(server, chunks); bytes > 0 {
		l.repairs.mu.Lock()
		defer l.repairs.mu.Unlock()
		l.repairs.done = append(l.repairs.done, progress{time.Now(), bytes})
	}
}

// noteAway notes which servers are down, other than on purpose.
func (l *leadership) noteAway(m *dfs.ClusterMap) {
	r := &l.repairs
	r.mu.Lock()
	defer r.mu.Unlock()
	away := map[dfs.NodeID]time.Time{}
	for i := range m.Servers {
		if s := &m.Servers[i]; s.State == dfs.ServerDown && time.Now().Unix() >= s.Until {
			since, known := r.away[s.ID]
			if !known {
				since = time.Now()
			}
			away[s.ID] = since
		}
	}
	r.away = away
}

// leaves says which servers have been away for so long that others shall have what they
// had. Of a group where that may be all that is left of a chunk it says so of none: there it is
// not known what would be lost, or all that helps is that the server comes back.
func (l *leadership) leaves(m *dfs.ClusterMap) func(dfs.PG, dfs.NodeID) bool {
	late := l.absent()
	st := l.ledger.result()
	known, pinned := st.epoch == m.Epoch, st.pinned
	return func(pg dfs.PG, id dfs.NodeID) bool { return known && late[id] && !pinned[pg] }
}

// Expect lists the fragments that a server should have.
func (s *Server) Expect(ctx context.Context, req *metapb.ExpectRequest) (*metapb.ExpectReply, error) {
	var out *metapb.ExpectReply
	err := s.read(ctx, func(v meta.View) error {
		out = &metapb.ExpectReply{}
		m, err := v.Map()
		if err != nil {
			return err
		}
		page, err := v.Chunks(dfs.ChunkID(req.After), repairsPage)
		if err != nil {
			return err
		}
		for i := range page {
			c := &page[i]
			p := slices.Index(m.Home[c.ID.PG(m.Buckets)], dfs.NodeID(req.Server))
			if p >= 0 && c.Present>>p&1 == 1 && c.Committed > 0 {
				out.Fragments = append(out.Fragments, &metapb.Fragment{Chunk: uint64(c.ID), Fragment: uint32(p), End: c.Committed})
			}
		}
		if len(page) == repairsPage {
			out.Next = uint64(page[len(page)-1].ID)
		}
		return nil
	})
	return out, err
}

// Repairs takes over what a server has made and lost, and answers what it should make.
func (s *Server) Repairs(ctx context.Context, req *metapb.RepairsRequest) (*metapb.RepairsReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	if err := bound("fragments", len(req.Have)+len(req.Lack), reportsMax); err != nil {
		return nil, err
	}
	server := dfs.NodeID(req.Server)
	l.repairs.scrubbed(server, req.Scrub)
	if err := l.takeReport(ctx, server, req); err != nil {
		return nil, s.failure(err)
	}
	out := &metapb.RepairsReply{}
	wanted := l.ledger.next(server)
	moving := l.repairs.moving(server, repairsAsked-len(wanted))
	if len(wanted)+len(moving)+len(req.Reclaimed) == 0 && l.reclaims.none() {
		return out, nil
	}
	var moot []uint64
	err := s.read(ctx, func(v meta.View) error {
		out.Repairs, moot = nil, nil
		m, err := v.Map()
		if err != nil {
			return err
		}
		l.reclaims.made(m, server, req.Reclaimed)
		out.Reclaims = l.reclaims.next(m, server)
		for _, id := range wanted {
			c, ok, err := v.Chunk(id)
			if err != nil {
				return err
			}
			if r := repairOf(m, &c, server); ok && r != nil {
				out.Repairs = append(out.Repairs, r)
			} else {
				moot = append(moot, uint64(id))
			}
		}
		for id, position := range moving {
			c, ok, err := v.Chunk(id)
			if err != nil {
				return err
			}
			if ok && c.Sealed {
				out.Repairs = append(out.Repairs, repairFor(m, &c, position))
			}
		}
		return nil
	})
	l.made(server, moot)
	return out, err
}

// takeReport takes over what a server has made and lost.
func (l *leadership) takeReport(ctx context.Context, server dfs.NodeID, req *metapb.RepairsRequest) error {
	if len(req.Have)+len(req.Lack) == 0 {
		return nil
	}
	op := &meta.SetPresent{Server: server, Have: l.repairs.moved(server, l.s.buckets(), req.Have)}
	for _, c := range req.Lack {
		op.Lack = append(op.Lack, dfs.ChunkID(c))
	}
	if len(op.Have)+len(op.Lack) == 0 {
		return nil
	}
	if _, err := l.s.propose(ctx, op); err != nil {
		return err
	}
	l.made(server, req.Have)
	if len(req.Lack) > 0 {
		l.ledger.lost()
		kick(l.repairs.kick)
	}
	return nil
}

// buckets is how many placement groups each layout has.
func (s *Server) buckets() (n uint32) {
	_ = s.node.LocalRead(func(v meta.View) (err error) { n, err = v.Buckets(); return err })
	return max(n, 1)
}

// repairOf is what a server needs to make its fragment of a chunk; nil when it need not.
func repairOf(m *dfs.ClusterMap, c *meta.Chunk, server dfs.NodeID) *metapb.RepairsReply_Repair {
	home := m.Home[c.ID.PG(m.Buckets)]
	p := slices.Index(home, server)
	if p < 0 || !c.Sealed || c.Committed == 0 || c.Present>>p&1 == 1 {
		return nil
	}
	return repairFor(m, c, p)
}
