package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of locks.
const (
	fileLocksMax = 4096 // of one file: masters refuse more
	lostPoll     = 500 * time.Millisecond
)

// fileLocks is what this client's programs hold of one file or name. Under an exclusive
// lease, when no other client had locks of the file as it was given, locks are set and
// taken away here and nobody is told; before that lease goes, all are told at once.
type fileLocks struct {
	// gate is held by who changes held: the masters must hear of changes in the order in
	// which they are made here. It is a channel so that waiting for it can end with a
	// context.
	gate chan struct{}

	// The rest is guarded by leases.mu.
	held   dfs.Locks
	untold bool // held is not what the masters know
	waits  int  // calls that wait at the masters: they must hear of what is let go
	users  int  // calls

	closing map[uint64]time.Time // open files that are being closed: their locks may end by then
}

// enterLocks finds or makes what is held of a file; leaveLocks lets go of it.
func (l *leases) enterLocks(ino dfs.Ino) *fileLocks {
	l.mu.Lock()
	defer l.mu.Unlock()
	fl := l.locks[ino]
	if fl == nil {
		fl = &fileLocks{gate: make(chan struct{}, 1)}
		l.locks[ino] = fl
	}
	fl.users++
	return fl
}

func (l *leases) leaveLocks(ino dfs.Ino, fl *fileLocks) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fl.users--; fl.users == 0 && len(fl.held) == 0 && !fl.untold {
		delete(l.locks, ino)
	}
}

