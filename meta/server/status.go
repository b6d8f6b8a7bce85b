package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/gossip"
	"dfs/meta"
	"dfs/meta/replica"
	"dfs/placement"
	"dfs/proto/adminpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Severity and health of a cluster.
const (
	warning  = "warning"
	critical = "critical"

	healthOK       = "ok"
	healthDegraded = "degraded"
	healthCritical = "critical"
)

// snapshot is what a status is made of.
type snapshot struct {
	m        *dfs.ClusterMap
	masters  []meta.Master
	sessions []meta.Session
	layouts  []dfs.Layout
	counters meta.Counters
}

// Status tells how the cluster is.
func (s *Server) Status(ctx context.Context, _ *adminpb.StatusRequest) (*adminpb.StatusReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	var snap snapshot
	err := s.read(ctx, func(v meta.View) (err error) {
		if snap.m, err = v.Map(); err != nil {
			return err
		}
		if snap.masters, err = v.Masters(); err != nil {
			return err
		}
		if snap.sessions, err = v.Sessions(); err != nil {
			return err
		}
		if snap.layouts, err = v.Layouts(); err != nil {
			return err
		}
		snap.counters, err = v.Counters()
		return err
	})
	if err != nil {
		return nil, err
	}
	peers, commit, err := s.node.Peers(ctx)
	if err != nil {
		return nil, s.failure(err)
	}
	out := &adminpb.StatusReply{
		Cluster: uint64(snap.m.Cluster), Leader: s.cfg.Name, Term: l.term, Commit: commit, Epoch: uint64(snap.m.Epoch), Version: s.cfg.Version,
		Inodes: snap.counters.Inodes, Chunks: snap.counters.Chunks, Orphans: snap.counters.Orphans, Quorum: true,
		Level: s.node.Level(),
	}
	members := map[dfs.NodeID]gossip.Member{}
	if g := s.gossipNode(); g != nil {
		for _, m := range g.Members() {
			members[m.ID] = m
		}
	}
	s.addMasters(out, &snap, peers, members)
	addServers(out, &snap, members)
	addGroups(out, &snap)
	l.addSessions(out, &snap)
	l.addRepair(out)
	s.addReasons(out, &snap)
	return out, nil
}

func (s *Server) addMasters(out *adminpb.StatusReply, snap *snapshot, peers []replica.Peer, members map[dfs.NodeID]gossip.Member) {
	for _, m := range snap.masters {
		i := slices.IndexFunc(peers, func(p replica.Peer) bool { return p.ID == m.ID })
		if i < 0 {
			continue // written down, but not a member yet, or not any more
		}
		x := &adminpb.Master{Id: uint64(m.ID), Name: m.Name, Addr: m.Addr, Role: "follower", Alive: peers[i].Active, Applied: peers[i].Match, Version: members[m.ID].Version, DiskLow: members[m.ID].Trouble&gossip.DiskReserve != 0}
		switch {
		case m.ID == s.id.Node:
			x.Role, x.Version, x.Applied = "leader", s.cfg.Version, s.node.Applied()
			x.DiskLow = s.space.low.Load()
		case peers[i].Role == replica.Learner:
			x.Role = "learner"
		}
		out.Masters = append(out.Masters, x)
	}
	slices.SortFunc(out.Masters, func(a, b *adminpb.Master) int { return strings.Compare(a.Name, b.Name) })
}

func addServers(out *adminpb.StatusReply, snap *snapshot, members map[dfs.NodeID]gossip.Member) {
	groups := map[dfs.NodeID]uint32{}
	for _, acting := range snap.m.Acting {
		for _, id := range acting {
			groups[id]++
		}
	}
	for _, s := range snap.m.Servers {
		if s.State == dfs.ServerGone {
			continue
		}
		m := members[s.ID]
		x := &adminpb.Server{
			Id: uint64(s.ID), Name: s.Name, Addr: s.Addr, Host: s.Host, Zone: s.Zone, Weight: s.Weight, State: s.State.String(), Alive: m.Alive,
			TotalBytes: m.Total, FreeBytes: m.Free, UsedBytes: m.Total - min(m.Free, m.Total), Groups: groups[s.ID], Version: m.Version,
			Weighted: s.Weighted, Until: s.Until, SyncNanos: int64(m.Sync),
			DiskHung: m.Trouble&gossip.DiskHung != 0, DiskUnreadable: m.Trouble&gossip.DiskUnreadable != 0,
		}
		out.Servers = append(out.Servers, x)
		out.TotalBytes += x.TotalBytes
		out.FreeBytes += x.FreeBytes
		out.UsedBytes += x.UsedBytes
	}
	slices.SortFunc(out.Servers, func(a, b *adminpb.Server) int { return strings.Compare(a.Name, b.Name) })
}

