package sim

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"dfs/rpc"
)

// streamMax is what a sender may have on its way to a receiver that does not take it, in
// bytes; then it waits, as TCP does.
const streamMax = 4 << 20

// resend is how long a part that was lost is late, as TCP sends it again.
const resend = 250 * time.Millisecond

// network joins hosts by connections. What one host sends to another takes time, and may be
// held up in one direction: it is sent again until it comes, as by TCP.
type network struct {
	mu        sync.Mutex
	rng       *rand.Rand           // +checklocks:mu
	lag       time.Duration        // +checklocks:mu — most time that bytes take
	loss      int                  // +checklocks:mu — parts in a thousand
	listeners map[string]*listener // +checklocks:mu — by address
	held      map[[2]string]bool   // +checklocks:mu — from, to: nothing comes through
	dark      map[string]bool      // +checklocks:mu — hosts without power
	conns     map[*conn]struct{}   // +checklocks:mu
	changed   chan struct{}        // +checklocks:mu — closed when held or dark change
}

func newNetwork(rng *rand.Rand) *network {
	return &network{
		rng: rng, listeners: map[string]*listener{}, held: map[[2]string]bool{}, dark: map[string]bool{},
		conns: map[*conn]struct{}{}, changed: make(chan struct{}),
	}
}

func hostOf(addr string) string {
	host, _, _ := strings.Cut(addr, ":")
	return host
}

// touch lets everybody look again.
//
// +checklocks:n.mu
func (n *network) touch() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// hold stops or lets go what one host sends to another.
func (n *network) hold(from, to string, held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if held {
		n.held[[2]string{from, to}] = true
	} else {
		delete(n.held, [2]string{from, to})
	}
	n.touch()
}

// weather says how late parts come, and how many are lost.
func (n *network) weather(lag time.Duration, loss int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lag, n.loss = lag, loss
}

// down ends a host: with its power the others hear nothing more of it, else its kernel
// tells them.
func (n *network) down(host string, power bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dark[host] = n.dark[host] || power
	for addr, l := range n.listeners {
		if hostOf(addr) == host {
			delete(n.listeners, addr)
			l.end()
		}
	}
	for c := range n.conns {
		if c.host == host || c.peer == host && !power {
			c.reset()
		}
	}
	n.touch()
}

// up brings a host back: what others still had open to it is gone.
func (n *network) up(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.dark, host)
	for c := range n.conns {
		if c.host == host || c.peer == host {
			c.reset()
		}
	}
	n.touch()
}

// passes reports whether what one host sends gets to the other; and what is closed when
// that may have changed.
func (n *network) passes(from, to string) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.held[[2]string{from, to}] && !n.dark[from] && !n.dark[to], n.changed
}

// delay is how long one part takes.
func (n *network) delay() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := time.Duration(0)
	if n.lag > 0 {
		d = time.Duration(n.rng.Int64N(int64(n.lag)))
	}
	if n.loss > 0 && n.rng.IntN(1000) < n.loss {
		d += resend
	}
	return d
}

