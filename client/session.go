package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs"
	appender "dfs/client/append"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of a session.
const (
	pendingMax  = 16 << 10 // changes without an answer; masters keep the answers of 65536
	inodesLow   = 12       // inode numbers left when more are asked for, of the first grant
	inodesShare = 4        // of later ones: when less than this part of the grant is left
	ttlMin      = 100 * time.Millisecond
	beatPause   = 200 * time.Millisecond // between heartbeats that fail
)

// errExpired says that the masters do not know the session any more, and that
// nothing was done under it.
var errExpired = errors.New("the session has expired")

// errUnknown says that the session expired while the answer to a change was lost.
var errUnknown = errors.New("the session expired before the answer came: the change may have been made or not")

// idRange is the numbers from from up to and without to.
type idRange struct{ from, to uint64 }

// session is one registration with the masters.
type session struct {
	id     dfs.SessionID
	ttl    time.Duration
	over   context.Context // ends when another session took its place
	finish context.CancelFunc

	mu       sync.Mutex
	next     uint64              // +checklocks:mu — sequence of the next change, from 1
	low      uint64              // +checklocks:mu — every answer below this has arrived, or nobody waits for it
	pending  map[uint64]struct{} // +checklocks:mu
	room     chan struct{}       // +checklocks:mu — closed when low moves; nil when nobody waits
	inodes   []idRange           // +checklocks:mu — unused inode numbers
	inodeLow uint64              // +checklocks:mu — ask for more below this
	granting bool                // +checklocks:mu
	granted  chan struct{}       // +checklocks:mu — closed when granting has ended
	chunks   idRange             // +checklocks:mu — the first grant, until it is passed on
}

// openSession registers this client.
func (fs *FS) openSession(ctx context.Context) (*session, error) {
	req := &metapb.OpenSessionRequest{Host: fs.cfg.Host, Mountpoint: fs.cfg.Mountpoint, Version: fs.cfg.Version, Nonce: rand.Uint64() | 1, Restrict: uint32(fs.cfg.Restrict)}
	var reply *metapb.OpenSessionReply
	err := fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewMetaClient(conn).OpenSession(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	over, finish := context.WithCancel(context.Background()) //nolint:tidy // of the session, not of the call
	s := &session{
		id: dfs.SessionID(reply.Session), ttl: max(time.Duration(reply.TtlNanos), ttlMin),
		next: 1, low: 1, over: over, finish: finish, pending: map[uint64]struct{}{}, inodeLow: inodesLow,
	}
	if r := reply.Inodes; r != nil && r.From < r.To {
		s.inodes = []idRange{{r.From, r.To}}
	}
	if r := reply.Chunks; r != nil {
		s.chunks = idRange{r.From, r.To}
	}
	if fs.cfg.OnSession != nil {
		fs.cfg.OnSession(s.id)
	}
	return s, nil
}

func (fs *FS) closeSession(ctx context.Context) error {
	s := fs.session.Load()
	ctx, cancel := context.WithTimeout(ctx, min(fs.cfg.OpTimeout, 5*time.Second))
	defer cancel()
	return fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := metapb.NewMetaClient(conn).CloseSession(ctx, &metapb.CloseSessionRequest{Session: uint64(s.id), Clean: fs.app.Settled()})
		return err
	})
}

