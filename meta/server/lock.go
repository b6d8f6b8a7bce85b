package server

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/meta"
	"dfs/proto/adminpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Times and bounds of locks. docs/coherence.md has the whole protocol.
const (
	turnTime    = time.Second // a lock is kept free for so long for whoever has waited for it
	lockPage    = 4096
	lockLineMax = 16 << 10 // that wait for locks of one file
)

// lockQueue is who waits for locks, and who is to hear of a session's locks before it
// locks without asking. Locks themselves are in the state; this lives in the leader's
// memory for one term. Who waited for the last leader asks again.
//
// Lock order: leaseTable.mu, then lockQueue.mu.
type lockQueue struct {
	l *leadership

	mu      sync.Mutex
	files   map[dfs.Ino]*lockFile       // +checklocks:mu
	waiting map[lockOwner][]*lockWaiter // +checklocks:mu — for locks of bytes: others can deadlock with them
}

// lockOwner is who holds or wants locks, over all sessions.
type lockOwner struct {
	session dfs.SessionID
	owner   uint64
}

// lockFile is a file or name that somebody has locks of, or wants some.
type lockFile struct {
	users map[dfs.SessionID]*lockUser
	line  []*lockWaiter // in the order in which they came
	turns []lockTurn

	closing  map[lockSetter]time.Time // locks that may end by then
	watchers []chan struct{}          // of who waits for those
}

// lockSetter is an open file through which locks were set.
type lockSetter struct {
	session dfs.SessionID
	file    uint64
}

// lockUser is a session that has locks of a file, or asks for some.
type lockUser struct {
	asking int
	held   bool
}

// lockWaiter is one call that waits.
type lockWaiter struct {
	lockOwner
	ino  dfs.Ino
	want dfs.Lock
	wake chan struct{}
}

// lockTurn keeps a lock free for who has waited for it.
type lockTurn struct {
	lockOwner
	want  dfs.Lock
	until time.Time
}

func newLockQueue(l *leadership) *lockQueue {
	return &lockQueue{l: l, files: map[dfs.Ino]*lockFile{}, waiting: map[lockOwner][]*lockWaiter{}}
}

// load takes in the locks of earlier terms.
func (q *lockQueue) load(v meta.View) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for after := dfs.Ino(0); ; {
		page, err := v.Locks(after, lockPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, h := range page {
			q.userLocked(h.Session, h.Ino).held = true
		}
		after = page[len(page)-1].Ino
	}
}

// userLocked finds or makes a session's entry.
//
// +checklocks:q.mu
func (q *lockQueue) userLocked(session dfs.SessionID, ino dfs.Ino) *lockUser {
	f := q.files[ino]
	if f == nil {
		f = &lockFile{users: map[dfs.SessionID]*lockUser{}}
		q.files[ino] = f
	}
	u := f.users[session]
	if u == nil {
		u = &lockUser{}
		f.users[session] = u
	}
	return u
}

// enter is called before a session asks for locks of a file: from here on no other one
// is told that it may lock without asking.
func (q *lockQueue) enter(session dfs.SessionID, ino dfs.Ino) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.userLocked(session, ino).asking++
}

// leave ends what enter began. Who waits looks again.
func (q *lockQueue) leave(session dfs.SessionID, ino dfs.Ino) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.files[ino]
	if f == nil {
		return // the session is over
	}
	if u := f.users[session]; u != nil {
		u.asking--
		err := q.l.s.node.LocalRead(func(v meta.View) (err error) {
			u.held, _, err = v.Holds(session, ino, 0, 0)
			return err
		})
		if err != nil {
			u.held = true // others ask then, as they do in doubt
		}
		if u.asking == 0 && !u.held {
			delete(f.users, session)
		}
	}
	q.lookLocked(ino, f)
}

