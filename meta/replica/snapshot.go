package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/internal/disk"
	"dfs/meta/store"
)

// sendSnapshot sends a checkpoint of the rows as they are when it begins, which is
// at or after the place in the log that raft asked for.
func (n *Node) sendSnapshot(m *raftpb.Message) {
	to := m.GetTo()
	n.mu.Lock()
	_, busy := n.sendings[to]
	if !busy {
		n.sendings[to] = m.GetSnapshot().GetMetadata().GetIndex()
	}
	n.mu.Unlock()
	if busy {
		return // raft asks again when that one has ended
	}
	n.wg.Go(func() {
		err := n.sendCheckpoint(m)
		n.mu.Lock()
		delete(n.sendings, to)
		n.mu.Unlock()
		status := raft.SnapshotFinish
		if err != nil {
			status = raft.SnapshotFailure
			n.logger.Warn("snapshot not sent", "to", dfs.NodeID(to), "err", err)
		}
		n.later(func() { n.raft.ReportSnapshot(to, status) })
	})
}

func (n *Node) sendCheckpoint(m *raftpb.Message) (err error) {
	parent := filepath.Join(n.cfg.Dir, "outgoing")
	if err := n.cfg.FS.MkdirAll(parent); err != nil {
		return err
	}
	dir := filepath.Join(parent, dfs.NodeID(m.GetTo()).String())
	if err := disk.RemoveAll(n.cfg.FS, dir); err != nil { // of a process that was killed
		return err
	}
	defer func() { err = errors.Join(err, disk.RemoveAll(n.cfg.FS, dir)) }()
	p, err := n.store.Checkpoint(dir)
	if err != nil {
		return err
	}
	if p.Index < m.GetSnapshot().GetMetadata().GetIndex() {
		return fmt.Errorf("the rows are at %d, raft asked for %d", p.Index, m.GetSnapshot().GetMetadata().GetIndex())
	}
	out := proto.Clone(m).(*raftpb.Message)
	if out.Snapshot, err = snapshotAt(p); err != nil {
		return err
	}
	n.logger.Info("sending a snapshot", "to", dfs.NodeID(m.GetTo()), "index", p.Index)
	return n.cfg.Transport.SendSnapshot(n.ctx, out, dir)
}

// ReceiveSnapshot takes a snapshot: fill writes and syncs the files of the sender's
// folder into the one that it is given. When it returns nil the snapshot is
// installed, or was not needed.
func (n *Node) ReceiveSnapshot(ctx context.Context, m *raftpb.Message, fill func(dir string) error) error {
	if m.GetType() != raftpb.MsgSnap {
		return fmt.Errorf("message of type %v where a snapshot belongs", m.GetType())
	}
	n.incoming <- struct{}{}
	defer func() { <-n.incoming }()
	if n.ctx.Err() != nil {
		return ErrStopped
	}
	dir, err := n.store.Incoming()
	if err != nil {
		return err
	}
	if err := fill(dir); err != nil {
		return errors.Join(err, disk.RemoveAll(n.cfg.FS, dir))
	}
	// Once raft has taken the message there is no way back.
	p, err := n.store.IncomingPosition(n.readable)
	if err == nil && !isAt(p, m.GetSnapshot()) {
		err = errForeignSnapshot
	}
	if err != nil {
		return errors.Join(err, disk.RemoveAll(n.cfg.FS, dir))
	}
	var failed error
	err = n.do(ctx, func() {
		n.step(m)
		failed = n.handleReady()
	})
	if failed != nil {
		n.fail(failed)
	}
	return errors.Join(err, failed)
}

// compaction counts what was applied since the log was last compacted.
type compaction struct {
	bytes   atomic.Int64
	entries atomic.Int64
	running atomic.Bool
}

// maybeCompact flushes the rows and shortens the log, in the background, when much
// was applied.
func (n *Node) maybeCompact() {
	c := &n.compactAt
	if c.bytes.Load() < compactBytes && c.entries.Load() < compactEntriesMax || !c.running.CompareAndSwap(false, true) {
		return
	}
	c.bytes.Store(0)
	c.entries.Store(0)
	n.wg.Go(func() {
		defer c.running.Store(false)
		if err := n.Compact(keepEntries); err != nil && n.ctx.Err() == nil {
			n.fail(fmt.Errorf("compact the log: %w", err))
		}
	})
}

// Compact makes the rows durable and forgets what the log has of them, but for the
// last keep entries.
func (n *Node) Compact(keep uint64) error {
	if err := n.using(n.store.Flush); err != nil {
		return err
	}
	index := n.store.Flushed()
	// Else a follower would find what comes after its snapshot gone, and need the
	// next one, for as long as there is much to do.
	hold := index
	n.mu.Lock()
	for _, at := range n.sendings {
		hold = min(hold, at)
	}
	n.mu.Unlock()
	var failed error
	err := n.do(n.ctx, func() { failed = n.storage.compact(index, keep, hold) })
	return errors.Join(err, failed)
}

// Usage tells how many bytes the rows take on disk and in memory.
func (n *Node) Usage() (disk, memory uint64) {
	_ = n.using(func() error { // of a node that has stopped: nothing
		disk, memory = n.store.Metrics()
		return nil
	})
	return disk, memory
}

// Position is where in the log the rows are.
func (n *Node) Position() store.Position { return n.store.Position() }

// raftLogger passes what raft says to slog; raft tells of each message at Info.
type raftLogger struct{ l *slog.Logger }

func (r raftLogger) Debug(v ...any)                   { r.l.Debug(fmt.Sprint(v...)) }
func (r raftLogger) Debugf(format string, v ...any)   { r.l.Debug(fmt.Sprintf(format, v...)) }
func (r raftLogger) Info(v ...any)                    { r.l.Debug(fmt.Sprint(v...)) }
func (r raftLogger) Infof(format string, v ...any)    { r.l.Debug(fmt.Sprintf(format, v...)) }
func (r raftLogger) Warning(v ...any)                 { r.l.Warn(fmt.Sprint(v...)) }
func (r raftLogger) Warningf(format string, v ...any) { r.l.Warn(fmt.Sprintf(format, v...)) }
func (r raftLogger) Error(v ...any)                   { r.l.Error(fmt.Sprint(v...)) }
func (r raftLogger) Errorf(format string, v ...any)   { r.l.Error(fmt.Sprintf(format, v...)) }

// Fatal and Panic are said when raft finds its state impossible; going on could
// lose what was acknowledged.
func (r raftLogger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (r raftLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (r raftLogger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (r raftLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