// renew waits until another session took the place of old, and returns it.
func (fs *FS) renew(ctx context.Context, old *session) (*session, error) {
	for {
		fs.renewMu.Lock()
		if s := fs.session.Load(); s != old {
			fs.renewMu.Unlock()
			return s, nil
		}
		if fs.ctx.Err() != nil {
			fs.renewMu.Unlock()
			return nil, rpc.ErrClosed
		}
		if fs.renewal == nil {
			done := make(chan struct{})
			fs.renewal = done
			fs.wg.Go(func() {
				fs.replace()
				fs.renewMu.Lock()
				fs.renewal = nil
				fs.renewMu.Unlock()
				close(done)
			})
		}
		done := fs.renewal
		fs.renewMu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// replace opens a session in the place of one that expired. Files stay open: the
// masters are told of them by a heartbeat before anybody uses the session.
func (fs *FS) replace() {
	fs.cfg.Logger.Warn("the session has expired, opening another one")
	s, err := fs.openSession(fs.ctx)
	if err != nil {
		if fs.ctx.Err() == nil {
			fs.cfg.Logger.Error("cannot open a session", "err", err)
		}
		return
	}
	// Nothing that was under its leases is good. What was changed in memory and not told
	// is lost; bytes are written again.
	fs.leases.detach()
	fs.leases.reset()
	fs.loseLocks()
	reply, err := fs.beat(fs.ctx, s, beat{complete: true})
	if err != nil && fs.ctx.Err() == nil {
		fs.cfg.Logger.Warn("open files could not be told", "err", err)
	}
	fs.checkWritten(s, reply.GetLeaderTerm())
	fs.app.Reset(s.id)
	old := fs.session.Swap(s)
	old.finish()
	fs.cfg.Logger.Info("session opened", "session", s.id.String())
	fs.wg.Go(fs.checkOpen)
}

// checkWritten looks for files that others have changed since the lease was lost under
// which bytes were written here: those come too late, and the next fsync or close says so. Of the
// rest it takes the exclusive lease for the session s, so that nobody changes them before the
// bytes are written again. term is that of the leader that knows s; 0: none does.
func (fs *FS) checkWritten(s *session, term uint64) {
	attached := false
	for _, in := range fs.snapshot() {
		in.mu.Lock()
		written := in.end > 0
		in.mu.Unlock()
		if !written {
			continue
		}
		if !attached && term != 0 {
			// The leader grants leases to those only that ask for them with their heartbeats.
			err := fs.ask(fs.ctx, func(ctx context.Context, m metapb.MetaClient) error {
				_, err := m.Heartbeat(ctx, &metapb.HeartbeatRequest{Session: uint64(s.id), LeaderTerm: term, AttachedTerm: term})
				return err
			})
			attached = err == nil
		}
		var reply *metapb.GetAttrReply
		err := fs.ask(fs.ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
			reply, err = m.Acquire(ctx, &metapb.AcquireRequest{Session: uint64(s.id), Ino: uint64(in.ino)})
			return err
		})
		switch {
		case fs.ctx.Err() != nil:
			return
		case err != nil:
			fs.cfg.Logger.Error("bytes written under a lease that was lost are dropped: whether the file has changed since cannot be told", "inode", uint64(in.ino), "err", err)
			in.loseLate(dfs.EIO)
		case reply.Errno != 0 || in.overtaken(reply.Attr.GetChange(), rpc.TimeFromProto(reply.Attr.GetMtime())):
			fs.cfg.Logger.Error("bytes written under a lease that was lost are dropped: the file has changed since", "inode", uint64(in.ino))
			in.loseLate(dfs.EIO)
		default:
			fs.leases.claimed(in.ino, reply.Leases)
		}
	}
}

// confirm waits, before bytes that are not committed are shown, until it is known that they
// are not too late: a client that was stopped for long may have lost its session, and others
// may have changed the file since.
func (fs *FS) confirm(ctx context.Context, ino dfs.Ino) error {
	l := fs.leases
	if l.good() || l.none.Load() {
		return nil
	}
	in := fs.find(ino)
	if in == nil {
		return nil
	}
	defer in.release()
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	for !l.good() && !l.none.Load() {
		in.mu.Lock()
		written := in.end > 0
		in.mu.Unlock()
		if !written {
			return nil
		}
		fs.beatNow()
		if err := l.pauseFor(ctx, confirmPoll); err != nil {
			return err
		}
	}
	return nil
}

const confirmPoll = 20 * time.Millisecond

// overtaken reports whether others have changed a file since bytes were written here: the
// masters tell its change counter and mtime. The answer to a commit of ours may have come since
// they were asked, and may be lost; then mtime is that of bytes which are still on their way.
func (in *inode) overtaken(change uint64, mtime dfs.Time) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return change > in.sure && !slices.ContainsFunc(in.flight, func(p *appender.Piece) bool { return p.Mtime == mtime })
}

