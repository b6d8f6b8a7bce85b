package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/internal/clock"
	"dfs/internal/disk"
	"dfs/meta"
	"dfs/meta/store"
)

// Times, in ticks but for the tick itself. A follower that hears nothing for one
// to two election timeouts stands for election.
const (
	DefaultTick    = 50 * time.Millisecond
	electionTicks  = 16
	heartbeatTicks = 2
)

// Bounds.
const (
	queueMax          = 4096     // proposals, and messages, that wait for the raft goroutine
	batchCommandsMax  = 1024     // commands in one entry
	batchBytesMax     = 4 << 20  // rough bytes of commands in one entry
	messageBytesMax   = 1 << 20  // entries in one message
	inflightMax       = 256      // messages to a follower without an answer
	applyBytesMax     = 4 << 20  // entries handed to the applier at once
	applyQueueMax     = 16       // such hand-overs that wait
	uncommittedMax    = 64 << 20 // bytes; beyond them proposals are refused as busy
	compactBytes      = 64 << 20 // bytes of entries applied between two compactions
	compactEntriesMax = 200_000  // entries applied between two compactions
	heardMax          = 256      // senders of messages that are remembered
	keepEntries       = 5_000    // entries kept for followers that lag a little
	keepBytes         = 32 << 20 // and bytes of them, since they are in memory too
	holdBytes         = 96 << 20 // bytes of entries kept for a follower that is sent a snapshot
)

// Message is what masters say to each other. It belongs to Raft; a transport only
// carries it.
type Message = raftpb.Message

// IsSnapshot tells the message that goes with the files of a checkpoint.
func IsSnapshot(m *Message) bool { return m.GetType() == raftpb.MsgSnap }

// Transport carries messages to other masters. Send must not block: it drops what
// it cannot take. Messages to one node keep their order.
type Transport interface {
	Send(messages []*Message)
	// SendSnapshot brings a message for which IsSnapshot holds and the files of the folder dir
	// to the Node.ReceiveSnapshot of another master.
	SendSnapshot(ctx context.Context, message *Message, dir string) error
}

// Config says who a node is and where it keeps its state.
type Config struct {
	ID           dfs.NodeID
	Dir          string        // a folder of the node's own
	FS           disk.FS       // nil: the operating system's
	Bootstrap    bool          // make a new group whose only voter is this node; refused over an existing one
	Transport    Transport     // nil: a group of one
	Logger       *slog.Logger  // nil: none
	Tick         time.Duration // 0: DefaultTick
	Level        uint32        // of commands and rows that it understands; 0: meta.Level
	Clock        clock.Clock   // of leases; nil: the machine's
	SegmentBytes int64         // of the log's files; 0: SegmentBytes

	apply func(meta.Table, meta.Command) (meta.Reply, error) // nil: meta.Apply; tests have their own
}

// Errors that are failures: the request may be sent again under the same name.
var (
	ErrStopped = errors.New("this master has stopped")
	ErrBusy    = errors.New("this master has too many changes in flight")
	// ErrUnknown says that leadership was lost before the outcome was known.
	ErrUnknown = errors.New("leadership was lost meanwhile: it is not known whether the change was made")
	ErrExists  = errors.New("holds the data of a cluster already")
)

// NotLeaderError says who leads, when that is known.
type NotLeaderError struct{ Leader dfs.NodeID }

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return "no master leads now"
	}
	return fmt.Sprintf("master %v leads", e.Leader)
}

// Node is one master's replica. It is safe for concurrent use.
type Node struct {
	cfg       Config
	logger    *slog.Logger
	store     *store.Store
	raft      *raft.RawNode    // of the goroutine run
	storage   *storage         // of the goroutine run
	heard     map[uint64]int64 // of the goroutine run: time, by Config.Clock, of each member's last message
	stamped   dfs.Time         // of the goroutine run: the latest time that this leader gave a command
	quiet     bool             // of the goroutine run: since the last Ready only proposals and acknowledgements came
	proposals chan *proposal
	received  chan *raftpb.Message
	control   chan func()
	applies   chan applyJob
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	voteAfter int64 // time by Config.Clock before which no vote is given

	reads     readIndexes
	lease     atomic.Pointer[lease]
	status    atomic.Pointer[Status]
	applied   waterline
	level     atomic.Uint32 // of the rows
	raised    bool          // of the applier: the level changes with the batch at hand
	incoming  chan struct{} // one snapshot comes in at a time
	compactAt compaction

	// use is held shared by who uses the store from outside, and to close it.
	use    sync.RWMutex
	closed bool // +checklocks:use

	followMu  sync.Mutex
	followers map[*Follower]struct{} // +checklocks:followMu

	mu       sync.Mutex
	waiting  map[uint64][]*proposal // +checklocks:mu — by id of the batch
	changed  chan struct{}          // +checklocks:mu — closed when Status changes
	failure  error                  // +checklocks:mu — why it stopped
	sendings map[uint64]uint64      // +checklocks:mu — indexes of snapshots on their way, by receiver
}

