package server

import (
	"cmp"
	"context"
	"math/bits"
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
	repairsBusy  = 2 * time.Second // between looks at all chunks, while something is missing
	repairsIdle  = time.Minute     // else
	repairsPage  = 4096            // chunks read at once
	repairsAsked = 32              // fragments that a server is given to make at once
	rateOver     = 10 * time.Second
)

// repairs is what of the chunks is missing somewhere, as of the last look. What is there
// the masters know from commits and from the servers (meta.SetPresent); the servers make
// what is missing and ask for it themselves.
type repairs struct {
	kick chan struct{} // look at once

	mu    sync.Mutex
	tasks map[dfs.NodeID][]danger  // +checklocks:mu — fragments to make by server, the most endangered first
	state repairState              // +checklocks:mu
	lacks uint64                   // +checklocks:mu — how often servers have told of losses
	moves map[dfs.PG]*move         // +checklocks:mu
	done  []progress               // +checklocks:mu — what was made lately
	away  map[dfs.NodeID]time.Time // +checklocks:mu — servers that are down, since when at the latest
}

// danger is a fragment that is missing.
type danger struct {
	chunk dfs.ChunkID
	spare int // fragments more than it takes to read the chunk; negative: it cannot be read
	bytes uint32
}

// repairState is the result of a look at all chunks.
type repairState struct {
	epoch    dfs.Epoch // of the map that it is by; 0: it is not known to be so any more
	chunks   uint64    // that lack something
	critical uint64    // of them: that the next loss makes unreadable
	lost     uint64    // of them: that cannot be read now
	waiting  uint64    // fragments whose server is down, or that have none
	bytes    uint64    // to be made now
	pinned   map[dfs.PG]bool
}

// progress is bytes that were made at a time.
type progress struct {
	at    time.Time
	bytes uint64
}

// findRepairs looks at all chunks whenever something may be missing.
func (l *leadership) findRepairs() {
	r := &l.repairs
	for {
		err := l.lookForRepairs()
		l.log("cannot look for what is to be repaired", err)
		r.mu.Lock()
		wait := repairsIdle
		if r.state.chunks > 0 || err != nil {
			wait = repairsBusy
		}
		r.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-r.kick:
			t.Stop()
			if !pause(l.ctx, repairsBusy/10) {
				return
			}
		case <-l.ctx.Done():
			t.Stop()
			return
		}
	}
}

// eachChunk calls fn for all chunks.
func (l *leadership) eachChunk(fn func(m *dfs.ClusterMap, c *meta.Chunk)) (*dfs.ClusterMap, error) {
	var m *dfs.ClusterMap
	for after := dfs.ChunkID(0); ; {
		var page []meta.Chunk
		var now *dfs.ClusterMap
		err := l.s.node.LocalRead(func(v meta.View) (err error) {
			epoch, err := v.Epoch()
			if err != nil {
				return err
			}
			if now = m; now == nil || now.Epoch != epoch {
				if now, err = v.Map(); err != nil {
					return err
				}
			}
			page, err = v.Chunks(after, repairsPage)
			return err
		})
		if err != nil {
			return nil, err
		}
		m = now
		for i := range page {
			fn(m, &page[i])
		}
		if len(page) < repairsPage {
			return m, l.ctx.Err()
		}
		after = page[len(page)-1].ID
		if !pause(l.ctx, time.Millisecond) {
			return nil, l.ctx.Err()
		}
	}
}

// serves reports whether a server's fragments can be read.
func serves(m *dfs.ClusterMap, id dfs.NodeID) bool {
	s := m.Server(id)
	return s != nil && (s.State == dfs.ServerUp || s.State == dfs.ServerDrain)
}

// present is which positions have their fragment on a server that can be read.
func present(m *dfs.ClusterMap, home []dfs.NodeID, c *meta.Chunk) (there uint32) {
	for i, id := range home {
		if c.Present>>i&1 == 1 && serves(m, id) {
			there |= 1 << i
		}
	}
	return there
}

