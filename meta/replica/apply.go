package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/meta"
	"dfs/meta/store"
)

// applyJob is committed entries, or a snapshot to install.
type applyJob struct {
	entries []*raftpb.Entry
	confs   map[uint64][]byte // raftpb.ConfState after the entry of that index
	install *raftpb.Snapshot
	done    chan error // of install
}

// answered is replies that wait for their batch to be visible.
type answered struct {
	id      uint64
	replies []meta.Reply
}

// applier applies what is committed, in order. It alone writes to the store.
func (n *Node) applier() {
	for {
		select {
		case job := <-n.applies:
			job, install := n.applyMore(job)
			if len(job.entries) > 0 {
				if err := n.applyEntries(job); err != nil {
					if n.ctx.Err() == nil {
						n.fail(fmt.Errorf("apply: %w", err))
					}
					return
				}
			}
			if install != nil {
				install.done <- n.installRows(install.install)
			}
		case <-n.ctx.Done():
			return
		}
	}
}

// applyMore takes the entries that wait already, so that one commit of the store
// serves them all. A snapshot ends it, and is answered apart: raft holds entries
// for applied once it has handed them over, so they may wait before a snapshot.
func (n *Node) applyMore(job applyJob) (entries applyJob, install *applyJob) {
	if job.install != nil {
		return applyJob{}, &job
	}
	entries = applyJob{entries: job.entries, confs: job.confs}
	for len(n.applies) > 0 {
		next := <-n.applies
		if next.install != nil {
			return entries, &next
		}
		entries.entries = append(entries.entries[:len(entries.entries):len(entries.entries)], next.entries...)
		if entries.confs == nil {
			entries.confs = next.confs
		} else {
			maps.Copy(entries.confs, next.confs)
		}
	}
	return entries, nil
}

// applyEntries applies entries in one batch of the store.
func (n *Node) applyEntries(job applyJob) error {
	p := *n.storage.position.Load()
	batch := n.store.Batch()
	var changes meta.Changes
	table := changes.Watch(batch)
	var ready []answered
	commit := func() error {
		b := batch
		batch = nil
		if err := n.commit(b, p, &changes); err != nil {
			return err
		}
		n.storage.position.Store(&store.Position{Index: p.Index, Term: p.Term, Time: p.Time, ConfState: p.ConfState})
		if n.raised {
			n.raised = false
			if err := n.readLevel(); err != nil {
				return err
			}
		}
		n.applied.set(p.Index)
		for _, a := range ready {
			n.answer(a.id, a.replies)
		}
		ready = ready[:0]
		return nil
	}
	defer func() {
		if batch != nil {
			_ = batch.Close() // thrown away with the error that is on its way
		}
	}()
	for _, e := range job.entries {
		if e.GetIndex() <= p.Index {
			continue
		}
		if e.GetIndex() != p.Index+1 {
			return fmt.Errorf("entry %d after entry %d", e.GetIndex(), p.Index)
		}
		p.Index, p.Term = e.GetIndex(), e.GetTerm()
		n.compactAt.bytes.Add(int64(len(e.GetData())))
		n.compactAt.entries.Add(1)
		if e.GetType() != raftpb.EntryNormal {
			p.ConfState = job.confs[e.GetIndex()]
			continue
		}
		if len(e.GetData()) == 0 {
			continue // of a new leader
		}
		a, latest, err := n.applyBatch(table, e.GetData())
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		p.Time = later(p.Time, latest)
		ready = append(ready, a)
	}
	if err := commit(); err != nil {
		return err
	}
	n.maybeCompact()
	return nil
}

// errImpossible is the cause when the state is found to be one that cannot be.
var errImpossible = errors.New("the state is impossible")