func addGroups(out *adminpb.StatusReply, snap *snapshot) {
	byLayout := map[dfs.Layout]*adminpb.Group{}
	for pg, acting := range snap.m.Acting {
		l := pg.Layout()
		g := byLayout[l]
		if g == nil {
			g = &adminpb.Group{Layout: uint32(l), Misplaced: uint32(placement.Misplaced(snap.m, l))}
			byLayout[l] = g
		}
		have := len(acting) - count(acting, 0)
		g.Total++
		switch {
		case have == l.Width():
			g.Clean++
		case have >= l.MinWrite():
			g.Degraded++
		default:
			g.Unwritable++
		}
	}
	for _, g := range byLayout {
		out.Groups = append(out.Groups, g)
	}
	slices.SortFunc(out.Groups, func(a, b *adminpb.Group) int { return int(a.Layout) - int(b.Layout) })
}

func count[T comparable](list []T, what T) int {
	n := 0
	for _, x := range list {
		if x == what {
			n++
		}
	}
	return n
}

func (l *leadership) addSessions(out *adminpb.StatusReply, snap *snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range snap.sessions {
		x := &adminpb.Session{Id: uint64(s.ID), Host: s.Host, Mountpoint: s.Mountpoint, Version: s.Version}
		if live := l.sessions[s.ID]; live != nil {
			x.IdleNanos, x.Open = int64(time.Since(live.seen)), uint32(len(live.open))
		}
		out.Sessions = append(out.Sessions, x)
	}
}

func (l *leadership) addRepair(out *adminpb.StatusReply) {
	st, rate := l.ledger.result(), l.repairs.rate()
	out.Backlog = &adminpb.Backlog{Chunks: st.dead, Bytes: st.deadRaw, DeadBytes: st.dyingRaw}
	out.Repair = &adminpb.Repair{Chunks: st.chunks, Critical: st.critical, Lost: st.lost, Waiting: st.waiting, Bytes: st.bytes, BytesPerSecond: rate, Epoch: uint64(st.epoch)}
}

// repairText says what is missing, and until when.
func repairText(r *adminpb.Repair) string {
	text := fmt.Sprintf("%d chunks lack copies or fragments", r.Chunks)
	if r.Critical > 0 {
		text += fmt.Sprintf(", %d of them cannot stand another loss", r.Critical)
	}
	if r.Bytes > 0 {
		text += fmt.Sprintf("; %d MiB to restore", (r.Bytes+1<<20-1)>>20)
		if r.BytesPerSecond > 0 {
			text += fmt.Sprintf(" at %d MiB/s, done in about %v", r.BytesPerSecond>>20, time.Duration(r.Bytes/r.BytesPerSecond+1)*time.Second)
		}
	}
	return text
}

