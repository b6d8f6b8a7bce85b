package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"dfs/rpc"
)

// Wire is the network of one client or daemon, which can be cut. All connections that
// it makes go through it.
type Wire struct {
	name  string        // in the log
	under rpc.Dialer    // nil: TCP
	lag   time.Duration // most time that bytes take, to the other end and back; 0: none

	mu     sync.Mutex
	broken bool           // +checklocks:mu — connections end, and none is made
	silent chan struct{}  // +checklocks:mu — closed when bytes go on; nil: they do
	conns  map[*link]bool // +checklocks:mu
}

// link is one connection of a wire.
type link struct {
	net.Conn
	w     *Wire
	once  sync.Once
	done  chan struct{}
	ended atomic.Bool // Read has failed
}

var errCut = errors.New("the wire is cut")

// dial is a rpc.Dialer.
func (w *Wire) dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := w.wait(ctx.Done()); err != nil {
		return nil, err
	}
	under := w.under
	if under == nil {
		under = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	c, err := under(ctx, addr)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: c, w: w, done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		return nil, errors.Join(errCut, c.Close())
	}
	if w.conns == nil {
		w.conns = map[*link]bool{}
	}
	w.conns[l] = true
	return l, nil
}

// wait waits while bytes do not go on.
func (w *Wire) wait(done <-chan struct{}) error {
	for {
		w.mu.Lock()
		broken, silent := w.broken, w.silent
		w.mu.Unlock()
		if broken {
			return errCut
		}
		if silent == nil {
			return nil
		}
		select {
		case <-silent:
		case <-done:
			return errCut
		}
	}
}

// linger is the time that bytes take.
func (w *Wire) linger() {
	if w.lag > 0 {
		time.Sleep(rand.N(w.lag))
	}
}

// Read waits also with bytes that came while the wire was silent.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.w.linger()
	if werr := l.w.wait(l.done); werr != nil {
		n, err = 0, werr
	}
	if err != nil {
		l.ended.Store(true)
	}
	return n, err
}

// Write fails when Read has failed, and not before: TCP takes what the other end will
// never get, and gRPC, which leaves it to its reader to find out, would try again and
// again until then, for which time has to pass.
func (l *link) Write(p []byte) (int, error) {
	err := l.w.wait(l.done)
	if err == nil {
		l.w.linger()
		_, err = l.Conn.Write(p)
	}
	select {
	case <-l.done:
		return 0, net.ErrClosed
	default:
		if err != nil && l.ended.Load() {
			return 0, err
		}
		return len(p), nil
	}
}

func (l *link) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.w.mu.Lock()
		delete(l.w.conns, l)
		l.w.mu.Unlock()
	})
	return l.Conn.Close()
}

// cut ends all connections, or makes them silent.
func (w *Wire) cut(silent bool) {
	w.mu.Lock()
	var all []*link
	if silent {
		w.silent = make(chan struct{})
	} else {
		w.broken = true
		for l := range w.conns {
			all = append(all, l)
		}
	}
	w.mu.Unlock()
	for _, l := range all {
		_ = l.Conn.Close() // the owner closes it once more
	}
}

func (w *Wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = false
	if w.silent != nil {
		close(w.silent)
		w.silent = nil
	}
}
