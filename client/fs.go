package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"dfs"
	appender "dfs/client/append"
	"dfs/client/cache"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// FS is a file system as one client sees it. Safe for concurrent use.
type FS struct {
	cfg     Config
	pool    *rpc.Pool
	masters *rpc.Masters
	app     *appender.Appender
	cache   *cache.Cache
	memory  *budget // of dirty bytes
	direct  *direct
	health  *health // of chunk servers, for reading
	ahead   chan struct{}
	near    near
	packed  streams[dfs.ChunkID]
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	cluster     atomic.Pointer[dfs.ClusterMap] // nil before the first
	session     atomic.Pointer[session]
	leases      *leases
	lane        *lane
	atimes      atimes
	skew        atomic.Int64  // nanoseconds by which the leader's clock is ahead of ours
	beatAt      atomic.Int64  // boot time before the last heartbeat that was answered
	lockIDs     atomic.Uint64 // of open files and of who locks names
	asked       atomic.Uint64 // requests to the masters that change nothing
	fetched     atomic.Uint64 // requests to chunk servers for bytes, and reads of their files
	surprises   atomic.Uint64 // changes that the masters did not agree with
	invalidator atomic.Pointer[Invalidator]
	flushing    chan struct{} // wakes flushLoop
	beating     chan struct{} // wakes beatLoop

	renewMu sync.Mutex
	renewal chan struct{} // +checklocks:renewMu — closed at the end of the renewal under way; nil: none

	mu       sync.RWMutex
	inodes   map[dfs.Ino]*inode // +checklocks:mu — open, or with bytes not committed
	dirty    map[*inode]bool    // +checklocks:mu — with bytes not yet submitted
	losses   map[dfs.Ino]error  // +checklocks:mu — of bytes that nobody was told of
	released map[dfs.Ino]bool   // +checklocks:mu — closed for the last time, the masters do not know
	telling  map[dfs.Ino]bool   // +checklocks:mu — the same, in the heartbeat under way
	told     chan struct{}      // +checklocks:mu — closed when that heartbeat is over
	closed   bool               // +checklocks:mu
}

// Dial connects to the cluster and opens a session.
func Dial(ctx context.Context, cfg Config) (*FS, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	fs := &FS{
		cfg: cfg, pool: rpc.NewPool(0, cfg.Dialer),
		cache:  cache.New(cfg.CacheBytes, rpc.Free),
		memory: newBudget(cfg.DirtyBytes), health: newHealth(),
		ahead:    make(chan struct{}, aheadMax),
		flushing: make(chan struct{}, 1), beating: make(chan struct{}, 1),
		inodes: map[dfs.Ino]*inode{}, losses: map[dfs.Ino]error{}, dirty: map[*inode]bool{}, released: map[dfs.Ino]bool{},
	}
	fs.atimes.wake, fs.atimes.times = make(chan struct{}, 1), map[dfs.Ino]dfs.Time{}
	fs.leases, fs.lane, fs.direct = newLeases(fs), newLane(fs), newDirect(fs)
	fs.masters = rpc.NewMasters(fs.pool, cfg.Masters, cfg.Logger)
	fs.ctx, fs.cancel = context.WithCancel(context.Background()) //nolint:tidy // the FS outlives the call that made it; Close ends it
	fs.app = appender.New(appender.Config{Masters: masters{fs}, Pool: fs.pool, Logger: cfg.Logger})
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	s, err := fs.openSession(ctx)
	if err != nil {
		fs.stop()
		return nil, err
	}
	fs.session.Store(s)
	fs.beatAt.Store(fs.cfg.Clock())
	fs.app.Reset(s.id)
	fs.wg.Go(fs.watchLoop)
	fs.wg.Go(fs.beatLoop)
	fs.wg.Go(fs.lane.run)
	fs.wg.Go(fs.recallLoop)
	fs.wg.Go(fs.evictLoop)
	fs.wg.Go(fs.flushLoop)
	fs.wg.Go(fs.atimeLoop)
	return fs, nil
}

