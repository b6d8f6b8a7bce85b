package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/gossip"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Times of a member.
const (
	reportInterval = 10 * time.Second // between reports of all chunks
	reportPage     = 4096             // chunks in one report
	reportTimeout  = 30 * time.Second // one report
	updateInterval = 2 * time.Second  // between looks at the free space for gossip
	joinRetry      = 2 * time.Second  // after a join that was refused
	rejoinInterval = 2 * time.Second  // at least between joins since the map is wrong about us
	watchRetry     = 200 * time.Millisecond
	gibibyte       = 1 << 30
	weightMax      = 1 << 20
	logAgainAfter  = time.Minute // the same trouble
)

// errWrongCluster ends the server.
var errWrongCluster = errors.New("wrong cluster")

// member joins the cluster, as often as it must, and then does a member's work.
func (s *Server) member(ctx context.Context) {
	if !s.join(ctx) {
		return
	}
	if err := s.startGossip(); err != nil {
		s.stop(err)
		return
	}
	s.wg.Go(func() { s.watchMap(ctx) })
	s.wg.Go(func() { s.report(ctx) })
	s.wg.Go(func() { s.update(ctx) })
	s.wg.Go(func() { s.repair(ctx) })
	s.wg.Go(func() { s.scrub(ctx) })
	s.rejoin(ctx)
}

// join registers the server with the masters, however long that takes. It reports
// false when the server ends.
func (s *Server) join(ctx context.Context) bool {
	last, at := "", time.Time{}
	for ctx.Err() == nil {
		err := s.joinOnce(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if errors.Is(err, errWrongCluster) || rpc.IsWrongCluster(err) {
			s.stop(fmt.Errorf("data folder %s does not belong to the cluster of the masters %v: %w", s.cfg.Dirs[0], s.cfg.Masters, err))
			return false
		}
		if text := err.Error(); text != last || time.Since(at) > logAgainAfter {
			last, at = text, time.Now()
			s.logger.Warn("not joined yet; trying on", "err", err)
		}
		pause(ctx, joinRetry)
	}
	return false
}

// joinTimeout ends one attempt only so that its trouble is logged.
const joinTimeout = 10 * time.Second

func (s *Server) joinOnce(ctx context.Context) error {
	if err := s.gone(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	var reply *metapb.JoinReply
	err := s.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		var err error
		reply, err = metapb.NewClusterClient(conn).Join(ctx, &metapb.JoinRequest{
			Server: rpc.ServerToProto(s.self()), Cluster: uint64(s.store.Cluster()), Version: s.cfg.Version,
		})
		return err
	})
	if err != nil {
		if st, ok := status.FromError(err); ok {
			return fmt.Errorf("the masters refuse this server: %s: %w", st.Message(), err)
		}
		return err
	}
	cluster := dfs.ClusterID(reply.Cluster)
	if cluster == 0 {
		return errors.New("the masters answered no cluster id")
	}
	if own := s.store.Cluster(); own != 0 && own != cluster {
		return fmt.Errorf("%w: the folder is of %s, the masters are of %s", errWrongCluster, own, cluster)
	}
	if err := s.store.SetCluster(cluster); err != nil {
		return err
	}
	if !s.pool.SetCluster(cluster) {
		return fmt.Errorf("%w: the masters are of %s and of %s", errWrongCluster, s.pool.Cluster(), cluster)
	}
	first := !s.joined.Swap(true)
	if first {
		s.serveFiles()
	}
	s.mu.Lock()
	node := s.gossip
	s.mu.Unlock()
	if node != nil {
		s.meet(node, reply.Gossip)
	} else {
		s.seeds = reply.Gossip // read by startGossip, on this goroutine
	}
	if first {
		s.logger.Info("joined", "cluster", cluster, "server", s.store.Node(), "epoch", reply.Epoch)
	}
	return nil
}

// self is the server as the masters shall know it.
func (s *Server) self() dfs.Server {
	total, _ := s.store.Usage()
	return dfs.Server{
		ID: s.store.Node(), Name: s.cfg.Name, Addr: s.addr, Host: s.cfg.Host, Zone: s.cfg.Zone,
		Weight: cmp.Or(s.cfg.Weight, uint32(min(max(total/gibibyte, 1), weightMax))), State: dfs.ServerUp,
	}
}

// rejoin joins again when the map does not know us, as we are now, or takes us for
// down: what a master missed is then put right.
func (s *Server) rejoin(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.mapChanged:
		}
		for ctx.Err() == nil && s.mapIsWrong() {
			if !s.join(ctx) {
				return
			}
			pause(ctx, rejoinInterval)
		}
	}
}

func (s *Server) mapIsWrong() bool {
	m := s.clusterMap.Load()
	if m == nil {
		return false
	}
	own, self := m.Server(s.store.Node()), s.self()
	if own == nil {
		return true
	}
	return own.Addr != self.Addr || own.Name != self.Name || own.State == dfs.ServerDown
}

