package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/record"
	"dfs/client"
	"dfs/internal/disk"
	"dfs/meta"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// A cluster in memory: one master, which is meta.Apply over a table, and chunk
// servers, which are chunk.Store over disk.Mem. Both can be told to misbehave.

const (
	masterAddr = "master:7400"
	testTTL    = 2 * time.Second
)

// testCluster differs from one run to the next: servers hand out files by its number.
var testCluster = dfs.ClusterID(rand.Uint64() | 1)

type cluster struct {
	t      testing.TB
	net    *rpc.MemNetwork
	master *master
	chunks []*chunkServer
}

type clusterOptions struct {
	servers int
	buckets uint32
	layout  dfs.Layout
}

func newCluster(t testing.TB, o clusterOptions) *cluster {
	t.Helper()
	if o.servers == 0 {
		o.servers = 3
	}
	if o.buckets == 0 {
		o.buckets = 8
	}
	if o.layout == 0 {
		o.layout = dfs.DefaultLayout
	}
	c := &cluster{t: t, net: rpc.NewMemNetwork()}
	c.master = &master{c: c, table: &memTable{rows: map[string][]byte{}}, changed: make(chan struct{}), sessions: map[uint64]bool{}}
	for i := range o.servers {
		c.chunks = append(c.chunks, newChunkServer(c, i))
	}
	c.master.bootstrap(o)
	c.master.start()
	t.Cleanup(func() {
		c.master.stop()
		for _, s := range c.chunks {
			s.kill()
		}
	})
	return c
}

// dial makes a client that is closed at the end of the test.
func (c *cluster) dial(edit ...func(*client.Config)) *client.FS {
	c.t.Helper()
	cfg := client.Config{
		Masters: []string{masterAddr}, Host: "here", Mountpoint: "/mnt", OpTimeout: 20 * time.Second,
		Dialer: c.net.Dialer("client"), Logger: testLogger(c.t),
	}
	for _, e := range edit {
		e(&cfg)
	}
	fs, err := client.Dial(context.Background(), cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = fs.Close() })
	return fs
}

// testLogger shows the log of a test that failed.
func testLogger(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// master serves meta and cluster calls.
type master struct {
	metapb.UnimplementedMetaServer
	metapb.UnimplementedClusterServer
	c      *cluster
	server *grpc.Server
	done   chan struct{}

	mu       sync.Mutex
	table    *memTable
	sessions map[uint64]bool // alive
	changed  chan struct{}   // closed when the map changes
	clock    int64
	layout   dfs.Layout

	commits    atomic.Int64
	loseReply  atomic.Int32 // so many Mutate replies get lost after they were carried out
	loseMany   atomic.Bool  // the reply to the next Commit of many files gets lost, and the sessions with it
	staleNext  atomic.Int32 // so many Commits are answered stale_map
	wantOpen   atomic.Bool
	lastOpen   atomic.Pointer[metapb.HeartbeatRequest]
	mutateHook atomic.Pointer[func(*metapb.MutateRequest)]
}

func (m *master) bootstrap(o clusterOptions) {
	m.layout = o.layout
	m.own(&meta.Bootstrap{Cluster: testCluster, Buckets: o.buckets})
	put := &meta.PutMap{Epoch: m.epoch()}
	for _, s := range m.c.chunks {
		put.Servers = append(put.Servers, s.row(dfs.ServerUp))
	}
	for b := range o.buckets {
		var home []dfs.NodeID
		for i := range o.layout.Width() {
			home = append(home, m.c.chunks[(int(b)+i)%len(m.c.chunks)].id)
		}
		put.Acting = append(put.Acting, meta.Home{PG: dfs.MakePG(o.layout, uint16(b)), Servers: home})
	}
	m.own(put)
	if o.layout != dfs.DefaultLayout {
		m.own(&meta.SetPolicy{Ino: dfs.RootIno, Layout: o.layout})
	}
}

func (m *master) now() dfs.Time {
	m.clock++
	return dfs.TimeOf(time.Now())
}

func (m *master) own(op meta.Op) meta.Reply {
	m.c.t.Helper()
	rep, err := meta.Apply(m.table, meta.Command{Time: m.now(), Cred: dfs.Cred{Checked: true}, Op: op})
	if err != nil || rep.Errno != dfs.OK {
		m.c.t.Fatalf("%T: %v %v", op, err, rep.Errno)
	}
	return rep
}

func (m *master) view() meta.View { return meta.NewView(m.table) }

func (m *master) epoch() dfs.Epoch {
	e, err := m.view().Epoch()
	if err != nil {
		m.c.t.Fatal(err)
	}
	return e
}

func (m *master) start() {
	l, err := m.c.net.Listen(masterAddr)
	if err != nil {
		m.c.t.Fatal(err)
	}
	m.server = grpc.NewServer(rpc.ServerOptions(func() dfs.ClusterID { return testCluster })...)
	metapb.RegisterMetaServer(m.server, m)
	metapb.RegisterClusterServer(m.server, m)
	m.done = make(chan struct{})
	go func(s *grpc.Server, done chan struct{}) { _ = s.Serve(l); close(done) }(m.server, m.done)
}

func (m *master) stop() {
	m.server.Stop()
	<-m.done
}

// setState puts a server's state in the map.
func (m *master) setState(s *chunkServer, state dfs.ServerState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setStateLocked(s, state)
}

func (m *master) setStateLocked(s *chunkServer, state dfs.ServerState) {
	cm, err := m.view().Map()
	if err != nil {
		m.c.t.Fatal(err)
	}
	if cm.Server(s.id).State == state {
		return
	}
	put := &meta.PutMap{Epoch: cm.Epoch, Servers: cm.Servers}
	for i := range put.Servers {
		if put.Servers[i].ID == s.id {
			put.Servers[i].State = state
		}
	}
	m.own(put)
	close(m.changed)
	m.changed = make(chan struct{})
}

// expire ends all sessions.
func (m *master) expire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expireLocked()
}