// lookLocked has everybody who waits for locks of a file look again, and forgets a file
// without users.
//
// +checklocks:q.mu
func (q *lockQueue) lookLocked(ino dfs.Ino, f *lockFile) {
	for _, w := range f.line {
		kick(w.wake)
	}
	for _, w := range f.watchers {
		kick(w)
	}
	if len(f.users) == 0 && len(f.line) == 0 && len(f.watchers) == 0 {
		delete(q.files, ino)
	}
}

// drop forgets a session that is no more, and whose locks are gone.
func (q *lockQueue) drop(id dfs.SessionID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for ino, f := range q.files {
		if _, is := f.users[id]; is {
			delete(f.users, id)
			f.turns = slices.DeleteFunc(f.turns, func(t lockTurn) bool { return t.session == id })
			q.lookLocked(ino, f)
		}
	}
}

// alone reports whether no other session has locks of a file, or asks for some.
func (q *lockQueue) alone(session dfs.SessionID, ino dfs.Ino) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.files[ino]
	if f == nil {
		return true
	}
	for id := range f.users {
		if id != session {
			return false
		}
	}
	return true
}

// refuses reports whether a lock is kept for somebody else: for one who has waited and
// whose turn it is, or, if who asks would wait too, for those who wait already. Who holds
// locks of the file goes first: others may be waiting for him.
func (q *lockQueue) refuses(session dfs.SessionID, ino dfs.Ino, want dfs.Lock, waits bool) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.files[ino]
	if f == nil {
		return false, nil
	}
	me := lockOwner{session, want.Owner}
	if _, is := f.turnAgainst(me, want); is {
		return true, nil
	}
	if !waits || !slices.ContainsFunc(f.line, func(w *lockWaiter) bool { return w.lockOwner != me && w.want.Excludes(want, w.session == me.session) }) {
		return false, nil
	}
	if slices.ContainsFunc(f.turns, func(t lockTurn) bool { return t.lockOwner == me && t.want == want }) {
		return false, nil
	}
	own, err := q.holds(me, ino, want.Kind)
	return !own, err
}

func (q *lockQueue) holds(o lockOwner, ino dfs.Ino, kind dfs.LockKind) (own bool, err error) {
	err = q.l.s.node.LocalRead(func(v meta.View) (err error) {
		_, own, err = v.Holds(o.session, ino, kind, o.owner)
		return err
	})
	return own, err
}

// turnAgainst finds a turn of another owner that excludes want.
func (f *lockFile) turnAgainst(me lockOwner, want dfs.Lock) (lockTurn, bool) {
	now := time.Now()
	f.turns = slices.DeleteFunc(f.turns, func(t lockTurn) bool { return now.After(t.until) })
	i := slices.IndexFunc(f.turns, func(t lockTurn) bool { return t.lockOwner != me && t.want.Excludes(want, t.session == me.session) })
	if i < 0 {
		return lockTurn{}, false
	}
	return f.turns[i], true
}

// took ends the turn of who has the lock now.
func (q *lockQueue) took(session dfs.SessionID, ino dfs.Ino, got dfs.Lock) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if f := q.files[ino]; f != nil {
		me := lockOwner{session, got.Owner}
		f.turns = slices.DeleteFunc(f.turns, func(t lockTurn) bool { return t.lockOwner == me && t.want.Kind == got.Kind })
	}
}

// close notes that an open file is being closed.
func (q *lockQueue) close(session dfs.SessionID, ino dfs.Ino, file uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.files[ino]
	if f == nil || f.users[session] == nil {
		return // it has no locks
	}
	now := time.Now()
	if f.closing == nil {
		f.closing = map[lockSetter]time.Time{}
	}
	maps.DeleteFunc(f.closing, func(_ lockSetter, until time.Time) bool { return now.After(until) })
	f.closing[lockSetter{session, file}] = now.Add(dfs.LockClosing)
}

