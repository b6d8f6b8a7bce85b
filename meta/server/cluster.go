package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/gossip"
	"dfs/meta"
	"dfs/meta/replica"
	"dfs/placement"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Times of the membership's duties.
const (
	mapLookEvery   = 5 * time.Millisecond // at most so often is looked for a new map
	serversEvery   = time.Second
	probeTimeout   = 400 * time.Millisecond // of one Ping
	probeTries     = 2
	promoteEvery   = 200 * time.Millisecond
	promoteBehind  = 1000 // entries that a learner may lag when it gets its vote
	memberTimeout  = 10 * time.Second
	memberRetry    = 500 * time.Millisecond
	reportsMax     = 65536 // chunks in one report
	serversMax     = 1024
	mastersMax     = 9    // more would only be slower
	homesMax       = 4096 // homes in one change of the map, so that it fits in a message
	mapRetries     = 8
	bootstrapGrace = 10 * time.Second // a new leader's gossip has not met everybody yet
)

// Hello tells who this master is and who leads.
func (s *Server) Hello(context.Context, *metapb.HelloRequest) (*metapb.HelloReply, error) {
	st := s.node.Status()
	out := &metapb.HelloReply{
		Cluster: s.cluster.Load(), Node: uint64(s.id.Node), Name: s.cfg.Name, Version: s.cfg.Version,
		Leader: uint64(st.Leader), LeaderAddr: s.transport.addrOf(st.Leader), Term: st.Term, Leading: st.Leading,
		Gossip: s.gossipAddrs(), Level: s.cfg.Level,
	}
	err := s.node.LocalRead(func(v meta.View) error {
		masters, err := v.Masters()
		for _, m := range masters {
			out.Masters = append(out.Masters, m.Addr)
		}
		return err
	})
	return out, err
}

// gossipAddrs are some addresses to begin gossip with.
func (s *Server) gossipAddrs() []string {
	g := s.gossipNode()
	if g == nil {
		return nil
	}
	addrs := []string{g.Addr()}
	for _, m := range g.Members() {
		if m.Alive && m.Role == gossip.RoleMaster && m.Gossip != "" && !slices.Contains(addrs, m.Gossip) {
			addrs = append(addrs, m.Gossip)
		}
	}
	return addrs
}

func (s *Server) gossipNode() *gossip.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gossip
}

// sameCluster refuses a daemon of another cluster.
func (s *Server) sameCluster(theirs uint64, who string) error {
	if own := s.cluster.Load(); theirs != 0 && theirs != own {
		return status.Errorf(codes.PermissionDenied, "%s is of cluster %v, these masters are of cluster %v: give it the masters of its own cluster, or an empty folder",
			who, dfs.ClusterID(theirs), dfs.ClusterID(own))
	}
	return nil
}

// Join registers a chunk server.
func (s *Server) Join(ctx context.Context, req *metapb.JoinRequest) (*metapb.JoinReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	server := rpc.ServerFromProto(req.Server)
	if server.ID == 0 || server.Name == "" || server.Addr == "" {
		return nil, status.Error(codes.InvalidArgument, "a chunk server needs an id, a name and an address")
	}
	for _, text := range []string{server.Name, server.Addr, server.Host, server.Zone} {
		if len(text) > dfs.NameMax {
			return nil, status.Errorf(codes.InvalidArgument, "name, address, host and zone have at most %d bytes", dfs.NameMax)
		}
	}
	if err := s.sameCluster(req.Cluster, "chunk server "+server.Name); err != nil {
		return nil, err
	}
	server.Weight = max(server.Weight, 1) // one without would get no data and nobody would know why
	server.State = dfs.ServerUp
	epoch, err := l.changeMap(ctx, func(servers []dfs.Server) ([]dfs.Server, error) {
		for i := range servers {
			switch have := &servers[i]; {
			case have.ID == server.ID:
				if have.State == dfs.ServerGone {
					return nil, status.Errorf(codes.FailedPrecondition, "chunk server %s was removed from the cluster: start it with empty folders", server.Name)
				}
				if have.State == dfs.ServerDrain || have.Leaving {
					server.State = dfs.ServerDrain
				}
				server.Leaving, server.Weighted, server.Until = have.Leaving, have.Weighted, have.Until
				if have.Weighted {
					server.Weight = have.Weight
				}
				servers[i] = server
				return servers, nil
			case have.Name == server.Name && have.State != dfs.ServerGone:
				return nil, status.Errorf(codes.AlreadyExists, "another chunk server is named %s (%v at %s): choose another --name", server.Name, have.ID, have.Addr)
			}
		}
		if len(servers) >= serversMax {
			return nil, status.Errorf(codes.ResourceExhausted, "the cluster has %d chunk servers already", serversMax)
		}
		return append(servers, server), nil
	})
	if err != nil {
		return nil, s.failure(err)
	}
	kick(l.look)
	return &metapb.JoinReply{Cluster: s.cluster.Load(), Epoch: uint64(epoch), Gossip: s.gossipAddrs()}, nil
}

