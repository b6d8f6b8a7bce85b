package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/internal/turn"
	"dfs/meta"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// leadership is what only a leader knows, and only for one term.
type leadership struct {
	s        *Server
	term     uint64
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	reap     chan struct{} // there may be orphans to free
	look     chan struct{} // something about the chunk servers may have changed
	leases   *leaseTable
	locks    *lockQueue
	ledger   *ledger
	checks   sync.Mutex // held by the one that runs
	repairs  repairs
	jobs     jobs
	began    time.Time
	copies   copies
	reclaims reclaims

	mu       sync.Mutex
	sessions map[dfs.SessionID]*liveSession // +checklocks:mu
	reaping  map[dfs.Ino]struct{}           // +checklocks:mu — orphans that are being freed: too late to open them
	suspects []dfs.Ino                      // +checklocks:mu — may be orphans that nobody has open
	scan     bool                           // +checklocks:mu — there may be others: look at all orphans
	owing    map[dfs.SessionID]time.Time    // +checklocks:mu — since when sessions cannot end, see replay
	telling  map[dfs.SessionID]*telling     // +checklocks:mu — that tell changes, or must not

	probes singleflight.Group // of servers that were reported

	levelMu turn.Mutex // held while a master is added or the level is raised, over proposals, which are bounded

	mapMu turn.Mutex // one change of the map at a time; held over proposals, which are bounded
}

// liveSession is a client's session as the leader sees it.
type liveSession struct {
	seen time.Time            // last heartbeat
	told bool                 // all its open inodes are in open
	open map[dfs.Ino]struct{} // inodes that it has open

	restrict dfs.Restrictions
}

// telling is what a session tells of changes that it has made under leases.
type telling struct {
	requests int           // under way
	closing  int           // so many end the session
	idle     chan struct{} // closed when the last request is over; nil when nobody waits
}

// tell begins a request by which a session tells changes; false when it is being ended. done
// ends it.
func (l *leadership) tell(id dfs.SessionID) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.telling[id]
	if t == nil {
		t = &telling{}
		l.telling[id] = t
	}
	if t.closing > 0 {
		return nil, false
	}
	t.requests++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.requests--; t.requests == 0 {
			if t.idle != nil {
				close(t.idle)
				t.idle = nil
			}
			l.tidyTellingLocked(id, t)
		}
	}, true
}

// +checklocks:l.mu
func (l *leadership) tidyTellingLocked(id dfs.SessionID, t *telling) {
	if t.requests == 0 && t.closing == 0 {
		delete(l.telling, id)
	}
}

// silence waits until a session tells nothing, and lets it begin nothing until done.
func (l *leadership) silence(ctx context.Context, id dfs.SessionID) (done func(), err error) {
	idle, done := l.hush(id)
	if idle == nil {
		return done, nil
	}
	select {
	case <-idle:
		return done, nil
	case <-l.ctx.Done():
		err = l.s.notReady()
	case <-ctx.Done():
		err = rpc.Unavailable("waiting for what the session tells: %v", ctx.Err())
	}
	done()
	return nil, err
}

// hush lets a session begin nothing until done. idle is closed when nothing is under way any
// more; nil when nothing is.
func (l *leadership) hush(id dfs.SessionID) (idle chan struct{}, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.telling[id]
	if t == nil {
		t = &telling{}
		l.telling[id] = t
	}
	t.closing++
	if t.requests > 0 && t.idle == nil {
		t.idle = make(chan struct{})
	}
	return t.idle, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		t.closing--
		l.tidyTellingLocked(id, t)
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// suspect tells the reaper of inodes that may be free now. A look at all orphans would
// find them too, but passes by all that were freed since the store was last compacted.
func (l *leadership) suspect(inodes ...dfs.Ino) {
	if len(inodes) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.suspectLocked(inodes)
}

// +checklocks:l.mu
func (l *leadership) suspectLocked(inodes []dfs.Ino) {
	if len(l.suspects)+len(inodes) > suspectsMax {
		l.scan = true
	} else {
		l.suspects = append(l.suspects, inodes...)
	}
	kick(l.reap)
}

// Bounds of what is kept for clients.
const (
	sessionsMax = 16 << 10
	opensMax    = 1 << 20 // open inodes of one session
)

// opened registers that a session has an inode open, and answers whether it was
// registered before. It is not ok when the inode is being freed.
func (l *leadership) opened(id dfs.SessionID, ino dfs.Ino) (before, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, late := l.reaping[ino]; late {
		return false, false
	}
	if s := l.sessions[id]; s != nil {
		if _, before = s.open[ino]; !before && len(s.open) >= opensMax {
			return false, false
		}
		s.open[ino] = struct{}{}
	}
	return before, true
}

func (l *leadership) released(id dfs.SessionID, ino dfs.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sessions[id]; s != nil {
		delete(s.open, ino)
	}
}

// credOf is on whose behalf a session asks.
func (s *Server) credOf(session uint64, p *metapb.Cred) dfs.Cred {
	c := rpc.CredFromProto(p)
	if l := s.leading.Load(); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if live := l.sessions[dfs.SessionID(session)]; live != nil {
			c = live.restrict.Squash(c)
		}
	}
	return c
}