// addReasons says why the cluster is not healthy, the worst first.
func (s *Server) addReasons(out *adminpb.StatusReply, snap *snapshot) {
	say := func(code, severity, next, format string, args ...any) {
		out.Reasons = append(out.Reasons, &adminpb.HealthReason{Code: code, Severity: severity, Message: fmt.Sprintf(format, args...), Next: next})
	}
	for _, g := range out.Groups {
		if len(out.Servers) == 0 {
			break // which is said below
		}
		if g.Unwritable > 0 {
			say("PG_UNWRITABLE", critical, "bring the servers that are down back", "%d of %d placement groups of %s have too few servers for writes", g.Unwritable, g.Total, dfs.Layout(g.Layout))
		}
		if g.Degraded > 0 {
			say("PG_DEGRADED", warning, "bring the servers that are down back", "%d of %d placement groups of %s have fewer servers than they should", g.Degraded, g.Total, dfs.Layout(g.Layout))
		}
	}
	if r := out.Repair; r.GetLost() > 0 {
		say("CHUNKS_UNREADABLE", critical, "bring the servers that are down back", "%d chunks cannot be read as long as servers are down", r.Lost)
	}
	if r := out.Repair; r.GetChunks() > 0 {
		next := "nothing: they are restored by themselves"
		if r.Waiting > 0 {
			next = "bring the servers that are down back"
		}
		say("REPAIRING", warning, next, "%s", repairText(r))
	}
	if len(out.Servers) == 0 {
		say("NO_CHUNK_SERVERS", critical, "start dfs-chunk --masters "+s.addr, "no chunk server has joined: data cannot be written")
	}
	for _, x := range out.Servers {
		switch {
		case x.State == dfs.ServerDrain.String() && x.Groups > 0:
			say("SERVER_DRAINING", warning, "wait, then dfs servers remove "+x.Name, "chunk server %s is drained: %d placement groups are still to be moved off it", x.Name, x.Groups)
		case x.State == dfs.ServerDrain.String():
			say("SERVER_DRAINED", warning, "dfs servers remove "+x.Name, "chunk server %s has no data that is needed: it is safe to remove", x.Name)
		case x.State == dfs.ServerDown.String() && x.Until > time.Now().Unix():
			say("SERVER_MAINTENANCE", warning, "start dfs-chunk there again with its own folders in time, or dfs servers maintenance "+x.Name+" --end", "chunk server %s is down on purpose, until %s", x.Name, time.Unix(x.Until, 0).Format(time.RFC3339))
		case x.State == dfs.ServerDown.String():
			say("SERVER_DOWN", warning, "start dfs-chunk there again with its own folders", "chunk server %s at %s does not answer", x.Name, x.Addr)
		case x.Alive && x.TotalBytes > 0 && x.FreeBytes == 0 && !x.DiskHung:
			say("SERVER_FULL", warning, "delete files, or add servers or disks", "chunk server %s has no free space above its reserve", x.Name)
		}
	}
	for _, x := range out.Servers {
		if !x.Alive || x.State == dfs.ServerDown.String() {
			continue
		}
		if x.DiskHung {
			say("DISK_HUNG", warning, "look into the kernel's log there; replace the disk, or start dfs-chunk without its folder", "a disk of chunk server %s does not answer", x.Name)
		}
		if x.DiskUnreadable {
			say("DISK_UNREADABLE", warning, "look into the log of dfs-chunk there; replace the disk and start it again", "chunk server %s runs without a data folder that it cannot read", x.Name)
		}
		if usual, slow := slower(out.Servers, x); slow {
			say("SERVER_SLOW", warning, "look at its disks and what else uses them", "chunk server %s takes %v for a sync that takes the others %v", x.Name, time.Duration(x.SyncNanos).Round(time.Millisecond), usual.Round(time.Microsecond))
		}
	}
	if l := s.leading.Load(); l != nil {
		if last, why, late := l.copies.late(l.began, s.duration("backup-every", s.cfg.BackupEvery)); late && len(out.Servers) > 0 {
			text := "no copy of the metadata is known to be on chunk servers"
			if !last.IsZero() {
				text = fmt.Sprintf("the last copy of the metadata on chunk servers is of %s", last.UTC().Format(time.RFC3339))
			}
			if why != nil {
				text += ": " + why.Error()
			}
			say("BACKUP_OLD", warning, "dfs meta backup FILE, and bring chunk servers back", "%s", text)
		}
		if n := l.leases.awaited(); n > 0 {
			say("WAITING_FOR_CLIENTS", warning, "nothing: it is over in some seconds", "%d clients of the last leader have not come to this one: others wait", n)
		}
	}
	for _, m := range out.Masters {
		if !m.DiskLow {
			continue
		}
		severity, text := warning, ""
		if s.space.full.Load() {
			severity, text = critical, ": nothing can be created or written"
		}
		say("MASTER_FULL", severity, "make room on that disk, or delete files", "the disk of master %s is full up to its reserve%s", m.Name, text)
	}
	for _, m := range out.Masters {
		if !m.Alive {
			say("MASTER_DOWN", warning, "start dfs-master there again with its own folder", "master %s at %s does not answer", m.Name, m.Addr)
		}
	}
	if have := len(out.Masters); have < s.cfg.Expected {
		say("MASTER_FEW", warning, "start the missing masters with --join "+s.addr, "%d of %d masters have joined", have, s.cfg.Expected)
	}
	for _, m := range out.Masters {
		if m.Role == "learner" {
			say("MASTER_FEW", warning, "wait, or look at its log", "master %s has no vote yet: it is catching up", m.Name)
		}
	}
	if len(out.Servers) > 0 {
		for _, l := range snap.layouts {
			if err := placement.Holds(snap.m.Servers, l); err != nil {
				say("POLICY_UNSATISFIED", warning, "add chunk servers", "%s: %v", l, err)
			}
		}
	}
	out.Health = healthOK
	for _, r := range out.Reasons {
		if r.Severity == critical {
			out.Health = healthCritical
			break
		}
		out.Health = healthDegraded
	}
	slices.SortStableFunc(out.Reasons, func(a, b *adminpb.HealthReason) int { return strings.Compare(a.Severity, b.Severity) })
}