func (n *Node) applyBatch(t meta.Table, data []byte) (a answered, latest dfs.Time, err error) {
	id, commands, err := decodeBatch(data, n.cfg.Level)
	if err != nil {
		return answered{}, dfs.Time{}, err
	}
	// An invariant that does not hold stops this master, in order and with the reason,
	// and nothing of the batch is committed.
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%w: %v\n%s", errImpossible, cause, debug.Stack())
		}
	}()
	a = answered{id: id, replies: make([]meta.Reply, len(commands))}
	for i, c := range commands {
		if a.replies[i], err = n.cfg.apply(t, c); err != nil {
			return answered{}, dfs.Time{}, fmt.Errorf("%T: %w", c.Op, err)
		}
		latest = later(latest, c.Time)
		if _, ok := c.Op.(*meta.SetLevel); ok {
			n.raised = true
		}
	}
	return a, latest, nil
}

// applyConfChanges puts changes of the membership in force, in raft's goroutine and
// before raft holds their entries for applied: from then on it allows the next
// change, and to stand for election.
func (n *Node) applyConfChanges(entries []*raftpb.Entry) (confs map[uint64][]byte, err error) {
	for _, e := range entries {
		if e.GetType() == raftpb.EntryNormal {
			continue
		}
		if confs == nil {
			confs = map[uint64][]byte{}
		}
		if confs[e.GetIndex()], err = n.applyConfChange(e); err != nil {
			return nil, err
		}
	}
	if confs != nil {
		n.publish(n.raft.BasicStatus().SoftState)
	}
	return confs, nil
}

func (n *Node) applyConfChange(e *raftpb.Entry) ([]byte, error) {
	var change raftpb.ConfChangeI
	switch e.GetType() {
	case raftpb.EntryConfChange:
		cc := &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			return nil, err
		}
		change = cc
	case raftpb.EntryConfChangeV2:
		cc := &raftpb.ConfChangeV2{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			return nil, err
		}
		change = cc
	default:
		return nil, fmt.Errorf("entry of unknown type %v: a newer version of dfs wrote it", e.GetType())
	}
	return proto.Marshal(n.raft.ApplyConfChange(change))
}

// install replaces the state by a snapshot that has come. The state of raft is on
// disk before the rows are, and the log begins anew after them: see fitting. It is
// false when the node stops: then nothing may be acknowledged, or the leader would
// never send again what lies before the snapshot.
func (n *Node) install(rd raft.Ready) (installed bool, err error) {
	if err := n.storage.save(rd.HardState, nil, true); err != nil {
		return false, err
	}
	job := applyJob{install: rd.Snapshot, done: make(chan error, 1)}
	if !n.hand(job) {
		return false, nil
	}
	select {
	case err := <-job.done:
		if err != nil {
			return false, err
		}
		return true, n.storage.reset(rd.Snapshot)
	case <-n.ctx.Done():
		return false, nil
	}
}

// errForeignSnapshot is the cause when the files are not what the message said.
var errForeignSnapshot = errors.New("the snapshot's files are at another position than its message says")

func isAt(p store.Position, s *raftpb.Snapshot) bool {
	return p.Index == s.GetMetadata().GetIndex() && p.Term == s.GetMetadata().GetTerm()
}

func (n *Node) installRows(snapshot *raftpb.Snapshot) error {
	p, err := n.store.Install()
	if err != nil {
		return err
	}
	if !isAt(p, snapshot) {
		return errForeignSnapshot
	}
	if err := n.readLevel(); err != nil {
		return err
	}
	n.storage.position.Store(&p)
	n.tell(&meta.Changes{}, true)
	n.applied.set(p.Index)
	n.logger.Info("installed a snapshot", "index", p.Index)
	return nil
}

// waterline is an index that only grows, and those who wait for it.
type waterline struct {
	mu      sync.Mutex
	index   uint64        // +checklocks:mu
	changed chan struct{} // +checklocks:mu — closed at the next rise; nil while nobody waits
}

func (w *waterline) set(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index = max(w.index, index)
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

func (w *waterline) get() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.index
}

// wait returns once index is reached.
func (w *waterline) wait(ctx, stop context.Context, index uint64) error {
	for {
		w.mu.Lock()
		if w.index >= index {
			w.mu.Unlock()
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-stop.Done():
			return ErrStopped
		}
	}
}