// checkOpen looks for files that the masters freed when the session expired: with
// no name left, nothing but the session had kept them.
func (fs *FS) checkOpen() {
	for _, in := range fs.snapshot() {
		in.mu.Lock()
		unsafe := len(in.flight) > 0 || len(in.dirty.segs) > 0
		in.mu.Unlock()
		if !unsafe {
			continue
		}
		_, err := fs.GetAttr(fs.ctx, in.ino)
		if errors.Is(err, dfs.ESTALE) || errors.Is(err, dfs.ENOENT) {
			in.lose(dfs.EIO)
		}
	}
}

// begin gives a change its sequence number.
func (s *session) begin(ctx context.Context) (uint64, error) {
	for {
		s.mu.Lock()
		if s.next-s.low < pendingMax {
			seq := s.next
			s.next++
			s.pending[seq] = struct{}{}
			s.mu.Unlock()
			return seq, nil
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// end says that the answer has arrived, or that nobody waits for it any more: a
// master refuses what arrives late.
func (s *session) end(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, seq)
	for s.low < s.next {
		if _, ok := s.pending[s.low]; ok {
			break
		}
		s.low++
	}
	if s.room != nil && s.next-s.low < pendingMax {
		close(s.room)
		s.room = nil
	}
}

func (s *session) acked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.low
}

// mutate carries out one change under a session, once.
func (fs *FS) mutate(ctx context.Context, s *session, m *metapb.Mutation) (*metapb.MutateReply, error) {
	seq, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end(seq)
	m.Seq = seq
	var reply *metapb.MutateReply
	lost := false
	err = fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		req := &metapb.MutateRequest{Session: uint64(s.id), Acked: s.acked(), Mutations: []*metapb.Mutation{m}}
		reply, err = metapb.NewMetaClient(conn).Mutate(ctx, req)
		if err != nil {
			if _, _, refused := rpc.IsNotLeader(err); !refused {
				lost = true
			}
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case reply.Expired && lost:
		return nil, errors.Join(errExpired, errUnknown)
	case reply.Expired:
		return nil, errExpired
	case len(reply.Replies) != 1:
		return nil, fmt.Errorf("the master answered %d changes instead of one", len(reply.Replies))
	}
	fs.orphaned(reply.Opened)
	return reply, nil
}

// change carries out one change, under the next session when this one has expired before
// it was made. When nobody knows whether it was, the error is errUnknown: made again it
// could undo what others did since. build makes it for a session. inos is what it is known
// to change, and alone is what leases.end answers.
func (fs *FS) change(ctx context.Context, inos []dfs.Ino, build func(ctx context.Context, s *session) (*metapb.Mutation, error)) (r *metapb.MutationReply, alone uint64, err error) {
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	for {
		s := fs.session.Load()
		m, err := build(ctx, s)
		if err == nil {
			var reply *metapb.MutateReply
			reply, alone, err = fs.mutateAlone(ctx, s, m, inos)
			if err == nil {
				r = reply.Replies[0]
				return r, alone, rpc.Errno(r.Errno)
			}
		}
		if !errors.Is(err, errExpired) {
			return nil, 0, err
		}
		unknown := errors.Is(err, errUnknown)
		if _, err := fs.renew(ctx, s); err != nil {
			return nil, 0, err
		}
		if unknown {
			return nil, 0, errUnknown
		}
	}
}

// mutateAlone carries out one change behind all that were made in memory: the masters have
// to know what it stands on, and what comes after must know of it.
func (fs *FS) mutateAlone(ctx context.Context, s *session, m *metapb.Mutation, inos []dfs.Ino) (reply *metapb.MutateReply, alone uint64, err error) {
	asking := fs.leases.begin(inos) // from here on nothing is changed in memory
	if err = fs.lane.flush(ctx); err != nil {
		return nil, fs.leases.end(asking, nil), err
	}
	asking.names = namesOf(m)
	if reply, err = fs.mutate(ctx, s, m); err != nil && !errors.Is(err, errExpired) {
		fs.wg.Go(func() { fs.abandoned(s, asking) })
		return nil, 0, err
	}
	return reply, fs.leases.end(asking, reply.GetLeases()), err
}

// abandoned ends what begin has begun for a change that nobody waits for any more, once
// it has been carried out or never will be: when the masters have answered a later one,
// which tells them that this one is not wanted. Then what it may have changed is forgotten.
func (fs *FS) abandoned(s *session, a asking) {
	for fs.ctx.Err() == nil && fs.session.Load() == s {
		ctx, cancel := fs.bound(fs.ctx)
		_, err := fs.mutate(ctx, s, &metapb.Mutation{Op: &metapb.Mutation_GrantIds{GrantIds: &metapb.GrantIDs{}}})
		cancel()
		if err == nil || errors.Is(err, errExpired) {
			break
		}
		fs.sleep(serverPause)
	}
	fs.leases.endUnknown(a)
	fs.invalidate(a.inos...)
}

// apply is change for what does not depend on the session.
func (fs *FS) apply(ctx context.Context, m *metapb.Mutation, inos ...dfs.Ino) (r *metapb.MutationReply, alone uint64, err error) {
	return fs.change(ctx, inos, func(context.Context, *session) (*metapb.Mutation, error) { return m, nil })
}

// takeIno takes an unused inode number.
func (fs *FS) takeIno(ctx context.Context, s *session) (dfs.Ino, error) {
	for {
		s.mu.Lock()
		if ino, ok := fs.tryInoLocked(s); ok {
			s.mu.Unlock()
			return ino, nil
		}
		granted := s.granted
		s.mu.Unlock()
		select {
		case <-granted:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if fs.session.Load() != s {
			return 0, errExpired
		}
		if fs.ctx.Err() != nil {
			return 0, rpc.ErrClosed
		}
	}
}

// tryInoLocked takes an unused inode number if there is one, and asks for more in time.
//
// +checklocks:s.mu
func (fs *FS) tryInoLocked(s *session) (dfs.Ino, bool) {
	left := uint64(0)
	for _, r := range s.inodes {
		left += r.to - r.from
	}
	if left <= s.inodeLow {
		fs.grantLocked(s)
	}
	if left == 0 {
		return 0, false
	}
	ino := s.inodes[0].from
	if s.inodes[0].from++; s.inodes[0].from == s.inodes[0].to {
		s.inodes = slices.Delete(s.inodes, 0, 1)
	}
	return dfs.Ino(ino), true
}

// grantLocked asks for more inode numbers in the background.
//
// +checklocks:s.mu
func (fs *FS) grantLocked(s *session) {
	if s.granting {
		return
	}
	s.granting = true
	done := make(chan struct{})
	s.granted = done
	fs.wg.Go(func() {
		defer close(done)
		r, err := fs.grant(fs.ctx, s, &metapb.GrantIDs{Inodes: true})
		if errors.Is(err, errExpired) {
			_, _ = fs.renew(fs.ctx, s) // who waits for a number takes it from the next session
		} else if err != nil && fs.ctx.Err() == nil {
			fs.cfg.Logger.Warn("cannot get inode numbers", "err", err)
			fs.sleep(beatPause)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.granting = false
		if err == nil {
			s.inodes = append(s.inodes, r)
			s.inodeLow = (r.to - r.from) / inodesShare
		}
	})
}

func (fs *FS) grant(ctx context.Context, s *session, g *metapb.GrantIDs) (idRange, error) {
	all, err := fs.mutate(ctx, s, &metapb.Mutation{Op: &metapb.Mutation_GrantIds{GrantIds: g}})
	if err != nil {
		return idRange{}, err
	}
	reply := all.Replies[0]
	r := reply.Inodes
	if g.Chunks {
		r = reply.Chunks
	}
	if err := rpc.Errno(reply.Errno); err != nil {
		return idRange{}, err
	}
	if r == nil || r.From >= r.To {
		return idRange{}, errors.New("the master granted no numbers")
	}
	return idRange{r.From, r.To}, nil
}

// kick wakes the loop that reads from c, a channel with room for one.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for d, or until Close.
func (fs *FS) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-fs.ctx.Done():
	}
}