// settle waits, for a moment, while all that is in the way of a lock is of open files that
// are being closed.
func (q *lockQueue) settle(ctx context.Context, session dfs.SessionID, ino dfs.Ino, want dfs.Lock) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.files[ino]
	if f == nil || len(f.closing) == 0 {
		return nil
	}
	wake := make(chan struct{}, 1)
	f.watchers = append(f.watchers, wake)
	defer func() {
		f.watchers = slices.DeleteFunc(f.watchers, func(o chan struct{}) bool { return o == wake })
	}()
	for {
		var until time.Time
		now := time.Now()
		lasting := false
		err := q.l.s.node.LocalRead(func(v meta.View) error {
			held, err := v.Conflicts(session, ino, want)
			for _, h := range held {
				end := f.closing[lockSetter{h.Session, h.File}]
				lasting = lasting || now.After(end)
				if until.IsZero() || end.Before(until) {
					until = end
				}
			}
			return err
		})
		if err != nil || lasting || until.IsZero() {
			return err
		}
		if err := q.pause(ctx, wake, until); err != nil {
			return err
		}
	}
}

// wait returns when a lock can be had, with a turn to take it; or EDEADLK.
func (q *lockQueue) wait(ctx context.Context, session dfs.SessionID, ino dfs.Ino, want dfs.Lock) error {
	w := &lockWaiter{lockOwner: lockOwner{session, want.Owner}, ino: ino, want: want, wake: make(chan struct{}, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.files[ino]
	if f == nil || len(f.line) >= lockLineMax {
		return dfs.ENOLCK
	}
	f.line = append(f.line, w)
	if want.Kind == dfs.LockBytes {
		q.waiting[w.lockOwner] = append(q.waiting[w.lockOwner], w)
	}
	defer func() {
		f.line = slices.DeleteFunc(f.line, func(o *lockWaiter) bool { return o == w })
		if list := slices.DeleteFunc(q.waiting[w.lockOwner], func(o *lockWaiter) bool { return o == w }); len(list) > 0 {
			q.waiting[w.lockOwner] = list
		} else {
			delete(q.waiting, w.lockOwner)
		}
		q.lookLocked(ino, f)
	}()
	for {
		if f.users[session] == nil {
			return rpc.Unavailable("session %s is over", session)
		}
		free, until, err := q.look(f, w)
		if err != nil {
			return err
		}
		if free {
			f.turns = append(f.turns, lockTurn{w.lockOwner, want, time.Now().Add(turnTime)})
			return nil
		}
		if err := q.pause(ctx, w.wake, until); err != nil {
			return err
		}
	}
}

// pause waits, without q.mu, until who waits is to look again.
//
// +checklocks:q.mu
func (q *lockQueue) pause(ctx context.Context, wake <-chan struct{}, until time.Time) error {
	q.mu.Unlock()
	defer q.mu.Lock()
	var over <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until) + time.Millisecond)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-wake:
	case <-over:
	case <-q.l.ctx.Done():
		return q.l.s.notReady()
	case <-ctx.Done():
		return rpc.Unavailable("waiting for a lock: %v", ctx.Err())
	}
	return nil
}

// look finds out whether a waiter can have its lock now. until is when it must look
// again even if nobody tells it.
//
// +checklocks:q.mu
func (q *lockQueue) look(f *lockFile, w *lockWaiter) (free bool, until time.Time, err error) {
	if t, is := f.turnAgainst(w.lockOwner, w.want); is {
		return false, t.until, nil
	}
	blockers, err := q.blockers(w)
	if err != nil {
		return false, until, err
	}
	if len(blockers) > 0 {
		if w.want.Kind == dfs.LockBytes {
			if is, err := q.reach(blockers, w.lockOwner, false); err != nil || is {
				if err == nil {
					err = dfs.EDEADLK
				}
				return false, until, err
			}
		}
		return false, until, nil
	}
	// It is free. Those who came before go first, but for those who wait for this one.
	own, err := q.holds(w.lockOwner, w.ino, w.want.Kind)
	if err != nil || own {
		return own, until, err
	}
	for _, e := range f.before(w) {
		if is, err := q.reach([]lockOwner{e.lockOwner}, w.lockOwner, true); err != nil || !is {
			return false, until, err
		}
	}
	return true, until, nil
}