func (m *master) expireLocked() {
	for id := range m.sessions {
		m.own(&meta.CloseSession{Session: dfs.SessionID(id)})
	}
	clear(m.sessions)
}

func (m *master) Hello(context.Context, *metapb.HelloRequest) (*metapb.HelloReply, error) {
	return &metapb.HelloReply{Cluster: uint64(testCluster), Node: 1, Leader: 1, LeaderAddr: masterAddr, Leading: true, Term: 1, Masters: []string{masterAddr}}, nil
}

func (m *master) WatchMap(req *metapb.WatchMapRequest, out grpc.ServerStreamingServer[metapb.ClusterMap]) error {
	have := dfs.Epoch(req.Epoch)
	for {
		m.mu.Lock()
		cm, err := m.view().Map()
		changed := m.changed
		m.mu.Unlock()
		if err != nil {
			return err
		}
		if cm.Epoch > have {
			have = cm.Epoch
			if err := out.Send(rpc.ClusterMapToProto(cm)); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

// ReportServer tries the server, as the leader does.
func (m *master) ReportServer(_ context.Context, req *metapb.ReportServerRequest) (*metapb.ReportServerReply, error) {
	for _, s := range m.c.chunks {
		if uint64(s.id) == req.Server {
			m.mu.Lock()
			up := s.works()
			if !up {
				m.setStateLocked(s, dfs.ServerDown)
			}
			e := m.epoch()
			m.mu.Unlock()
			return &metapb.ReportServerReply{Epoch: uint64(e), Up: up}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "no such server")
}

func (m *master) OpenSession(_ context.Context, req *metapb.OpenSessionRequest) (*metapb.OpenSessionReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rep := m.own(&meta.OpenSession{Nonce: req.Nonce, Host: req.Host, Mountpoint: req.Mountpoint, Version: req.Version})
	m.sessions[uint64(rep.Session)] = true
	return &metapb.OpenSessionReply{
		Session: uint64(rep.Session), TtlNanos: int64(testTTL),
		Inodes: &metapb.IDRange{From: rep.Inodes.From, To: rep.Inodes.To}, Chunks: &metapb.IDRange{From: rep.Chunks.From, To: rep.Chunks.To},
	}, nil
}

func (m *master) Heartbeat(_ context.Context, req *metapb.HeartbeatRequest) (*metapb.HeartbeatReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if req.OpenComplete {
		m.lastOpen.Store(req)
	}
	want := m.wantOpen.Load() && !req.OpenComplete
	if req.OpenComplete {
		m.wantOpen.Store(false)
	}
	return &metapb.HeartbeatReply{Expired: !m.sessions[req.Session], LeaderTerm: 1, WantOpen: want, MapEpoch: uint64(m.epoch())}, nil
}

func (m *master) CloseSession(_ context.Context, req *metapb.CloseSessionRequest) (*metapb.CloseSessionReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[req.Session] {
		m.own(&meta.CloseSession{Session: dfs.SessionID(req.Session)})
	}
	delete(m.sessions, req.Session)
	return &metapb.CloseSessionReply{}, nil
}

func (m *master) Mutate(_ context.Context, req *metapb.MutateRequest) (*metapb.MutateReply, error) {
	if h := m.mutateHook.Load(); h != nil {
		(*h)(req)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &metapb.MutateReply{}
	for _, mu := range req.Mutations {
		op := opFromProto(mu)
		commit, isCommit := op.(*meta.Commit)
		if isCommit {
			m.commits.Add(1)
			if m.staleNext.Load() > 0 {
				m.staleNext.Add(-1)
				out.Replies = append(out.Replies, &metapb.MutationReply{StaleMap: true})
				continue
			}
		}
		rep, err := meta.Apply(m.table, meta.Command{
			Session: dfs.SessionID(req.Session), Seq: mu.Seq, Acked: req.Acked, Time: m.now(), Cred: rpc.CredFromProto(mu.Cred), Op: op,
		})
		switch {
		case err != nil:
			return nil, status.Error(codes.Internal, err.Error())
		case rep.Expired:
			return &metapb.MutateReply{Expired: true}, nil
		case rep.Duplicate:
			return nil, status.Error(codes.AlreadyExists, "duplicate")
		}
		r := &metapb.MutationReply{Errno: uint32(rep.Errno), Existed: rep.Existed, StaleMap: rep.StaleMap}
		r.Attr = rpc.AttrToProto(rep.Attr)
		r.Inodes = &metapb.IDRange{From: rep.Inodes.From, To: rep.Inodes.To}
		r.Chunks = &metapb.IDRange{From: rep.Chunks.From, To: rep.Chunks.To}
		out.Replies = append(out.Replies, r)
		if isCommit && len(commit.Files) > 1 && m.loseMany.CompareAndSwap(true, false) {
			m.expireLocked()
			return nil, status.Error(codes.Unavailable, "lost on the way")
		}
		if m.loseReply.Load() > 0 {
			m.loseReply.Add(-1)
			return nil, status.Error(codes.Unavailable, "lost on the way")
		}
	}
	return out, nil
}

func opFromProto(mu *metapb.Mutation) meta.Op {
	switch op := mu.Op.(type) {
	case *metapb.Mutation_Create:
		c := op.Create
		return &meta.Create{Parent: dfs.Ino(c.Parent), Name: string(c.Name), Ino: dfs.Ino(c.Ino), Mode: c.Mode, Rdev: c.Rdev, Target: string(c.Target), Excl: c.Excl, Tmpfile: c.Tmpfile, Umask: c.Umask}
	case *metapb.Mutation_Link:
		return &meta.Link{Ino: dfs.Ino(op.Link.Ino), Parent: dfs.Ino(op.Link.Parent), Name: string(op.Link.Name)}
	case *metapb.Mutation_Unlink:
		return &meta.Unlink{Parent: dfs.Ino(op.Unlink.Parent), Name: string(op.Unlink.Name)}
	case *metapb.Mutation_Rmdir:
		return &meta.Rmdir{Parent: dfs.Ino(op.Rmdir.Parent), Name: string(op.Rmdir.Name)}
	case *metapb.Mutation_Rename:
		r := op.Rename
		return &meta.Rename{Parent: dfs.Ino(r.Parent), Name: string(r.Name), NewParent: dfs.Ino(r.NewParent), NewName: string(r.NewName), Flags: r.Flags, Whiteout: dfs.Ino(r.Whiteout)}
	case *metapb.Mutation_SetAttr:
		s := op.SetAttr
		o := &meta.SetAttr{Ino: dfs.Ino(s.Ino), Mode: s.Mode, UID: s.Uid, GID: s.Gid, Size: s.Size, AtimeNow: s.AtimeNow, MtimeNow: s.MtimeNow, Handle: s.Handle, KillSuid: s.KillSuid}
		if s.Atime != nil {
			t := rpc.TimeFromProto(s.Atime)
			o.Atime = &t
		}
		if s.Mtime != nil {
			t := rpc.TimeFromProto(s.Mtime)
			o.Mtime = &t
		}
		return o
	case *metapb.Mutation_SetXattr:
		return &meta.SetXattr{Ino: dfs.Ino(op.SetXattr.Ino), Name: string(op.SetXattr.Name), Value: op.SetXattr.Value, Flags: op.SetXattr.Flags}
	case *metapb.Mutation_RemoveXattr:
		return &meta.RemoveXattr{Ino: dfs.Ino(op.RemoveXattr.Ino), Name: string(op.RemoveXattr.Name)}
	case *metapb.Mutation_Fallocate:
		o := op.Fallocate
		return &meta.Fallocate{Ino: dfs.Ino(o.Ino), Mode: o.Mode, Off: o.Off, Len: o.Len}
	case *metapb.Mutation_CopyRange:
		o := op.CopyRange
		return &meta.CopyRange{From: dfs.Ino(o.From), FromOff: o.FromOff, To: dfs.Ino(o.To), ToOff: o.ToOff, Len: o.Len}
	case *metapb.Mutation_SetPolicy:
		return &meta.SetPolicy{Ino: dfs.Ino(op.SetPolicy.Ino), Layout: dfs.Layout(op.SetPolicy.Layout), KeepTimes: op.SetPolicy.KeepTimes}
	case *metapb.Mutation_Access:
		o := &meta.Access{}
		for i, ino := range op.Access.Inos {
			o.Inodes, o.Times = append(o.Inodes, dfs.Ino(ino)), append(o.Times, rpc.TimeFromProto(op.Access.Times[i]))
		}
		return o
	case *metapb.Mutation_GrantIds:
		return &meta.GrantIDs{Inodes: op.GrantIds.Inodes, Chunks: op.GrantIds.Chunks}
	case *metapb.Mutation_Commit:
		o := &meta.Commit{}
		for _, f := range op.Commit.Files {
			o.Files = append(o.Files, meta.FileCommit{Ino: dfs.Ino(f.Ino), Extents: rpc.ExtentsFromProto(f.Extents), SizeMin: f.SizeMin, Mtime: rpc.TimeFromProto(f.Mtime), KillSuid: f.KillSuid, Ctime: rpc.TimeFromProto(f.Ctime)})
		}
		for _, c := range op.Commit.Chunks {
			cc := meta.ChunkCommit{Chunk: dfs.ChunkID(c.Chunk), Committed: c.Committed, Sealed: c.Sealed}
			for _, s := range c.Servers {
				cc.Servers = append(cc.Servers, dfs.NodeID(s))
			}
			o.Chunks = append(o.Chunks, cc)
		}
		return o
	}
	return nil
}

// errnoOf splits a verdict from what breaks the test.
func (m *master) errnoOf(err error) uint32 {
	var e dfs.Errno
	if err != nil && !errors.As(err, &e) {
		m.c.t.Errorf("master: %v", err)
		return uint32(dfs.EIO)
	}
	return uint32(e)
}

func (m *master) Lookup(_ context.Context, req *metapb.LookupRequest) (*metapb.LookupReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.view().Lookup(rpc.CredFromProto(req.Cred), dfs.Ino(req.Parent), string(req.Name))
	return &metapb.LookupReply{Errno: m.errnoOf(err), Attr: rpc.AttrToProto(&a)}, nil
}

func (m *master) GetAttr(_ context.Context, req *metapb.GetAttrRequest) (*metapb.GetAttrReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.view().GetAttr(dfs.Ino(req.Ino))
	return &metapb.GetAttrReply{Errno: m.errnoOf(err), Attr: rpc.AttrToProto(&a)}, nil
}

// Acquire grants nothing: this master knows no leases.
func (m *master) Acquire(ctx context.Context, req *metapb.AcquireRequest) (*metapb.GetAttrReply, error) {
	return m.GetAttr(ctx, &metapb.GetAttrRequest{Ino: req.Ino})
}

func (m *master) Open(_ context.Context, req *metapb.OpenRequest) (*metapb.OpenReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.view().GetAttr(dfs.Ino(req.Ino))
	var list []dfs.Extent
	var more bool
	if err == nil {
		list, more, err = m.view().Extents(dfs.Ino(req.Ino), 0, int(req.Extents))
	}
	return &metapb.OpenReply{Errno: m.errnoOf(err), Attr: rpc.AttrToProto(&a), Extents: rpc.ExtentsToProto(list), More: more}, nil
}

func (m *master) Extents(_ context.Context, req *metapb.ExtentsRequest) (*metapb.ExtentsReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.view().GetAttr(dfs.Ino(req.Ino))
	var list []dfs.Extent
	var more bool
	if err == nil {
		list, more, err = m.view().Extents(dfs.Ino(req.Ino), req.Off, int(req.Limit))
	}
	return &metapb.ExtentsReply{Errno: m.errnoOf(err), Attr: rpc.AttrToProto(&a), Extents: rpc.ExtentsToProto(list), More: more}, nil
}

func (m *master) ReadDir(_ context.Context, req *metapb.ReadDirRequest) (*metapb.ReadDirReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.view().ReadDir(rpc.CredFromProto(req.Cred), dfs.Ino(req.Ino), req.Cookie, int(req.Limit), req.Plus)
	out := &metapb.ReadDirReply{Errno: m.errnoOf(err), End: l.End, Parent: uint64(l.Parent)}
	for _, e := range l.Entries {
		d := &metapb.DirEntry{Name: []byte(e.Name), Ino: uint64(e.Ino), Type: e.Type, Cookie: e.Cookie}
		if req.Plus {
			d.Attr = rpc.AttrToProto(&e.Attr)
		}
		out.Entries = append(out.Entries, d)
	}
	return out, nil
}

func (m *master) Readlink(_ context.Context, req *metapb.ReadlinkRequest) (*metapb.ReadlinkReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.view().Readlink(dfs.Ino(req.Ino))
	return &metapb.ReadlinkReply{Errno: m.errnoOf(err), Target: []byte(s)}, nil
}

func (m *master) GetXattr(_ context.Context, req *metapb.GetXattrRequest) (*metapb.GetXattrReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.view().GetXattr(rpc.CredFromProto(req.Cred), dfs.Ino(req.Ino), string(req.Name))
	return &metapb.GetXattrReply{Errno: m.errnoOf(err), Value: v}, nil
}

func (m *master) ListXattr(_ context.Context, req *metapb.ListXattrRequest) (*metapb.ListXattrReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names, err := m.view().ListXattr(rpc.CredFromProto(req.Cred), dfs.Ino(req.Ino))
	out := &metapb.ListXattrReply{Errno: m.errnoOf(err)}
	for _, n := range names {
		out.Names = append(out.Names, []byte(n))
	}
	return out, nil
}

func (m *master) StatFS(context.Context, *metapb.StatFSRequest) (*metapb.StatFSReply, error) {
	return &metapb.StatFSReply{TotalBytes: 1 << 40, FreeBytes: 1 << 39, Files: 3}, nil
}

// memTable is a meta.Table: a map with its sorted keys.
type memTable struct {
	rows map[string][]byte
	keys []string
}

func (t *memTable) Get(k []byte) ([]byte, error) { return t.rows[string(k)], nil }

func (t *memTable) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error {
	i, _ := slices.BinarySearch(t.keys, string(lo))
	for ; i < len(t.keys) && t.keys[i] < string(hi); i++ {
		if more, err := fn([]byte(t.keys[i]), t.rows[t.keys[i]]); err != nil || !more {
			return err
		}
	}
	return nil
}

func (t *memTable) Last(lo, hi []byte) (k, v []byte, err error) {
	i, _ := slices.BinarySearch(t.keys, string(hi))
	if i == 0 || t.keys[i-1] < string(lo) {
		return nil, nil, nil
	}
	return []byte(t.keys[i-1]), t.rows[t.keys[i-1]], nil
}

func (t *memTable) Set(k, v []byte) error {
	if _, ok := t.rows[string(k)]; !ok {
		i, _ := slices.BinarySearch(t.keys, string(k))
		t.keys = slices.Insert(t.keys, i, string(k))
	}
	t.rows[string(k)] = bytes.Clone(v)
	return nil
}

func (t *memTable) Delete(k []byte) error {
	if _, ok := t.rows[string(k)]; ok {
		delete(t.rows, string(k))
		i, _ := slices.BinarySearch(t.keys, string(k))
		t.keys = slices.Delete(t.keys, i, i+1)
	}
	return nil
}

// chunkServer is a chunk.Store behind gRPC.
type chunkServer struct {
	chunkpb.UnimplementedChunkServer
	c    *cluster
	id   dfs.NodeID
	name string
	disk *disk.Mem

	mu       sync.Mutex
	store    *chunk.Store
	server   *grpc.Server
	done     chan struct{}
	listener net.Listener

	down    atomic.Bool  // killed
	hang    atomic.Bool  // appends are taken in and never answered
	appends atomic.Int64 // received
	dieAt   atomic.Int64 // kill itself at that append; 0: never
	noSpace atomic.Bool
	corrupt atomic.Bool // bytes change on the way of reads
	reads   atomic.Int64
}

func newChunkServer(c *cluster, i int) *chunkServer {
	s := &chunkServer{c: c, id: dfs.NodeID(100 + i), name: fmt.Sprintf("chunk-%d", i+1), disk: disk.NewMem()}
	s.start()
	return s
}

func (s *chunkServer) addr() string { return s.name + ":7500" }

func (s *chunkServer) row(state dfs.ServerState) dfs.Server {
	return dfs.Server{ID: s.id, Name: s.name, Addr: s.addr(), Host: s.name, Zone: "z", Weight: 1, State: state}
}

func (s *chunkServer) works() bool { return !s.down.Load() && !s.hang.Load() }

func (s *chunkServer) start() {
	store, err := chunk.Open(chunk.Config{Dirs: []string{"/data"}, FS: s.disk, Node: s.id, Cluster: testCluster})
	if err != nil {
		s.c.t.Fatal(err)
	}
	l, err := s.c.net.Listen(s.addr())
	if err != nil {
		s.c.t.Fatal(err)
	}
	server := grpc.NewServer(rpc.ServerOptions(func() dfs.ClusterID { return testCluster })...)
	chunkpb.RegisterChunkServer(server, s)
	done := make(chan struct{})
	s.mu.Lock()
	s.store, s.server, s.done, s.listener = store, server, done, l
	s.mu.Unlock()
	s.down.Store(false)
	go func() { _ = server.Serve(l); close(done) }()
}

// kill ends the server at once.
func (s *chunkServer) kill() {
	if s.down.Swap(true) {
		return
	}
	s.mu.Lock()
	server, done, store := s.server, s.done, s.store
	s.mu.Unlock()
	server.Stop()
	<-done
	_ = store.Close()
}

func (s *chunkServer) Append(out grpc.BidiStreamingServer[chunkpb.AppendRequest, chunkpb.AppendReply]) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		req, err := out.Recv()
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		n := s.appends.Add(1)
		if at := s.dieAt.Load(); at > 0 && n == at {
			go s.kill()
			return status.Error(codes.Unavailable, "killed")
		}
		if s.hang.Load() {
			continue
		}
		reply := func(end uint32, err error) {
			r := &chunkpb.AppendReply{Id: req.Id, End: end}
			var e dfs.Errno
			if err != nil {
				e = dfs.EIO
				errors.As(err, &e)
				r.Errno, r.Error = uint32(e), err.Error()
			}
			mu.Lock()
			_ = out.Send(r)
			mu.Unlock()
		}
		if s.noSpace.Load() {
			reply(0, dfs.ENOSPC)
			continue
		}
		wg.Add(1)
		s.store.Submit(chunk.Record{
			Chunk: dfs.ChunkID(req.Chunk), Fragment: req.Fragment, Session: dfs.SessionID(req.Session), Epoch: dfs.Epoch(req.Epoch),
			Offset: req.Offset, RecordLen: req.RecordLen, CRCs: req.Crcs, Data: req.Data,
		}, func(end uint32, err error) {
			reply(end, err)
			wg.Done()
		})
	}
}

func (s *chunkServer) Read(_ context.Context, req *chunkpb.ReadRequest) (*chunkpb.ReadReply, error) {
	s.reads.Add(1)
	got, err := s.store.Read(record.Piece{Chunk: dfs.ChunkID(req.Chunk), Fragment: req.Fragment, Record: req.Record, Off: req.Off, Len: req.Len}, nil)
	if err != nil {
		e := dfs.EIO
		errors.As(err, &e)
		return &chunkpb.ReadReply{Errno: uint32(e), Error: err.Error()}, nil
	}
	if s.corrupt.Load() {
		got.Data[len(got.Data)/2] ^= 0x40
	}
	return &chunkpb.ReadReply{Off: got.Off, Crcs: got.CRCs, Data: got.Data}, nil
}

func (s *chunkServer) Seal(_ context.Context, req *chunkpb.SealRequest) (*chunkpb.SealReply, error) {
	end, err := s.store.Seal(dfs.ChunkID(req.Chunk))
	if err != nil {
		return &chunkpb.SealReply{Errno: uint32(dfs.ENOENT)}, nil
	}
	return &chunkpb.SealReply{End: end}, nil
}
