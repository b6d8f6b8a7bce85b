package server

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/meta"
	"dfs/meta/replica"
	"dfs/proto/adminpb"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// leaveDelay is so that the answer gets out before the master is gone.
const leaveDelay = 200 * time.Millisecond

// Leave cuts this master off the others for a while, as if its network were gone. It is back by
// itself, whatever becomes of who asked.
func (s *Server) Leave(_ context.Context, req *metapb.LeaveRequest) (*metapb.LeaveReply, error) {
	if own := s.cluster.Load(); req.Cluster != own {
		return nil, status.Errorf(codes.FailedPrecondition, "wrong cluster: the request is of cluster %v, this master is of cluster %v", dfs.ClusterID(req.Cluster), dfs.ClusterID(own))
	}
	d := time.Duration(req.Nanos)
	if d < 0 || d > dfs.DrillMax {
		return nil, status.Errorf(codes.InvalidArgument, "away for %v: at most %v", d, dfs.DrillMax)
	}
	s.logger.Warn("a drill takes this master away", "for", d)
	until := time.Now().Add(d).UnixNano()
	if d == 0 {
		s.away.Store(0)
		return &metapb.LeaveReply{}, nil
	}
	s.wg.Go(func() {
		if pause(s.ctx, leaveDelay) {
			s.away.Store(until)
		}
	})
	return &metapb.LeaveReply{}, nil
}

// gone reports whether a drill has cut this master off.
func (s *Server) gone() bool {
	until := s.away.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// Drill takes chunk servers or a master away for a while, unless something depends on them.
func (s *Server) Drill(ctx context.Context, req *adminpb.DrillRequest) (*adminpb.DrillReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	if d := time.Duration(req.Nanos); d <= 0 || d > dfs.DrillMax {
		return nil, status.Errorf(codes.InvalidArgument, "a drill of %v: more than nothing, and at most %v", d, dfs.DrillMax)
	}
	if req.Master != "" {
		return s.drillMaster(ctx, req)
	}
	if err := l.ledger.update(ctx); err != nil {
		return nil, s.failure(err)
	}
	st := l.ledger.result()
	var m *dfs.ClusterMap
	if err := s.read(ctx, func(v meta.View) (err error) { m, err = v.Map(); return err }); err != nil {
		return nil, err
	}
	out := &adminpb.DrillReply{}
	without := map[dfs.NodeID]bool{}
	var addrs []string
	for i := range m.Servers {
		x := &m.Servers[i]
		if x.State == dfs.ServerGone || x.Name != req.Server && (req.Zone == "" || x.Zone != req.Zone) {
			continue
		}
		if !serves(m, x.ID) {
			return nil, status.Errorf(codes.FailedPrecondition, "chunk server %s is %v already", x.Name, x.State)
		}
		without[x.ID] = true
		out.Gone, addrs = append(out.Gone, x.Name), append(addrs, x.Addr)
	}
	if len(without) == 0 {
		return nil, status.Errorf(codes.NotFound, "no chunk server is named %q or in zone %q", req.Server, req.Zone)
	}
	if err := sparable(m, &st, without); err != nil || req.DryRun {
		return out, err
	}
	for _, addr := range addrs {
		conn, err := s.pool.Conn(addr)
		if err == nil {
			_, err = chunkpb.NewChunkClient(conn).Leave(ctx, &chunkpb.LeaveRequest{Cluster: s.cluster.Load(), Nanos: req.Nanos})
		}
		if err != nil {
			return nil, status.Errorf(codes.FailedPrecondition, "%s: %v (what has gone already is back after %v)", addr, err, time.Duration(req.Nanos))
		}
	}
	return out, nil
}

// drillMaster takes a master away, when the others are a majority without it.
func (s *Server) drillMaster(ctx context.Context, req *adminpb.DrillRequest) (*adminpb.DrillReply, error) {
	m, err := s.masterByName(ctx, req.Master)
	if err != nil {
		return nil, err
	}
	peers, _, err := s.node.Peers(ctx)
	if err != nil {
		return nil, s.failure(err)
	}
	voters, left := 0, 0
	for _, p := range peers {
		if p.Role == replica.Voter {
			voters++
			if p.ID != m.ID && (p.Active || p.ID == s.id.Node) {
				left++
			}
		}
	}
	if !slices.ContainsFunc(peers, func(p replica.Peer) bool { return p.ID == m.ID && (p.Active || p.ID == s.id.Node) }) {
		return nil, status.Errorf(codes.FailedPrecondition, "master %s does not answer already", m.Name)
	}
	if left < voters/2+1 {
		return nil, status.Errorf(codes.FailedPrecondition, "without %s only %d of %d masters are left, which is no majority", m.Name, left, voters)
	}
	out := &adminpb.DrillReply{Gone: []string{m.Name}}
	if req.DryRun {
		return out, nil
	}
	conn, err := s.pool.Conn(m.Addr)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "%s: %v", m.Addr, err)
	}
	_, err = metapb.NewClusterClient(conn).Leave(ctx, &metapb.LeaveRequest{Cluster: s.cluster.Load(), Nanos: req.Nanos})
	return out, err
}
