// Package gossip tells which daemons of a cluster seem alive, where they are and
// how full they are, by memberlist's SWIM protocol. It is a hint and never the
// truth: a daemon may look dead while it works, and alive while it does not. The
// leading master looks closer and lets Raft decide.
//
// Nodes of different clusters never mix: every packet carries the cluster's label,
// and a node whose metadata names another cluster is refused.
//
// Lock order: memberlist's own lock before Node.mu, for memberlist calls us back
// under it; so nothing here calls memberlist with mu held.
package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"dfs"
)

// Roles of daemons.
const (
	RoleMaster = "master"
	RoleChunk  = "chunk"
)

// Times and bounds.
const (
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 250 * time.Millisecond // then indirect probes and TCP have the rest of the interval
	// A suspect has at least suspicionMult*probeInterval, 1.5 s, to say that it is
	// alive, three times that while nobody else confirms the suspicion: enough for
	// a machine with two busy cores.
	suspicionMult    = 3
	suspicionMaxMult = 3
	pushPullInterval = 10 * time.Second // full exchange with somebody
	gossipInterval   = 200 * time.Millisecond
	streamTimeout    = 2 * time.Second
	leaveTimeout     = time.Second
	rejoinAlone      = time.Second     // between attempts while we see nobody
	rejoinInterval   = 5 * time.Second // between attempts to reach seeds and dead members
	rejoinAtOnce     = 4               // addresses tried each time
	forgetAfter      = time.Hour       // a dead member is listed so long
	membersMax       = 4096
	seedsMax         = 64
)

// Member is a daemon as it describes itself.
type Member struct {
	ID      dfs.NodeID
	Cluster dfs.ClusterID
	Name    string // chunk-1
	Role    string // RoleMaster or RoleChunk
	Addr    string // host:port of its gRPC service
	Version string
	Zone    string
	Host    string
	Total   uint64        // bytes of its disks
	Free    uint64        // bytes above its reserve
	Sync    time.Duration // what a sync of its slowest disk usually takes; 0: not known
	Trouble Trouble       // of its disks

	// What the others know of it.
	Alive  bool
	Gossip string // host:port of its gossip
}

// Trouble is what is wrong with the disks of a daemon.
type Trouble uint8

// Troubles, as bits.
const (
	DiskHung       Trouble = 1 << iota // a disk does not answer
	DiskUnreadable                     // a data folder cannot be read
	DiskReserve                        // only the reserve is left
)

// Figures are what changes of a daemon.
type Figures struct {
	Total, Free uint64
	Sync        time.Duration
	Trouble     Trouble
}

// syncNoise is a difference of two times of a sync that says nothing.
const syncNoise = 10 * time.Millisecond

// Transport is how packets and streams travel; see Network for the one in memory.
type Transport = memberlist.Transport

// Config says who we are.
type Config struct {
	Self      Member    // Alive and Gossip are ignored; Cluster must be set
	Listen    string    // host:port, for TCP and UDP; port 0 picks one
	Advertise string    // host:port that others reach us by; empty: as Listen
	Transport Transport // nil: TCP and UDP on Listen
	Logger    *slog.Logger
}

// Node is our end of the gossip. Its methods may be called concurrently.
type Node struct {
	logger  *slog.Logger
	list    *memberlist.Memberlist
	changes chan struct{}
	kick    chan struct{} // the loop should look for seeds now
	updated chan struct{} // the loop should spread our metadata
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	close   sync.Once

	mu      sync.Mutex
	self    Member                 // +checklocks:mu
	members map[dfs.NodeID]*record // +checklocks:mu — the others
	seeds   []string               // +checklocks:mu
}

// record is what we keep of another node.
type record struct {
	Member
	died time.Time
}

// Start begins to gossip, alone until Join.
func Start(cfg Config) (*Node, error) {
	if cfg.Self.Cluster == 0 || cfg.Self.ID == 0 {
		return nil, errors.New("gossip: a node needs an id and a cluster")
	}
	if _, err := encodeMeta(cfg.Self); err != nil {
		return nil, err
	}
	mc, err := listConfig(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &Node{
		logger: cfg.Logger, cancel: cancel, self: cfg.Self, members: map[dfs.NodeID]*record{},
		changes: make(chan struct{}, 1), kick: make(chan struct{}, 1), updated: make(chan struct{}, 1),
	}
	d := delegate{n}
	mc.Delegate, mc.Events, mc.Alive, mc.Merge, mc.Conflict = d, d, d, d, d
	if n.list, err = memberlist.Create(mc); err != nil {
		cancel()
		return nil, fmt.Errorf("gossip on %s: %w", cfg.Listen, err)
	}
	n.mu.Lock()
	n.self.Alive, n.self.Gossip = true, n.list.LocalNode().Address()
	n.mu.Unlock()
	n.wg.Go(func() { n.rejoin(ctx) })
	n.wg.Go(func() { n.spread(ctx) })
	return n, nil
}

func listConfig(cfg Config) (*memberlist.Config, error) {
	mc := memberlist.DefaultLANConfig()
	mc.Name = cfg.Self.ID.String()
	mc.Label = "dfs-" + cfg.Self.Cluster.String()
	mc.Logger = log.New(logWriter{cfg.Logger}, "", 0)
	mc.Transport = cfg.Transport
	mc.TCPTimeout = streamTimeout
	mc.ProbeInterval, mc.ProbeTimeout = probeInterval, probeTimeout
	mc.SuspicionMult, mc.SuspicionMaxTimeoutMult = suspicionMult, suspicionMaxMult
	mc.PushPullInterval = pushPullInterval
	mc.GossipInterval = gossipInterval
	// A daemon that comes back on another port may take its name again.
	mc.DeadNodeReclaimTime = time.Second
	mc.EnableCompression = false
	if cfg.Transport != nil {
		return mc, nil
	}
	var err error
	if mc.BindAddr, mc.BindPort, err = resolve(cfg.Listen); err != nil {
		return nil, fmt.Errorf("gossip listen address: %w", err)
	}
	mc.AdvertisePort = mc.BindPort
	if cfg.Advertise != "" {
		if mc.AdvertiseAddr, mc.AdvertisePort, err = resolve(cfg.Advertise); err != nil {
			return nil, fmt.Errorf("gossip advertise address: %w", err)
		}
	}
	return mc, nil
}

// resolve splits host:port and makes the host an IP address, as memberlist wants.
func resolve(addr string) (string, int, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%s: port %q is not a number below 65536", addr, portText)
	}
	if host == "" {
		return "0.0.0.0", int(port), nil
	}
	if net.ParseIP(host) != nil {
		return host, int(port), nil
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return "", 0, err
	}
	return ips[0].String(), int(port), nil
}

