package server

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/meta"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Times and bounds of leases. docs/coherence.md has the whole protocol.
const (
	leaseMax      = 5 * time.Second // a lease is good for so long after the heartbeat that renewed it was sent
	leaseSlackMax = 500 * time.Millisecond
	recallMax     = 30 * time.Second       // a session that does not give back for longer is not renewed any more
	contendedIn   = 300 * time.Millisecond // after a recall nobody gets an exclusive lease, but who asks for just that
	leasesMax     = 128 << 10              // of one session
	hintsMax      = leasesMax / 2          // with more a session gets none that it has not asked for
	nameStripes   = 1024
	guardMax      = time.Second // a read waits so long for a change of who may do what
)

// leaseTime is how long a lease is good. A session must not end by itself, its time to
// live being over, before its leases have.
func (s *Server) leaseTime() time.Duration { return min(leaseMax, s.cfg.SessionTTL/2) }

// leaseSlack is for clocks that run differently.
func (s *Server) leaseSlack() time.Duration { return min(leaseSlackMax, s.cfg.SessionTTL/4) }

// leaseTable is who may answer from memory about what. It lives in the leader's memory
// for one term: the next leader waits until every session has come to it, or until
// nothing from before can be good any more (gate).
//
// The rule: a change begins when nobody but the session that makes it has a lease on an
// inode that it changes, and until it is done nobody gets one. A read of an inode on
// which another session has an exclusive lease begins when that session has told what
// it changed.
type leaseTable struct {
	l     *leadership
	names [nameStripes]chan struct{} // of a folder's names that are being changed; full while taken, in order
	seed  maphash.Seed

	gate chan struct{} // closed when leases from before this term are no concern any more

	mu       sync.Mutex
	inodes   map[dfs.Ino]*leased         // +checklocks:mu
	sessions map[dfs.SessionID]*lessee   // +checklocks:mu
	await    map[dfs.SessionID]bool      // +checklocks:mu — sessions from before that have not come yet; those which may owe a replay
	ended    map[dfs.SessionID]time.Time // +checklocks:mu — that are being ended
	serial   uint64                      // +checklocks:mu — of the last grant; the high bits are the term: what is given back to the next leader is none of its grants
	open     bool                        // +checklocks:mu — gate is closed
}

// lessee is a session that leases are granted to.
type lessee struct {
	id      dfs.SessionID
	until   time.Time           // nothing that it holds is good after
	held    map[dfs.Ino]*holder // by inode
	recalls map[dfs.Ino]*holder // that it was asked for, or is to be
	told    map[dfs.Ino]uint64  // serials of recalls that the stream has carried
	wake    chan struct{}       // there are recalls that were not told
}

// holder is one session's lease on one inode.
type holder struct {
	by        *lessee
	exclusive bool
	serial    uint64
	recalled  time.Time // since when it is asked for; zero: it is not
	share     bool      // it may be kept, shared
}

// leased is an inode that somebody has a lease on, or that is being changed.
type leased struct {
	holders   []*holder
	changing  int           // changes under way: no grants
	guarded   int           // those of changing that change who may do what: no answers to others
	contended time.Time     // no exclusive lease before
	changed   chan struct{} // closed when a holder goes; nil when nobody waits
}

// serialBits is how many bits of a grant's serial count the grants of one term.
const serialBits = 40

func newLeaseTable(l *leadership) *leaseTable {
	t := &leaseTable{
		l: l, seed: maphash.MakeSeed(), gate: make(chan struct{}), serial: l.term << serialBits,
		inodes: map[dfs.Ino]*leased{}, sessions: map[dfs.SessionID]*lessee{},
		await: map[dfs.SessionID]bool{}, ended: map[dfs.SessionID]time.Time{},
	}
	for i := range t.names {
		t.names[i] = make(chan struct{}, 1)
	}
	return t
}

// expect begins the term: these sessions may hold leases of the last one.
func (t *leaseTable) expect(sessions []meta.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range sessions {
		t.await[sessions[i].ID] = sessions[i].Intents
	}
	t.gateLocked()
	if !t.open {
		t.l.wg.Go(func() {
			pause(t.l.ctx, t.l.s.leaseTime()+t.l.s.leaseSlack())
			t.endAwaited()
		})
	}
}

