package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/hashicorp/memberlist"

	"dfs"
	chunkserver "dfs/chunk/server"
	"dfs/client"
	"dfs/gossip"
	"dfs/internal/disk"
	metaserver "dfs/meta/server"
	"dfs/proto/adminpb"
	"dfs/rpc"
)

// Times and sizes of a simulated cluster.
const (
	segmentBytes = 256 << 10        // of the masters' logs
	bootTimeout  = 10 * time.Minute // for the first health; virtual
	healTimeout  = 60 * time.Minute // for full health after all that went wrong; virtual
	pollInterval = 250 * time.Millisecond
	opTimeout    = 2 * time.Minute // of clients
	dropWait     = 20 * time.Second
)

// clock is that of leases: virtual, and it does not stop.
func clock() int64 { return time.Now().UnixNano() }

// daemon is a server on a host of its own.
type daemon struct {
	name string // of the host too
	addr string
	disk *disk.Mem

	master *metaserver.Server  // nil: it does not run, or is a chunk server
	chunk  *chunkserver.Server // nil: it does not run, or is a master
	talks  string              // address of its gossip
}

func (d *daemon) runs() bool { return d.master != nil || d.chunk != nil }

// cluster is all daemons.
type cluster struct {
	*run
	net     *network
	gossip  *gossip.Network
	masters []*daemon
	chunks  []*daemon
	pool    *rpc.Pool
	finder  *rpc.Masters
	ttl     time.Duration
}

func (r *run) newCluster(masters, chunks int, ttl time.Duration) *cluster {
	c := &cluster{run: r, net: newNetwork(r.fork(1)), gossip: gossip.NewNetwork(), ttl: ttl}
	for i := range masters {
		c.masters = append(c.masters, &daemon{name: fmt.Sprintf("master-%d", i+1), addr: fmt.Sprintf("master-%d:7400", i+1), disk: disk.NewMem()})
	}
	for i := range chunks {
		c.chunks = append(c.chunks, &daemon{name: fmt.Sprintf("chunk-%d", i+1), addr: fmt.Sprintf("chunk-%d:7500", i+1), disk: disk.NewMem()})
	}
	c.pool = rpc.NewPool(0, c.net.dialer("admin"))
	c.finder = rpc.NewMasters(c.pool, c.addrs(), c.logger)
	for _, d := range c.daemons() {
		c.start(d)
	}
	return c
}

func (c *cluster) daemons() []*daemon {
	return append(append([]*daemon(nil), c.masters...), c.chunks...)
}

func (c *cluster) daemon(name string) *daemon {
	for _, d := range c.daemons() {
		if d.name == name {
			return d
		}
	}
	panic("no daemon " + name) // a schedule names what is there
}

func (c *cluster) addrs() (addrs []string) {
	for _, m := range c.masters {
		addrs = append(addrs, m.addr)
	}
	return addrs
}

// start starts a daemon on its disk.
func (c *cluster) start(d *daemon) {
	c.net.up(d.name)
	l, err := c.net.listen(d.addr)
	if err != nil {
		c.failf("%s: %v", d.name, err)
		return
	}
	transport := c.gossip.Transport()
	d.talks = gossipAddr(transport)
	if d.name[:len("chunk")] == "chunk" {
		d.chunk, err = c.startChunk(d, l, transport)
	} else {
		d.master, err = c.startMaster(d, l, transport)
	}
	if err != nil {
		c.failf("%s does not start: %v", d.name, err)
	}
}

func gossipAddr(t memberlist.Transport) string {
	ip, port, err := t.FinalAdvertiseAddr("", 0)
	if err != nil {
		return ""
	}
	return net.JoinHostPort(ip.String(), fmt.Sprint(port))
}

func (c *cluster) startMaster(d *daemon, l net.Listener, t memberlist.Transport) (*metaserver.Server, error) {
	cfg := metaserver.Config{
		Name: d.name, Dir: "/data", FS: d.disk, Listen: d.addr, Listener: l, Dialer: c.net.dialer(d.name), Clock: clock,
		GossipListen: "127.0.0.1:0", GossipTransport: t, Expected: len(c.masters), SessionTTL: c.ttl, DropWait: dropWait,
		Segment: segmentBytes, Version: "test", Logger: c.logger.With("node", d.name),
	}
	if _, err := d.disk.Stat("/data"); err != nil && d == c.masters[0] {
		cfg.Bootstrap = true
	}
	for _, o := range c.masters {
		if o != d && !cfg.Bootstrap {
			cfg.Join = append(cfg.Join, o.addr)
		}
	}
	return metaserver.Start(context.Background(), cfg)
}

func (c *cluster) startChunk(d *daemon, l net.Listener, t memberlist.Transport) (*chunkserver.Server, error) {
	return chunkserver.Start(context.Background(), chunkserver.Config{
		Name: d.name, Dirs: []string{"/data"}, FS: d.disk, Listen: d.addr, Listener: l, Dialer: c.net.dialer(d.name),
		GossipListen: "127.0.0.1:0", GossipTransport: t, Masters: c.addrs(), Host: d.name, Weight: 1,
		ReserveBytes: 1 << 20, ScrubEvery: 10 * time.Minute, Version: "test", Logger: c.logger.With("node", d.name),
	})
}

