package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"dfs"
)

// Status is what a node knows about its group.
type Status struct {
	ID      dfs.NodeID
	Leader  dfs.NodeID // 0: not known
	Leading bool
	Term    uint64
	// Removed says that the group goes on without this node. One that was cut off
	// when it happened does not know.
	Removed bool
}

// Status is cheap: it asks nobody.
func (n *Node) Status() Status { return *n.status.Load() }

// Changed is closed when Status has changed since the call.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// Applied is the index of the last entry in the rows.
func (n *Node) Applied() uint64 { return n.applied.get() }

// WaitApplied returns once an entry after index is in the rows.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	return n.applied.wait(ctx, n.ctx, index+1)
}

// publish tells who leads now, in raft's goroutine.
func (n *Node) publish(s raft.SoftState) {
	term := n.raft.BasicStatus().HardState.GetTerm()
	next := Status{ID: n.cfg.ID, Leader: dfs.NodeID(s.Lead), Leading: s.RaftState == raft.StateLeader, Term: term, Removed: n.removed()}
	old := n.status.Swap(&next)
	if old != nil && *old == next {
		return
	}
	n.mu.Lock()
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	if old == nil {
		return
	}
	n.logger.Info("raft", "term", term, "leading", next.Leading, "leader", next.Leader)
	n.dropReads()
	if old.Leading {
		n.failWaiting(ErrUnknown)
	}
}

// removed reports whether there is a group, and this node is not in it.
func (n *Node) removed() bool {
	conf := n.raft.Status().Config
	voters := conf.Voters.IDs()
	_, votes := voters[uint64(n.cfg.ID)]
	_, learns := conf.Learners[uint64(n.cfg.ID)]
	_, willLearn := conf.LearnersNext[uint64(n.cfg.ID)]
	return len(voters) > 0 && !votes && !learns && !willLearn
}

// Role of a member.
type Role string

// Roles.
const (
	Voter   Role = "voter"
	Learner Role = "learner" // gets the log, has no vote
)

// Peer is a member as the leader sees it.
type Peer struct {
	ID    dfs.NodeID
	Role  Role
	Match uint64 // index up to which its log is known to be the leader's; 0 unless this node leads
	// Active says that it answered within the last election timeout; only the leader
	// knows.
	Active bool
}

// Peers lists the members, this node too.
func (n *Node) Peers(ctx context.Context) (peers []Peer, commit uint64, err error) {
	var status raft.Status
	active := map[uint64]bool{}
	// Raft's own mark, RecentActive, is taken away at each check of the quorum, and for
	// a moment everybody would seem dead.
	err = n.do(ctx, func() {
		status = n.raft.Status()
		since := n.cfg.Clock() - int64(electionTicks*n.cfg.Tick)
		for id, at := range n.heard {
			active[id] = at >= since
		}
	})
	if err != nil {
		return nil, 0, err
	}
	add := func(id uint64, role Role) {
		p := Peer{ID: dfs.NodeID(id), Role: role, Active: dfs.NodeID(id) == n.cfg.ID}
		if progress, ok := status.Progress[id]; ok {
			p.Match = progress.Match
			p.Active = p.Active || active[id] && progress.State != tracker.StateSnapshot
		}
		peers = append(peers, p)
	}
	for _, id := range slices.Sorted(maps.Keys(status.Config.Voters.IDs())) {
		add(id, Voter)
	}
	for _, id := range slices.Sorted(maps.Keys(status.Config.Learners)) {
		add(id, Learner)
	}
	return peers, status.HardState.GetCommit(), nil
}

// AddLearner makes a node a member without a vote. Its transport address must be
// known to the others already.
func (n *Node) AddLearner(ctx context.Context, id dfs.NodeID) error {
	return n.changeMember(ctx, raftpb.ConfChangeAddLearnerNode, id)
}

