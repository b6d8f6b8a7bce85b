package replica

import (
	"context"
	"encoding/binary"
	"sync"

	"go.etcd.io/raft/v3"

	"dfs/meta"
	"dfs/meta/store"
)

// leaseShare is the part of an election timeout for which a majority's answer lets
// the leader read by itself. The rest is for clocks that run differently.
const leaseShare = 0.6

// questionsMax is how many questions to the majority may be without an answer.
const questionsMax = 64

// lease lets the leader read without asking.
type lease struct {
	term  uint64
	index uint64 // the rows must be at least here
	until int64  // by Config.Clock
}

// question is one ReadIndex on its way.
type question struct {
	term  uint64
	asked int64 // by Config.Clock
	reads []*read
}

// read is a caller that waits for an index which is safe to read at.
type read struct {
	done  chan struct{}
	index uint64
	err   error
}

// readIndexes joins reads that come together in one question.
type readIndexes struct {
	mu      sync.Mutex
	pending []*read       // +checklocks:mu
	signal  chan struct{} // +checklocks:mu — made by wake

	// Of raft's goroutine:
	asked map[uint64]*question
	last  uint64
	// transferTerm is a term in which leadership was to be handed over. The message
	// that starts the election then works in spite of leases, and may come late: no
	// lease is taken in that term any more.
	transferTerm uint64
}

// wake is a channel that says that reads are pending.
func (r *readIndexes) wake() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.signalLocked()
}

// +checklocks:r.mu
func (r *readIndexes) signalLocked() chan struct{} {
	if r.signal == nil {
		r.signal = make(chan struct{}, 1)
	}
	return r.signal
}

func (r *readIndexes) add(w *read) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, w)
	select {
	case r.signalLocked() <- struct{}{}:
	default:
	}
}

func (r *readIndexes) take() []*read {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending
	r.pending = nil
	return p
}

// Read calls fn with the state, which has all changes that were acknowledged
// before the call. Only the leader answers: else a *NotLeaderError. fn must not
// keep the View, and may be called twice: when the lease ran out meanwhile.
func (n *Node) Read(ctx context.Context, fn func(meta.View) error) error {
	if s := n.Status(); !s.Leading {
		return &NotLeaderError{Leader: s.Leader}
	}
	if l := n.lease.Load(); l.valid(n.cfg.Clock()) && n.applied.get() >= l.index {
		err := n.LocalRead(fn)
		if l.valid(n.cfg.Clock()) {
			return err
		}
	}
	w := &read{done: make(chan struct{})}
	n.reads.add(w)
	select {
	case <-w.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return ErrStopped
	}
	if w.err != nil {
		return w.err
	}
	if err := n.applied.wait(ctx, n.ctx, w.index); err != nil {
		return err
	}
	return n.LocalRead(fn)
}

func (l *lease) valid(now int64) bool { return l != nil && now < l.until }

// LocalRead calls fn with the state of this master, which may be behind.
func (n *Node) LocalRead(fn func(meta.View) error) error {
	return n.using(func() error {
		return n.store.View(func(r meta.Reader) error { return fn(meta.NewView(r)) })
	})
}

// Frozen is LocalRead of the state at one moment, for what takes long: commands are applied
// meanwhile. The node does not stop before fn returns.
func (n *Node) Frozen(fn func(meta.View) error) error {
	return n.FrozenRows(func(r meta.Reader, _ store.Position) error { return fn(meta.NewView(r)) })
}

// FrozenRows is Frozen for who wants all rows, and their place in the log.
func (n *Node) FrozenRows(fn func(meta.Reader, store.Position) error) error {
	return n.using(func() error { return n.store.Frozen(fn) })
}

// askLease renews the lease, a heartbeat's worth of time before it ends.
func (n *Node) askLease() {
	if !n.Status().Leading || n.reads.noLease(n.Status().Term) {
		return
	}
	l := n.lease.Load()
	if l != nil && l.until-n.cfg.Clock() > int64(leaseShare/2*float64(electionTicks*n.cfg.Tick)) {
		return
	}
	n.ask(nil)
}

// askReads asks the majority for the reads that wait.
func (n *Node) askReads() {
	if reads := n.reads.take(); len(reads) > 0 {
		n.ask(reads)
	}
}

func (n *Node) ask(reads []*read) {
	s := n.Status()
	if !s.Leading {
		finishReads(reads, 0, &NotLeaderError{Leader: s.Leader})
		return
	}
	r := &n.reads
	if r.asked == nil {
		r.asked = map[uint64]*question{}
	}
	if len(r.asked) >= questionsMax {
		// Heartbeats were lost; raft answers an old question together with a newer one.
		for id, q := range r.asked {
			if len(q.reads) == 0 {
				delete(r.asked, id)
			}
		}
	}
	r.last++
	r.asked[r.last] = &question{term: s.Term, asked: n.cfg.Clock(), reads: reads}
	n.raft.ReadIndex(binary.BigEndian.AppendUint64(nil, r.last))
}

// answerReads takes what the majority confirmed.
func (n *Node) answerReads(states []raft.ReadState) {
	for _, state := range states {
		if len(state.RequestCtx) != 8 {
			continue
		}
		id := binary.BigEndian.Uint64(state.RequestCtx)
		q := n.reads.asked[id]
		if q == nil {
			continue
		}
		delete(n.reads.asked, id)
		finishReads(q.reads, state.Index, nil)
		s := n.Status()
		if !s.Leading || s.Term != q.term || n.reads.noLease(s.Term) {
			continue
		}
		l := &lease{term: q.term, index: state.Index, until: q.asked + int64(leaseShare*float64(electionTicks*n.cfg.Tick))}
		if old := n.lease.Load(); old != nil && old.term == l.term {
			// What this leader acknowledged since is in its rows already: the index of the
			// term's first answer stays enough.
			l.index = old.index
			l.until = max(l.until, old.until)
		}
		n.lease.Store(l)
	}
}

// dropReads fails all reads that wait: leadership changed.
func (n *Node) dropReads() {
	n.lease.Store(nil)
	err := &NotLeaderError{Leader: n.Status().Leader}
	for id, q := range n.reads.asked {
		finishReads(q.reads, 0, err)
		delete(n.reads.asked, id)
	}
	finishReads(n.reads.take(), 0, err)
}

func finishReads(reads []*read, index uint64, err error) {
	for _, w := range reads {
		w.index, w.err = index, err
		close(w.done)
	}
}

func (r *readIndexes) noLease(term uint64) bool { return r.transferTerm == term }