// endAwaited opens the gate although sessions have not come: after those that may have
// acknowledged what they have not told are ended.
func (t *leaseTable) endAwaited() {
	t.mu.Lock()
	var owing []dfs.SessionID
	for id, owes := range t.await {
		if owes {
			owing = append(owing, id)
			t.ended[id] = time.Now()
		}
	}
	t.mu.Unlock()
	var wg sync.WaitGroup
	for _, id := range owing {
		wg.Go(func() { t.l.lapse(id, "it has not come to the new leader") })
	}
	wg.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.await)
	t.gateLocked()
}

// +checklocks:t.mu
func (t *leaseTable) gateLocked() {
	if len(t.await) == 0 && !t.open {
		t.open = true
		close(t.gate)
	}
}

// awaited is how many sessions of the last leader have not come yet.
func (t *leaseTable) awaited() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.await)
}

// ready waits until leases from before this term are no concern any more.
func (t *leaseTable) ready(ctx context.Context) error {
	select {
	case <-t.gate:
		return nil
	default:
	}
	select {
	case <-t.gate:
		return nil
	case <-t.l.ctx.Done():
		return t.l.s.notReady()
	case <-ctx.Done():
		return rpc.Unavailable("waiting for the clients of the last leader: %v", ctx.Err())
	}
}

// attach takes a session in, which knows of no lease from before this term but those
// that it has unwritten bytes under, and renews its leases. It is refused (0) when it
// came too late for those.
func (t *leaseTable) attach(id dfs.SessionID, keep []uint64) (good time.Duration, kept []*metapb.Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, late := t.ended[id]; late {
		return 0, nil
	}
	s := t.sessions[id]
	if s == nil {
		s = &lessee{id: id, held: map[dfs.Ino]*holder{}, recalls: map[dfs.Ino]*holder{}, told: map[dfs.Ino]uint64{}, wake: make(chan struct{}, 1)}
		t.sessions[id] = s
		if _, waited := t.await[id]; waited {
			for _, ino := range keep {
				t.grantLocked(s, dfs.Ino(ino), t.at(dfs.Ino(ino)), true)
			}
			delete(t.await, id)
			t.gateLocked()
		}
	}
	// The session may have come before, and not heard the answer.
	for _, ino := range keep {
		if h := s.held[dfs.Ino(ino)]; h != nil && h.exclusive {
			kept = append(kept, t.leaseLocked(dfs.Ino(ino), h))
		}
	}
	for _, h := range s.recalls {
		if time.Since(h.recalled) > recallMax {
			return 0, nil
		}
	}
	good = t.l.s.leaseTime()
	s.until = time.Now().Add(good + t.l.s.leaseSlack())
	return good, kept
}

// late reports whether a session comes with bytes written under leases of the last leader when
// others may have changed the files already.
func (t *leaseTable) late(id dfs.SessionID, keep []uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(keep) > 0 && t.open && t.sessions[id] == nil
}

// drop forgets a session that is no more.
func (t *leaseTable) drop(id dfs.SessionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[id]; s != nil {
		for ino, h := range s.held {
			t.removeLocked(ino, h)
		}
		delete(t.sessions, id)
		kick(s.wake)
	}
	delete(t.ended, id)
	delete(t.await, id)
	t.gateLocked()
}

// attached reports whether the session has come to this leader.
func (t *leaseTable) attached(id dfs.SessionID) bool { return t.lessee(id) != nil }

// at finds or makes an inode's entry.
//
// +checklocks:t.mu
func (t *leaseTable) at(ino dfs.Ino) *leased {
	le := t.inodes[ino]
	if le == nil {
		le = &leased{}
		t.inodes[ino] = le
	}
	return le
}

// tidyLocked forgets an entry that says nothing.
//
// +checklocks:t.mu
func (t *leaseTable) tidyLocked(ino dfs.Ino, le *leased) {
	if len(le.holders) == 0 && le.changing == 0 && le.changed == nil {
		delete(t.inodes, ino)
	}
}

