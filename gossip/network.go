package gossip

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Network is gossip in memory, for tests: packets are dropped when the receiver has
// too many waiting, links can be cut, nothing blocks a sender.
type Network struct {
	mu    sync.Mutex
	ends  map[string]*end        // +checklocks:mu — by ip:port
	cut   map[[2]string]struct{} // +checklocks:mu — unordered pairs of ip:port
	ports int                    // +checklocks:mu
}

// What waits at a node for memberlist to take it.
const (
	packetsMax = 256
	streamsMax = 16
)

// NewNetwork makes a network without nodes.
func NewNetwork() *Network {
	return &Network{ends: map[string]*end{}, cut: map[[2]string]struct{}{}}
}

// Transport makes the transport of one more node; Addr of the started Node tells
// its address.
func (n *Network) Transport() Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports++
	e := &end{
		network: n, port: n.ports, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(n.ports)),
		packets: make(chan *memberlist.Packet, packetsMax), streams: make(chan net.Conn, streamsMax),
	}
	n.ends[e.addr] = e
	return e
}

// Cut parts two addresses.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{min(a, b), max(a, b)}] = struct{}{}
}

// Heal undoes Cut.
func (n *Network) Heal(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, [2]string{min(a, b), max(a, b)})
}

// reach finds the other end of a link that is not cut.
//
// +checklocks:n.mu
func (n *Network) reach(from, to string) *end {
	if _, cut := n.cut[[2]string{min(from, to), max(from, to)}]; cut {
		return nil
	}
	return n.ends[to]
}

// end is one node's transport.
type end struct {
	network *Network
	port    int
	addr    string
	packets chan *memberlist.Packet
	streams chan net.Conn
}

var _ Transport = (*end)(nil)

func (e *end) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IPv4(127, 0, 0, 1).To4(), e.port, nil
}

func (e *end) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	if to := e.network.reach(e.addr, addr); to != nil {
		select {
		case to.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: memAddr(e.addr), Timestamp: now}:
		default:
		}
	}
	return now, nil
}

func (e *end) PacketCh() <-chan *memberlist.Packet { return e.packets }
func (e *end) StreamCh() <-chan net.Conn           { return e.streams }

func (e *end) DialTimeout(addr string, _ time.Duration) (net.Conn, error) {
	e.network.mu.Lock()
	defer e.network.mu.Unlock() // also while it is handed over: after Shutdown nobody would take it
	to := e.network.reach(e.addr, addr)
	if to == nil {
		return nil, fmt.Errorf("dial %s: nobody there", addr)
	}
	ours, theirs := net.Pipe()
	select {
	case to.streams <- addrConn{theirs, memAddr(e.addr)}:
		return addrConn{ours, memAddr(addr)}, nil
	default:
		return nil, fmt.Errorf("dial %s: refused", addr)
	}
}

func (e *end) Shutdown() error {
	e.network.mu.Lock()
	defer e.network.mu.Unlock()
	delete(e.network.ends, e.addr)
	for {
		select {
		case c := <-e.streams:
			_ = c.Close()
		default:
			return nil
		}
	}
}

// memAddr is an address of the network in memory.
type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }

// addrConn is a pipe that knows who is at the other end.
type addrConn struct {
	net.Conn
	remote memAddr
}

func (c addrConn) RemoteAddr() net.Addr { return c.remote }
