package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"dfs"
	"dfs/chunk"
	"dfs/gossip"
	"dfs/internal/admin"
	"dfs/internal/disk"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// Bounds and times.
const (
	readBytesMax   = 64 << 20 // of replies to reads, made or being sent, at once
	streamPending  = 1024     // appends of one stream without a reply
	hopQueue       = 8        // appends waiting to be sent to the next hop of one stream
	statMax        = 65536    // chunks in one Stat
	listPage       = 4096     // chunks in one message of List
	defaultHopTime = 3 * time.Second
)

// Config is a chunk server's.
type Config struct {
	Name      string   // unique in the cluster, for people: chunk-1
	Listen    string   // host:port of the gRPC service; port 0 picks one
	Advertise string   // host:port that others reach it by; empty: from Listen
	Masters   []string // host:port of some masters
	Dirs      []string // data folders
	Zone      string   // failure domains
	Host      string
	Weight    uint32 // share of the data; 0: the capacity in GiB
	// ReserveBytes of each disk are left free by appends; 0: as chunk.Config tells.
	ReserveBytes uint64
	Version      string        // of the program
	RepairRate   int64         // bytes a second that repair reads and writes at most; 0: 128 MiB
	ScrubRate    int64         // bytes a second that the scrub reads; 0: 32 MiB
	ScrubEvery   time.Duration // between the beginnings of two scrubs; 0: 7 days

	AdminListen     string // host:port of /metrics, /healthz and pprof; empty: none
	GossipListen    string // host:port; empty: no gossip, unless there is a transport
	GossipAdvertise string // host:port that others reach its gossip by; empty: from GossipListen
	GossipTransport gossip.Transport

	Logger   *slog.Logger
	Registry *prometheus.Registry // nil: one of its own

	// For tests.
	FS             disk.FS       // nil: the machine's
	Listener       net.Listener  // nil: TCP on Listen
	Dialer         rpc.Dialer    // nil: TCP
	ReportInterval time.Duration // between reports of all chunks; 0: 10 s
	HopTimeout     time.Duration // for the next server of a chain to answer; 0: 3 s
}

// Server is a running chunk server.
type Server struct {
	chunkpb.UnimplementedChunkServer

	cfg     Config
	logger  *slog.Logger
	store   *chunk.Store
	pool    *rpc.Pool
	masters *rpc.Masters
	grpc    *rpc.Server
	addr    string // advertised
	admin   *admin.Server
	reading *semaphore.Weighted // bytes

	clusterMap atomic.Pointer[dfs.ClusterMap]
	mapChanged chan struct{} // the member loop should look at the map
	mends      repairs
	busy       busy
	backups    backups
	joined     atomic.Bool
	away       atomic.Int64 // Unix nanoseconds until which it refuses everything, see Leave
	seeds      []string     // gossip addresses told by the first join; the member loop's

	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once
	closed error
	done   chan struct{}
	fatal  error // why it ended by itself; set before done is closed
	end    sync.Once

	mu     sync.Mutex
	gossip *gossip.Node // +checklocks:mu — nil before it has joined

	files *rpc.FileServer // the member loop's until it has ended; nil: none
}