// A server is slow when it takes slowSync at least for a sync, and slowFactor times what is usual
// for slowOthers others or more.
const (
	slowSync   = 100 * time.Millisecond
	slowFactor = 10
	slowOthers = 2
)

// slower reports whether a server is slow, and what is usual for the others.
func slower(all []*adminpb.Server, x *adminpb.Server) (usual time.Duration, slow bool) {
	var others []int64
	for _, o := range all {
		if o != x && o.Alive && o.SyncNanos > 0 {
			others = append(others, o.SyncNanos)
		}
	}
	if len(others) < slowOthers {
		return 0, false
	}
	slices.Sort(others)
	usual = time.Duration(others[len(others)/2])
	return usual, time.Duration(x.SyncNanos) >= max(slowSync, slowFactor*usual)
}

// whereMax is the most extents of one answer.
const whereMax = 1024

// Where tells where a file's bytes lie.
func (s *Server) Where(ctx context.Context, req *adminpb.WhereRequest) (*adminpb.WhereReply, error) {
	if len(req.Path) > dfs.PathMax {
		return &adminpb.WhereReply{Errno: uint32(dfs.ENAMETOOLONG)}, nil
	}
	var out *adminpb.WhereReply
	err := s.read(ctx, func(v meta.View) (err error) {
		out, err = where(v, req)
		return err
	})
	if err == nil {
		return out, nil
	}
	errno, err := verdict(err)
	return &adminpb.WhereReply{Errno: errno}, err
}

func where(v meta.View, req *adminpb.WhereRequest) (*adminpb.WhereReply, error) {
	var attr dfs.Attr
	var err error
	if req.Ino != 0 {
		attr, err = v.GetAttr(dfs.Ino(req.Ino))
	} else {
		attr, err = v.Resolve(dfs.Cred{}, req.Path)
	}
	if err != nil {
		return nil, err
	}
	m, err := v.Map()
	if err != nil {
		return nil, err
	}
	out := &adminpb.WhereReply{Ino: uint64(attr.Ino), Mode: attr.Mode, Size: attr.Size, Layout: uint32(attr.Layout), Epoch: uint64(m.Epoch)}
	if !attr.IsFile() {
		return out, nil
	}
	limit := int(min(req.Limit, whereMax))
	if limit == 0 {
		limit = whereMax
	}
	extents, more, err := v.Extents(attr.Ino, req.Off, limit)
	if err != nil {
		return nil, err
	}
	out.More = more
	for _, e := range extents {
		chunk, _, err := v.Chunk(e.Chunk)
		if err != nil {
			return nil, err
		}
		pg := e.Chunk.PG(m.Buckets)
		x := &adminpb.WhereExtent{Off: e.Off, Len: e.Len, Chunk: uint64(e.Chunk), Record: e.Record, Pg: uint32(pg), Sealed: chunk.Sealed}
		for i, id := range m.Home[pg] {
			x.Fragments = append(x.Fragments, fragment(m, &chunk, i, id))
		}
		out.Extents = append(out.Extents, x)
	}
	return out, nil
}

// fragment tells about position i of a chunk.
func fragment(m *dfs.ClusterMap, chunk *meta.Chunk, i int, id dfs.NodeID) *adminpb.WhereFragment {
	server := m.Server(id)
	if server == nil {
		return &adminpb.WhereFragment{State: "hole"}
	}
	f := &adminpb.WhereFragment{Server: uint64(id), Name: server.Name, Zone: server.Zone, State: "ok"}
	switch {
	case server.State == dfs.ServerDown || server.State == dfs.ServerGone:
		f.State = "down"
	case chunk.Present>>i&1 == 0:
		f.State = "missing"
	}
	return f
}