// stop ends a daemon: nothing that it does from now on is seen by anybody, nor by its
// disk. With its power goes what was not synced.
func (c *cluster) stop(rng *rand.Rand, power bool, all ...*daemon) {
	for _, d := range all {
		c.net.down(d.name, power)
		if power {
			d.disk = d.disk.Crash(rng)
		} else {
			d.disk = d.disk.Kill()
		}
	}
	var wg sync.WaitGroup
	for _, d := range all {
		wg.Go(func() {
			var err error
			if d.master != nil {
				err = d.master.Abandon()
			}
			if d.chunk != nil {
				err = d.chunk.Close()
			}
			if err != nil {
				c.logger.Info("end of a daemon", "node", d.name, "err", err)
			}
			d.master, d.chunk = nil, nil
		})
	}
	wg.Wait()
}

// part parts a host from others, in one or both directions, or joins it with them again.
func (c *cluster) part(name string, others []string, in, out, parted bool) {
	for _, o := range others {
		if o == name {
			continue
		}
		if in {
			c.net.hold(o, name, parted)
		}
		if out {
			c.net.hold(name, o, parted)
		}
		a, b := c.talks(name), c.talks(o)
		if a == "" || b == "" {
			continue
		}
		if parted {
			c.gossip.Cut(a, b)
		} else {
			c.gossip.Heal(a, b)
		}
	}
}

// talks is where a host gossips; empty when it does not.
func (c *cluster) talks(name string) string {
	for _, d := range c.daemons() {
		if d.name == name {
			return d.talks
		}
	}
	return ""
}

// hosts are those of the daemons.
func (c *cluster) hosts(of []*daemon) (names []string) {
	for _, d := range of {
		names = append(names, d.name)
	}
	return names
}

// leader is who leads now; nil when nobody does.
func (c *cluster) leader() *daemon {
	for _, m := range c.masters {
		if m.master != nil && m.master.Leading() {
			return m
		}
	}
	return nil
}

// call calls the leading master.
func (c *cluster) call(bound time.Duration, fn func(ctx context.Context, conn *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	return c.finder.Call(ctx, fn)
}

// healthy says what is wrong with the cluster.
func (c *cluster) healthy() error {
	var st *adminpb.StatusReply
	err := c.call(time.Minute, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		st, err = adminpb.NewAdminClient(conn).Status(ctx, &adminpb.StatusRequest{})
		return err
	})
	if err != nil {
		return err
	}
	voters, up := 0, 0
	for _, m := range st.Masters {
		if m.Alive && m.Role != "learner" {
			voters++
		}
	}
	for _, s := range st.Servers {
		if s.State == "up" {
			up++
		}
	}
	if st.Health != "ok" || voters != len(c.masters) || up != len(c.chunks) || st.Orphans > 0 {
		var why []string
		for _, r := range st.Reasons {
			why = append(why, r.Code+": "+r.Message)
		}
		return fmt.Errorf("health %s, %d masters vote, %d chunk servers are up, %d orphans: %s", st.Health, voters, up, st.Orphans, strings.Join(why, "; "))
	}
	return nil
}

// until waits until fn returns nil.
func (c *cluster) until(what string, bound time.Duration, fn func() error) bool {
	end := time.Now().Add(bound)
	for {
		err := fn()
		if err == nil {
			return true
		}
		if time.Now().After(end) {
			c.failf("no %s within %v: %v", what, bound, err)
			return false
		}
		time.Sleep(pollInterval)
	}
}

// dial makes a client on a host.
func (c *cluster) dial(host string, session func()) (*client.FS, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	for {
		fs, err := client.Dial(ctx, client.Config{
			Masters: c.addrs(), Host: host, Mountpoint: "/" + host, OpTimeout: opTimeout, Dialer: c.net.dialer(host), Clock: clock,
			CacheBytes: 4 << 20, DirtyBytes: 8 << 20, OnSession: func(dfs.SessionID) { session() }, Logger: c.logger.With("node", host),
		})
		if err == nil || ctx.Err() != nil {
			return fs, err
		}
		time.Sleep(pollInterval)
	}
}

// close ends all daemons, and gives their state.
func (c *cluster) close() {
	errs := []error{c.finder.Close(), c.pool.Close()}
	for _, d := range c.daemons() {
		c.net.down(d.name, false)
	}
	for _, d := range c.daemons() {
		if d.master != nil {
			errs = append(errs, d.master.Close())
			d.master = nil
		}
		if d.chunk != nil {
			errs = append(errs, d.chunk.Close())
			d.chunk = nil
		}
	}
	if err := errors.Join(errs...); err != nil {
		c.logger.Info("end of the cluster", "err", err)
	}
	time.Sleep(2 * time.Minute) // memberlist's goroutines end with their timers
}

// lines is a log for many writers.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer // +checklocks:mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.b.Bytes()
	return string(b[max(0, len(b)-n):])
}

// newLogger logs what the daemons say.
func newLogger(l *lines) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