// Start opens the store and begins to serve. It does not wait for masters. ctx is
// for the start only; the server runs until Close, or until it finds that it must
// not run (see Done).
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Name == "" {
		return nil, errors.New("a chunk server needs a name: set --name")
	}
	if len(cfg.Masters) == 0 {
		return nil, rpc.ErrNoMasters
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.ReportInterval = cmp.Or(cfg.ReportInterval, reportInterval)
	cfg.HopTimeout = cmp.Or(cfg.HopTimeout, defaultHopTime)
	cfg.RepairRate = cmp.Or(cfg.RepairRate, defaultRepairRate)
	cfg.ScrubRate, cfg.ScrubEvery = cmp.Or(cfg.ScrubRate, defaultScrubRate), cmp.Or(cfg.ScrubEvery, defaultScrubEvery)
	s := &Server{
		cfg: cfg, logger: cfg.Logger, reading: semaphore.NewWeighted(readBytesMax),
		mapChanged: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.mends.kick, s.mends.pace.rate = make(chan struct{}, 1), s.yielding(s.rate("repair-rate", cfg.RepairRate))
	if err := s.start(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	// The address first: a second start by mistake then fails without touching data.
	l := s.cfg.Listener
	if l == nil {
		var err error
		var lc net.ListenConfig
		if l, err = lc.Listen(ctx, "tcp", s.cfg.Listen); err != nil {
			return fmt.Errorf("listen address: %w", err)
		}
	}
	fail := func(err error) error { l.Close(); return err }
	s.addr = cmp.Or(s.cfg.Advertise, advertised(l.Addr().String(), s.cfg.Masters[0]))
	var err error
	s.store, err = chunk.Open(chunk.Config{
		Dirs: s.cfg.Dirs, FS: s.cfg.FS, Reserve: s.cfg.ReserveBytes, Logger: s.logger,
	})
	if err != nil {
		return fail(err)
	}
	s.pool = rpc.NewPool(s.store.Cluster(), s.cfg.Dialer)
	s.masters = rpc.NewMasters(s.pool, s.cfg.Masters, s.logger)
	if s.cfg.AdminListen != "" {
		registry := s.cfg.Registry
		if registry == nil {
			registry = admin.NewRegistry()
		}
		if err := s.register(registry); err != nil {
			return fail(err)
		}
		if s.admin, err = admin.Serve(s.cfg.AdminListen, registry, s.health); err != nil {
			return fail(err)
		}
	}
	s.grpc = rpc.NewServer(s.store.Cluster,
		chunkpb.Chunk_Backups_FullMethodName, chunkpb.Chunk_GetBackup_FullMethodName) // who has lost all masters knows no cluster
	chunkpb.RegisterChunkServer(s.grpc, s)
	loops, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.wg.Go(func() {
		if err := s.grpc.Serve(l); err != nil {
			s.stop(fmt.Errorf("serve %s: %w", s.addr, err))
		}
	})
	s.wg.Go(func() { s.member(loops) })
	total, free := s.store.Usage()
	s.logger.Info("chunk server runs", "name", s.cfg.Name, "server", s.store.Node(), "addr", s.addr,
		"dirs", s.cfg.Dirs, "total", total, "free", free)
	return nil
}

// advertised is how others reach what listens on listen: when it listens on all
// addresses, by the one that packets to a master leave from.
func advertised(listen, master string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen // a network in memory has other addresses
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listen
	}
	host = "127.0.0.1"
	if c, err := net.Dial("udp", master); err == nil { // sends nothing
		if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
			host = a.IP.String()
		}
		c.Close()
	}
	return net.JoinHostPort(host, port)
}

// Addr is the address that others reach it by.
func (s *Server) Addr() string { return s.addr }

// AdminAddr is where /metrics is, empty when nowhere.
func (s *Server) AdminAddr() string {
	if s.admin == nil {
		return ""
	}
	return s.admin.Addr()
}

// ID is the server's, from its data folders.
func (s *Server) ID() dfs.NodeID { return s.store.Node() }

// Store is what it serves, for tests and tools in the same process.
func (s *Server) Store() *chunk.Store { return s.store }

// Joined reports whether it has joined a cluster since it was started.
func (s *Server) Joined() bool { return s.joined.Load() }

// Done is closed when the server must not go on, as when its data folders are of
// another cluster than the masters. Err tells why. Close is still to be called.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the server ended by itself, nil while it has not.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.fatal
	default:
		return nil
	}
}

// stop ends the server by itself.
func (s *Server) stop(err error) {
	s.end.Do(func() {
		s.fatal = err
		close(s.done)
	})
}

// health is what /healthz tells.
func (s *Server) health() error {
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.store.Check(); err != nil {
		return err
	}
	if s.store.Cluster() == 0 {
		return errors.New("has not joined a cluster yet")
	}
	return nil
}

// Close says goodbye, ends all calls, waits for appends that are being synced and
// closes the store.
func (s *Server) Close() error {
	s.close.Do(func() { s.closed = s.shutdown() })
	return s.closed
}

func (s *Server) shutdown() error {
	var errs []error
	if s.cancel != nil {
		s.cancel()
	}
	if s.masters != nil {
		errs = append(errs, s.masters.Close())
	}
	if s.grpc != nil {
		s.grpc.Stop()
	}
	s.wg.Wait() // the member loop starts gossip, and hands out files
	if s.files != nil {
		errs = append(errs, s.files.Close())
	}
	s.mu.Lock()
	node := s.gossip
	s.gossip = nil
	s.mu.Unlock()
	if node != nil {
		errs = append(errs, node.Close())
	}
	if s.pool != nil {
		errs = append(errs, s.pool.Close())
	}
	if s.admin != nil {
		errs = append(errs, s.admin.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	return errors.Join(errs...)
}