// +checklocks:t.mu
func (t *leaseTable) removeLocked(ino dfs.Ino, h *holder) {
	delete(h.by.held, ino)
	delete(h.by.recalls, ino)
	delete(h.by.told, ino)
	le := t.inodes[ino]
	if le == nil {
		return
	}
	le.holders = slices.DeleteFunc(le.holders, func(o *holder) bool { return o == h })
	t.signalLocked(ino, le)
}

// +checklocks:t.mu
func (t *leaseTable) signalLocked(ino dfs.Ino, le *leased) {
	if le.changed != nil {
		close(le.changed)
		le.changed = nil
	}
	t.tidyLocked(ino, le)
}

// grantLocked gives s a lease, unless the inode is being changed: exclusive when nobody
// else has one, and it was not fought for just now, or must.
//
// +checklocks:t.mu
func (t *leaseTable) grantLocked(s *lessee, ino dfs.Ino, le *leased, must bool) *holder {
	if s == nil || le.changing > 0 && !must {
		return nil
	}
	h := s.held[ino]
	if h != nil && !h.recalled.IsZero() {
		return nil // it is on its way back
	}
	if h == nil {
		if len(s.held) >= leasesMax {
			return nil
		}
		h = &holder{by: s}
		s.held[ino] = h
		le.holders = append(le.holders, h)
	}
	t.serial++ // each grant has its own: one that is given back must not be taken for a later one
	h.serial = t.serial
	if len(le.holders) == 1 && (must || h.exclusive || le.contended.IsZero() || time.Now().After(le.contended)) {
		h.exclusive = true
	}
	return h
}

// recallLocked asks for a lease back, for all of it or for what is exclusive.
//
// +checklocks:t.mu
func (t *leaseTable) recallLocked(ino dfs.Ino, le *leased, h *holder, share bool) {
	if !h.recalled.IsZero() && (share || !h.share) {
		return // asked already, for as much
	}
	if h.exclusive || !share {
		le.contended = time.Now().Add(contendedIn)
	}
	if h.recalled.IsZero() {
		h.recalled = time.Now()
	}
	h.share = share
	h.by.recalls[ino] = h
	delete(h.by.told, ino)
	kick(h.by.wake)
}

// waitLocked lets go of t.mu until a holder of the inode has changed, or one that is
// asked cannot be good any more. Sessions that let it come to that are ended: what they
// still have to tell must not come after what others do now.
//
// +checklocks:t.mu
func (t *leaseTable) waitLocked(ctx context.Context, le *leased) error {
	var until time.Time
	var late []dfs.SessionID
	now := time.Now()
	for _, h := range le.holders {
		if h.recalled.IsZero() {
			continue
		}
		if !now.Before(h.by.until) {
			late = append(late, h.by.id)
		} else if until.IsZero() || h.by.until.Before(until) {
			until = h.by.until
		}
	}
	if until.IsZero() {
		until = now.Add(t.l.s.leaseSlack())
	}
	if le.changed == nil {
		le.changed = make(chan struct{})
	}
	changed := le.changed
	for _, id := range late {
		if _, is := t.ended[id]; !is {
			t.ended[id] = now
			t.l.wg.Go(func() { t.l.lapse(id, "others wait for leases that it does not give back") })
		}
	}
	t.mu.Unlock()
	defer t.mu.Lock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-t.l.ctx.Done():
		return t.l.s.notReady()
	case <-ctx.Done():
		return rpc.Unavailable("waiting for another client to give a lease back: %v", ctx.Err())
	}
	return nil
}

// read prepares reads of inodes by a session, which gets leases on them where it can.
// When it returns, no other session has an exclusive one.
func (t *leaseTable) read(ctx context.Context, session dfs.SessionID, inos ...dfs.Ino) ([]*metapb.Lease, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*metapb.Lease
	for _, ino := range inos {
		patience := time.Now().Add(guardMax)
		for {
			le := t.inodes[ino]
			if le != nil && le.guarded > 0 && time.Now().Before(patience) {
				// An answer with the old permissions and without a lease could reach the
				// kernel after the change is done, and while it asks again: it would keep
				// the old answer and decide by that.
				if err := t.waitLocked(ctx, le); err != nil {
					return nil, err
				}
				continue
			}
			if le == nil || le.exclusive(session) == nil {
				break
			}
			if err := t.settleLocked(ctx, session, ino); err != nil {
				return nil, err
			}
		}
		s := t.sessions[session]
		if s == nil {
			continue
		}
		le := t.at(ino)
		if h := t.grantLocked(s, ino, le, false); h != nil {
			out = append(out, t.leaseLocked(ino, h))
		}
		t.tidyLocked(ino, le)
	}
	return out, nil
}