// listener is an address that somebody serves.
type listener struct {
	n     *network
	addr  string
	queue chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (n *network) listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "sim", Addr: simAddr(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{n: n, addr: addr, queue: make(chan net.Conn, 64), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

func (l *listener) end() { l.once.Do(func() { close(l.done) }) }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.n.mu.Lock()
	if l.n.listeners[l.addr] == l {
		delete(l.n.listeners, l.addr)
	}
	l.n.mu.Unlock()
	l.end()
	for {
		select {
		case c := <-l.queue:
			_ = c.Close()
		default:
			return nil
		}
	}
}

func (l *listener) Addr() net.Addr { return simAddr(l.addr) }

type simAddr string

func (simAddr) Network() string  { return "sim" }
func (a simAddr) String() string { return string(a) }

// dialer connects as a host.
func (n *network) dialer(host string) rpc.Dialer {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		for {
			there, changed := n.passes(host, hostOf(addr))
			back, _ := n.passes(hostOf(addr), host)
			if there && back {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		l := n.listeners[addr]
		refused := &net.OpError{Op: "dial", Net: "sim", Addr: simAddr(addr), Err: syscall.ECONNREFUSED}
		if l == nil {
			return nil, refused
		}
		out, in := newStream(n, host, hostOf(addr)), newStream(n, hostOf(addr), host)
		ours := &conn{n: n, host: host, peer: hostOf(addr), in: in, out: out, local: simAddr(host), remote: simAddr(addr)}
		theirs := &conn{n: n, host: hostOf(addr), peer: host, in: out, out: in, local: simAddr(addr), remote: simAddr(host)}
		select {
		case l.queue <- theirs:
		default:
			return nil, refused
		}
		n.conns[ours], n.conns[theirs] = struct{}{}, struct{}{}
		return ours, nil
	}
}

// stream is one direction of a connection.
type stream struct {
	n        *network
	from, to string

	mu       sync.Mutex
	wake     chan struct{} // +checklocks:mu — closed when something has changed
	parts    []part        // +checklocks:mu
	bytes    int           // +checklocks:mu
	last     time.Time     // +checklocks:mu — when the last part comes
	ended    bool          // +checklocks:mu — the sender has closed it
	broken   error         // +checklocks:mu — for the reader
	deaf     bool          // +checklocks:mu — for the writer: nobody takes it any more
	toldEnd  bool          // +checklocks:mu — the reader knows that it is over
	deadline time.Time     // +checklocks:mu — of reads
}

type part struct {
	data []byte
	due  time.Time
}

func newStream(n *network, from, to string) *stream {
	return &stream{n: n, from: from, to: to, wake: make(chan struct{})}
}

// +checklocks:s.mu
func (s *stream) touch() {
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *stream) change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	s.touch()
}

// take reads what has come.
func (s *stream) take(p []byte) (int, error) {
	for {
		passes, changed := s.n.passes(s.from, s.to)
		s.mu.Lock()
		if s.broken != nil {
			s.toldEnd = true
			err := s.broken
			s.mu.Unlock()
			return 0, err
		}
		var due time.Time // of what is to be waited for
		switch {
		case !passes:
		case len(s.parts) > 0 && !s.parts[0].due.After(time.Now()):
			n := copy(p, s.parts[0].data)
			s.bytes -= n
			if s.parts[0].data = s.parts[0].data[n:]; len(s.parts[0].data) == 0 {
				s.parts = s.parts[1:]
			}
			s.touch()
			s.mu.Unlock()
			return n, nil
		case len(s.parts) > 0:
			due = s.parts[0].due
		case s.ended:
			s.toldEnd = true
			s.mu.Unlock()
			return 0, io.EOF
		}
		if !s.deadline.IsZero() {
			if !s.deadline.After(time.Now()) {
				s.mu.Unlock()
				return 0, os.ErrDeadlineExceeded
			}
			if due.IsZero() || s.deadline.Before(due) {
				due = s.deadline
			}
		}
		wake := s.wake
		s.mu.Unlock()
		wait(due, wake, changed)
	}
}

// wait waits for a time, or for one of two things to happen.
func wait(due time.Time, a, b <-chan struct{}) {
	var at <-chan time.Time
	if !due.IsZero() {
		t := time.NewTimer(time.Until(due))
		defer t.Stop()
		at = t.C
	}
	select {
	case <-a:
	case <-b:
	case <-at:
	}
}

// put sends bytes; it waits while too many are on their way.
func (s *stream) put(p []byte) error {
	delay := s.n.delay()
	for {
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			return net.ErrClosed
		}
		if s.deaf || s.bytes+len(p) <= streamMax || s.bytes == 0 {
			break
		}
		wake := s.wake
		s.mu.Unlock()
		<-wake
	}
	defer s.mu.Unlock()
	if s.deaf {
		return nil // whoever reads will find out
	}
	due := time.Now().Add(delay)
	if due.Before(s.last) {
		due = s.last
	}
	s.last = due
	s.parts = append(s.parts, part{append([]byte(nil), p...), due})
	s.bytes += len(p)
	s.touch()
	return nil
}

// conn is one end of a connection.
type conn struct {
	n             *network
	host, peer    string
	in, out       *stream
	local, remote simAddr
	once          sync.Once
}

var errReset = &net.OpError{Op: "read", Net: "sim", Err: syscall.ECONNRESET}

// reset ends this end of a connection from outside.
func (c *conn) reset() {
	c.in.change(func() {
		if c.in.broken == nil {
			c.in.broken = errReset
		}
	})
	c.out.change(func() { c.out.deaf = true })
}

func (c *conn) Read(p []byte) (int, error) { return c.in.take(p) }

// Write to a connection that was reset fails when Read has failed, and not before: gRPC
// leaves it to its reader to find out, and would try again and again until then.
func (c *conn) Write(p []byte) (int, error) {
	c.in.mu.Lock()
	over := c.in.toldEnd && c.in.broken != nil
	c.in.mu.Unlock()
	if over {
		return 0, errReset
	}
	if err := c.out.put(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.n.mu.Lock()
		delete(c.n.conns, c)
		c.n.mu.Unlock()
		c.in.change(func() {
			c.in.deaf = true
			c.in.parts, c.in.bytes = nil, 0
			if c.in.broken == nil || errors.Is(c.in.broken, errReset) {
				c.in.broken = net.ErrClosed
			}
		})
		c.out.change(func() { c.out.ended = true })
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.deadline = t })
	return nil
}

// SetWriteDeadline does nothing: a write waits for nobody but for a receiver that is slow.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
