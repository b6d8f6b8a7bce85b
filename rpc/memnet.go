package rpc

import (
	"context"
	"net"
	"sync"
	"syscall"

	"google.golang.org/grpc/test/bufconn"
)

// MemNetwork is a network in memory, for tests: servers listen on any name, clients
// come from any name through Dialer, links can be cut. An address on which nobody
// listens refuses at once; over a link that is cut nothing arrives until it is
// healed, and then everything does, as with TCP.
type MemNetwork struct {
	mu        sync.Mutex
	listeners map[string]*memListener // +checklocks:mu
	cut       map[[2]string]*gate     // +checklocks:mu — by pair of names
}

// gate is closed to what passes a link until open is closed.
type gate struct{ open chan struct{} }

// memBufferBytes is what one direction of a connection holds before its sender
// waits for the reader.
const memBufferBytes = 256 << 10

// NewMemNetwork makes a network on which nobody listens.
func NewMemNetwork() *MemNetwork {
	return &MemNetwork{listeners: map[string]*memListener{}, cut: map[[2]string]*gate{}}
}

// Listen opens addr, a name such as "master-1:7400".
func (n *MemNetwork) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "mem", Addr: memAddr(addr), Err: syscall.EADDRINUSE}
	}
	l := &memListener{Listener: bufconn.Listen(memBufferBytes), network: n, addr: addr}
	n.listeners[addr] = l
	return l, nil
}

// Dialer connects as from, a name that Cut can cut off.
func (n *MemNetwork) Dialer(from string) Dialer {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		if err := n.pass(ctx.Done(), link(from, addr)); err != nil {
			return nil, ctx.Err()
		}
		n.mu.Lock()
		l := n.listeners[addr]
		n.mu.Unlock()
		refused := &net.OpError{Op: "dial", Net: "mem", Addr: memAddr(addr), Err: syscall.ECONNREFUSED}
		if l == nil {
			return nil, refused
		}
		conn, err := l.DialContext(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, refused
		}
		return &memConn{Conn: conn, network: n, link: link(from, addr), remote: memAddr(addr), closed: make(chan struct{})}, nil
	}
}

// Cut parts two names: what one sends reaches the other when Heal is called.
func (n *MemNetwork) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := link(a, b); n.cut[l] == nil {
		n.cut[l] = &gate{make(chan struct{})}
	}
}

// Heal undoes Cut.
func (n *MemNetwork) Heal(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.cut[link(a, b)]; g != nil {
		close(g.open)
		delete(n.cut, link(a, b))
	}
}

// pass waits while the link is cut; an error when done is closed before.
func (n *MemNetwork) pass(done <-chan struct{}, l [2]string) error {
	for {
		n.mu.Lock()
		g := n.cut[l]
		n.mu.Unlock()
		if g == nil {
			return nil
		}
		select {
		case <-g.open:
		case <-done:
			return net.ErrClosed
		}
	}
}

func (n *MemNetwork) isCut(l [2]string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[l] != nil
}

func link(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }

type memListener struct {
	*bufconn.Listener
	network *MemNetwork
	addr    string
}

func (l *memListener) Addr() net.Addr { return memAddr(l.addr) }

func (l *memListener) Close() error {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	if l.network.listeners[l.addr] == l {
		delete(l.network.listeners, l.addr)
	}
	return l.Listener.Close()
}

// memConn is the client's end: it holds back both directions while the link is cut.
type memConn struct {
	net.Conn
	network *MemNetwork
	link    [2]string
	remote  memAddr
	closed  chan struct{}
	once    sync.Once
	wg      sync.WaitGroup

	mu      sync.Mutex
	pending []byte // +checklocks:mu — written while the link was cut
	late    bool   // +checklocks:mu — a goroutine sends pending when it is healed
}

// memPendingBytes is what a sender may write to a link that is cut.
const memPendingBytes = 4 << 20

func (c *memConn) RemoteAddr() net.Addr { return c.remote }

func (c *memConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if e := c.network.pass(c.closed, c.link); e != nil {
		return 0, e
	}
	return n, err
}

// Write never waits for a cut link, as a kernel would not: what is sent meanwhile
// follows later.
func (c *memConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.late && !c.network.isCut(c.link) {
		return c.Conn.Write(p)
	}
	if len(c.pending)+len(p) > memPendingBytes {
		return 0, syscall.ENOBUFS
	}
	c.pending = append(c.pending, p...)
	if !c.late {
		c.late = true
		c.wg.Go(c.flush)
	}
	return len(p), nil
}

func (c *memConn) flush() {
	for c.network.pass(c.closed, c.link) == nil {
		c.mu.Lock()
		p := c.pending
		c.pending = nil
		c.late = len(p) > 0
		c.mu.Unlock()
		if len(p) == 0 {
			return
		}
		if _, err := c.Conn.Write(p); err != nil {
			return
		}
	}
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	err := c.Conn.Close()
	c.wg.Wait()
	return err
}