// startGossip begins to tell the others about us.
func (s *Server) startGossip() error {
	if s.cfg.GossipListen == "" && s.cfg.GossipTransport == nil {
		return nil
	}
	total, free := s.store.Usage()
	node, err := gossip.Start(gossip.Config{
		Self: gossip.Member{
			ID: s.store.Node(), Cluster: s.store.Cluster(), Name: s.cfg.Name, Role: gossip.RoleChunk, Addr: s.addr,
			Version: s.cfg.Version, Zone: s.cfg.Zone, Host: s.cfg.Host, Total: total, Free: free,
		},
		Listen: s.cfg.GossipListen, Advertise: s.cfg.GossipAdvertise, Transport: s.cfg.GossipTransport, Logger: s.logger,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.gossip = node
	s.mu.Unlock()
	s.meet(node, s.seeds)
	return nil
}

// meet makes contact with the others' gossip. That nobody answers is no error: the
// node tries on.
func (s *Server) meet(node *gossip.Node, addrs []string) {
	seeds := slices.Concat(addrs, s.masters.Gossip())
	slices.Sort(seeds)
	if err := node.Join(slices.Compact(seeds)); err != nil {
		s.logger.Debug("gossip met nobody yet", "err", err)
	}
}

// update tells gossip how full our disks are, and how they do.
func (s *Server) update(ctx context.Context) {
	for pause(ctx, updateInterval) {
		s.mu.Lock()
		node := s.gossip
		s.mu.Unlock()
		if node != nil {
			node.Update(s.figures())
		}
	}
}

// figures is how our disks are.
func (s *Server) figures() gossip.Figures {
	c := s.store.Condition()
	f := gossip.Figures{Sync: c.Sync}
	f.Total, f.Free = s.store.Usage()
	if len(c.Hung) > 0 {
		f.Trouble |= gossip.DiskHung
	}
	if len(c.Unreadable) > 0 {
		f.Trouble |= gossip.DiskUnreadable
	}
	return f
}

// watchMap follows the cluster map.
func (s *Server) watchMap(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.masters.CallStream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			var epoch dfs.Epoch
			if m := s.clusterMap.Load(); m != nil {
				epoch = m.Epoch
			}
			in, err := metapb.NewClusterClient(conn).WatchMap(ctx, &metapb.WatchMapRequest{Epoch: uint64(epoch)})
			if err != nil {
				return err
			}
			for {
				m, err := in.Recv()
				if err == io.EOF {
					return rpc.Unavailable("the master ended the watch")
				}
				if err != nil {
					return err
				}
				s.setMap(rpc.ClusterMapFromProto(m))
			}
		})
		if ctx.Err() == nil {
			s.logger.Debug("cluster map: watch ended", "err", err)
			pause(ctx, watchRetry)
		}
	}
}

func (s *Server) setMap(m *dfs.ClusterMap) {
	if m.Cluster != s.store.Cluster() {
		s.logger.Error("a master sent the map of another cluster", "cluster", m.Cluster)
		return
	}
	if old := s.clusterMap.Load(); old != nil && old.Epoch >= m.Epoch {
		return
	}
	s.clusterMap.Store(m)
	kick(s.mapChanged)
	kick(s.mends.kick)
}

// Map is the cluster map as the server knows it, nil before it has any.
func (s *Server) Map() *dfs.ClusterMap { return s.clusterMap.Load() }

// report tells the masters what is here, and deletes what they need no more.
func (s *Server) report(ctx context.Context) {
	for {
		if err := s.reportAll(ctx); err != nil && ctx.Err() == nil {
			s.logger.Warn("chunks could not be reported", "err", err)
		}
		if !pause(ctx, s.cfg.ReportInterval) {
			return
		}
	}
}

func (s *Server) reportAll(ctx context.Context) error {
	for page := range slices.Chunk(s.store.Chunks(), reportPage) {
		free, err := s.reportSome(ctx, page)
		if err != nil {
			return err
		}
		for _, id := range free {
			// Only what was asked about: a chunk that came since is none of this answer.
			if _, asked := slices.BinarySearch(page, id); !asked {
				continue
			}
			if err := s.store.Delete(id); err != nil {
				s.logger.Error("chunk could not be deleted", "chunk", id, "err", err)
			}
		}
		if len(free) > 0 {
			s.logger.Info("deleted chunks that nothing needs", "chunks", len(free))
		}
	}
	return nil
}

func (s *Server) reportSome(ctx context.Context, page []dfs.ChunkID) ([]dfs.ChunkID, error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	req := &metapb.ReportChunksRequest{Server: uint64(s.store.Node()), Chunks: make([]uint64, len(page))}
	for i, id := range page {
		req.Chunks[i] = uint64(id)
	}
	var reply *metapb.ReportChunksReply
	err := s.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		var err error
		reply, err = metapb.NewClusterClient(conn).ReportChunks(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	free := make([]dfs.ChunkID, len(reply.Free))
	for i, id := range reply.Free {
		free[i] = dfs.ChunkID(id)
	}
	return free, nil
}

// pause waits; it reports false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