// AddMaster makes an empty master, which was started with --join, a member.
func (s *Server) AddMaster(ctx context.Context, req *adminpb.AddMasterRequest) (*adminpb.AddMasterReply, error) {
	if s.leading.Load() == nil {
		return nil, s.notReady()
	}
	conn, err := s.pool.Conn(req.Addr)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%s: %v", req.Addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	hello, err := metapb.NewClusterClient(conn).Hello(ctx, &metapb.HelloRequest{})
	if rpc.IsWrongCluster(err) {
		return nil, status.Errorf(codes.PermissionDenied, "the master at %s is of another cluster: %s", req.Addr, status.Convert(err).Message())
	}
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "no master answers at %s: start dfs-master there with an empty folder and --join %s (%v)", req.Addr, s.addr, err)
	}
	if err := s.sameCluster(hello.Cluster, "master "+hello.Name); err != nil {
		return nil, err
	}
	return &adminpb.AddMasterReply{Name: hello.Name}, s.addMaster(ctx, meta.Master{ID: dfs.NodeID(hello.Node), Name: hello.Name, Addr: req.Addr}, program{hello.Level, hello.Version})
}

// masterByName finds a master.
func (s *Server) masterByName(ctx context.Context, name string) (meta.Master, error) {
	var masters []meta.Master
	if err := s.read(ctx, func(v meta.View) (err error) { masters, err = v.Masters(); return err }); err != nil {
		return meta.Master{}, err
	}
	i := slices.IndexFunc(masters, func(m meta.Master) bool { return m.Name == name })
	if i < 0 {
		return meta.Master{}, status.Errorf(codes.NotFound, "no master is named %s", name)
	}
	return masters[i], nil
}

// RemoveMaster takes a master's vote away for good.
func (s *Server) RemoveMaster(ctx context.Context, req *adminpb.RemoveMasterRequest) (*adminpb.RemoveMasterReply, error) {
	if s.leading.Load() == nil {
		return nil, s.notReady()
	}
	m, err := s.masterByName(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	peers, _, err := s.node.Peers(ctx)
	if err != nil {
		return nil, s.failure(err)
	}
	left, alive := 0, 0
	for _, p := range peers {
		if p.ID != m.ID && p.Role == replica.Voter {
			left++
			if p.Active {
				alive++
			}
		}
	}
	if alive < left/2+1 {
		return nil, status.Errorf(codes.FailedPrecondition, "without %s only %d of %d masters answer, which is no majority: bring the others back first", m.Name, alive, left)
	}
	if m.ID == s.id.Node {
		// The next leader does it: one that removes itself could not say so.
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		if err := s.handOver(ctx); err != nil {
			return nil, s.failure(err)
		}
		return nil, s.notReady()
	}
	if err := s.node.Remove(ctx, m.ID); err != nil {
		return nil, s.failure(err)
	}
	r, err := s.propose(ctx, &meta.RemoveMaster{ID: m.ID})
	if err == nil && r.Errno != dfs.OK && r.Errno != dfs.ENOENT {
		err = r.Errno
	}
	return &adminpb.RemoveMasterReply{}, s.failure(err)
}

// TransferLeader hands leadership to a master.
func (s *Server) TransferLeader(ctx context.Context, req *adminpb.TransferLeaderRequest) (*adminpb.TransferLeaderReply, error) {
	if s.leading.Load() == nil {
		return nil, s.notReady()
	}
	if req.Name == s.cfg.Name {
		return &adminpb.TransferLeaderReply{Leader: s.cfg.Name}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	var err error
	if req.Name == "" {
		err = s.handOver(ctx)
	} else {
		m, ferr := s.masterByName(ctx, req.Name)
		if ferr != nil {
			return nil, ferr
		}
		err = s.node.Transfer(ctx, m.ID)
	}
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "leadership stays with %s: %v", s.cfg.Name, err)
	}
	if err := s.awaitLeader(ctx); err != nil {
		return nil, s.failure(err)
	}
	var name string
	err = s.node.LocalRead(func(v meta.View) error {
		masters, err := v.Masters()
		for _, m := range masters {
			if m.ID == s.node.Status().Leader {
				name = m.Name
			}
		}
		return err
	})
	return &adminpb.TransferLeaderReply{Leader: name}, err
}
