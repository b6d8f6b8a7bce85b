package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	chunkserver "dfs/chunk/server"
	"dfs/client"
	"dfs/gossip"
	"dfs/internal/clock"
	"dfs/internal/disk"
	"dfs/internal/loopback"
	metaserver "dfs/meta/server"
	"dfs/proto/adminpb"
	"dfs/rpc"
)

// healthyTimeout is how long a cluster may take to be what a test waits for, on a
// machine that runs other tests as well.
const healthyTimeout = 2 * time.Minute

// logMax is how much of the log of a test that failed is shown, in bytes.
const logMax = 24 << 10

// memSegment is how large a file of the Raft log in memory is, in bytes.
const memSegment = 1 << 20

// pollInterval is between two looks at something that a test waits for.
const pollInterval = 20 * time.Millisecond

// Options of a cluster.
type Options struct {
	Masters      int // 0: 3
	ChunkServers int // 0: none
	// Late masters are given an address and a name, but are not started.
	Late           int
	SessionTTL     time.Duration // 0: the masters' default
	DropWait       time.Duration // 0: the masters' default
	ReportInterval time.Duration // of chunk servers; 0: their default
	RepairAfter    time.Duration // 0: the masters' default
	ReclaimEvery   time.Duration // 0: the masters' default
	BackupEvery    time.Duration // 0: the masters' default
	ScrubEvery     time.Duration // 0: the chunk servers' default
	Tick           time.Duration // of Raft; 0: its default
	// Moving is told of each file before a master moves its bytes; nil: nobody is.
	Moving func(ctx context.Context, ino dfs.Ino) error
	// Mem has networks and disks in memory, so that all can be in a bubble
	// of testing/synctest, where time is virtual.
	Mem bool
	// Wires are what the daemons reach others through, by name; who has none has a
	// network that always works. Only with Mem.
	Wires map[string]*Wire
}

// Cluster is a running cluster. It ends with its test.
type Cluster struct {
	Pool *rpc.Pool // for calls of the test's own

	t       testing.TB
	o       Options
	dir     string
	logger  *slog.Logger
	said    bytes.Buffer    // what is logged, with Options.Mem: it is shown by whoever judges
	network *rpc.MemNetwork // with Options.Mem
	gossip  *gossip.Network
	finder  *rpc.Masters
	masters []*master
	chunks  []*chunk
}

// master is one of the masters; server is nil while it does not run.
type master struct {
	name, addr, dir string
	fs              disk.FS // nil: the machine's
	server          *metaserver.Server
}

type chunk struct {
	name, addr, dir string
	fs              disk.FS // nil: the machine's
	server          *chunkserver.Server
}

// Start starts a cluster and waits until all masters vote and all chunk servers are
// up.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Masters == 0 {
		o.Masters = 3
	}
	c := &Cluster{t: t, o: o, dir: t.TempDir()}
	c.logger = c.log()
	for i := range o.Masters + o.Late {
		name := fmt.Sprintf("master-%d", i+1)
		c.masters = append(c.masters, &master{name: name, addr: name + ":7400", dir: filepath.Join(c.dir, name)})
	}
	for i := range o.ChunkServers {
		name := fmt.Sprintf("chunk-%d", i+1)
		c.chunks = append(c.chunks, &chunk{name: name, addr: name + ":7500", dir: filepath.Join(c.dir, name)})
	}
	if o.Mem {
		c.network, c.gossip = rpc.NewMemNetwork(), gossip.NewNetwork()
		for _, m := range c.masters {
			m.fs = disk.NewMem()
		}
		for _, s := range c.chunks {
			s.fs = disk.NewMem()
		}
	} else {
		addrs := freeAddrs(t, len(c.masters)+len(c.chunks))
		for i, m := range c.masters {
			m.addr = addrs[i]
		}
		for i, s := range c.chunks {
			s.addr = addrs[len(c.masters)+i]
		}
	}
	c.Pool = rpc.NewPool(0, c.dialer("test"))
	c.finder = rpc.NewMasters(c.Pool, c.Masters(), c.logger)
	t.Cleanup(c.close)
	for _, m := range c.masters[:o.Masters] {
		c.startMaster(m)
	}
	for _, s := range c.chunks {
		c.startChunk(s)
	}
	c.WaitHealthy()
	return c
}