// Promote gives a learner its vote.
func (n *Node) Promote(ctx context.Context, id dfs.NodeID) error {
	return n.changeMember(ctx, raftpb.ConfChangeAddNode, id)
}

// Remove ends a node's membership.
func (n *Node) Remove(ctx context.Context, id dfs.NodeID) error {
	return n.changeMember(ctx, raftpb.ConfChangeRemoveNode, id)
}

// memberPoll is how often a change of the membership is looked for.
const memberPoll = 10 * time.Millisecond

// changeMember proposes a change and waits until it is applied. Repeating it does
// no harm.
func (n *Node) changeMember(ctx context.Context, kind raftpb.ConfChangeType, id dfs.NodeID) error {
	propose := func() (err error) {
		cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: &kind, NodeId: proto.Uint64(uint64(id))}}}
		if derr := n.do(ctx, func() { err = n.raft.ProposeConfChange(cc) }); derr != nil {
			return derr
		}
		return err
	}
	if s := n.Status(); !s.Leading {
		return &NotLeaderError{Leader: s.Leader}
	}
	// One change at a time is allowed; raft turns others into nothing without a word,
	// so it is proposed until it shows.
	retry := time.Duration(0)
	ticker := time.NewTicker(memberPoll)
	defer ticker.Stop()
	for waited := time.Duration(0); ; waited += memberPoll {
		peers, _, err := n.Peers(ctx)
		if err != nil {
			return err
		}
		if memberIs(peers, kind, id) {
			return nil
		}
		if s := n.Status(); !s.Leading {
			return &NotLeaderError{Leader: s.Leader}
		}
		if waited >= retry {
			if err := propose(); err != nil {
				return fmt.Errorf("change the membership: %w", err)
			}
			retry = waited + time.Second
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.ctx.Done():
			return ErrStopped
		}
	}
}

func memberIs(peers []Peer, kind raftpb.ConfChangeType, id dfs.NodeID) bool {
	i := slices.IndexFunc(peers, func(p Peer) bool { return p.ID == id })
	switch kind {
	case raftpb.ConfChangeRemoveNode:
		return i < 0
	case raftpb.ConfChangeAddNode:
		return i >= 0 && peers[i].Role == Voter
	default:
		return i >= 0 // a voter is not made a learner again
	}
}

// ErrNotVoter says that a node cannot be given leadership.
var ErrNotVoter = errors.New("is not a voting master")

// Transfer hands leadership to a voter, and waits until this node no longer leads.
func (n *Node) Transfer(ctx context.Context, to dfs.NodeID) error {
	if s := n.Status(); !s.Leading {
		return &NotLeaderError{Leader: s.Leader}
	}
	if to == n.cfg.ID {
		return nil
	}
	var refused error
	leading := func() bool { return n.raft.BasicStatus().RaftState == raft.StateLeader }
	err := n.do(ctx, func() {
		if !leading() {
			refused = &NotLeaderError{Leader: n.Status().Leader}
			return
		}
		if _, votes := n.raft.Status().Config.Voters.IDs()[uint64(to)]; !votes {
			refused = fmt.Errorf("%v %w", to, ErrNotVoter)
			return
		}
		n.reads.transferTerm = n.Status().Term
		n.lease.Store(nil)
		n.raft.TransferLeader(uint64(to))
	})
	if refused != nil {
		return refused
	}
	// Raft gives up after an election timeout: a message was lost, or the other one
	// was slow.
	again := time.NewTicker(time.Duration(electionTicks) * n.cfg.Tick)
	defer again.Stop()
	for err == nil {
		changed := n.Changed()
		if !n.Status().Leading {
			return nil
		}
		select {
		case <-changed:
		case <-again.C:
			err = n.do(ctx, func() {
				if leading() {
					n.raft.TransferLeader(uint64(to))
				}
			})
		case <-ctx.Done():
			return fmt.Errorf("leadership was not handed over: %w", ctx.Err())
		case <-n.ctx.Done():
			return ErrStopped
		}
	}
	return err
}
