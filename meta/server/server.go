package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/gossip"
	"dfs/internal/admin"
	"dfs/internal/clock"
	"dfs/internal/disk"
	"dfs/meta"
	"dfs/meta/replica"
	"dfs/proto/adminpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Defaults.
const (
	DefaultSessionTTL = 30 * time.Second
	DefaultBuckets    = 256
	stopTimeout       = 5 * time.Second // for handing leadership over
	// The map of a cluster that uses every layout there is must fit in one message.
	bucketsMax = 1024
)

// Config is a master's.
type Config struct {
	Name            string // unique among the masters, for people: master-1
	Dir             string // its folder
	Listen          string // host:port of the gRPC service; port 0 picks one
	Advertise       string // host:port that others reach it by; empty: from Listen
	GossipListen    string // host:port; empty: no gossip, unless there is a transport
	GossipAdvertise string // empty: from GossipListen
	GossipTransport gossip.Transport
	AdminListen     string // host:port of /metrics, /healthz and pprof; empty: none

	Bootstrap  bool          // make a new cluster; refused over an existing one
	Join       []string      // masters to ask for admission while the folder is empty
	Expected   int           // how many masters the cluster is made for; 0: as many as there are
	SessionTTL time.Duration // 0: DefaultSessionTTL
	Buckets    uint32        // placement groups per layout of a new cluster; 0: DefaultBuckets
	Zone, Host string
	Version    string // of the program
	Reserve    uint64 // bytes of its disk below which the metadata may not grow; 0: a twentieth, at most 1 GiB

	// Mover makes a client that moves bytes for jobs, while this master leads; nil: it does none.
	Mover func(ctx context.Context, masters []string) (Mover, error)

	Logger   *slog.Logger
	Registry *prometheus.Registry // nil: one of its own

	// For tests.
	FS       disk.FS       // nil: the machine's
	Listener net.Listener  // nil: TCP on Listen
	Dialer   rpc.Dialer    // nil: TCP
	Clock    clock.Clock   // nil: the machine's
	Tick     time.Duration // of Raft; 0: its default
	Segment  int64         // bytes of a file of the Raft log; 0: its default
	DropWait time.Duration // how long a dead chunk's record stays; 0: 30 s

	ReclaimEvery time.Duration // between looks for dead bytes; 0: 10 min
	RepairAfter  time.Duration // a server that is down for so long is replaced; 0: 10 min
	BackupEvery  time.Duration // between copies of the metadata on chunk servers; 0: 1 h
	Level        uint32        // format level that it understands; 0: meta.Level
}

// Server is a running master.
type Server struct {
	metapb.UnimplementedMetaServer
	metapb.UnimplementedClusterServer
	metapb.UnimplementedRaftServer
	adminpb.UnimplementedAdminServer

	cfg       Config
	logger    *slog.Logger
	id        identity
	cluster   atomic.Uint64
	lock      io.Closer
	pool      *rpc.Pool
	node      *replica.Node
	transport *transport
	grpc      *rpc.Server
	listener  net.Listener
	addr      string // advertised
	admin     *admin.Server
	metrics   *metrics
	maps      mapWatch
	space     space
	leading   atomic.Pointer[leadership] // nil while this master does not lead
	away      atomic.Int64               // Unix nanoseconds until which it is cut off the other masters, see Leave

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	done   chan struct{}
	fatal  error // why it must not go on; set before done is closed
	ending sync.Once

	mu     sync.Mutex
	gossip *gossip.Node // +checklocks:mu — nil before it has joined
}

// Start opens the master's state and begins to serve. ctx is for the start only.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Name == "" {
		return nil, errors.New("a master needs a name: set --name")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.SessionTTL == 0 {
		cfg.SessionTTL = DefaultSessionTTL
	}
	if cfg.Buckets == 0 {
		cfg.Buckets = DefaultBuckets
	}
	if cfg.Buckets > bucketsMax {
		return nil, fmt.Errorf("%d placement groups per layout: at most %d", cfg.Buckets, bucketsMax)
	}
	if cfg.FS == nil {
		cfg.FS = disk.OS()
	}
	if cfg.DropWait == 0 {
		cfg.DropWait = dropWait
	}
	if cfg.ReclaimEvery == 0 {
		cfg.ReclaimEvery = defaultReclaimEvery
	}
	if cfg.RepairAfter == 0 {
		cfg.RepairAfter = DefaultRepairAfter
	}
	if cfg.BackupEvery == 0 {
		cfg.BackupEvery = DefaultBackupEvery
	}
	if cfg.Level == 0 {
		cfg.Level = meta.Level
	}
	s := &Server{cfg: cfg, logger: cfg.Logger, done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.release(false))
	}
	return s, nil
}