// knows reports whether there is such a session.
func (l *leadership) knows(id dfs.SessionID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions[id] != nil
}

// begin registers a session that was opened in this term: it has nothing open.
func (l *leadership) begin(id dfs.SessionID, restrict dfs.Restrictions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions[id] == nil {
		l.sessions[id] = &liveSession{seen: time.Now(), told: true, open: map[dfs.Ino]struct{}{}, restrict: restrict}
	}
}

// end forgets a session.
func (l *leadership) end(id dfs.SessionID) {
	l.mu.Lock()
	if s := l.sessions[id]; s != nil {
		l.suspectLocked(slices.Collect(maps.Keys(s.open)))
		delete(l.sessions, id)
	}
	l.mu.Unlock()
	l.leases.drop(id)
	l.locks.drop(id)
}

// closeSession ends a session in the state and here, after what it has acknowledged and not
// told was told. When that cannot be found out for long, others go on; the session stays in
// the state, and is tried again.
func (l *leadership) closeSession(ctx context.Context, id dfs.SessionID) error {
	done, err := l.silence(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	if err := l.replay(ctx, id); err != nil {
		if !l.tooLong(id) || ctx.Err() != nil {
			return err
		}
		l.s.logger.Error("others go on although it is not known what a client has synced last", "session", id, "err", err)
		l.end(id)
		return nil
	}
	return l.dropSession(ctx, id)
}

// tooLong notes that a session cannot end, and reports whether it is so for too long.
func (l *leadership) tooLong(id dfs.SessionID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, ok := l.owing[id]
	if !ok {
		since = time.Now()
		l.owing[id] = since
	}
	return time.Since(since) >= replayMax
}

// dropSession is closeSession for a session that has told everything.
func (l *leadership) dropSession(ctx context.Context, id dfs.SessionID) error {
	if _, err := l.s.propose(ctx, &meta.CloseSession{Session: id}); err != nil {
		return err
	}
	l.end(id)
	l.mu.Lock()
	delete(l.owing, id)
	l.mu.Unlock()
	return nil
}

// expired lists the sessions that were not heard of for too long.
func (l *leadership) expired(ttl time.Duration) []dfs.SessionID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []dfs.SessionID
	for id, s := range l.sessions {
		if time.Since(s.seen) > ttl {
			ids = append(ids, id)
		}
	}
	return ids
}

// claim keeps of the orphans those that nobody has open, and lets nobody open them
// any more, until done is called; false when some session has not told yet what it
// has open.
func (l *leadership) claim(orphans []dfs.Ino) (idle []dfs.Ino, done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sessions {
		if !s.told {
			return nil, nil, false
		}
		orphans = slices.DeleteFunc(orphans, func(i dfs.Ino) bool { _, open := s.open[i]; return open })
	}
	for _, ino := range orphans {
		l.reaping[ino] = struct{}{}
	}
	return orphans, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, ino := range orphans {
			delete(l.reaping, ino)
		}
	}, true
}