func (fl *fileLocks) lock(ctx context.Context) error {
	select {
	case fl.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (fl *fileLocks) unlock() { <-fl.gate }

// setting is one change of what is held of a file.
type setting struct {
	ino    dfs.Ino
	lock   dfs.Lock
	closed bool // all that were set through lock.File go
	waits  bool // who asks is going to wait when refused
}

// of answers what is held after the change.
func (s *setting) of(held dfs.Locks) dfs.Locks {
	if s.closed {
		return held.Closed(s.lock.File)
	}
	return held.Set(s.lock)
}

func (s *setting) takesAway() bool { return s.closed || s.lock.Type == dfs.Unlocked }

// set makes a change: here, or by the masters. EAGAIN when another lock is in the way.
// When ctx ends first nothing has changed.
func (fs *FS) set(ctx context.Context, s setting) (token uint64, err error) {
	l := fs.leases
	fl := l.enterLocks(s.ino)
	err = l.awaitClosing(ctx, fl, func(h dfs.Lock) bool { return h.Against(s.lock) && h.Owner != s.lock.Owner && !s.takesAway() })
	if err == nil {
		err = fl.lock(ctx)
	}
	if err != nil {
		l.leaveLocks(s.ino, fl)
		return 0, err
	}
	if done, err := fs.setHere(fl, &s); done {
		fl.unlock()
		l.leaveLocks(s.ino, fl)
		return 0, err
	}
	type answer struct {
		token uint64
		err   error
	}
	// Who asks may go away; whether the masters have done it then must become known
	// before anything else is done.
	answered := make(chan answer, 1)
	gone := make(chan struct{})
	fs.wg.Go(func() {
		defer l.leaveLocks(s.ino, fl)
		defer fl.unlock()
		token, err := fs.setThere(fs.ctx, fl, &s)
		select {
		case <-gone:
			if err == nil && !s.takesAway() {
				undo := s
				undo.lock.Type = dfs.Unlocked
				if _, err := fs.setThere(fs.ctx, fl, &undo); err != nil && fs.ctx.Err() == nil {
					fs.cfg.Logger.Error("a lock that nobody waits for any more could not be taken away", "inode", uint64(s.ino), "err", err)
				}
			}
		case answered <- answer{token, err}:
		}
	})
	select {
	case a := <-answered:
		return a.token, a.err
	case <-ctx.Done():
		select {
		case a := <-answered:
			return a.token, a.err
		default:
		}
		close(gone)
		return 0, context.Cause(ctx)
	}
}

// setHere makes a change in memory; it is not done when that may not be.
func (fs *FS) setHere(fl *fileLocks, s *setting) (done bool, err error) {
	l := fs.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.takesAway() && len(fl.held) == 0 && !fl.untold {
		return true, nil
	}
	n := l.useLocked(s.ino)
	if n == nil || !n.lockable() || fl.waits > 0 || !l.good() {
		return false, nil
	}
	if !s.takesAway() {
		if _, is := fl.held.Conflict(s.lock); is {
			return true, dfs.EAGAIN
		}
	}
	next := s.of(fl.held)
	if len(next) > fileLocksMax {
		return true, dfs.ENOLCK
	}
	fl.held, fl.untold, n.untold = next, true, true
	l.wakeLocked()
	return true, nil
}

// awaitClosing waits, for a moment, while all such locks are of open files that are being
// closed, and may end.
func (l *leases) awaitClosing(ctx context.Context, fl *fileLocks, concerns func(dfs.Lock) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(fl.closing) > 0 {
		now, until := time.Now(), time.Time{}
		for _, h := range fl.held {
			if !concerns(h) {
				continue
			}
			end := fl.closing[h.File]
			if now.After(end) {
				return nil // it lasts
			}
			if until.IsZero() || end.Before(until) {
				until = end
			}
		}
		if until.IsZero() {
			return nil
		}
		bounded, cancel := context.WithDeadline(ctx, until)
		_ = l.waitLocked(bounded)
		cancel()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// closing notes, before close(2) returns, that locks of the open file may be about to end:
// it is not known yet whether there are other descriptors. Who asks for them waits then.
func (f *File) closing(ctx context.Context) {
	fs, ino := f.in.fs, f.in.ino
	l := fs.leases
	l.mu.Lock()
	fl := l.locks[ino]
	if fl == nil || !slices.ContainsFunc(fl.held, func(h dfs.Lock) bool { return h.File == f.id }) {
		l.mu.Unlock()
		return
	}
	if fl.closing == nil {
		fl.closing = map[uint64]time.Time{}
	}
	fl.closing[f.id] = time.Now().Add(dfs.LockClosing)
	n := l.nodes[ino]
	here := n != nil && n.lockable() && fl.waits == 0 && l.good()
	l.mu.Unlock()
	if here {
		return // who asks gets the lease back first, and that waits
	}
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) error {
		_, err := m.ClosingLock(ctx, &metapb.ClosingLockRequest{Session: l.session(), Ino: uint64(ino), File: f.id})
		return err
	})
	if err != nil {
		fs.cfg.Logger.Debug("nobody is told that a locked file is being closed", "inode", uint64(ino), "err", err)
	}
}

// lockable reports whether locks may be set here.
func (n *node) lockable() bool { return n.exclusive && n.unlocked && !n.recalled }

// setThere has the masters make a change. The caller holds the gate.
func (fs *FS) setThere(ctx context.Context, fl *fileLocks, s *setting) (token uint64, err error) {
	if err := fs.tellLocks(ctx, fl, s.ino); err != nil {
		return 0, err
	}
	var under *session
	var reply *metapb.MutationReply
	err = errUnknown
	for errors.Is(err, errUnknown) { // what it may have done has ended with the session
		reply, _, err = fs.change(ctx, nil, func(_ context.Context, session *session) (*metapb.Mutation, error) {
			under = session
			return &metapb.Mutation{Op: &metapb.Mutation_SetLock{SetLock: &metapb.SetLock{
				Ino: uint64(s.ino), Lock: rpc.LockToProto(s.lock), Closed: s.closed, Waits: s.waits,
			}}}, nil
		})
	}
	l := fs.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && fs.session.Load() != under:
		return 0, fmt.Errorf("the session has ended: %w", dfs.EIO)
	case err == nil:
		fl.held = s.of(fl.held)
		l.wakeLocked()
		return reply.Token, nil
	case s.takesAway():
		// What the masters hold is not let go while this session lives; the next change of
		// locks of this file tells.
		fl.held, fl.untold = s.of(fl.held), true
	}
	return 0, err
}

// tellLocks tells the masters what was set here. The caller holds the gate.
func (fs *FS) tellLocks(ctx context.Context, fl *fileLocks, ino dfs.Ino) error {
	l := fs.leases
	l.mu.Lock()
	held, untold := fl.held, fl.untold
	l.mu.Unlock()
	if !untold {
		return nil
	}
	put := &metapb.PutLocks{Ino: uint64(ino)}
	for _, h := range held {
		put.Locks = append(put.Locks, rpc.LockToProto(h))
	}
	s := fs.session.Load()
	told := make(chan error, 1)
	l.mu.Lock()
	fs.lane.add(&change{
		session: s, mutation: &metapb.Mutation{Op: &metapb.Mutation_PutLocks{PutLocks: put}}, bytes: 64 * (1 + len(held)),
		told: func(reply *metapb.MutateReply, err error) {
			if err == nil {
				err = rpc.Errno(reply.Replies[0].Errno)
			}
			told <- err
		},
	}, true)
	l.mu.Unlock()
	var err error
	select {
	case err = <-told:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err != nil && !rpc.IsVerdict(err) && !isErrno(err) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fl.untold = false
	if n := l.nodes[ino]; n != nil {
		n.untold = false
	}
	if err == nil || len(held) == 0 {
		return nil
	}
	// Somebody else has what was held here: that cannot be, but nobody may go on as if
	// nothing was.
	fs.cfg.Logger.Error("the masters do not agree with locks set under a lease", "inode", uint64(ino), "err", err)
	fs.surprises.Add(1)
	fl.held = nil
	fs.wg.Go(func() { fs.locksLost(ino) })
	return nil
}

func isErrno(err error) bool {
	var e dfs.Errno
	return errors.As(err, &e)
}

// locksLost says so to the programs: by the next fsync or close.
func (fs *FS) locksLost(ino dfs.Ino) {
	if in := fs.find(ino); in != nil {
		in.lose(dfs.EIO)
		in.release()
	}
}

// tellLocksOf is tellLocks for who gives a lease back.
func (fs *FS) tellLocksOf(ino dfs.Ino) {
	l := fs.leases
	fl := l.enterLocks(ino)
	defer l.leaveLocks(ino, fl)
	if l.awaitClosing(fs.ctx, fl, func(dfs.Lock) bool { return true }) != nil || fl.lock(fs.ctx) != nil {
		return
	}
	defer fl.unlock()
	if err := fs.tellLocks(fs.ctx, fl, ino); err != nil && fs.ctx.Err() == nil {
		fs.cfg.Logger.Warn("locks could not be told", "inode", uint64(ino), "err", err)
	}
}

// tellAllLocks tells a new leader what was set under leases of the last one.
func (fs *FS) tellAllLocks() {
	l := fs.leases
	l.mu.Lock()
	var inos []dfs.Ino
	for ino, fl := range l.locks {
		if fl.untold {
			inos = append(inos, ino)
		}
	}
	l.mu.Unlock()
	for _, ino := range inos {
		fs.tellLocksOf(ino)
	}
}

// loseLocks forgets all locks: the session that had them is over.
func (fs *FS) loseLocks() {
	l := fs.leases
	l.mu.Lock()
	var lost []dfs.Ino
	for ino, fl := range l.locks {
		if len(fl.held) > 0 && !ino.IsLockName() {
			lost = append(lost, ino)
		}
		fl.held, fl.untold = nil, false
		if fl.users == 0 {
			delete(l.locks, ino)
		}
	}
	l.mu.Unlock()
	for _, ino := range lost {
		fs.cfg.Logger.Error("locks of a file are lost with the session", "inode", uint64(ino))
		fs.locksLost(ino)
	}
}

// lock sets a lock, and waits for it if it is to.
func (fs *FS) lock(ctx context.Context, s setting) (token uint64, err error) {
	for {
		token, err = fs.set(ctx, s)
		if !errors.Is(err, dfs.EAGAIN) || !s.waits {
			return token, err
		}
		if err := fs.awaitLock(ctx, &s); err != nil {
			return 0, err
		}
	}
}

// awaitLock waits until the lock can be had.
func (fs *FS) awaitLock(ctx context.Context, s *setting) error {
	l := fs.leases
	fl := l.enterLocks(s.ino)
	defer l.leaveLocks(s.ino, fl)
	count := func(n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		fl.waits += n
	}
	count(1) // from here on the masters hear of each lock that is let go
	defer count(-1)
	if err := fl.lock(ctx); err != nil {
		return err
	}
	err := fs.tellLocks(ctx, fl, s.ino)
	fl.unlock()
	if err != nil {
		return err
	}
	under := fs.session.Load()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(under.over, cancel)
	defer stop()
	var reply *metapb.WaitLockReply
	err = fs.masters.CallStream(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewMetaClient(conn).WaitLock(ctx, &metapb.WaitLockRequest{Session: uint64(under.id), Ino: uint64(s.ino), Lock: rpc.LockToProto(s.lock)})
		return err
	})
	if under.over.Err() != nil {
		return nil // it begins anew
	}
	if err != nil {
		return err
	}
	return rpc.Errno(reply.Errno)
}

// SetLock is flock(2) and fcntl(2) with F_SETLK or, when it is to wait, F_SETLKW: it sets
// a lock of lock.Owner, or takes away what that owner has of those bytes (dfs.Unlocked).
// EAGAIN when it does not wait and another owner's lock is in the way, EDEADLK when the
// others wait for this owner, ENOLCK when the file has too many.
func (f *File) SetLock(ctx context.Context, lock dfs.Lock, wait bool) error {
	lock.File, lock.Token, lock.Name = f.id, 0, ""
	if !lock.Valid() {
		return dfs.EINVAL
	}
	fs := f.in.fs
	s := setting{ino: f.in.ino, lock: lock, waits: wait && lock.Type != dfs.Unlocked}
	if lock.Kind == dfs.LockFile && lock.Type != dfs.Unlocked && fs.convertsLock(f.in.ino, lock) {
		// As Linux does: the lock of the other type goes first, so that two who upgrade do
		// not wait for each other.
		away := s
		away.lock.Type, away.waits = dfs.Unlocked, false
		if _, err := fs.set(ctx, away); err != nil {
			return err
		}
	}
	_, err := fs.lock(ctx, s)
	return err
}

// convertsLock reports whether an owner has a lock of another type.
func (fs *FS) convertsLock(ino dfs.Ino, lock dfs.Lock) bool {
	l := fs.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if fl := l.locks[ino]; fl != nil {
		for _, h := range fl.held {
			if h.Kind == lock.Kind && h.Owner == lock.Owner {
				return h.Type != lock.Type
			}
		}
	}
	return false
}

// GetLock is fcntl(2) with F_GETLK: it finds a lock that is in the way of one.
func (f *File) GetLock(ctx context.Context, lock dfs.Lock) (found dfs.Lock, is bool, err error) {
	lock.File, lock.Token, lock.Name = f.id, 0, ""
	if !lock.Valid() || lock.Type == dfs.Unlocked {
		return dfs.Lock{}, false, dfs.EINVAL
	}
	fs, ino := f.in.fs, f.in.ino
	l := fs.leases
	fl := l.enterLocks(ino)
	defer l.leaveLocks(ino, fl)
	l.mu.Lock()
	n := l.useLocked(ino)
	if n != nil && n.lockable() && l.good() {
		found, is = fl.held.Conflict(lock)
		l.mu.Unlock()
		return found, is, nil
	}
	l.mu.Unlock()
	if err := fl.lock(ctx); err != nil {
		return dfs.Lock{}, false, err
	}
	err = fs.tellLocks(ctx, fl, ino)
	fl.unlock()
	if err != nil {
		return dfs.Lock{}, false, err
	}
	var reply *metapb.GetLockReply
	err = fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.GetLock(ctx, &metapb.GetLockRequest{Session: l.session(), Ino: uint64(ino), Lock: rpc.LockToProto(lock)})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil || reply.Lock == nil {
		return dfs.Lock{}, false, err
	}
	return rpc.LockFromProto(reply.Lock), true, nil
}

// CloseLocks is close(2) of one descriptor as far as locks are concerned. It takes away all
// locks of bytes that an owner has of the file: POSIX ends those of a process when it
// closes any descriptor of the file.
func (f *File) CloseLocks(ctx context.Context, owner uint64) error {
	fs := f.in.fs
	if !fs.anyLocks(f.in.ino, func(dfs.Lock) bool { return true }) {
		return nil
	}
	var err error
	if fs.anyLocks(f.in.ino, func(l dfs.Lock) bool { return l.Kind == dfs.LockBytes && l.Owner == owner }) {
		_, err = fs.set(ctx, setting{ino: f.in.ino, lock: dfs.Lock{Kind: dfs.LockBytes, Owner: owner, End: dfs.LockEnd}})
	}
	f.closing(ctx)
	return err
}

// MayBeLocked reports whether programs of this client have locks of the file, or the file
// is an empty one: such are often there for locks only.
func (f *File) MayBeLocked() bool {
	f.in.mu.Lock()
	empty := f.in.size() == 0
	f.in.mu.Unlock()
	return empty || f.in.fs.anyLocks(f.in.ino, func(dfs.Lock) bool { return true })
}

// HoldsLocks reports whether locks are held that were set through this File.
func (f *File) HoldsLocks() bool {
	l := f.in.fs.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	fl := l.locks[f.in.ino]
	return fl != nil && slices.ContainsFunc(fl.held, func(h dfs.Lock) bool { return h.File == f.id })
}

// unlockFile takes away what was set through an open file, at its end.
func (f *File) unlockFile() {
	fs := f.in.fs
	if !fs.anyLocks(f.in.ino, func(l dfs.Lock) bool { return l.File == f.id }) {
		return
	}
	_, err := fs.set(fs.ctx, setting{ino: f.in.ino, lock: dfs.Lock{File: f.id}, closed: true})
	fs.leases.mu.Lock()
	if fl := fs.leases.locks[f.in.ino]; fl != nil {
		delete(fl.closing, f.id)
	}
	fs.leases.mu.Unlock()
	if err != nil && fs.ctx.Err() == nil {
		fs.cfg.Logger.Warn("locks of a closed file could not be taken away", "inode", uint64(f.in.ino), "err", err)
	}
}

// anyLocks reports whether there is such a lock of a file, or may be.
func (fs *FS) anyLocks(ino dfs.Ino, is func(dfs.Lock) bool) bool {
	l := fs.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	fl := l.locks[ino]
	if fl == nil {
		return false
	}
	for _, h := range fl.held {
		if is(h) {
			return true
		}
	}
	return fl.users > 0 // a call is under way that may set one
}

// NameLock is a lock on a name that programs agree on, for as long as the session lives.
type NameLock struct {
	// Token grows with each lock that is given, over all names: what keeps the greatest
	// token that it has seen can refuse who comes late with an older one.
	Token uint64

	fs   *FS
	lock setting
	lost chan struct{}
	done chan struct{}
}

// LockName locks a name for all clients of the cluster. EAGAIN when it does not wait and
// somebody else has it.
func (fs *FS) LockName(ctx context.Context, name string, typ dfs.LockType, wait bool) (*NameLock, error) {
	lock := dfs.Lock{Kind: dfs.LockName, Type: typ, Owner: fs.lockIDs.Add(1), End: dfs.LockEnd, Name: name}
	if !lock.Valid() || typ == dfs.Unlocked {
		return nil, dfs.EINVAL
	}
	under := fs.session.Load()
	s := setting{ino: dfs.LockNameIno(name), lock: lock, waits: wait}
	token, err := fs.lock(ctx, s)
	if err != nil {
		return nil, err
	}
	n := &NameLock{Token: token, fs: fs, lock: s, lost: make(chan struct{}), done: make(chan struct{})}
	fs.wg.Go(func() { n.watch(under) })
	return n, nil
}

// watch finds out when the lock may be somebody else's: the session is over, or its time
// has run out and nobody has answered whether it still lives.
func (n *NameLock) watch(under *session) {
	ticker := time.NewTicker(lostPoll)
	defer ticker.Stop()
	for {
		select {
		case <-n.done:
			return
		case <-n.fs.ctx.Done():
			return
		case <-under.over.Done():
			close(n.lost)
			return
		case <-ticker.C:
			if n.fs.cfg.Clock() > n.fs.beatAt.Load()+int64(under.ttl) {
				close(n.lost)
				return
			}
		}
	}
}

// Lost is closed when the lock may have gone to somebody else.
func (n *NameLock) Lost() <-chan struct{} { return n.lost }

// Unlock gives the lock up.
func (n *NameLock) Unlock(ctx context.Context) error {
	close(n.done)
	s := n.lock
	s.lock.Type, s.waits = dfs.Unlocked, false
	_, err := n.fs.set(ctx, s)
	return err
}