func (s *Server) start() (err error) {
	if err := disk.MkdirSync(s.cfg.FS, s.cfg.Dir); err != nil {
		return err
	}
	if s.lock, err = s.cfg.FS.Lock(filepath.Join(s.cfg.Dir, "lock")); err != nil {
		return fmt.Errorf("the folder %s is in use: %w", s.cfg.Dir, err)
	}
	if s.id, err = identify(s.cfg.FS, &s.cfg); err != nil {
		return err
	}
	s.cluster.Store(uint64(s.id.Cluster))
	if s.listener = s.cfg.Listener; s.listener == nil {
		if s.listener, err = net.Listen("tcp", s.cfg.Listen); err != nil {
			return fmt.Errorf("listen for masters and clients: %w", err)
		}
	}
	if s.addr = s.cfg.Advertise; s.addr == "" {
		s.addr = advertised(s.listener.Addr().String(), s.cfg.Join)
	}
	s.pool = rpc.NewPool(s.id.Cluster, s.cfg.Dialer)
	s.transport = newTransport(s)
	if s.node, err = replica.Start(replica.Config{
		ID: s.id.Node, Dir: s.cfg.Dir, FS: s.cfg.FS, Bootstrap: s.cfg.Bootstrap, Transport: s.transport, Logger: s.logger, Tick: s.cfg.Tick, SegmentBytes: s.cfg.Segment, Clock: s.cfg.Clock,
		Level: s.cfg.Level,
	}); err != nil {
		return err
	}
	s.transport.open()
	if s.node.Applied() > 0 && len(s.cfg.Join) > 0 {
		s.logger.Info("--join only helps to find the other masters: the folder says which cluster this one is of", "cluster", s.id.Cluster)
	}
	if err := s.startAdmin(); err != nil {
		return err
	}
	s.grpc = rpc.NewServer(s.clusterID, metapb.Cluster_JoinMaster_FullMethodName,
		metapb.Raft_Messages_FullMethodName, metapb.Raft_Snapshot_FullMethodName)
	metapb.RegisterMetaServer(s.grpc, s)
	metapb.RegisterClusterServer(s.grpc, s)
	metapb.RegisterRaftServer(s.grpc, s)
	adminpb.RegisterAdminServer(s.grpc, s)
	s.wg.Go(func() {
		if err := s.grpc.Serve(s.listener); err != nil && s.ctx.Err() == nil {
			s.logger.Error("the gRPC service ended", "err", err)
		}
	})
	// A master that is not admitted yet begins to gossip when it is.
	if err := s.startGossip(nil); err != nil {
		return err
	}
	s.wg.Go(s.watchSpace)
	s.wg.Go(s.watchMap)
	s.wg.Go(s.member)
	s.wg.Go(s.lead)
	s.wg.Go(func() {
		select {
		case <-s.node.Done():
			s.stop(s.node.Err())
		case <-s.ctx.Done():
		}
	})
	return nil
}

func (s *Server) startAdmin() (err error) {
	registry := s.cfg.Registry
	if registry == nil {
		registry = admin.NewRegistry()
	}
	s.metrics = newMetrics(registry, s)
	if s.cfg.AdminListen == "" {
		return nil
	}
	if s.admin, err = admin.Serve(s.cfg.AdminListen, registry, s.health); err != nil {
		return err
	}
	s.logger.Info("admin", "address", s.admin.Addr())
	return nil
}

// health is what /healthz says: a master that knows no leader cannot serve.
func (s *Server) health() error {
	if err := s.Err(); err != nil {
		return err
	}
	if st := s.node.Status(); !st.Leading && st.Leader == 0 {
		return errors.New("no master leads now")
	}
	return nil
}

func (s *Server) clusterID() dfs.ClusterID { return dfs.ClusterID(s.cluster.Load()) }

// Addr is the address that others reach it by.
func (s *Server) Addr() string { return s.addr }

// Name of the master.
func (s *Server) Name() string { return s.cfg.Name }

// Leading reports whether this master leads.
func (s *Server) Leading() bool { return s.node.Status().Leading }

// Done is closed when the master must not go on; Err says why. Close is still to be
// called.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why it must not go on; nil while it may.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.fatal
	default:
		return nil
	}
}