// hint grants a session leases on inodes that it is going to be told of without having
// asked: on those only that nobody else may be changing, so that nobody is waited for or
// has to give anything up. With share it gets no exclusive one that it has not got.
func (t *leaseTable) hint(session dfs.SessionID, share bool, inos ...dfs.Ino) []*metapb.Lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[session]
	if s == nil || len(s.held) > hintsMax {
		return nil
	}
	out := make([]*metapb.Lease, 0, len(inos))
	for _, ino := range inos {
		le := t.at(ino)
		if le.changing == 0 && le.exclusive(session) == nil {
			was := s.held[ino] != nil && s.held[ino].exclusive
			if h := t.grantLocked(s, ino, le, false); h != nil {
				h.exclusive = h.exclusive && (was || !share)
				out = append(out, t.leaseLocked(ino, h))
			}
		}
		t.tidyLocked(ino, le)
	}
	return out
}

// shared reports whether another session has a lease on one of the inodes.
func (t *leaseTable) shared(session dfs.SessionID, inos []dfs.Ino) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(inos, func(ino dfs.Ino) bool {
		le := t.inodes[ino]
		return le != nil && slices.ContainsFunc(le.holders, func(h *holder) bool { return h.by.id != session })
	})
}

// settle waits until no other session has an exclusive lease on an inode.
func (t *leaseTable) settle(ctx context.Context, session dfs.SessionID, ino dfs.Ino) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settleLocked(ctx, session, ino)
}

// +checklocks:t.mu
func (t *leaseTable) settleLocked(ctx context.Context, session dfs.SessionID, ino dfs.Ino) error {
	for {
		le := t.inodes[ino]
		if le == nil {
			return nil
		}
		h := le.exclusive(session)
		if h == nil {
			return nil
		}
		t.recallLocked(ino, le, h, true)
		if err := t.waitLocked(ctx, le); err != nil {
			return err
		}
	}
}

// exclusive is another session's exclusive lease.
func (le *leased) exclusive(but dfs.SessionID) *holder {
	for _, h := range le.holders {
		if h.exclusive && h.by.id != but {
			return h
		}
	}
	return nil
}

// change begins a change of inodes by a session: when it returns, no other has a lease
// on any of them, and nobody gets one until done. guard says that it may change who may do
// what.
func (t *leaseTable) change(ctx context.Context, session dfs.SessionID, inos []dfs.Ino, guard bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ino := range inos {
		le := t.at(ino)
		le.changing++
		if guard {
			le.guarded++
		}
	}
	// All are asked at once, then waited for.
	for waiting := true; waiting; {
		waiting = false
		for _, ino := range inos {
			le := t.at(ino)
			others := false
			for _, h := range le.holders {
				if h.by.id != session {
					t.recallLocked(ino, le, h, false)
					others = true
				}
			}
			if !others {
				continue
			}
			waiting = true
			if err := t.waitLocked(ctx, le); err != nil {
				t.doneLocked(inos, guard)
				return err
			}
			break // t.mu was let go of: look at all again
		}
	}
	return nil
}

// done ends a change.
func (t *leaseTable) done(inos []dfs.Ino, guard bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doneLocked(inos, guard)
}

// +checklocks:t.mu
func (t *leaseTable) doneLocked(inos []dfs.Ino, guard bool) {
	for _, ino := range inos {
		le := t.at(ino)
		le.changing--
		if guard {
			le.guarded--
		}
		t.signalLocked(ino, le)
	}
}