// Close writes back what is dirty, within Config.OpTimeout, and ends the session.
// The error says what could not be written.
func (fs *FS) Close() error {
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		return nil
	}
	fs.closed = true
	fs.mu.Unlock()
	ctx, cancel := fs.bound(fs.ctx)
	defer cancel()
	err := fs.Sync(ctx)
	if aerr := fs.tellAtimes(ctx); aerr != nil {
		fs.cfg.Logger.Debug("times of reads are not told", "err", aerr)
	}
	fs.app.Seal()
	if cerr := fs.closeSession(ctx); cerr != nil {
		fs.cfg.Logger.Warn("the session could not be closed, it will expire", "err", cerr)
	}
	fs.stop()
	return err
}

// stop ends all goroutines and connections.
func (fs *FS) stop() {
	fs.cancel()
	if s := fs.session.Load(); s != nil {
		s.finish()
	}
	_ = fs.app.Close()
	_ = fs.masters.Close()
	fs.wg.Wait()
	fs.direct.close()
	if err := fs.pool.Close(); err != nil {
		fs.cfg.Logger.Debug("closing connections", "err", err)
	}
}

// bound limits an operation to Config.OpTimeout.
func (fs *FS) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, fs.cfg.OpTimeout)
}

// ask sends a request that changes nothing to the leading master.
func (fs *FS) ask(ctx context.Context, fn func(ctx context.Context, m metapb.MetaClient) error) error {
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	fs.asked.Add(1)
	return fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		return fn(ctx, metapb.NewMetaClient(conn))
	})
}

// Sync writes back everything that is dirty.
func (fs *FS) Sync(ctx context.Context) error {
	type waiter struct {
		in  *inode
		seq uint64
	}
	var all []waiter
	for _, in := range fs.snapshot() {
		in.mu.Lock()
		if seq := in.submitLocked(); seq > 0 {
			all = append(all, waiter{in, seq})
		}
		in.mu.Unlock()
	}
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	if len(all) == 0 {
		return fs.synced(ctx)
	}
	fs.app.Push()
	var errs []error
	failed := 0
	for _, w := range all {
		if err := w.in.file.Wait(ctx, w.seq); err != nil {
			failed++
			if len(errs) < 4 { // of a dead cluster, one is like the other
				errs = append(errs, fmt.Errorf("inode %d: %w", w.in.ino, err))
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d files are not written back: %w", failed, errors.Join(errs...))
	}
	return fs.synced(ctx)
}

// synced ends a Sync: changes of names and attributes are told to the masters, and what
// was lost, and no fsync or close has said so, is told to the caller.
func (fs *FS) synced(ctx context.Context) error {
	if err := fs.lane.sync(ctx); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := len(fs.losses)
	for ino, err := range fs.losses {
		fs.losses = map[dfs.Ino]error{}
		return fmt.Errorf("bytes of %d files are lost, one is inode %d: %w", n, ino, err)
	}
	return nil
}

// snapshot lists the inodes in the table.
func (fs *FS) snapshot() []*inode {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	all := make([]*inode, 0, len(fs.inodes))
	for _, in := range fs.inodes {
		all = append(all, in)
	}
	return all
}

// Stats is a client's use of resources, for metrics.
type Stats struct {
	Append     appender.Stats
	Cache      cache.Stats
	DirtyBytes int64
	Asked      uint64 // requests to the masters that change nothing
	Fetched    uint64 // reads of bytes, from chunk servers or their files
	Direct     uint64 // of these: reads of files of chunk servers on this machine
	Inodes     int    // open, or with bytes not committed
	Session    dfs.SessionID
	Leases     int    // on inodes
	Surprises  uint64 // changes made in memory with which the masters did not agree: always 0
}

// Stats tells the use so far.
func (fs *FS) Stats() Stats {
	fs.mu.RLock()
	n := len(fs.inodes)
	fs.mu.RUnlock()
	st := Stats{Append: fs.app.Stats(), Cache: fs.cache.Stats(), DirtyBytes: fs.memory.inUse(), Inodes: n}
	if s := fs.session.Load(); s != nil {
		st.Session = s.id
	}
	fs.leases.mu.Lock()
	st.Leases = len(fs.leases.nodes)
	fs.leases.mu.Unlock()
	fs.direct.mu.Lock()
	st.Direct = fs.direct.reads
	fs.direct.mu.Unlock()
	st.Asked, st.Fetched = fs.asked.Load(), fs.fetched.Load()
	st.Surprises = fs.surprises.Load()
	return st
}

// ClusterMap is the latest cluster map; nil before the first has arrived. It must
// not be changed.
func (fs *FS) ClusterMap() *dfs.ClusterMap { return fs.cluster.Load() }