// adopt takes in sessions that the state has and this leader does not know: their
// clients went away before they heard of them, and nobody else would end them.
func (l *leadership) adopt() error {
	var sessions []meta.Session
	err := l.s.node.Read(l.ctx, func(v meta.View) (err error) {
		sessions, err = v.Sessions()
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range sessions {
		if l.sessions[s.ID] == nil {
			l.sessions[s.ID] = &liveSession{seen: time.Now(), open: map[dfs.Ino]struct{}{}, restrict: s.Restrict}
		}
	}
	return err
}

func (l *leadership) sessionCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// notReady sends a caller elsewhere, or lets it try again in a moment.
func (s *Server) notReady() error {
	if st := s.node.Status(); !st.Leading {
		return rpc.NotLeader(st.Leader, s.transport.addrOf(st.Leader))
	}
	return rpc.Unavailable("this master is about to lead")
}

// OpenSession registers a client.
func (s *Server) OpenSession(ctx context.Context, req *metapb.OpenSessionRequest) (*metapb.OpenSessionReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	if l.sessionCount() >= sessionsMax {
		return nil, status.Errorf(codes.ResourceExhausted, "there are %d sessions already", sessionsMax)
	}
	// Messages hold valid UTF-8 only, so a character must not be cut in two.
	cut := func(t string) string { return strings.ToValidUTF8(t[:min(len(t), dfs.NameMax)], "") }
	r, err := s.propose(ctx, &meta.OpenSession{Nonce: req.Nonce, Host: cut(req.Host), Mountpoint: cut(req.Mountpoint), Version: cut(req.Version),
		Restrict: dfs.Restrictions(req.Restrict)})
	if err != nil {
		return nil, s.failure(err)
	}
	if r.Errno != dfs.OK {
		return nil, status.Errorf(codes.InvalidArgument, "open a session: %v", r.Errno)
	}
	l.begin(r.Session, dfs.Restrictions(req.Restrict))
	return &metapb.OpenSessionReply{
		Session: uint64(r.Session), TtlNanos: int64(s.cfg.SessionTTL), Inodes: rangeToProto(r.Inodes), Chunks: rangeToProto(r.Chunks),
	}, nil
}

// Heartbeat renews a session.
func (s *Server) Heartbeat(ctx context.Context, req *metapb.HeartbeatRequest) (*metapb.HeartbeatReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	id := dfs.SessionID(req.Session)
	out := &metapb.HeartbeatReply{LeaderTerm: l.term}
	// It must be the leader who says that a session lives.
	var restrict dfs.Restrictions
	err := s.read(ctx, func(v meta.View) error {
		state, exists, err := v.Session(id)
		if err != nil {
			return err
		}
		out.Expired, restrict = !exists, state.Restrict
		epoch, err := v.Epoch()
		out.MapEpoch = uint64(epoch)
		return err
	})
	if err != nil {
		return nil, err
	}
	if out.Expired {
		l.end(id)
		return out, nil
	}
	out.Time = rpc.TimeToProto(now())
	if err := bound("leases to keep", len(req.Keep), leasesMax); err != nil {
		return nil, err
	}
	if req.AttachedTerm == l.term && l.leases.late(id, req.Keep) {
		l.s.logger.Warn("session ended: it came too late with bytes written under leases of the last leader", "session", id)
		if err := l.closeSession(ctx, id); err != nil {
			return nil, s.failure(err)
		}
		return &metapb.HeartbeatReply{LeaderTerm: l.term, Expired: true}, nil
	}
	if req.AttachedTerm == l.term {
		good, kept := l.leases.attach(id, req.Keep)
		out.LeaseNanos, out.Leases = int64(good), kept
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	live := l.sessions[id]
	if live == nil {
		live = &liveSession{open: map[dfs.Ino]struct{}{}, restrict: restrict}
		l.sessions[id] = live
	}
	live.seen = time.Now()
	if len(live.open)+len(req.Open) > opensMax {
		return nil, status.Errorf(codes.ResourceExhausted, "the session has more than %d inodes open", opensMax)
	}
	for _, ino := range req.Released {
		delete(live.open, dfs.Ino(ino))
		l.suspectLocked([]dfs.Ino{dfs.Ino(ino)})
	}
	if req.OpenComplete && req.LeaderTerm == l.term {
		live.told = true
	}
	for _, ino := range req.Open {
		live.open[dfs.Ino(ino)] = struct{}{}
	}
	out.WantOpen = !live.told
	return out, nil
}

// CloseSession ends a session at its client's wish.
func (s *Server) CloseSession(ctx context.Context, req *metapb.CloseSessionRequest) (*metapb.CloseSessionReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	end := l.closeSession
	if req.Clean {
		end = l.dropSession
	}
	return &metapb.CloseSessionReply{}, s.failure(end(ctx, dfs.SessionID(req.Session)))
}

// lead takes up the duties of a leader whenever this master is one.
func (s *Server) lead() {
	for s.ctx.Err() == nil && s.node.Err() == nil {
		changed := s.node.Changed()
		st := s.node.Status()
		if st.Leading {
			s.serveTerm(st.Term)
		}
		if now := s.node.Status(); now != st || now.Leading {
			continue
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return
		case <-s.node.Done():
			return
		}
	}
}

// serveTerm does the duties of one term until it is over.
func (s *Server) serveTerm(term uint64) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	over := func() bool { st := s.node.Status(); return !st.Leading || st.Term != term }
	watch := make(chan struct{})
	go func() { // ends with ctx, and is waited for below
		defer close(watch)
		for !over() {
			changed := s.node.Changed()
			if over() {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-s.node.Done():
				cancel()
				return
			}
		}
		cancel()
	}()
	defer func() { cancel(); <-watch }()
	l := &leadership{
		s: s, term: term, ctx: ctx, cancel: cancel, sessions: map[dfs.SessionID]*liveSession{}, reaping: map[dfs.Ino]struct{}{}, owing: map[dfs.SessionID]time.Time{}, telling: map[dfs.SessionID]*telling{},
		began: time.Now(),
		scan:  true, // what was orphaned in earlier terms
		reap:  make(chan struct{}, 1), look: make(chan struct{}, 1),
	}
	l.leases, l.locks = newLeaseTable(l), newLockQueue(l)
	l.repairs.kick, l.jobs.kick = make(chan struct{}, 1), make(chan struct{}, 1)
	l.ledger = newLedger(s.node)
	defer l.ledger.close()
	if err := l.takeOver(); err != nil {
		if ctx.Err() == nil {
			s.logger.Error("cannot take up leadership", "err", err)
			pause(ctx, time.Second)
		}
		return
	}
	s.leading.Store(l)
	s.logger.Info("leading", "term", term)
	for _, duty := range []func(){l.expireSessions, l.reapOrphans, l.dropChunks, l.watchServers, l.promoteMasters, l.raiseLevel, l.keepCopies, l.findRepairs, l.rebalance, l.reclaimDead, l.runJobs} {
		l.wg.Go(duty)
	}
	<-ctx.Done()
	s.leading.Store(nil)
	s.logger.Info("not leading any more", "term", term)
	l.wg.Wait()
}

// takeOver brings this master to where its predecessors were, makes the file system
// of a new cluster, and gives every session its whole time.
func (l *leadership) takeOver() error {
	s := l.s
	var sessions []meta.Session
	var masters []meta.Master
	bootstrapped := false
	err := s.node.Read(l.ctx, func(v meta.View) (err error) {
		if bootstrapped, err = v.Bootstrapped(); err != nil || !bootstrapped {
			return err
		}
		if masters, err = v.Masters(); err != nil {
			return err
		}
		if sessions, err = v.Sessions(); err != nil {
			return err
		}
		return l.locks.load(v)
	})
	if err != nil {
		return err
	}
	if !bootstrapped {
		if err := s.carry(l.ctx, &meta.Bootstrap{Cluster: s.clusterID(), Buckets: s.cfg.Buckets}); err != nil {
			return err
		}
		if err := l.raiseOnce(l.ctx); err != nil { // nobody else is a member yet
			return err
		}
	}
	self := meta.Master{ID: s.id.Node, Name: s.cfg.Name, Addr: s.addr}
	if !slices.Contains(masters, self) {
		if err := s.carry(l.ctx, &meta.PutMaster{ID: self.ID, Name: self.Name, Addr: self.Addr}); err != nil {
			return err
		}
	}
	s.transport.refresh()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, session := range sessions {
		l.sessions[session.ID] = &liveSession{seen: time.Now(), open: map[dfs.Ino]struct{}{}, restrict: session.Restrict}
	}
	l.leases.expect(sessions)
	return nil
}

// pause waits, and answers false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// log says what went wrong in a duty, unless the term is just over.
func (l *leadership) log(what string, err error) {
	if err != nil && l.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		l.s.logger.Warn(what, "err", err)
	}
}

// expireSessions ends sessions whose clients are gone.
func (l *leadership) expireSessions() {
	ttl := l.s.cfg.SessionTTL
	looked := time.Now()
	for pause(l.ctx, min(ttl/10, time.Second)) {
		if time.Since(looked) > ttl {
			looked = time.Now()
			l.log("cannot list the sessions", l.adopt())
		}
		for _, id := range l.expired(ttl) {
			l.s.logger.Warn("session expired", "session", id)
			if err := l.closeSession(l.ctx, id); err != nil {
				l.log("cannot end a session", err)
				break
			}
		}
	}
}

// Bounds of the reaper.
const (
	reapDelay   = 100 * time.Millisecond // lets orphans gather
	reapEvery   = time.Second            // when somebody had not told yet what he has open
	scanEvery   = time.Minute            // looks at all orphans; the new ones are known without
	suspectsMax = 64 << 10
	reapPage    = 512
	reapBatch   = 64 // inodes in one command
)

// reapOrphans frees inodes that have no name and that nobody has open.
func (l *leadership) reapOrphans() {
	for scanned := time.Now(); ; {
		timer := time.NewTimer(reapEvery)
		select {
		case <-l.reap:
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		if !pause(l.ctx, reapDelay) {
			return
		}
		l.mu.Lock()
		suspects, scan := l.suspects, l.scan || time.Since(scanned) > scanEvery
		l.suspects, l.scan = nil, false
		l.mu.Unlock()
		var err error
		known := true
		if scan {
			scanned = time.Now()
			known, err = l.reapAll()
		} else {
			known, err = l.reapSome(suspects)
		}
		if err != nil || !known {
			l.mu.Lock()
			l.scan = true
			l.mu.Unlock()
		}
		l.log("cannot free orphans", err)
	}
}

// reapSome frees those of the inodes that are orphans.
func (l *leadership) reapSome(suspects []dfs.Ino) (known bool, err error) {
	for page := range slices.Chunk(suspects, reapPage) {
		var orphans []dfs.Ino
		err := l.s.node.Read(l.ctx, func(v meta.View) error {
			orphans = nil
			for _, ino := range page {
				attr, err := v.GetAttr(ino)
				switch {
				case errors.Is(err, dfs.ESTALE): // gone already
				case err != nil:
					return err
				case attr.Nlink == 0:
					orphans = append(orphans, ino)
				}
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		if known, err := l.freeIdle(orphans); err != nil || !known {
			return known, err
		}
	}
	return true, nil
}

// reapAll looks at all orphans. known is false when somebody has not told yet what he
// has open; his heartbeat comes soon.
func (l *leadership) reapAll() (known bool, err error) {
	for after := dfs.Ino(0); ; {
		var page []dfs.Ino
		err := l.s.node.Read(l.ctx, func(v meta.View) (err error) {
			page, err = v.Orphans(after, reapPage)
			return err
		})
		if err != nil || len(page) == 0 {
			return true, err
		}
		after = page[len(page)-1]
		if known, err := l.freeIdle(page); err != nil || !known {
			return known, err
		}
	}
}

// freeIdle frees the orphans that nobody has open.
func (l *leadership) freeIdle(orphans []dfs.Ino) (known bool, err error) {
	if len(orphans) == 0 {
		return true, nil
	}
	idle, done, known := l.claim(orphans)
	if !known {
		return false, nil
	}
	defer done()
	return true, l.free(idle)
}

// free frees orphans, each command a bounded part.
func (l *leadership) free(orphans []dfs.Ino) error {
	for batch := range slices.Chunk(orphans, reapBatch) {
		for more := true; more; {
			r, err := l.s.propose(l.ctx, &meta.Reap{Inodes: batch})
			if err != nil {
				return err
			}
			more = r.More
		}
	}
	return nil
}

// Bounds of the collection of chunks.
const (
	dropWait  = 30 * time.Second // a reader may still be on its way to a dead chunk
	dropEvery = 5 * time.Second
	dropPage  = 1024
	dropSeen  = 64 << 10 // dead chunks that are watched at a time
)

// dropChunks forgets chunks that nothing refers to; the chunk servers then learn
// from their reports that they may delete them.
func (l *leadership) dropChunks() {
	since := map[dfs.ChunkID]time.Time{} // first seen dead
	for pause(l.ctx, min(dropEvery, l.s.cfg.DropWait)) {
		l.log("cannot drop chunks", l.dropDead(since))
	}
}

func (l *leadership) dropDead(since map[dfs.ChunkID]time.Time) error {
	seen := map[dfs.ChunkID]bool{}
	var ripe []dfs.ChunkID
	for after := dfs.ChunkID(0); ; {
		var page []dfs.ChunkID
		err := l.s.node.Read(l.ctx, func(v meta.View) (err error) {
			page, err = v.Droppable(after, dropPage)
			return err
		})
		if err != nil {
			return err
		}
		if len(page) == 0 || len(seen) >= dropSeen {
			break
		}
		after = page[len(page)-1]
		for _, id := range page {
			seen[id] = true
			if t, ok := since[id]; !ok {
				since[id] = time.Now()
			} else if time.Since(t) >= l.s.cfg.DropWait {
				ripe = append(ripe, id)
			}
		}
	}
	maps.DeleteFunc(since, func(id dfs.ChunkID, _ time.Time) bool { return !seen[id] })
	for batch := range slices.Chunk(ripe, dropPage) {
		if _, err := l.s.propose(l.ctx, &meta.DropChunks{Chunks: batch}); err != nil {
			return err
		}
	}
	return nil
}
