package server

import (
	"context"
	"fmt"
	"slices"

	"dfs"
	"dfs/meta"
	"dfs/proto/adminpb"
)

// Jobs lists the long work that the cluster does now.
func (s *Server) Jobs(ctx context.Context, _ *adminpb.JobsRequest) (*adminpb.JobsReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	var m *dfs.ClusterMap
	if err := s.read(ctx, func(v meta.View) (err error) { m, err = v.Map(); return err }); err != nil {
		return nil, err
	}
	out := &adminpb.JobsReply{}
	add := func(j *adminpb.Job) { out.Jobs = append(out.Jobs, j) }
	if st := l.ledger.result(); st.chunks > 0 {
		j := &adminpb.Job{Kind: "repair", State: "runs", Left: st.bytes, Unit: "bytes", PerSecond: l.repairs.rate()}
		j.Text = fmt.Sprintf("%d chunks lack copies or fragments", st.chunks)
		if st.waiting > 0 {
			j.Text += fmt.Sprintf(", %d of these wait for a server", st.waiting)
		}
		if st.bytes == 0 {
			j.State = "waits"
		}
		add(j)
	}
	groups := map[dfs.NodeID]uint64{}
	for _, home := range m.Home {
		for _, id := range home {
			groups[id]++
		}
	}
	for i := range m.Servers {
		x := &m.Servers[i]
		if n := groups[x.ID]; n > 0 && (x.State == dfs.ServerDrain || x.Leaving && x.State != dfs.ServerGone) {
			j := &adminpb.Job{Kind: "drain", Target: x.Name, State: "runs", Left: n, Unit: "groups", Text: fmt.Sprintf("%d placement groups are still on it", n)}
			if x.State == dfs.ServerDown {
				j.State, j.Text = "waits", "the server is down; "+j.Text
			}
			add(j)
		}
	}
	if moves, chunks := l.repairs.movesLeft(m); moves > 0 {
		add(&adminpb.Job{Kind: "rebalance", State: "runs", Left: uint64(moves), Unit: "groups", Text: fmt.Sprintf("%d placement groups move now, with %d chunks to copy", moves, chunks)})
	}
	if n := l.reclaims.count(); n > 0 {
		add(&adminpb.Job{Kind: "reclaim", State: "runs", Left: uint64(n), Unit: "chunks", Text: fmt.Sprintf("dead records of %d chunks are given back", n)})
	}
	if l.checks.TryLock() {
		l.checks.Unlock()
	} else {
		add(&adminpb.Job{Kind: "check", State: "runs", Text: "somebody runs dfs check"})
	}
	return out, nil
}

// movesLeft is how many placement groups move, other than off a server that drains, and how many
// chunks are still to be copied for that.
func (r *repairs) movesLeft(m *dfs.ClusterMap) (groups, chunks int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, mv := range r.moves {
		from := m.Server(mv.from)
		if from != nil && from.State == dfs.ServerDrain || !slices.Contains(m.Home[mv.pg], mv.from) {
			continue
		}
		groups++
		chunks += len(mv.todo)
	}
	return groups, chunks
}

// count is in how many chunks holes are to be made.
func (r *reclaims) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.orders)
}