// stop says that the master must not go on.
func (s *Server) stop(err error) {
	s.ending.Do(func() {
		s.fatal = err
		close(s.done)
	})
}

// Close hands leadership over, ends all that runs, and closes the state.
func (s *Server) Close() error {
	if s.node != nil && s.node.Status().Leading {
		ctx, cancel := context.WithTimeout(s.ctx, stopTimeout)
		if err := s.handOver(ctx); err != nil {
			s.logger.Info("leadership not handed over", "err", err)
		}
		cancel()
	}
	return s.release(false)
}

// Abandon ends the master as a crash would: nothing is flushed and nobody told. For
// tests.
func (s *Server) Abandon() error { return s.release(true) }

// release ends what was started, in reverse order. The node goes after all that
// asks it: its store must not be read once it is closed.
func (s *Server) release(crash bool) (err error) {
	s.once.Do(func() {
		s.cancel()
		if s.admin != nil {
			err = s.admin.Close()
		}
		if s.grpc != nil {
			s.grpc.Stop()
		} else if s.listener != nil {
			err = errors.Join(err, s.listener.Close())
		}
		if s.transport != nil {
			s.transport.close()
		}
		s.wg.Wait()
		if s.node != nil {
			end := s.node.Close
			if crash {
				end = s.node.Abandon
			}
			err = errors.Join(err, end())
		}
		s.mu.Lock()
		g := s.gossip
		s.mu.Unlock()
		if g != nil {
			err = errors.Join(err, g.Close())
		}
		if s.pool != nil {
			err = errors.Join(err, s.pool.Close())
		}
		if s.lock != nil {
			err = errors.Join(err, s.lock.Close())
		}
	})
	return err
}

// handOver gives leadership to the voter that is furthest.
func (s *Server) handOver(ctx context.Context) error {
	peers, _, err := s.node.Peers(ctx)
	if err != nil {
		return err
	}
	var best replica.Peer
	for _, p := range peers {
		if p.ID != s.id.Node && p.Role == replica.Voter && p.Active && p.Match >= best.Match {
			best = p
		}
	}
	if best.ID == 0 {
		return errors.New("no other master can take it")
	}
	if err := s.node.Transfer(ctx, best.ID); err != nil {
		return err
	}
	return s.awaitLeader(ctx)
}

// awaitLeader waits until it is known who leads. One that ends before has not given
// the vote that the next leader may need.
func (s *Server) awaitLeader(ctx context.Context) error {
	for {
		changed := s.node.Changed()
		if s.node.Status().Leader != 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.node.Done():
			return replica.ErrStopped
		}
	}
}

// now stamps changes. The replica sees to it that no change is earlier than the one
// before it.
func now() dfs.Time { return dfs.TimeOf(time.Now()) }

// propose makes a change of the masters themselves.
func (s *Server) propose(ctx context.Context, op meta.Op) (meta.Reply, error) {
	return s.node.Propose(ctx, meta.Command{Time: now(), Op: op})
}

// carry makes a change of the masters themselves that must not be refused.
func (s *Server) carry(ctx context.Context, op meta.Op) error {
	r, err := s.propose(ctx, op)
	if err == nil && r.Errno != dfs.OK {
		err = fmt.Errorf("%T was refused: %w", op, r.Errno)
	}
	return err
}

// failure turns what the replica says into what a caller understands: who leads,
// or to try again.
func (s *Server) failure(err error) error {
	var other *replica.NotLeaderError
	var level *meta.LevelError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &other):
		s.metrics.refused.WithLabelValues("not_leader").Inc()
		return rpc.NotLeader(other.Leader, s.transport.addrOf(other.Leader))
	case errors.As(err, &level):
		return status.Error(codes.Unimplemented, level.Error())
	case errors.Is(err, replica.ErrUnknown), errors.Is(err, replica.ErrBusy), errors.Is(err, replica.ErrStopped):
		s.metrics.refused.WithLabelValues("unavailable").Inc()
		return rpc.Unavailable("%v", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		s.metrics.refused.WithLabelValues("no_answer").Inc()
		return rpc.Unavailable("no answer from a majority of the masters: %v", err)
	}
	return err
}

// read does a linearizable read.
func (s *Server) read(ctx context.Context, fn func(meta.View) error) error {
	return s.failure(s.node.Read(ctx, fn))
}

// verdict tells a verdict from a failure.
func verdict(err error) (uint32, error) {
	var errno dfs.Errno
	if errors.As(err, &errno) {
		return uint32(errno), nil
	}
	return 0, err
}
