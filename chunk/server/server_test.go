package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/chunk/server"
	"dfs/internal/disk"
	"dfs/internal/disk/disktest"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

const testCluster dfs.ClusterID = 0xc1

// master is as much of a master as a chunk server needs.
type master struct {
	metapb.UnimplementedClusterServer
	addr string
	grpc *grpc.Server

	mu       sync.Mutex
	cluster  dfs.ClusterID
	m        *dfs.ClusterMap
	changed  chan struct{}
	reported map[dfs.NodeID][]uint64
	free     map[uint64]bool
}

func startMaster(t testing.TB, addr string) *master {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &master{
		addr: l.Addr().String(), cluster: testCluster, changed: make(chan struct{}),
		m:        &dfs.ClusterMap{Cluster: testCluster, Epoch: 1, Buckets: 1, Home: map[dfs.PG][]dfs.NodeID{}},
		reported: map[dfs.NodeID][]uint64{}, free: map[uint64]bool{},
	}
	m.grpc = grpc.NewServer(rpc.ServerOptions(func() dfs.ClusterID { return m.cluster })...)
	metapb.RegisterClusterServer(m.grpc, m)
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.grpc.Serve(l) })
	t.Cleanup(func() { m.grpc.Stop(); wg.Wait() })
	return m
}

func (m *master) Hello(context.Context, *metapb.HelloRequest) (*metapb.HelloReply, error) {
	return &metapb.HelloReply{
		Cluster: uint64(m.cluster), Node: 1, Name: "master-1", Leader: 1, LeaderAddr: m.addr, Masters: []string{m.addr}, Term: 1, Leading: true,
	}, nil
}

func (m *master) Join(_ context.Context, req *metapb.JoinRequest) (*metapb.JoinReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := rpc.ServerFromProto(req.Server)
	next := *m.m
	next.Epoch++
	next.Servers = append(slices.DeleteFunc(slices.Clone(m.m.Servers), func(o dfs.Server) bool { return o.ID == s.ID }), s)
	m.setLocked(&next)
	return &metapb.JoinReply{Cluster: uint64(m.cluster), Epoch: uint64(next.Epoch)}, nil
}