// before lists those who came before a waiter and want what excludes its lock.
func (f *lockFile) before(w *lockWaiter) []*lockWaiter {
	var out []*lockWaiter
	for _, e := range f.line {
		if e == w {
			break
		}
		if e.lockOwner != w.lockOwner && e.want.Excludes(w.want, e.session == w.session) {
			out = append(out, e)
		}
	}
	return out
}

// blockers lists the owners of locks in a waiter's way.
func (q *lockQueue) blockers(w *lockWaiter) ([]lockOwner, error) {
	var out []lockOwner
	err := q.l.s.node.LocalRead(func(v meta.View) error {
		held, err := v.Conflicts(w.session, w.ino, w.want)
		for _, h := range held {
			out = append(out, lockOwner{h.Session, h.Owner})
		}
		return err
	})
	return out, err
}

// reach reports whether one of some owners waits for target, by way of any number of
// others: a search of the graph of who waits for whom. With line, those who came before
// are waited for too.
//
// +checklocks:q.mu
func (q *lockQueue) reach(from []lockOwner, target lockOwner, line bool) (bool, error) {
	seen := map[lockOwner]bool{}
	for len(from) > 0 {
		o := from[len(from)-1]
		from = from[:len(from)-1]
		if o == target {
			return true, nil
		}
		if seen[o] {
			continue
		}
		seen[o] = true
		for _, w := range q.waiting[o] {
			next, err := q.blockers(w)
			if err != nil {
				return false, err
			}
			from = append(from, next...)
			if !line {
				continue
			}
			for _, e := range q.files[w.ino].before(w) {
				from = append(from, e.lockOwner)
			}
		}
	}
	return false, nil
}

// lockRequest checks what a client says of a lock.
func lockRequest(ino uint64, p *metapb.Lock) (dfs.Ino, dfs.Lock, error) {
	want := rpc.LockFromProto(p)
	if !want.Valid() || dfs.Ino(ino).IsLockName() != (want.Kind == dfs.LockName) {
		return 0, dfs.Lock{}, status.Errorf(codes.InvalidArgument, "impossible lock %+v", want)
	}
	return dfs.Ino(ino), want, nil
}

// beginLock makes a session known as one that asks for locks of a file, and waits until
// no other can give itself some. The result ends it.
func (l *leadership) beginLock(ctx context.Context, session dfs.SessionID, ino dfs.Ino) (end func(), err error) {
	if !ino.IsLockName() {
		if err := l.told(ctx, session, ino); err != nil {
			return nil, err
		}
	}
	l.locks.enter(session, ino)
	if err := l.leases.settle(ctx, session, ino); err != nil {
		l.locks.leave(session, ino)
		return nil, err
	}
	return func() { l.locks.leave(session, ino) }, nil
}

// beginLocks is that for all changes of a request that are about locks, and decides which
// are refused.
func (l *leadership) beginLocks(ctx context.Context, req *metapb.MutateRequest, commands []meta.Command) (end func(), err error) {
	var ends []func()
	end = func() {
		for _, fn := range ends {
			fn()
		}
	}
	for i := range commands {
		session := commands[i].Session
		if put, is := commands[i].Op.(*meta.PutLocks); is {
			l.locks.enter(session, put.Ino)
			ends = append(ends, func() { l.locks.leave(session, put.Ino) })
			continue
		}
		op, is := commands[i].Op.(*meta.SetLock)
		if !is {
			continue
		}
		done, err := l.beginLock(ctx, session, op.Ino)
		if err != nil {
			end()
			return nil, err
		}
		ends = append(ends, done)
		if op.Closed || op.Lock.Type == dfs.Unlocked {
			continue
		}
		waits := req.Mutations[i].GetSetLock().GetWaits()
		if !waits {
			if err := l.locks.settle(ctx, session, op.Ino, op.Lock); err != nil {
				end()
				return nil, l.s.failure(err)
			}
		}
		if op.Refuse, err = l.locks.refuses(session, op.Ino, op.Lock, waits); err != nil {
			end()
			return nil, l.s.failure(err)
		}
	}
	return end, nil
}