// grant gives the session leases on what it is changing, as soon as nobody else is.
func (t *leaseTable) grant(session dfs.SessionID, inos []dfs.Ino) []*metapb.Lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*metapb.Lease
	s := t.sessions[session]
	for _, ino := range inos {
		le := t.at(ino)
		if le.changing > 1 || time.Now().Before(le.contended) {
			continue // others are at it too: a lease would be recalled at once
		}
		if h := t.grantLocked(s, ino, le, true); h != nil {
			out = append(out, t.leaseLocked(ino, h))
		}
	}
	return out
}

// leaseLocked is what the session is told.
//
// +checklocks:t.mu
func (t *leaseTable) leaseLocked(ino dfs.Ino, h *holder) *metapb.Lease {
	return &metapb.Lease{Ino: uint64(ino), Exclusive: h.exclusive, Serial: h.serial, Unlocked: h.exclusive && t.l.locks.alone(h.by.id, ino)}
}

// born gives a session the lease on an inode that it has made under leases.
func (t *leaseTable) born(session dfs.SessionID, ino dfs.Ino) []*metapb.Lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[session]; s != nil {
		if h := t.grantLocked(s, ino, t.at(ino), true); h != nil {
			return []*metapb.Lease{t.leaseLocked(ino, h)}
		}
	}
	return nil
}

// holds reports whether the session has a lease on the inode.
func (t *leaseTable) holds(session dfs.SessionID, ino dfs.Ino) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[session]
	return s != nil && s.held[ino] != nil
}

// acquire makes the session the only one with a lease on the inode.
func (t *leaseTable) acquire(ctx context.Context, session dfs.SessionID, ino dfs.Ino) ([]*metapb.Lease, error) {
	inos := []dfs.Ino{ino}
	if err := t.change(ctx, session, inos, false); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	le := t.at(ino)
	le.changing--
	var out []*metapb.Lease
	if s := t.sessions[session]; s != nil && le.changing == 0 {
		if h := t.grantLocked(s, ino, le, true); h != nil && h.exclusive {
			out = append(out, t.leaseLocked(ino, h))
		}
	}
	t.signalLocked(ino, le)
	return out, nil
}

// give takes leases back.
func (t *leaseTable) give(session dfs.SessionID, returned []*metapb.Returned) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[session]
	if s == nil {
		return
	}
	for _, r := range returned {
		ino := dfs.Ino(r.Ino)
		h := s.held[ino]
		if h == nil || h.serial != r.Serial {
			continue // of an earlier grant
		}
		if r.Shared && (h.recalled.IsZero() || h.share) {
			h.exclusive, h.recalled, h.share = false, time.Time{}, false
			delete(s.recalls, ino)
			delete(s.told, ino)
			if le := t.inodes[ino]; le != nil {
				t.signalLocked(ino, le)
			}
			continue
		}
		if r.Shared {
			continue // meanwhile all of it is wanted: it was told so
		}
		t.removeLocked(ino, h)
	}
}

// pending lists recalls that were not told yet.
func (t *leaseTable) pending(s *lessee) []*metapb.Lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*metapb.Lease
	for ino, h := range s.recalls {
		if s.told[ino] != h.serial {
			s.told[ino] = h.serial
			out = append(out, &metapb.Lease{Ino: uint64(ino), Exclusive: h.share, Serial: h.serial})
		}
	}
	slices.SortFunc(out, func(a, b *metapb.Lease) int { return cmp.Compare(a.Ino, b.Ino) })
	return out
}

// unheld lists the inodes on which nobody has a lease.
func (t *leaseTable) unheld(inos []dfs.Ino) []dfs.Ino {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []dfs.Ino
	for _, ino := range inos {
		if le := t.inodes[ino]; le == nil || len(le.holders) == 0 {
			out = append(out, ino)
		}
	}
	return out
}