func (l *leadership) lookForRepairs() error {
	tasks := map[dfs.NodeID][]danger{}
	st := repairState{pinned: map[dfs.PG]bool{}}
	l.repairs.mu.Lock()
	lacks := l.repairs.lacks
	l.repairs.mu.Unlock()
	m, err := l.eachChunk(func(m *dfs.ClusterMap, c *meta.Chunk) {
		home := m.Home[c.ID.PG(m.Buckets)]
		there := present(m, home, c)
		layout := c.ID.Layout()
		have := bits.OnesCount32(there)
		if have == layout.Width() {
			return
		}
		if c.Committed == 0 || c.Live == 0 {
			// Nothing of it is part of a file, but something may have been synced and not told.
			if !c.Sealed && have < layout.Data() {
				st.pinned[c.ID.PG(m.Buckets)] = true
			}
			return
		}
		st.chunks++
		spare := have - layout.Data()
		switch {
		case spare < 0:
			st.lost++
			// What a server that is away has of it may be all that there is.
			st.pinned[c.ID.PG(m.Buckets)] = true
		case spare == 0:
			st.critical++
		}
		for i, id := range home {
			switch {
			case there>>i&1 == 1:
			case id == 0 || !serves(m, id):
				st.waiting++
			case c.Sealed:
				tasks[id] = append(tasks[id], danger{c.ID, spare, c.Committed})
				st.bytes += uint64(c.Committed)
			}
		}
	})
	if err != nil {
		return err
	}
	if m != nil {
		st.epoch = m.Epoch
	}
	for _, list := range tasks {
		slices.SortFunc(list, func(a, b danger) int {
			return cmp.Or(cmp.Compare(a.spare, b.spare), cmp.Compare(a.chunk, b.chunk))
		})
	}
	r := &l.repairs
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lacks != lacks {
		st.epoch = 0 // something was lost meanwhile
	}
	r.tasks, r.state = tasks, st
	return nil
}

// figures are what is missing, and how many bytes a second were made lately.
func (r *repairs) figures() (st repairState, rate uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := time.Now().Add(-rateOver)
	r.done = slices.DeleteFunc(r.done, func(p progress) bool { return p.at.Before(since) })
	sum := uint64(0)
	for _, p := range r.done {
		sum += p.bytes
	}
	return r.state, sum / uint64(rateOver/time.Second)
}

// made takes fragments off the list.
func (r *repairs) made(server dfs.NodeID, chunks []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(map[dfs.ChunkID]bool, len(chunks))
	for _, c := range chunks {
		done[dfs.ChunkID(c)] = true
	}
	bytes := uint64(0)
	r.tasks[server] = slices.DeleteFunc(r.tasks[server], func(d danger) bool {
		if done[d.chunk] {
			bytes += uint64(d.bytes)
		}
		return done[d.chunk]
	})
	if bytes > 0 {
		r.state.bytes -= min(r.state.bytes, bytes)
		r.done = append(r.done, progress{time.Now(), bytes})
	}
}

// next is what a server should make, as far as is known.
func (r *repairs) next(server dfs.NodeID) []dfs.ChunkID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []dfs.ChunkID
	for _, d := range r.tasks[server][:min(len(r.tasks[server]), repairsAsked)] {
		list = append(list, d.chunk)
	}
	return list
}

// noteAway notes which servers are down.
func (l *leadership) noteAway(m *dfs.ClusterMap) {
	r := &l.repairs
	r.mu.Lock()
	defer r.mu.Unlock()
	away := map[dfs.NodeID]time.Time{}
	for i := range m.Servers {
		if s := &m.Servers[i]; s.State == dfs.ServerDown {
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
	r := &l.repairs
	r.mu.Lock()
	defer r.mu.Unlock()
	known, pinned := r.state.epoch == m.Epoch, r.state.pinned
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
	if err := l.takeReport(ctx, server, req); err != nil {
		return nil, s.failure(err)
	}
	out := &metapb.RepairsReply{}
	wanted := l.repairs.next(server)
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
	l.repairs.made(server, moot)
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
	l.repairs.made(server, req.Have)
	if len(req.Lack) > 0 {
		l.repairs.mu.Lock()
		l.repairs.lacks++
		l.repairs.state.epoch = 0 // it is not so any more
		l.repairs.mu.Unlock()
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