// WaitLock waits until a lock can be had.
func (s *Server) WaitLock(ctx context.Context, req *metapb.WaitLockRequest) (*metapb.WaitLockReply, error) {
	l, err := s.serving(ctx)
	if err != nil {
		return nil, err
	}
	session := dfs.SessionID(req.Session)
	ino, want, err := lockRequest(req.Ino, req.Lock)
	if err != nil {
		return nil, err
	}
	if want.Type == dfs.Unlocked || !l.knows(session) {
		return nil, status.Errorf(codes.FailedPrecondition, "session %s cannot wait for a lock of type %d", session, want.Type)
	}
	end, err := l.beginLock(ctx, session, ino)
	if err != nil {
		return nil, err
	}
	defer end()
	errno, err := verdict(l.locks.wait(ctx, session, ino, want))
	return &metapb.WaitLockReply{Errno: errno}, s.failure(err)
}

// ClosingLock hears that an open file is being closed.
func (s *Server) ClosingLock(ctx context.Context, req *metapb.ClosingLockRequest) (*metapb.ClosingLockReply, error) {
	l, err := s.serving(ctx)
	if err != nil {
		return nil, err
	}
	l.locks.close(dfs.SessionID(req.Session), dfs.Ino(req.Ino), req.File)
	return &metapb.ClosingLockReply{}, nil
}

// GetLock tells a lock that is in the way.
func (s *Server) GetLock(ctx context.Context, req *metapb.GetLockRequest) (*metapb.GetLockReply, error) {
	l, err := s.serving(ctx)
	if err != nil {
		return nil, err
	}
	session := dfs.SessionID(req.Session)
	ino, want, err := lockRequest(req.Ino, req.Lock)
	if err != nil {
		return nil, err
	}
	if err := l.leases.settle(ctx, session, ino); err != nil {
		return nil, err
	}
	out := &metapb.GetLockReply{}
	err = s.read(ctx, func(v meta.View) error {
		held, err := v.Conflicts(session, ino, want)
		if err == nil && len(held) > 0 {
			out.Session, out.Lock = uint64(held[0].Session), rpc.LockToProto(held[0].Lock)
		}
		return err
	})
	return out, err
}

// Locks lists the locks that clients have told of, by file. Those that a client has set
// under a lease, and that nobody else has asked about, are not among them.
func (s *Server) Locks(ctx context.Context, req *adminpb.LocksRequest) (*adminpb.LocksReply, error) {
	if _, err := s.serving(ctx); err != nil {
		return nil, err
	}
	out := &adminpb.LocksReply{}
	err := s.read(ctx, func(v meta.View) error {
		held, err := v.Locks(dfs.Ino(req.After), lockPage)
		if err != nil {
			return err
		}
		sessions := map[dfs.SessionID]meta.Session{}
		*out = adminpb.LocksReply{More: len(held) >= lockPage}
		for _, h := range held {
			who, known := sessions[h.Session]
			if !known {
				if who, _, err = v.Session(h.Session); err != nil {
					return err
				}
				sessions[h.Session] = who
			}
			out.Locks = append(out.Locks, &adminpb.Lock{
				Ino: uint64(h.Ino), Name: h.Name, Token: h.Token, Kind: uint32(h.Kind), Type: uint32(h.Type), Start: h.Start, End: h.End,
				Pid: h.PID, Session: uint64(h.Session), Host: who.Host, Mountpoint: who.Mountpoint,
			})
		}
		return nil
	})
	return out, err
}
