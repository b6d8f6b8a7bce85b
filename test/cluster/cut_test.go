package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"dfs/client"
)

// wire is a client's network, which can be cut. All connections of one client go
// through it.
type wire struct {
	mu     sync.Mutex
	broken bool           // +checklocks:mu — connections end, and none is made
	silent chan struct{}  // +checklocks:mu — closed when bytes go on; nil: they do
	conns  map[*link]bool // +checklocks:mu
}

// link is one connection of a wire.
type link struct {
	net.Conn
	w    *wire
	once sync.Once
	done chan struct{}
}

var errCut = errors.New("the wire is cut")

// dial is a rpc.Dialer.
func (w *wire) dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := w.wait(ctx.Done()); err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
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
func (w *wire) wait(done <-chan struct{}) error {
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

// Read waits also with bytes that came while the wire was silent.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if werr := l.w.wait(l.done); werr != nil {
		return 0, werr
	}
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	if err := l.w.wait(l.done); err != nil {
		return 0, err
	}
	return l.Conn.Write(p)
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
func (w *wire) cut(silent bool) {
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

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = false
	if w.silent != nil {
		close(w.silent)
		w.silent = nil
	}
}

// dial makes a client; w may be nil.
func (c *Cluster) dial(w *wire, timeout time.Duration) (*client.FS, error) {
	ctx, cancel := context.WithTimeout(context.Background(), healthyTimeout)
	defer cancel()
	cfg := client.Config{Masters: c.Masters(), Host: "test", Mountpoint: "/test", OpTimeout: timeout, Logger: c.logger.With("node", "client")}
	if w != nil {
		cfg.Dialer = w.dial
	}
	return client.Dial(ctx, cfg)
}