// Join makes contact through the gossip addresses of other nodes. Those that do not
// answer are tried again for as long as the node lives, so an error (nobody
// answered) need not be the end.
func (n *Node) Join(addrs []string) error {
	n.mu.Lock()
	for _, a := range addrs {
		if a != "" && a != n.self.Gossip && !slices.Contains(n.seeds, a) && len(n.seeds) < seedsMax {
			n.seeds = append(n.seeds, a)
		}
	}
	self := n.self.Gossip
	n.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(addrs), func(a string) bool { return a == "" || a == self })
	if len(others) == 0 {
		return nil
	}
	joined, err := n.list.Join(others)
	if joined == 0 {
		n.signal(n.kick)
		return fmt.Errorf("gossip: none of %v answered: %w", others, err)
	}
	return nil
}

// Members lists all nodes known, ourselves included, in order of name and id; the
// dead ones for an hour.
func (n *Node) Members() []Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Member, 0, len(n.members)+1)
	out = append(out, n.self)
	for _, r := range n.members {
		out = append(out, r.Member)
	}
	slices.SortFunc(out, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Changes signals that Members may answer differently now. Signals that nobody has
// taken yet are one.
func (n *Node) Changes() <-chan struct{} { return n.changes }

// Update tells the others how we are. Small changes wait for a larger one.
func (n *Node) Update(f Figures) {
	n.mu.Lock()
	diff := max(f.Free, n.self.Free) - min(f.Free, n.self.Free)
	worth := f.Total != n.self.Total || diff > f.Total/200 || f.Free == 0 != (n.self.Free == 0) ||
		f.Trouble != n.self.Trouble || f.Sync == 0 != (n.self.Sync == 0) || (f.Sync-n.self.Sync).Abs() > max(syncNoise, n.self.Sync/2)
	if worth {
		n.self.Total, n.self.Free, n.self.Sync, n.self.Trouble = f.Total, f.Free, f.Sync, f.Trouble
	}
	n.mu.Unlock()
	if worth {
		n.signal(n.updated)
	}
}

// Addr is the gossip address that others reach us by.
func (n *Node) Addr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.self.Gossip
}

// Close says goodbye, so that nobody has to find out by waiting, and ends.
func (n *Node) Close() error {
	var err error
	n.close.Do(func() {
		n.cancel()
		n.wg.Wait()
		if e := n.list.Leave(leaveTimeout); e != nil {
			n.logger.Debug("gossip: nobody heard us leave", "err", e)
		}
		err = n.list.Shutdown()
	})
	return err
}

func (n *Node) signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// rejoin tries seeds that have not been met and members that are dead, for ever:
// memberlist gives up on a dead member, and two halves of a cluster that were
// parted for a minute would never meet again.
func (n *Node) rejoin(ctx context.Context) {
	t := time.NewTimer(rejoinAlone)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.kick:
		case <-t.C:
		}
		targets, alone := n.missing(time.Now())
		for _, a := range targets {
			if ctx.Err() != nil {
				return
			}
			if _, err := n.list.Join([]string{a}); err != nil {
				n.logger.Debug("gossip: not reached", "addr", a, "err", err)
			}
		}
		wait := rejoinInterval
		if alone {
			wait = rejoinAlone
		}
		t.Reset(wait/2 + rand.N(wait))
	}
}

// missing picks addresses worth trying: some seeds that are no live member, some
// dead members. It also forgets those that are dead for long.
func (n *Node) missing(now time.Time) (targets []string, alone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	live := map[string]bool{n.self.Gossip: true}
	var dead []string
	for id, r := range n.members {
		switch {
		case r.Alive:
			live[r.Gossip] = true
		case now.Sub(r.died) > forgetAfter:
			delete(n.members, id)
		default:
			dead = append(dead, r.Gossip)
		}
	}
	for _, a := range append(dead, n.seeds...) {
		if !live[a] && !slices.Contains(targets, a) {
			targets = append(targets, a)
		}
	}
	rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	return targets[:min(len(targets), rejoinAtOnce)], len(live) == 1
}

// spread tells the others about changes of ourselves.
func (n *Node) spread(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.updated:
		}
		if err := n.list.UpdateNode(leaveTimeout); err != nil {
			n.logger.Debug("gossip: update not spread yet", "err", err)
		}
	}
}