// changeMap changes the servers of the map, and the homes that follow from it.
func (l *leadership) changeMap(ctx context.Context, change func([]dfs.Server) ([]dfs.Server, error)) (dfs.Epoch, error) {
	l.mapMu.Lock()
	defer l.mapMu.Unlock()
	return l.changeMapLocked(ctx, nil, change)
}

// +checklocks:l.mapMu
func (l *leadership) changeMapLocked(ctx context.Context, layouts []dfs.Layout, change func([]dfs.Server) ([]dfs.Server, error)) (dfs.Epoch, error) {
	for tries := 0; tries < mapRetries; {
		op, epoch, err := l.planMap(ctx, layouts, change)
		if err != nil || op == nil {
			return epoch, err
		}
		r, err := l.s.propose(ctx, op)
		if err != nil {
			return 0, err
		}
		switch r.Errno {
		case dfs.OK:
			kick(l.repairs.kick)
			l.s.logger.Info("cluster map", "epoch", r.Epoch, "servers", len(op.Servers), "homes", len(op.Acting))
			if len(op.Acting) < homesMax {
				return r.Epoch, nil
			}
			change = nil // it is made; there may be more homes
		case dfs.EAGAIN: // a leader before us was faster
			tries++
		default:
			return 0, fmt.Errorf("change the cluster map: %w", r.Errno)
		}
	}
	return 0, rpc.Unavailable("the cluster map changes too fast")
}

