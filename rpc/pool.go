package rpc

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"dfs"
)

// Bounds of a pool.
const (
	poolIdle  = 5 * time.Minute // a connection that nobody asked for so long is closed
	poolSweep = time.Minute
)

// ErrClosed is returned by a Pool or Masters after Close.
var ErrClosed = errors.New("rpc: closed")

// Pool keeps one connection for each address, for all callers in a process. It
// also holds the cluster that they belong to: known from the start, or learned
// once from the first master that was asked.
type Pool struct {
	dialer  Dialer
	cluster atomic.Uint64
	done    chan struct{}
	wg      sync.WaitGroup

	mu     sync.Mutex
	conns  map[string]*pooled // +checklocks:mu
	closed bool               // +checklocks:mu
}

type pooled struct {
	conn   *grpc.ClientConn
	lines  *lines
	used   time.Time // last asked for
	failed error     // of the last attempt to connect
}

// NewPool makes an empty pool. cluster may be 0: it is then learned. dialer may be
// nil: TCP.
func NewPool(cluster dfs.ClusterID, dialer Dialer) *Pool {
	if dialer == nil {
		dialer = dialTCP
	}
	p := &Pool{dialer: dialer, done: make(chan struct{}), conns: map[string]*pooled{}}
	p.cluster.Store(uint64(cluster))
	p.wg.Go(p.sweep)
	return p
}

// Cluster is the id that calls are signed with, 0 while it is not known.
func (p *Pool) Cluster() dfs.ClusterID { return dfs.ClusterID(p.cluster.Load()) }

// SetCluster makes id the pool's cluster if it had none, and reports whether the
// pool's cluster is id now.
func (p *Pool) SetCluster(id dfs.ClusterID) bool {
	return p.cluster.CompareAndSwap(0, uint64(id)) || p.Cluster() == id
}

// Conn returns the connection to addr (host:port). It does not wait for it: calls
// on it fail at once, with UNAVAILABLE, while the address refuses connections.
// The caller must not close it, nor keep it for minutes without asking again.
func (p *Pool) Conn(addr string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if c := p.conns[addr]; c != nil {
		c.used = time.Now()
		return c.conn, nil
	}
	ls := newLines(addr, p.dial)
	conn, err := Dial(addr, p.Cluster, p.dial, // does no I/O
		grpc.WithChainUnaryInterceptor(ls.unary), grpc.WithChainStreamInterceptor(ls.stream))
	if err != nil {
		return nil, err
	}
	p.conns[addr] = &pooled{conn: conn, lines: ls, used: time.Now()}
	return conn, nil
}

// dial remembers why an address cannot be reached: gRPC hands on only a text.
func (p *Pool) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := p.dialer(ctx, addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[addr]; c != nil {
		c.failed = err
	}
	return conn, err
}

// dialError is why the last attempt to connect to addr failed, nil when it did not.
func (p *Pool) dialError(addr string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[addr]; c != nil {
		return c.failed
	}
	return nil
}

// Close closes all connections: calls on them fail.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	close(p.done)
	p.wg.Wait()
	var errs []error
	for _, c := range conns {
		c.lines.close()
		errs = append(errs, c.conn.Close())
	}
	return errors.Join(errs...)
}

func (p *Pool) sweep() {
	t := time.NewTicker(poolSweep)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case now := <-t.C:
			for _, c := range p.idle(now) {
				c.lines.close()
				c.conn.Close()
			}
		}
	}
}

// idle takes out the connections that nobody asked for in a long time and that are
// not connected: a live one may carry a stream that is used all the time without
// anybody asking for it here, and costs a ping every ten seconds.
func (p *Pool) idle(now time.Time) []*pooled {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*pooled
	for addr, c := range p.conns {
		if now.Sub(c.used) > poolIdle && c.conn.GetState() != connectivity.Ready {
			out = append(out, c)
			delete(p.conns, addr)
		}
	}
	return out
}