// told makes sure that inodes which a session was given numbers for are known here, if
// they were made: it may have made them under leases, and another client may have heard
// of the number otherwise than by a name. Its number then counts as held.
func (l *leadership) told(ctx context.Context, session dfs.SessionID, inos ...dfs.Ino) error {
	if inos = l.leases.unheld(inos); len(inos) == 0 {
		return nil
	}
	makers := map[dfs.Ino]dfs.SessionID{}
	err := l.s.failure(l.s.node.LocalRead(func(v meta.View) error {
		clear(makers)
		for _, ino := range inos {
			_, err := v.GetAttr(ino)
			if !errors.Is(err, dfs.ESTALE) && !errors.Is(err, dfs.ENOENT) {
				continue
			}
			sessions, err := v.Sessions()
			if err != nil {
				return err
			}
			for _, s := range sessions {
				if s.ID != session && slices.ContainsFunc(s.Inodes, func(r meta.Range) bool { return r.Contains(uint64(ino)) }) {
					makers[ino] = s.ID
				}
			}
		}
		return nil
	}))
	if err != nil || len(makers) == 0 {
		return err
	}
	for ino, maker := range makers {
		l.leases.born(maker, ino)
	}
	_, err = l.leases.read(ctx, session, slices.Collect(maps.Keys(makers))...)
	return err
}

// lockNames lets one change at a time work on a name, so that what a name leads to is
// known before the change. The result lets go of them.
func (t *leaseTable) lockNames(ctx context.Context, names []entryName) (unlock func(), err error) {
	var stripes []int
	for _, n := range names {
		var h maphash.Hash
		h.SetSeed(t.seed)
		maphash.WriteComparable(&h, n)
		stripes = append(stripes, int(h.Sum64()%nameStripes))
	}
	slices.Sort(stripes)
	stripes = slices.Compact(stripes)
	for taken, i := range stripes {
		select {
		case t.names[i] <- struct{}{}:
		case <-ctx.Done():
			stripes = stripes[:taken]
			err = rpc.Unavailable("waiting for another change of the same name: %v", ctx.Err())
		}
		if err != nil {
			break
		}
	}
	unlock = func() {
		for _, i := range stripes {
			<-t.names[i]
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// entryName is a name in a folder.
type entryName struct {
	parent dfs.Ino
	name   string
}

// lapse ends a session whose leases have run out, however long it takes.
func (l *leadership) lapse(id dfs.SessionID, why string) {
	l.s.logger.Warn("session ended: "+why, "session", id)
	for wait := lapsePause; l.ctx.Err() == nil; wait = min(2*wait, lapsePauseMax) {
		err := l.closeSession(l.ctx, id)
		if err == nil {
			return
		}
		l.log("cannot end a session", err)
		pause(l.ctx, wait)
	}
}

// lessee finds a session that has come to this leader.
func (t *leaseTable) lessee(id dfs.SessionID) *lessee {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions[id]
}

const (
	attachPoll = 20 * time.Millisecond

	lapsePause    = 200 * time.Millisecond
	lapsePauseMax = 5 * time.Second
)

// Recalls tells a session what others wait for.
func (s *Server) Recalls(req *metapb.RecallsRequest, stream metapb.Meta_RecallsServer) error {
	l := s.leading.Load()
	if l == nil {
		return s.notReady()
	}
	t := l.leases
	id := dfs.SessionID(req.Session)
	lessee := t.lessee(id)
	for ; lessee == nil; lessee = t.lessee(id) {
		if !pause(l.ctx, attachPoll) {
			return s.notReady()
		}
		if !l.knows(id) {
			return rpc.Unavailable("there is no such session")
		}
		if err := stream.Context().Err(); err != nil {
			return err
		}
	}
	t.mu.Lock()
	clear(lessee.told) // a stream before this one may not have brought them
	t.mu.Unlock()
	for {
		if t.lessee(id) != lessee {
			return rpc.Unavailable("the session is over")
		}
		if leases := t.pending(lessee); len(leases) > 0 {
			if err := stream.Send(&metapb.Recall{Leases: leases}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-lessee.wake:
		case <-l.ctx.Done():
			return s.notReady()
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// Return takes leases back.
func (s *Server) Return(ctx context.Context, req *metapb.ReturnRequest) (*metapb.ReturnReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	if err := bound("leases given back", len(req.Leases), leasesMax); err != nil {
		return nil, err
	}
	session := dfs.SessionID(req.Session)
	for _, r := range req.Leases {
		if r.Open {
			l.opened(session, dfs.Ino(r.Ino))
		}
	}
	l.leases.give(session, req.Leases)
	return &metapb.ReturnReply{}, nil
}
