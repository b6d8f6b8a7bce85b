package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/metapb"
)

// fakeMaster answers Hello and StatFS as the cluster's state tells it.
type fakeMaster struct {
	metapb.UnimplementedClusterServer
	metapb.UnimplementedMetaServer
	c    *fakeCluster
	id   uint64
	addr string
}

// fakeCluster is some masters in a memory network.
type fakeCluster struct {
	t       *testing.T
	net     *MemNetwork
	cluster dfs.ClusterID

	mu      sync.Mutex
	leader  string
	term    uint64
	addrs   []string
	servers map[string]func() // stop
	calls   map[string]int
}

func newFakeCluster(t *testing.T, n int) *fakeCluster {
	c := &fakeCluster{t: t, net: NewMemNetwork(), cluster: 0xc1, servers: map[string]func(){}, calls: map[string]int{}}
	for i := range n {
		addr := fmt.Sprintf("master-%d:1", i+1)
		c.addrs = append(c.addrs, addr)
		c.start(addr, uint64(i+1), c.cluster)
	}
	t.Cleanup(func() {
		for _, addr := range c.addrs {
			c.net.Heal("client", addr)
			c.stop(addr)
		}
	})
	return c
}

func (c *fakeCluster) start(addr string, id uint64, cluster dfs.ClusterID) {
	l, err := c.net.Listen(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	s := NewServer(func() dfs.ClusterID { return cluster })
	m := &fakeMaster{c: c, id: id, addr: addr}
	metapb.RegisterClusterServer(s, m)
	metapb.RegisterMetaServer(s, m)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[addr] = func() { s.Stop(); wg.Wait() }
}

func (c *fakeCluster) stop(addr string) {
	c.mu.Lock()
	stop := c.servers[addr]
	delete(c.servers, addr)
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (c *fakeCluster) elect(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = addr
	c.term++
}

func (c *fakeCluster) masters(seeds ...string) *Masters {
	p := NewPool(0, c.net.Dialer("client"))
	m := NewMasters(p, seeds, slog.New(slog.DiscardHandler))
	c.t.Cleanup(func() {
		_ = m.Close()
		_ = p.Close()
	})
	return m
}

func (m *fakeMaster) Hello(context.Context, *metapb.HelloRequest) (*metapb.HelloReply, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return &metapb.HelloReply{
		Cluster: uint64(m.c.cluster), Node: m.id, Leading: m.c.leader == m.addr, LeaderAddr: m.c.leader, Term: m.c.term,
		Masters: slices.Clone(m.c.addrs),
	}, nil
}

func (m *fakeMaster) StatFS(context.Context, *metapb.StatFSRequest) (*metapb.StatFSReply, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	m.c.calls[m.addr]++
	if m.c.leader != m.addr {
		return nil, NotLeader(0, m.c.leader)
	}
	return &metapb.StatFSReply{Files: m.id}, nil
}

// ask makes one call and says which master answered.
func ask(ctx context.Context, m *Masters) (uint64, error) {
	var who uint64
	err := m.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := metapb.NewMetaClient(conn).StatFS(ctx, &metapb.StatFSRequest{})
		who = r.GetFiles()
		return err
	})
	return who, err
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestMastersFindsTheLeaderFromAnySeed(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.elect("master-3:1")
	m := c.masters("master-1:1")
	if who, err := ask(within(t, 5*time.Second), m); who != 3 || err != nil {
		t.Fatalf("master %d answered: %v", who, err)
	}
	if got := m.Addrs(); len(got) != 3 {
		t.Errorf("knows %v, want all three", got)
	}
	if m.Pool().Cluster() != c.cluster {
		t.Errorf("the pool's cluster is %v", m.Pool().Cluster())
	}
}

func TestMastersFollowsALeaderThatStepsDown(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.elect("master-1:1")
	m := c.masters(c.addrs...)
	for i, addr := range []string{"master-1:1", "master-2:1", "master-3:1", "master-1:1"} {
		c.elect(addr)
		start := time.Now()
		who, err := ask(within(t, 5*time.Second), m)
		if err != nil || who != uint64(i%3+1) {
			t.Fatalf("master %d answered: %v", who, err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
	}
}

func TestMastersLeavesAKilledLeader(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.elect("master-1:1")
	m := c.masters(c.addrs...)
	if _, err := ask(within(t, 5*time.Second), m); err != nil {
		t.Fatal(err)
	}
	c.stop("master-1:1")
	c.elect("")
	elected := make(chan time.Time, 1)
	time.AfterFunc(700*time.Millisecond, func() { c.elect("master-2:1"); elected <- time.Now() })
	who, err := ask(within(t, 10*time.Second), m)
	if who != 2 || err != nil {
		t.Fatalf("master %d answered: %v", who, err)
	}
	if d := time.Since(<-elected); d > 700*time.Millisecond {
		t.Errorf("noticed the new leader after %v", d)
	}
}

// A leader that is stopped, or cut off, accepts and never answers.
func TestMastersLeavesAHungLeaderInTime(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.elect("master-1:1")
	m := c.masters(c.addrs...)
	if _, err := ask(within(t, 5*time.Second), m); err != nil {
		t.Fatal(err)
	}
	c.net.Cut("client", "master-1:1")
	c.elect("master-3:1")
	start := time.Now()
	who, err := ask(within(t, 10*time.Second), m)
	if who != 3 || err != nil {
		t.Fatalf("master %d answered: %v", who, err)
	}
	if d := time.Since(start); d > 1500*time.Millisecond {
		t.Errorf("left it after %v", d)
	}
}

func TestMastersSaysWhatIsWrongWhenNobodyLeads(t *testing.T) {
	c := newFakeCluster(t, 3)
	m := c.masters(c.addrs...)
	c.stop("master-1:1")
	c.net.Cut("client", "master-2:1")
	start := time.Now()
	_, err := ask(within(t, 2500*time.Millisecond), m)
	if d := time.Since(start); d < 2*time.Second || d > 4*time.Second {
		t.Errorf("returned after %v", d)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v does not wrap the context's error", err)
	}
	for _, want := range []string{"no master leads", "master-1:1 refused the connection", "master-2:1 timed out", "master-3:1 knows no leader"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestMastersKeepsVerdictsAndFinalFailures(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.elect("master-1:1")
	m := c.masters(c.addrs...)
	for _, want := range []error{dfs.ENOENT, status.Error(codes.InvalidArgument, "no"), errors.New("mine")} {
		n := 0
		err := m.Call(within(t, 5*time.Second), func(context.Context, *grpc.ClientConn) error { n++; return want })
		if !errors.Is(err, want) || n != 1 {
			t.Errorf("%v after %d tries, want %v after one", err, n, want)
		}
	}
}

func TestMastersOfAnotherClusterAreRefused(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.elect("master-1:1")
	p := NewPool(0xbad, c.net.Dialer("client"))
	m := NewMasters(p, c.addrs, slog.New(slog.DiscardHandler))
	defer p.Close()
	defer m.Close()
	_, err := ask(within(t, 5*time.Second), m)
	if !IsWrongCluster(err) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"wrong cluster", dfs.ClusterID(0xbad).String(), c.cluster.String()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestMastersWithoutAddresses(t *testing.T) {
	p := testPool(t, 0)
	m := NewMasters(p, nil, slog.New(slog.DiscardHandler))
	defer m.Close()
	if _, err := ask(t.Context(), m); !errors.Is(err, ErrNoMasters) {
		t.Errorf("got %v", err)
	}
}

func TestStreamMovesToTheNewLeader(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.elect("master-1:1")
	m := c.masters(c.addrs...)
	var tries atomic.Int64
	done := make(chan error, 1)
	ctx := within(t, 10*time.Second)
	go func() {
		done <- m.CallStream(ctx, func(ctx context.Context, _ *grpc.ClientConn) error {
			if tries.Add(1) == 2 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	waitFor(t, func() bool { return tries.Load() == 1 })
	c.elect("master-2:1")
	if _, err := ask(ctx, m); err != nil { // notices that the leader changed
		t.Fatal(err)
	}
	if err := <-done; err != nil || tries.Load() != 2 {
		t.Errorf("%v after %d tries", err, tries.Load())
	}
}

func TestCloseEndsWaitingCalls(t *testing.T) {
	c := newFakeCluster(t, 1)
	m := c.masters(c.addrs...) // nobody leads
	done := make(chan error, 1)
	go func() { _, err := ask(t.Context(), m); done <- err }()
	time.AfterFunc(50*time.Millisecond, func() { _ = m.Close() })
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestManyCallersShareOneSearch(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.elect("master-2:1")
	m := c.masters(c.addrs...)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if who, err := ask(within(t, 10*time.Second), m); who != 2 || err != nil {
				t.Errorf("master %d: %v", who, err)
			}
		})
	}
	wg.Wait()
}

func TestParseMasters(t *testing.T) {
	got := ParseMasters("a:1, b\n[::1]:5 [fe80::1]\n a:1,", 7400)
	want := []string{"a:1", "b:7400", "[::1]:5", "[fe80::1]:7400"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