// log writes what the daemons say into a file, which is shown when the test fails.
func (c *Cluster) log() *slog.Logger {
	if c.o.Mem {
		return slog.New(slog.NewTextHandler(&lines{w: &c.said}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	f, err := os.CreateTemp(c.dir, "log")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			b, err := os.ReadFile(f.Name())
			c.t.Logf("log (%v):\n%s", err, b[max(0, len(b)-logMax):])
		}
		f.Close()
	})
	return slog.New(slog.NewTextHandler(&lines{w: f}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// lines is a file for many writers.
type lines struct {
	mu sync.Mutex
	w  io.Writer // +checklocks:mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// freeAddrs picks ports that nobody listens on now. They stay the servers' over
// restarts.
func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	addrs, err := loopback.Free(n)
	if err != nil {
		t.Fatal(err)
	}
	return addrs
}

// dialer is how a daemon or client reaches others; nil: by TCP.
func (c *Cluster) dialer(from string) rpc.Dialer {
	if c.network == nil {
		return nil
	}
	under := c.network.Dialer(from)
	if w := c.o.Wires[from]; w != nil {
		if w.under == nil { // else it is started again
			w.under = under
		}
		return w.dial
	}
	return under
}

// clock is that of leases.
func (c *Cluster) clock() clock.Clock {
	if c.network == nil {
		return clock.Boot
	}
	return func() int64 { return time.Now().UnixNano() } // virtual
}

// listen opens a daemon's address in memory.
func (c *Cluster) listen(addr string) (net.Listener, gossip.Transport) {
	if c.network == nil {
		return nil, nil
	}
	l, err := c.network.Listen(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return l, c.gossip.Transport()
}

func (c *Cluster) startMaster(m *master) {
	c.t.Helper()
	l, transport := c.listen(m.addr)
	cfg := metaserver.Config{
		Name: m.name, Dir: m.dir, FS: m.fs, Listen: m.addr, Listener: l, Dialer: c.dialer(m.name), Clock: c.clock(),
		Mover: func(ctx context.Context, masters []string) (metaserver.Mover, error) {
			fs, err := client.Dial(ctx, client.Config{Masters: masters, Host: m.name, Dialer: c.dialer(m.name), Clock: c.clock(), Logger: c.logger.With("node", m.name)})
			return mover{fs, c.o.Moving}, err
		},
		GossipListen: "127.0.0.1:0", GossipTransport: transport, Expected: c.o.Masters,
		SessionTTL: c.o.SessionTTL, DropWait: c.o.DropWait, RepairAfter: c.o.RepairAfter, BackupEvery: c.o.BackupEvery, ReclaimEvery: c.o.ReclaimEvery, Tick: c.o.Tick, Version: "test", Logger: c.logger.With("node", m.name),
	}
	fs := m.fs
	if fs == nil {
		fs = disk.OS()
	} else {
		cfg.Segment = memSegment
	}
	if _, err := fs.Stat(m.dir); m == c.masters[0] && errors.Is(err, os.ErrNotExist) {
		cfg.Bootstrap = true
	} else if m != c.masters[0] {
		cfg.Join = []string{c.masters[0].addr, c.masters[min(1, len(c.masters)-1)].addr}
	}
	s, err := metaserver.Start(context.Background(), cfg)
	if err != nil {
		c.t.Fatalf("%s: %v", m.name, err)
	}
	m.server = s
}

// mover is the client of a master that moves bytes.
type mover struct {
	*client.FS
	moving func(ctx context.Context, ino dfs.Ino) error
}

func (m mover) Convert(ctx context.Context, ino dfs.Ino, layout dfs.Layout, progress func(uint64)) (dfs.Moved, error) {
	if m.moving != nil {
		if err := m.moving(ctx, ino); err != nil {
			return dfs.Moved{}, err
		}
	}
	return m.FS.Convert(ctx, ino, layout, progress)
}

func (c *Cluster) startChunk(s *chunk) {
	c.t.Helper()
	l, transport := c.listen(s.addr)
	server, err := chunkserver.Start(context.Background(), chunkserver.Config{
		Name: s.name, Dirs: []string{s.dir}, FS: s.fs, Listen: s.addr, Listener: l, Dialer: c.dialer(s.name),
		GossipListen: "127.0.0.1:0", GossipTransport: transport, Masters: c.Masters(), Host: s.name, Weight: 1,
		ReportInterval: c.o.ReportInterval, ScrubEvery: c.o.ScrubEvery, Version: "test", Logger: c.logger.With("node", s.name),
	})
	if err != nil {
		c.t.Fatalf("%s: %v", s.name, err)
	}
	s.server = server
}

// AddChunkServer starts one more chunk server.
func (c *Cluster) AddChunkServer() (name string) {
	c.t.Helper()
	name = fmt.Sprintf("chunk-%d", len(c.chunks)+1)
	s := &chunk{name: name, addr: name + ":7500", dir: filepath.Join(c.dir, name)}
	if c.o.Mem {
		s.fs = disk.NewMem()
	} else {
		s.addr = freeAddrs(c.t, 1)[0]
	}
	c.chunks = append(c.chunks, s)
	c.startChunk(s)
	return name
}

func (c *Cluster) close() {
	var errs []error
	for _, s := range c.chunks {
		if s.server != nil {
			errs = append(errs, s.server.Close())
		}
	}
	errs = append(errs, c.finder.Close())
	for _, m := range c.masters {
		if m.server != nil {
			errs = append(errs, m.server.Close())
		}
	}
	if err := errors.Join(append(errs, c.Pool.Close())...); err != nil {
		c.t.Errorf("end of the cluster: %v", err)
	}
	if c.o.Mem {
		time.Sleep(healthyTimeout) // memberlist's goroutines end with their timers; time is virtual
	}
}

// Masters are the addresses of all masters, running or not.
func (c *Cluster) Masters() (addrs []string) {
	for _, m := range c.masters {
		addrs = append(addrs, m.addr)
	}
	return addrs
}

// Master is a running master; nil when it does not run.
func (c *Cluster) Master(name string) *metaserver.Server {
	for _, m := range c.masters {
		if m.name == name {
			return m.server
		}
	}
	return nil
}

// ChunkServer is a running chunk server; nil when it does not run.
func (c *Cluster) ChunkServer(name string) *chunkserver.Server {
	for _, s := range c.chunks {
		if s.name == name {
			return s.server
		}
	}
	return nil
}

// Leader waits for a leading master and tells its name.
func (c *Cluster) Leader() string {
	c.t.Helper()
	name := ""
	c.Eventually("a leading master", func() error {
		name = ""
		for _, m := range c.masters {
			if m.server != nil && m.server.Leading() {
				name = m.name
			}
		}
		if name == "" {
			return errors.New("nobody leads")
		}
		return nil
	})
	return name
}

// Kill ends a server as a crash would.
func (c *Cluster) Kill(name string) {
	c.t.Helper()
	var err error
	switch m, s := c.find(name); {
	case m != nil && m.server != nil:
		err = m.server.Abandon()
		m.server = nil
	case s != nil && s.server != nil:
		err = s.server.Close()
		s.server = nil
	default:
		c.t.Fatalf("%s does not run", name)
	}
	if err != nil {
		c.t.Errorf("kill %s: %v", name, err)
	}
}

// Restart starts a server on its data, or a late one for the first time.
func (c *Cluster) Restart(name string) {
	c.t.Helper()
	switch m, s := c.find(name); {
	case m != nil && m.server == nil:
		c.startMaster(m)
	case s != nil && s.server == nil:
		c.startChunk(s)
	default:
		c.t.Fatalf("%s runs", name)
	}
}

func (c *Cluster) find(name string) (*master, *chunk) {
	for _, m := range c.masters {
		if m.name == name {
			return m, nil
		}
	}
	for _, s := range c.chunks {
		if s.name == name {
			return nil, s
		}
	}
	c.t.Fatalf("no server is named %s", name)
	return nil, nil
}

// Call calls the leading master, with retries, for at most healthyTimeout.
func (c *Cluster) Call(fn func(ctx context.Context, conn *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), healthyTimeout)
	defer cancel()
	return c.finder.Call(ctx, fn)
}

// Status is what the leading master says of the cluster.
func (c *Cluster) Status() (*adminpb.StatusReply, error) {
	var reply *adminpb.StatusReply
	err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = adminpb.NewAdminClient(conn).Status(ctx, &adminpb.StatusRequest{})
		return err
	})
	return reply, err
}

// WaitHealthy waits until all masters that run vote and all chunk servers that run
// are up. With fewer chunk servers than the default policy wants, that is all.
func (c *Cluster) WaitHealthy() {
	c.t.Helper()
	c.Eventually("a healthy cluster", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		up, voters := 0, 0
		for _, s := range st.Servers {
			if s.State == "up" {
				up++
			}
		}
		for _, m := range st.Masters {
			if m.Alive && m.Role != "learner" {
				voters++
			}
		}
		runMasters, runChunks := 0, 0
		for _, m := range c.masters {
			if m.server != nil {
				runMasters++
			}
		}
		for _, s := range c.chunks {
			if s.server != nil {
				runChunks++
			}
		}
		whole := runMasters >= c.o.Masters && runChunks == len(c.chunks) && runChunks >= 3
		if voters < runMasters || up != runChunks || whole && st.Health != "ok" {
			return fmt.Errorf("health %s, %d of %d masters vote, %d of %d chunk servers are up: %s", st.Health, voters, runMasters, up, runChunks, reasons(st))
		}
		return nil
	})
}