// Start opens the node's state and takes part in the group. A node without state
// that is not told to bootstrap waits until the leader of a group adds it.
func Start(cfg Config) (*Node, error) {
	if cfg.FS == nil {
		cfg.FS = disk.OS()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Boot
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Tick == 0 {
		cfg.Tick = DefaultTick
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = SegmentBytes
	}
	if cfg.Level == 0 {
		cfg.Level = meta.Level
	}
	if cfg.apply == nil {
		cfg.apply = meta.Apply
	}
	if cfg.ID == 0 {
		return nil, errors.New("a master needs an id that is not 0")
	}
	rows, err := store.Open(cfg.FS, filepath.Join(cfg.Dir, RowsDir), cfg.Logger)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, logger: cfg.Logger, store: rows,
		proposals: make(chan *proposal, queueMax), received: make(chan *raftpb.Message, queueMax),
		control: make(chan func()), incoming: make(chan struct{}, 1), applies: make(chan applyJob, applyQueueMax),
		heard: map[uint64]int64{}, waiting: map[uint64][]*proposal{}, changed: make(chan struct{}), sendings: map[uint64]uint64{},
	}
	if err := n.open(); err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.wg.Go(n.run)
	n.wg.Go(n.applier)
	return n, nil
}

// open brings store, log and raft together.
func (n *Node) open() error {
	if err := n.readLevel(); err != nil {
		return fmt.Errorf("%s: %w", n.cfg.Dir, err)
	}
	p := n.store.Position()
	if n.cfg.Bootstrap {
		if p.Index != 0 {
			return fmt.Errorf("%s %w: start without --bootstrap", n.cfg.Dir, ErrExists)
		}
		// Rows may be lost, and the log of the group that they belonged to be there.
		used, err := hasLog(n.cfg.FS, filepath.Join(n.cfg.Dir, "raft"))
		if err != nil {
			return err
		}
		if used {
			return fmt.Errorf("%s %w: it has a raft log, and the rows are missing", n.cfg.Dir, ErrExists)
		}
		if p, err = n.bootstrap(); err != nil {
			return err
		}
	}
	s, err := openStorage(n.cfg.FS, filepath.Join(n.cfg.Dir, "raft"), n.cfg.SegmentBytes, p)
	if err != nil {
		return err
	}
	n.storage = s
	n.applied.set(p.Index)
	n.raft, err = raft.NewRawNode(&raft.Config{
		ID: uint64(n.cfg.ID), ElectionTick: electionTicks, HeartbeatTick: heartbeatTicks,
		Storage: s, Applied: p.Index,
		MaxSizePerMsg: messageBytesMax, MaxCommittedSizePerReady: applyBytesMax, MaxUncommittedEntriesSize: uncommittedMax,
		MaxInflightMsgs: inflightMax, CheckQuorum: true, PreVote: true, ReadOnlyOption: raft.ReadOnlySafe,
		DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: raftLogger{n.logger},
	})
	if err != nil {
		return errors.Join(err, s.wal.close())
	}
	if !n.cfg.Bootstrap {
		n.voteAfter = n.cfg.Clock() + int64(electionTicks*n.cfg.Tick)
	}
	n.publish(n.raft.BasicStatus().SoftState)
	if n.cfg.Bootstrap || n.alone() {
		// Nobody else can lead: there is nothing to wait for.
		return n.raft.Campaign()
	}
	return nil
}

// RowsDir is the folder of the rows in that of a node.
const RowsDir = "meta"