func (m *master) setLocked(next *dfs.ClusterMap) {
	next.Derive()
	m.m = next
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *master) WatchMap(_ *metapb.WatchMapRequest, out grpc.ServerStreamingServer[metapb.ClusterMap]) error {
	for {
		m.mu.Lock()
		now, changed := m.m, m.changed
		m.mu.Unlock()
		if err := out.Send(rpc.ClusterMapToProto(now)); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

func (m *master) ReportChunks(_ context.Context, req *metapb.ReportChunksRequest) (*metapb.ReportChunksReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reported[dfs.NodeID(req.Server)] = req.Chunks
	reply := &metapb.ReportChunksReply{Free: []uint64{99}} // one that nobody asked about
	for _, c := range req.Chunks {
		if m.free[c] {
			reply.Free = append(reply.Free, c)
		}
	}
	return reply, nil
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

type node struct {
	*server.Server
	fs *disk.Mem
}

func startServer(t testing.TB, masterAddr string, i int, change ...func(*server.Config)) node {
	t.Helper()
	fs := disk.NewMem()
	cfg := server.Config{
		Name: fmt.Sprintf("chunk-%d", i), Listen: "127.0.0.1:0", Masters: []string{masterAddr}, Dirs: []string{"/data"},
		Host: fmt.Sprintf("h%d", i), AdminListen: "127.0.0.1:0", FS: fs, ReportInterval: 20 * time.Millisecond,
		GossipListen: "127.0.0.1:0", HopTimeout: time.Second, Version: "test",
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := server.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close %s: %v", cfg.Name, err)
		}
	})
	if m, ok := cfg.FS.(*disk.Mem); ok {
		fs = m
	}
	return node{s, fs}
}

// cluster is a master and n servers that know each other, and a client.
func cluster(t *testing.T, n int) (*master, []node, *rpc.Pool) {
	t.Helper()
	m := startMaster(t, "127.0.0.1:0")
	nodes := make([]node, n)
	for i := range nodes {
		nodes[i] = startServer(t, m.addr, i+1)
	}
	for _, nd := range nodes {
		waitFor(t, "all servers know all", func() bool { return nd.Map() != nil && len(nd.Map().Servers) == n })
	}
	pool := rpc.NewPool(testCluster, nil)
	t.Cleanup(func() { pool.Close() })
	return m, nodes, pool
}

func client(t testing.TB, pool *rpc.Pool, addr string) chunkpb.ChunkClient {
	t.Helper()
	conn, err := pool.Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	return chunkpb.NewChunkClient(conn)
}

func request(id, seq uint64, off uint32, n int) *chunkpb.AppendRequest {
	data := make([]byte, n)
	rng := rand.New(rand.NewPCG(id, seq))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return &chunkpb.AppendRequest{
		Id: id, Cluster: uint64(testCluster), Chunk: uint64(dfs.MakeChunkID(dfs.DefaultLayout, seq)), Session: 5, Epoch: 1,
		Offset: off, RecordLen: uint32(n), Crcs: dfs.PageCRCs(nil, data), Data: data,
	}
}

func forward(nodes ...node) []*chunkpb.Hop {
	var out []*chunkpb.Hop
	for i, n := range nodes {
		out = append(out, &chunkpb.Hop{Addr: n.Addr(), Fragment: uint32(i + 1)})
	}
	return out
}

func read(t *testing.T, c chunkpb.ChunkClient, req *chunkpb.AppendRequest) *chunkpb.ReadReply {
	t.Helper()
	r, err := c.Read(t.Context(), &chunkpb.ReadRequest{Chunk: req.Chunk, Record: req.Offset, Len: uint32(len(req.Data)), Cluster: req.Cluster})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestChainStoresEachRecordOnEveryServer(t *testing.T) {
	_, nodes, pool := cluster(t, 3)
	stream, err := client(t, pool, nodes[0].Addr()).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var reqs []*chunkpb.AppendRequest
	off := map[uint64]uint32{1: dfs.FirstRecord, 2: dfs.FirstRecord}
	for i := range 40 {
		seq := uint64(1 + i%2)
		r := request(uint64(i+1), seq, off[seq], []int{100, 4096, 70000, 1 << 20}[i/2%4])
		r.Forward = forward(nodes[1:]...)
		off[seq] += uint32(dfs.RecordSpace(len(r.Data)))
		reqs = append(reqs, r)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, r := range reqs {
			if err := stream.Send(r); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := map[uint64]bool{}
	for range reqs {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.Errno != 0 || seen[r.Id] {
			t.Fatalf("append %d (again: %v): %s", r.Id, seen[r.Id], r.Error)
		}
		seen[r.Id] = true
	}
	wg.Wait()
	for i, n := range nodes {
		c := client(t, pool, n.Addr())
		for _, req := range reqs {
			if r := read(t, c, req); r.Errno != 0 || !bytes.Equal(r.Data, req.Data) || dfs.CheckPages(0, r.Data, r.Crcs) != nil {
				t.Fatalf("server %d: record %d reads wrong: %s", i, req.Id, r.Error)
			}
		}
		seal, err := c.Seal(t.Context(), &chunkpb.SealRequest{Chunk: reqs[0].Chunk, Cluster: uint64(testCluster)})
		if err != nil || seal.Errno != 0 || seal.End != off[1] {
			t.Fatalf("seal: %v, %v", seal, err)
		}
		stat, err := c.Stat(t.Context(), &chunkpb.StatRequest{Chunks: []uint64{reqs[0].Chunk, 12345}})
		if err != nil || len(stat.Chunks) != 2 || !stat.Chunks[0].Sealed || stat.Chunks[0].Fragment != uint32(i) || !stat.Chunks[1].Missing {
			t.Fatalf("stat: %v, %v", stat, err)
		}
		list, err := c.List(t.Context(), &chunkpb.ListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		page, err := list.Recv()
		if err != nil || len(page.Chunks) != 2 {
			t.Fatalf("list: %v, %v", page, err)
		}
		if _, err := list.Recv(); err != io.EOF {
			t.Fatalf("list ends with %v", err)
		}
		ping, err := c.Ping(t.Context(), &chunkpb.PingRequest{})
		if err != nil || ping.Server != uint64(n.ID()) || ping.TotalBytes == 0 || ping.FreeBytes == 0 || ping.Version != "test" {
			t.Fatalf("ping: %v, %v", ping, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Fatalf("stream ends with %v", err)
	}
}

// exchange sends one append and waits for its answer.
func exchange(t *testing.T, s grpc.BidiStreamingClient[chunkpb.AppendRequest, chunkpb.AppendReply], r *chunkpb.AppendRequest) *chunkpb.AppendReply {
	t.Helper()
	if err := s.Send(r); err != nil {
		t.Fatal(err)
	}
	reply, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if reply.Id != r.Id {
		t.Fatalf("answer to %d, not to %d", reply.Id, r.Id)
	}
	return reply
}

func TestChainNamesTheServerThatFailed(t *testing.T) {
	_, nodes, pool := cluster(t, 3)
	stream, err := client(t, pool, nodes[0].Addr()).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := func(id, seq uint64) *chunkpb.AppendRequest {
		r := request(id, seq, dfs.FirstRecord, 5000)
		r.Forward = forward(nodes[1:]...)
		return r
	}
	if r := exchange(t, stream, next(1, 1)); r.Errno != 0 {
		t.Fatal(r.Error)
	}
	for i, n := range []node{nodes[2], nodes[1], nodes[0]} {
		remove := disktest.Fail(t, n.fs, "sync */chunks/*/*")
		r := exchange(t, stream, next(uint64(2+i), uint64(2+i)))
		remove()
		want := uint64(n.ID())
		if n == nodes[0] {
			want = 0
		}
		if r.Errno != uint32(dfs.EIO) || r.Failed != want {
			t.Fatalf("failing disk of server %d: errno %d, failed %x, want %x: %s", 2-i, r.Errno, r.Failed, want, r.Error)
		}
	}
	if r := exchange(t, stream, next(9, 9)); r.Errno != 0 {
		t.Fatalf("after the faults: %s", r.Error)
	}
	// A server that is slow for ever is given up; then one that is gone.
	remove := disktest.Fail(t, nodes[1].fs, "sync */chunks/*/* delay=3s times=1")
	if r := exchange(t, stream, next(10, 10)); r.Errno != uint32(dfs.EIO) || r.Failed != uint64(nodes[1].ID()) {
		t.Fatalf("slow server: %v", r)
	}
	remove()
	if err := nodes[2].Close(); err != nil {
		t.Fatal(err)
	}
	if r := exchange(t, stream, next(11, 11)); r.Errno != uint32(dfs.EIO) || r.Failed != uint64(nodes[2].ID()) {
		t.Fatalf("dead server: %v", r)
	}
	r := next(12, 12)
	r.Forward = r.Forward[:1]
	if r := exchange(t, stream, r); r.Errno != 0 {
		t.Fatalf("shorter chain: %s", r.Error)
	}
}

func TestGarbageIsRefused(t *testing.T) {
	_, nodes, pool := cluster(t, 2)
	c := client(t, pool, nodes[0].Addr())
	stream, err := c.Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(r *chunkpb.AppendRequest){
		"no data":         func(r *chunkpb.AppendRequest) { r.Data = nil },
		"no checksums":    func(r *chunkpb.AppendRequest) { r.Crcs = nil },
		"wrong checksum":  func(r *chunkpb.AppendRequest) { r.Crcs[0]++ },
		"wrong length":    func(r *chunkpb.AppendRequest) { r.RecordLen++ },
		"huge length":     func(r *chunkpb.AppendRequest) { r.RecordLen = 1<<32 - 1 },
		"no layout":       func(r *chunkpb.AppendRequest) { r.Chunk = 1 },
		"fragment":        func(r *chunkpb.AppendRequest) { r.Fragment = 3 },
		"huge fragment":   func(r *chunkpb.AppendRequest) { r.Fragment = 1<<32 - 1 },
		"offset 0":        func(r *chunkpb.AppendRequest) { r.Offset = 0 },
		"odd offset":      func(r *chunkpb.AppendRequest) { r.Offset = 4097 },
		"far offset":      func(r *chunkpb.AppendRequest) { r.Offset = dfs.ChunkBytes },
		"farther offset":  func(r *chunkpb.AppendRequest) { r.Offset = 1<<32 - 4096 },
		"not at the end":  func(r *chunkpb.AppendRequest) { r.Offset = 8192 },
		"unknown hop":     func(r *chunkpb.AppendRequest) { r.Forward = []*chunkpb.Hop{{Addr: "192.0.2.1:22"}} },
		"itself as a hop": func(r *chunkpb.AppendRequest) { r.Forward = forward(nodes[0]) },
		"hop of nothing":  func(r *chunkpb.AppendRequest) { r.Forward = []*chunkpb.Hop{{}} },
		"many hops": func(r *chunkpb.AppendRequest) {
			r.Forward = make([]*chunkpb.Hop, 50)
			for i := range r.Forward {
				r.Forward[i] = &chunkpb.Hop{}
			}
		},
		"hops of ec": func(r *chunkpb.AppendRequest) {
			l, _ := dfs.EC(2, 1)
			r.Chunk, r.Forward = uint64(dfs.MakeChunkID(l, 1)), forward(nodes[1])
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(1, 1, dfs.FirstRecord, 5000)
			change(r)
			if reply := exchange(t, stream, r); reply.Errno == 0 || reply.Error == "" {
				t.Fatalf("it was taken: %v", reply)
			}
		})
	}
	for _, req := range []*chunkpb.ReadRequest{
		{}, {Chunk: 1<<64 - 1}, {Chunk: request(1, 1, 0, 1).Chunk, Record: 4096, Len: 1<<32 - 1, Off: 1<<32 - 1}, {Chunk: 1, Fragment: 1<<32 - 1},
	} {
		if r, err := c.Read(t.Context(), req); err != nil || r.Errno == 0 {
			t.Errorf("read %v: %v, %v", req, r, err)
		}
	}
	if r, err := c.Seal(t.Context(), &chunkpb.SealRequest{Chunk: 7}); err != nil || r.Errno != uint32(dfs.ENOENT) {
		t.Errorf("seal: %v, %v", r, err)
	}
	// Another cluster: by the call's metadata, and by the message.
	other := rpc.NewPool(testCluster+1, nil)
	defer other.Close()
	if _, err := client(t, other, nodes[0].Addr()).Ping(t.Context(), &chunkpb.PingRequest{}); !rpc.IsWrongCluster(err) {
		t.Errorf("ping from another cluster: %v", err)
	}
	if _, err := c.Read(t.Context(), &chunkpb.ReadRequest{Cluster: uint64(testCluster + 1)}); err == nil || !strings.Contains(err.Error(), "wrong cluster") {
		t.Errorf("read for another cluster: %v", err)
	}
	r := request(2, 2, dfs.FirstRecord, 10)
	r.Cluster++
	if err := stream.Send(r); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "wrong cluster") {
		t.Errorf("append for another cluster: %v", err)
	}
	if n := nodes[0].Store().Stats().Fragments; n != 0 {
		t.Errorf("%d fragments were made", n)
	}
}

func TestChunkThatLivesElsewhereIsRefused(t *testing.T) {
	m, nodes, pool := cluster(t, 2)
	r := request(1, 1, dfs.FirstRecord, 100)
	pg := dfs.ChunkID(r.Chunk).PG(1)
	m.mu.Lock()
	next := *m.m
	next.Epoch++
	next.Home = map[dfs.PG][]dfs.NodeID{pg: {nodes[1].ID(), nodes[0].ID(), 0}}
	m.setLocked(&next)
	m.mu.Unlock()
	waitFor(t, "the new map", func() bool { return nodes[0].Map().Epoch == next.Epoch })
	stream, err := client(t, pool, nodes[0].Addr()).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Epoch = uint64(next.Epoch)
	if reply := exchange(t, stream, r); reply.Errno != uint32(dfs.ESTALE) {
		t.Fatalf("fragment 0: %v", reply)
	}
	r.Fragment = 1
	if reply := exchange(t, stream, r); reply.Errno != 0 {
		t.Fatalf("fragment 1: %v", reply)
	}
}

func TestServerStartsWithoutMastersAndOutlivesThem(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // an address on which nobody listens yet
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	n := startServer(t, addr, 1)
	health := func() (int, string) {
		resp, err := http.Get("http://" + n.AdminAddr() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, text := health(); code != http.StatusServiceUnavailable || !strings.Contains(text, "joined") {
		t.Fatalf("health before it has joined: %d %s", code, text)
	}
	m := startMaster(t, addr)
	waitFor(t, "the server joins", n.Joined)
	if code, text := health(); code != http.StatusOK {
		t.Fatalf("health: %d %s", code, text)
	}
	resp, err := http.Get("http://" + n.AdminAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	for _, name := range []string{"dfs_chunk_appends_total", "dfs_chunk_free_bytes", "go_goroutines"} {
		if !bytes.Contains(b, []byte(name)) {
			t.Errorf("no metric %s", name)
		}
	}
	m.grpc.Stop()
	pool := rpc.NewPool(testCluster, nil)
	defer pool.Close()
	stream, err := client(t, pool, n.Addr()).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r := exchange(t, stream, request(1, 1, dfs.FirstRecord, 100)); r.Errno != 0 {
		t.Fatal(r.Error)
	}
}

func TestWhatMastersNeedNoMoreIsDeleted(t *testing.T) {
	m, nodes, pool := cluster(t, 1)
	stream, err := client(t, pool, nodes[0].Addr()).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(3) {
		if r := exchange(t, stream, request(1, seq, dfs.FirstRecord, 100)); r.Errno != 0 {
			t.Fatal(r.Error)
		}
	}
	m.mu.Lock()
	m.free[request(1, 1, 0, 1).Chunk] = true
	m.mu.Unlock()
	waitFor(t, "the chunk is deleted", func() bool { return nodes[0].Store().Stats().Fragments == 2 })
	if _, ok := nodes[0].Store().Stat(dfs.MakeChunkID(dfs.DefaultLayout, 1)); ok {
		t.Fatal("another chunk was deleted")
	}
}

func TestFolderOfAnotherClusterEndsTheServer(t *testing.T) {
	m := startMaster(t, "127.0.0.1:0")
	n := startServer(t, m.addr, 1)
	waitFor(t, "the server joins", n.Joined)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	other := startMaster(t, "127.0.0.1:0")
	other.mu.Lock()
	other.cluster++
	other.mu.Unlock()
	again := startServer(t, other.addr, 1, func(c *server.Config) { c.FS = n.fs })
	select {
	case <-again.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	if err := again.Err(); err == nil || !strings.Contains(err.Error(), "does not belong to the cluster") {
		t.Fatalf("ended with %v", err)
	}
	if again.Store().Cluster() != testCluster {
		t.Fatal("the folder was given to the other cluster")
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	fs := disk.NewMem()
	if err := fs.MkdirAll("/other"); err != nil {
		t.Fatal(err)
	}
	if f, err := fs.Create("/other/stuff"); err != nil {
		t.Fatal(err)
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	good := server.Config{Name: "chunk-1", Listen: "127.0.0.1:0", Masters: []string{"127.0.0.1:1"}, Dirs: []string{"/data"}, FS: fs}
	for want, change := range map[string]func(*server.Config){
		"name":           func(c *server.Config) { c.Name = "" },
		"master":         func(c *server.Config) { c.Masters = nil },
		"--dir":          func(c *server.Config) { c.Dirs = nil },
		"listen address": func(c *server.Config) { c.Listen = "nowhere" },
		"admin address":  func(c *server.Config) { c.AdminListen = "nowhere" },
		"stuff":          func(c *server.Config) { c.Dirs = []string{"/other"} },
		"given twice":    func(c *server.Config) { c.Dirs = []string{"/data", "/data/"} },
	} {
		cfg := good
		change(&cfg)
		if s, err := server.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
			if s != nil {
				s.Close()
			}
		}
	}
}