func reasons(st *adminpb.StatusReply) string {
	var all []string
	for _, r := range st.Reasons {
		all = append(all, r.Code+": "+r.Message)
	}
	return strings.Join(all, "; ")
}

// Eventually waits until fn returns nil.
func (c *Cluster) Eventually(what string, fn func() error) {
	c.t.Helper()
	deadline := time.Now().Add(healthyTimeout)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("no %s within %v: %v", what, healthyTimeout, err)
		}
		time.Sleep(pollInterval)
	}
}

func (c *Cluster) clientConfig(timeout time.Duration) client.Config {
	return client.Config{
		Masters: c.Masters(), Host: "test", Mountpoint: "/test", OpTimeout: timeout,
		Dialer: c.dialer("client"), Clock: c.clock(), Logger: c.logger.With("node", "client"),
	}
}

// dialNow dials a client that the caller closes.
func (c *Cluster) dialNow() *client.FS {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), healthyTimeout)
	defer cancel()
	fs, err := client.Dial(ctx, c.clientConfig(30*time.Second))
	if err != nil {
		c.t.Fatal(err)
	}
	return fs
}

// Client dials a client, which is closed with the test.
func (c *Cluster) Client() *client.FS {
	c.t.Helper()
	fs := c.dialNow()
	c.t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			c.t.Errorf("close of the client: %v", err)
		}
	})
	return fs
}