// First is where the rows of a group are that begins with id as its only voter, and with no
// log. Its terms come after term.
func First(id dfs.NodeID, term uint64) (store.Position, error) {
	conf, err := proto.Marshal(&raftpb.ConfState{Voters: []uint64{uint64(id)}})
	return store.Position{Index: 1, Term: term, ConfState: conf}, err
}

// bootstrap makes the store of a group whose only voter is this node.
func (n *Node) bootstrap() (store.Position, error) {
	p, err := First(n.cfg.ID, 1)
	if err != nil {
		return store.Position{}, err
	}
	if err := n.store.Commit(n.store.Batch(), p); err != nil {
		return store.Position{}, err
	}
	return p, n.store.Flush()
}

// alone reports whether this node is the only voter.
func (n *Node) alone() bool {
	voters := n.raft.Status().Config.Voters.IDs()
	_, me := voters[uint64(n.cfg.ID)]
	return me && len(voters) == 1
}

// Close stops the node and waits until all that it began has ended.
func (n *Node) Close() error { return n.end(n.store.Close) }

// end stops all, and then the store, when nobody reads it any more.
func (n *Node) end(closeStore func() error) error {
	n.cancel()
	n.wg.Wait()
	n.failWaiting(ErrStopped)
	n.use.Lock()
	defer n.use.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	return errors.Join(n.storage.wal.close(), closeStore())
}

// using calls fn while the store is open.
func (n *Node) using(fn func() error) error {
	n.use.RLock()
	defer n.use.RUnlock()
	if n.closed {
		return ErrStopped
	}
	return fn()
}

// Abandon stops the node as a crash would: what was not synced is not made so. For
// tests.
func (n *Node) Abandon() error { return n.end(n.store.Abandon) }

// Done is closed when the node has stopped; Err says why.
func (n *Node) Done() <-chan struct{} { return n.ctx.Done() }

// Err is why the node stopped by itself; nil while it works and after Close.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failure
}

// fail stops the node: its disk or its state cannot be trusted any more.
func (n *Node) fail(err error) {
	n.mu.Lock()
	if n.failure == nil && n.ctx.Err() == nil {
		n.failure = err
		n.logger.Error("this master stops", "err", err)
	}
	n.mu.Unlock()
	n.cancel()
	n.failWaiting(ErrStopped)
}

// run owns raft and the log.
func (n *Node) run() {
	ticker := time.NewTicker(n.cfg.Tick)
	defer ticker.Stop()
	for n.ctx.Err() == nil {
		if err := n.handleReady(); err != nil {
			n.fail(err)
			return
		}
		n.quiet = true
		select {
		case <-n.ctx.Done():
		case <-ticker.C:
			n.quiet = false
			n.raft.Tick()
			n.askLease()
		case m := <-n.received:
			n.step(m)
			n.stepMore()
		case p := <-n.proposals:
			n.propose(p)
		case fn := <-n.control:
			n.quiet = false
			fn()
		case <-n.reads.wake():
			n.askReads()
		}
	}
}

// stepMore takes the messages that wait already, so that one sync serves them all.
func (n *Node) stepMore() {
	for range queueMax {
		select {
		case m := <-n.received:
			n.step(m)
		default:
			return
		}
	}
}

func (n *Node) step(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgAppResp {
		n.quiet = false
	}
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if n.cfg.Clock() < n.voteAfter {
			return // it may have helped to give a lease before it was started anew
		}
	case raftpb.MsgTransferLeader:
		// A follower's wish, which raft forwards. The election that follows does not
		// respect leases, and this leader would go on under its own: see Transfer.
		return
	}
	if _, known := n.heard[m.GetFrom()]; known || len(n.heard) < heardMax {
		n.heard[m.GetFrom()] = n.cfg.Clock()
	}
	if err := n.raft.Step(m); err != nil && !errors.Is(err, raft.ErrProposalDropped) {
		n.logger.Debug("raft refused a message", "type", m.GetType(), "from", dfs.NodeID(m.GetFrom()), "err", err)
	}
}