// planMap is the change of the map that brings it to what it should be; nil when
// it is so.
func (l *leadership) planMap(ctx context.Context, layouts []dfs.Layout, change func([]dfs.Server) ([]dfs.Server, error)) (*meta.PutMap, dfs.Epoch, error) {
	var m *dfs.ClusterMap
	var used []dfs.Layout
	var filled map[dfs.PG]bool
	// What is computed from it comes after: nothing is applied while a View is held.
	err := l.s.node.Read(ctx, func(v meta.View) (err error) {
		if m, err = v.Map(); err != nil {
			return err
		}
		if used, err = v.Layouts(); err != nil {
			return err
		}
		filled = make(map[dfs.PG]bool, len(m.Home))
		for pg := range m.Home {
			n, err := v.GroupChunks(pg)
			if err != nil {
				return err
			}
			filled[pg] = n > 0
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	op := &meta.PutMap{Epoch: m.Epoch}
	if change != nil {
		servers, err := change(slices.Clone(m.Servers))
		if err != nil {
			return nil, 0, err
		}
		if !slices.Equal(servers, m.Servers) {
			op.Servers, m.Servers = servers, servers
		}
	}
	changed, homes := placement.Next(m, slices.Concat(used, []dfs.Layout{dfs.DefaultLayout}, layouts), func(pg dfs.PG) bool { return !filled[pg] }, l.leaves(m))
	for _, pg := range changed[:min(len(changed), homesMax)] {
		op.Acting = append(op.Acting, meta.Home{PG: pg, Servers: homes[pg]})
	}
	if len(op.Servers) == 0 && len(op.Acting) == 0 {
		return nil, m.Epoch, nil
	}
	return op, m.Epoch, nil
}

// prepareLayout makes sure that a layout has homes before something is kept in it;
// it answers a verdict when the servers cannot hold it.
func (s *Server) prepareLayout(ctx context.Context, layout dfs.Layout) (dfs.Errno, error) {
	l := s.leading.Load()
	if l == nil {
		return 0, s.notReady()
	}
	if !layout.Valid() {
		return dfs.EINVAL, nil
	}
	var m *dfs.ClusterMap
	if err := s.read(ctx, func(v meta.View) (err error) { m, err = v.Map(); return err }); err != nil {
		return 0, err
	}
	if err := placement.Holds(m.Servers, layout); err != nil {
		s.logger.Info("policy refused", "policy", layout, "err", err)
		return dfs.EINVAL, nil
	}
	l.mapMu.Lock()
	defer l.mapMu.Unlock()
	_, err := l.changeMapLocked(ctx, []dfs.Layout{layout}, nil)
	return dfs.OK, s.failure(err)
}

// ReportServer looks at a server that did not answer a client.
func (s *Server) ReportServer(ctx context.Context, req *metapb.ReportServerRequest) (*metapb.ReportServerReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	var m *dfs.ClusterMap
	if err := s.read(ctx, func(v meta.View) (err error) { m, err = v.Map(); return err }); err != nil {
		return nil, err
	}
	server := m.Server(dfs.NodeID(req.Server))
	if server == nil {
		return nil, status.Errorf(codes.NotFound, "no chunk server has the id %v", dfs.NodeID(req.Server))
	}
	if server.State != dfs.ServerUp { // that was decided already
		return &metapb.ReportServerReply{Epoch: uint64(m.Epoch), Up: server.State == dfs.ServerDrain}, nil
	}
	// Many clients report the same server at the same moment: it is tried once, and
	// goes on when the first of them has gone away.
	result := l.probes.DoChan(server.ID.String(), func() (any, error) {
		if s.probe(l.ctx, server) {
			return &metapb.ReportServerReply{Epoch: uint64(m.Epoch), Up: true}, nil
		}
		if err := l.ctx.Err(); err != nil {
			return nil, err
		}
		s.logger.Warn("a chunk server does not answer", "server", server.Name, "reported", req.Reason)
		epoch, err := l.setState(l.ctx, server, dfs.ServerDown)
		return &metapb.ReportServerReply{Epoch: uint64(epoch)}, err
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, s.failure(r.Err)
		}
		return r.Val.(*metapb.ReportServerReply), nil
	case <-ctx.Done():
		return nil, s.failure(ctx.Err())
	}
}

// probe asks a server directly whether it can work. The second try comes later when
// the first was refused at once: the server may be about to listen, or the
// connection to be made anew.
func (s *Server) probe(ctx context.Context, server *dfs.Server) bool {
	for try := 1; ; try++ {
		next := time.After(probeTimeout)
		if s.ping(ctx, server) == nil {
			return true
		}
		if try == probeTries {
			return false
		}
		select {
		case <-next:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Server) ping(ctx context.Context, server *dfs.Server) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := s.pool.Conn(server.Addr)
	if err != nil {
		return err
	}
	r, err := chunkpb.NewChunkClient(conn).Ping(ctx, &chunkpb.PingRequest{Cluster: s.cluster.Load()}, grpc.WaitForReady(false))
	if err != nil {
		return err
	}
	if r.Server != uint64(server.ID) {
		return fmt.Errorf("at %s is another server", server.Addr)
	}
	return nil
}

// setState changes a server that is still as it was when it was looked at.
func (l *leadership) setState(ctx context.Context, was *dfs.Server, state dfs.ServerState) (dfs.Epoch, error) {
	return l.changeMap(ctx, func(servers []dfs.Server) ([]dfs.Server, error) {
		for i := range servers {
			if servers[i] == *was {
				servers[i].State = state
			}
		}
		return servers, nil
	})
}

// watchServers compares what gossip says with the map.
func (l *leadership) watchServers() {
	began := time.Now()
	for {
		var changes <-chan struct{}
		if g := l.s.gossipNode(); g != nil {
			changes = g.Changes()
		}
		timer := time.NewTimer(serversEvery)
		select {
		case <-changes:
		case <-l.look:
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		l.log("cannot look after the chunk servers", l.lookAtServers(time.Since(began) > bootstrapGrace))
	}
}

func (l *leadership) lookAtServers(settled bool) error {
	alive := map[dfs.NodeID]bool{}
	if g := l.s.gossipNode(); g != nil {
		for _, m := range g.Members() {
			if m.Role == gossip.RoleChunk && m.Alive {
				alive[m.ID] = true
			}
		}
	}
	var m *dfs.ClusterMap
	if err := l.s.node.Read(l.ctx, func(v meta.View) (err error) { m, err = v.Map(); return err }); err != nil {
		return err
	}
	// Those in doubt are asked at the same time: one that hangs delays nobody.
	verdicts := make([]dfs.ServerState, len(m.Servers))
	var wg sync.WaitGroup
	for i := range m.Servers {
		server := &m.Servers[i]
		verdicts[i] = server.State
		switch {
		case (server.State == dfs.ServerUp || server.State == dfs.ServerDrain) && !alive[server.ID] && settled:
			wg.Go(func() {
				if !l.s.probe(l.ctx, server) {
					verdicts[i] = dfs.ServerDown
				}
			})
		case server.State == dfs.ServerDown:
			wg.Go(func() {
				if l.s.ping(l.ctx, server) == nil {
					verdicts[i] = dfs.ServerUp
					if server.Leaving {
						verdicts[i] = dfs.ServerDrain
					}
				}
			})
		}
	}
	wg.Wait()
	if l.ctx.Err() != nil {
		return l.ctx.Err()
	}
	l.noteAway(m)
	_, err := l.changeMap(l.ctx, func(servers []dfs.Server) ([]dfs.Server, error) {
		for i := range servers {
			j := slices.IndexFunc(m.Servers, func(s dfs.Server) bool { return s.ID == servers[i].ID })
			// One that changed meanwhile has newer news than ours.
			if j >= 0 && m.Servers[j] == servers[i] && verdicts[j] != servers[i].State {
				l.s.logger.Warn("chunk server", "server", servers[i].Name, "was", servers[i].State, "is", verdicts[j])
				servers[i].State = verdicts[j]
			}
		}
		return servers, nil
	})
	return err
}

// ReportChunks says which of the chunks that a server holds nothing needs.
func (s *Server) ReportChunks(ctx context.Context, req *metapb.ReportChunksRequest) (*metapb.ReportChunksReply, error) {
	if err := bound("report of chunks", len(req.Chunks), reportsMax); err != nil {
		return nil, err
	}
	chunks := make([]dfs.ChunkID, len(req.Chunks))
	for i, c := range req.Chunks {
		chunks[i] = dfs.ChunkID(c)
	}
	if s.keepsUnknown() {
		return &metapb.ReportChunksReply{}, nil
	}
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	out := &metapb.ReportChunksReply{}
	err := s.read(ctx, func(v meta.View) error {
		free, err := v.Deletable(dfs.NodeID(req.Server), chunks)
		if err != nil {
			return err
		}
		buckets, err := v.Buckets()
		out.Free = nil
		for _, c := range l.repairs.notArriving(dfs.NodeID(req.Server), max(buckets, 1), free) {
			out.Free = append(out.Free, uint64(c))
		}
		return err
	})
	return out, err
}

// JoinMaster makes an empty master a member.
func (s *Server) JoinMaster(ctx context.Context, req *metapb.JoinMasterRequest) (*metapb.JoinMasterReply, error) {
	if err := s.sameCluster(req.Cluster, "master "+req.Name); err != nil {
		return nil, err
	}
	m := meta.Master{ID: dfs.NodeID(req.Id), Name: req.Name, Addr: req.Addr}
	if req.Cluster != 0 {
		// It was admitted once. If it is not written down any more, somebody removed it,
		// and a restart of it must not undo that.
		var masters []meta.Master
		if err := s.read(ctx, func(v meta.View) (err error) { masters, err = v.Masters(); return err }); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(masters, func(have meta.Master) bool { return have.ID == m.ID }) {
			return nil, status.Errorf(codes.PermissionDenied, "master %s (%v) was removed from the cluster: stop it, or start it with an empty folder to add it again", m.Name, m.ID)
		}
	}
	if err := s.addMaster(ctx, m, program{req.Level, req.Version}); err != nil {
		return nil, err
	}
	return &metapb.JoinMasterReply{Cluster: s.cluster.Load(), Gossip: s.gossipAddrs()}, nil
}

// addMaster writes a master down and makes it a learner. A member keeps what it is.
func (s *Server) addMaster(ctx context.Context, m meta.Master, p program) error {
	l := s.leading.Load()
	if l == nil {
		return s.notReady()
	}
	// Whoever becomes a member counts for the level from here on.
	l.levelMu.Lock()
	defer l.levelMu.Unlock()
	if err := s.admits(m, p); err != nil {
		return err
	}
	if m.ID == 0 || m.Name == "" || m.Addr == "" || len(m.Name) > dfs.NameMax || len(m.Addr) > dfs.NameMax {
		return status.Error(codes.InvalidArgument, "a master needs an id, a name and an address")
	}
	var masters []meta.Master
	if err := s.read(ctx, func(v meta.View) (err error) { masters, err = v.Masters(); return err }); err != nil {
		return err
	}
	for _, have := range masters {
		if have.Name == m.Name && have.ID != m.ID {
			return status.Errorf(codes.AlreadyExists, "another master is named %s (%v at %s): choose another --name, or 'dfs master remove %s' first", m.Name, have.ID, have.Addr, m.Name)
		}
	}
	if !slices.Contains(masters, m) {
		if len(masters) >= mastersMax && !slices.ContainsFunc(masters, func(have meta.Master) bool { return have.ID == m.ID }) {
			return status.Errorf(codes.ResourceExhausted, "the cluster has %d masters already: remove one first", len(masters))
		}
		if err := s.carry(ctx, &meta.PutMaster{ID: m.ID, Name: m.Name, Addr: m.Addr}); err != nil {
			return s.failure(err)
		}
	}
	s.transport.learn(m.ID, m.Addr)
	return s.failure(s.node.AddLearner(ctx, m.ID))
}

// promoteMasters gives learners their vote when they have caught up.
func (l *leadership) promoteMasters() {
	for pause(l.ctx, promoteEvery) {
		peers, commit, err := l.s.node.Peers(l.ctx)
		if err != nil {
			l.log("cannot look after the masters", err)
			continue
		}
		for _, p := range peers {
			if p.Role == replica.Learner && p.Active && p.Match > 0 && p.Match+promoteBehind >= commit {
				ctx, cancel := context.WithTimeout(l.ctx, memberTimeout)
				err := l.s.node.Promote(ctx, p.ID)
				cancel()
				l.log("cannot give a master its vote", err)
				if err == nil {
					l.s.logger.Info("a master has its vote", "node", p.ID)
				}
				break
			}
		}
	}
}

// member makes this master known to the others, and joins gossip.
func (s *Server) member() {
	seeds := slices.Clone(s.cfg.Join)
	err := s.node.LocalRead(func(v meta.View) error {
		masters, err := v.Masters()
		for _, m := range masters {
			if m.ID != s.id.Node {
				seeds = append(seeds, m.Addr)
			}
			s.transport.learn(m.ID, m.Addr)
		}
		return err
	})
	if err != nil {
		s.logger.Error("cannot read the list of masters", "err", err)
	}
	if len(seeds) == 0 {
		return // alone
	}
	masters := rpc.NewMasters(s.pool, seeds, s.logger)
	defer masters.Close()
	for told := ""; s.ctx.Err() == nil; {
		if s.leading.Load() != nil {
			break // leaders make themselves known
		}
		err := s.join(masters)
		if err == nil {
			break
		}
		switch c := status.Code(err); {
		case c == codes.PermissionDenied, c == codes.AlreadyExists, c == codes.InvalidArgument, rpc.IsWrongCluster(err):
			s.stop(fmt.Errorf("the masters refuse this one: %s", status.Convert(err).Message()))
			return
		}
		if text := err.Error(); text != told && s.ctx.Err() == nil {
			told = text
			s.logger.Warn("not admitted by the masters yet", "err", err)
		}
		if !pause(s.ctx, memberRetry) {
			return
		}
	}
	if g := s.gossipNode(); g != nil {
		if err := g.Join(masters.Gossip()); err != nil {
			s.logger.Debug("gossip met nobody yet", "err", err)
		}
	}
}

// join asks the leader for admission, or to write down a new address.
func (s *Server) join(masters *rpc.Masters) error {
	ctx, cancel := context.WithTimeout(s.ctx, memberTimeout)
	defer cancel()
	var reply *metapb.JoinMasterReply
	err := masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewClusterClient(conn).JoinMaster(ctx, &metapb.JoinMasterRequest{
			Id: uint64(s.id.Node), Name: s.cfg.Name, Addr: s.addr, Cluster: s.cluster.Load(),
			Level: s.cfg.Level, Version: s.cfg.Version,
		})
		return err
	})
	if err != nil {
		return err
	}
	if s.cluster.CompareAndSwap(0, reply.Cluster) {
		id := s.id
		id.Cluster = dfs.ClusterID(reply.Cluster)
		if err := s.keepIdentity(id); err != nil {
			return err
		}
		s.pool.SetCluster(id.Cluster)
	}
	return s.startGossip(reply.Gossip)
}

// startGossip takes part in gossip once the cluster is known.
func (s *Server) startGossip(seeds []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gossip == nil && s.cluster.Load() != 0 && (s.cfg.GossipListen != "" || s.cfg.GossipTransport != nil) {
		g, err := gossip.Start(gossip.Config{
			Self: gossip.Member{
				ID: s.id.Node, Cluster: s.clusterID(), Name: s.cfg.Name, Role: gossip.RoleMaster, Addr: s.addr,
				Version: s.cfg.Version, Zone: s.cfg.Zone, Host: s.cfg.Host,
			},
			Listen: s.cfg.GossipListen, Advertise: s.cfg.GossipAdvertise, Transport: s.cfg.GossipTransport, Logger: s.logger,
		})
		if err != nil {
			return err
		}
		s.gossip = g
	}
	if g := s.gossip; g != nil && len(seeds) > 0 {
		s.wg.Go(func() {
			if err := g.Join(seeds); err != nil {
				s.logger.Debug("gossip met nobody yet", "err", err)
			}
		})
	}
	return nil
}