// handleReady does what raft wants done, until it wants nothing more.
func (n *Node) handleReady() error {
	for n.raft.HasReady() {
		rd := n.raft.Ready()
		if rd.SoftState != nil {
			n.publish(*rd.SoftState)
		}
		// The leader sends its entries while it writes them itself (Raft thesis,
		// 10.2.1). All else says that something is on disk, and waits until it is.
		early, late := split(rd.Messages, n.Status().Leading)
		n.send(n.worthwhile(early, rd.CommittedEntries))
		if !raft.IsEmptySnap(rd.Snapshot) {
			if installed, err := n.install(rd); err != nil || !installed {
				return err
			}
		}
		if len(rd.Entries) > 0 || !raft.IsEmptyHardState(rd.HardState) {
			if err := n.storage.save(rd.HardState, rd.Entries, rd.MustSync); err != nil {
				return err
			}
		}
		n.send(late)
		n.answerReads(rd.ReadStates)
		if len(rd.CommittedEntries) > 0 {
			confs, err := n.applyConfChanges(rd.CommittedEntries)
			if err != nil {
				return err
			}
			if !n.hand(applyJob{entries: rd.CommittedEntries, confs: confs}) {
				return nil
			}
		}
		n.raft.Advance(rd)
	}
	return nil
}

// hand gives the applier a job; false when the node stops.
func (n *Node) hand(job applyJob) bool {
	select {
	case n.applies <- job:
		return true
	case <-n.ctx.Done():
		return false
	}
}

func split(messages []*raftpb.Message, leading bool) (early, late []*raftpb.Message) {
	if !leading {
		return nil, messages
	}
	for _, m := range messages {
		switch m.GetType() {
		case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
			early = append(early, m)
		default:
			late = append(late, m)
		}
	}
	return early, late
}

// worthwhile leaves out what only tells a follower that the commit index has grown:
// the next entries or the next heartbeat say so too, and who waits for a change waits
// here, for the leader. It saves half of all messages when changes come one by one. A
// message without entries that came of something else may be there to find out what a
// follower has, and is sent; so is the news of a change of the membership, since who is
// removed hears nothing later, and the next election may depend on who was added.
func (n *Node) worthwhile(messages []*raftpb.Message, committed []*raftpb.Entry) []*raftpb.Message {
	change := func(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryNormal }
	if !n.quiet || slices.ContainsFunc(committed, change) {
		return messages
	}
	kept := messages[:0]
	for _, m := range messages {
		if m.GetType() != raftpb.MsgApp || len(m.Entries) > 0 || !n.replicates(m.GetTo()) {
			kept = append(kept, m)
		}
	}
	return kept
}

// replicates reports whether a follower takes entries as they come, and so nothing
// has to be found out about it.
func (n *Node) replicates(id uint64) (yes bool) {
	n.raft.WithProgress(func(other uint64, _ raft.ProgressType, p tracker.Progress) {
		yes = yes || other == id && p.State == tracker.StateReplicate
	})
	return yes
}

// send hands messages to the transport; snapshots go their own way.
func (n *Node) send(messages []*raftpb.Message) {
	if n.cfg.Transport == nil || len(messages) == 0 {
		return
	}
	plain := messages[:0:0]
	for _, m := range messages {
		if m.GetType() == raftpb.MsgSnap {
			n.sendSnapshot(m)
		} else {
			plain = append(plain, m)
		}
	}
	if len(plain) > 0 {
		n.cfg.Transport.Send(plain)
	}
}

// Step takes a message from another master. It drops it when too many wait: raft
// sends again.
func (n *Node) Step(m *raftpb.Message) {
	if raft.IsLocalMsg(m.GetType()) {
		return // nobody outside may send these
	}
	select {
	case n.received <- m:
	default:
	}
}

// Unreachable tells raft that messages to a node were lost.
func (n *Node) Unreachable(id dfs.NodeID) {
	n.later(func() {
		n.raft.ReportUnreachable(uint64(id))
		delete(n.heard, uint64(id)) // until it is heard again
	})
}

// later runs fn in raft's goroutine some time; it is lost when the node stops.
func (n *Node) later(fn func()) {
	select {
	case n.control <- fn:
	case <-n.ctx.Done():
	}
}

// do runs fn in raft's goroutine and waits for it.
func (n *Node) do(ctx context.Context, fn func()) error {
	done := make(chan struct{})
	select {
	case n.control <- func() { defer close(done); fn() }:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return ErrStopped
	}
	<-done // raft's goroutine never leaves a function that it began
	return nil
}
