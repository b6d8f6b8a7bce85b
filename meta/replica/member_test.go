package replica

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dfs"
	"dfs/internal/clock"
	"dfs/internal/disk"
	"dfs/meta"
)

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// change does something with the leader until it works: the leader may change.
func (g *group) change(do func(ctx context.Context, l *Node) error) {
	g.t.Helper()
	var err error
	for range 50 {
		ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Second)
		err = do(ctx, g.leader())
		cancel()
		if err == nil {
			return
		}
	}
	g.t.Fatal(err)
}

func (g *group) join(id dfs.NodeID) {
	g.t.Helper()
	g.start(id, false)
	g.change(func(ctx context.Context, l *Node) error { return l.AddLearner(ctx, id) })
	g.change(func(ctx context.Context, l *Node) error { return l.Promote(ctx, id) })
}

func (g *group) leave(id dfs.NodeID) {
	g.t.Helper()
	g.change(func(ctx context.Context, l *Node) error {
		if l.cfg.ID == id { // it hands over first, as an operator does
			for other := range g.nodes() {
				if other != id {
					return errors.Join(l.Transfer(ctx, other), errors.New("again, with the new leader"))
				}
			}
		}
		return l.Remove(ctx, id)
	})
	g.stop(id, true)
}

// TestMembershipGrowsAndShrinksUnderLoad: from one master to three, five and back
// to three others than at first, while a writer works; nothing is lost.
func TestMembershipGrowsAndShrinksUnderLoad(t *testing.T) {
	g, _, _ := bootstrapped(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	session := g.retry(meta.Command{Op: &meta.OpenSession{Nonce: 9}})
	r := &register{name: "user.r"}
	var wg sync.WaitGroup
	wg.Go(func() { r.write(ctx, t, g, session.Session, session.Inodes) })
	wg.Go(func() { r.check(ctx, t, g) })
	for id := dfs.NodeID(2); id <= 5; id++ {
		g.join(id)
	}
	g.leave(1) // the one that began
	g.leave(2)
	acked := r.acked.Load()
	eventually(t, "work goes on", func() bool { return t.Failed() || r.acked.Load() > acked })
	cancel()
	wg.Wait()
	g.same()
	peers, _, err := g.leader().Peers(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	var ids []dfs.NodeID
	for _, p := range peers {
		if p.Role != Voter {
			t.Errorf("%v is a %s", p.ID, p.Role)
		}
		ids = append(ids, p.ID)
	}
	if !slices.Equal(ids, []dfs.NodeID{3, 4, 5}) {
		t.Fatalf("members %v", ids)
	}
	// Two of the three are enough, and one is not.
	g.stop(g.leader().cfg.ID, false)
	l := g.leader()
	for id := range g.nodes() {
		if id != l.cfg.ID {
			g.stop(id, false)
		}
	}
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if _, err := l.Propose(short, meta.Command{Op: &meta.GrantIDs{}}); err == nil {
		t.Fatal("one of three masters acknowledged a change")
	}
}

// TestLearnerHasNoVote: it takes the log, and does not count.
func TestLearnerHasNoVote(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	n := g.start(2, false)
	l := g.leader()
	if err := l.AddLearner(soon(t), 2); err != nil {
		t.Fatal(err)
	}
	g.settle()
	if n.Status().Removed {
		t.Error("a learner takes itself for removed")
	}
	g.isolate(2, true)
	mustPropose(t, l, create(session, 1, inos.From+1)) // needs nobody
	g.isolate(2, false)
	g.same()
}

func TestFollowerSaysWhoLeads(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	l := g.leader()
	g.settle()
	for id, n := range g.nodes() {
		if id == l.cfg.ID {
			continue
		}
		eventually(t, "the follower knows its leader", func() bool { return n.Status().Leader != 0 })
		_, err := n.Propose(soon(t), create(session, 1, inos.From+1))
		var other *NotLeaderError
		if !errors.As(err, &other) || other.Leader != l.cfg.ID {
			t.Fatalf("Propose: %v, want leader %v", err, l.cfg.ID)
		}
		err = n.Read(soon(t), func(meta.View) error { return nil })
		if !errors.As(err, &other) || other.Leader != l.cfg.ID {
			t.Fatalf("Read: %v, want leader %v", err, l.cfg.ID)
		}
	}
}

// TestTransferToOneWhoCannotLeadIsRefused: and costs the leader nothing.
func TestTransferToOneWhoCannotLeadIsRefused(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	g.start(4, false)
	l := g.leader()
	if err := l.AddLearner(soon(t), 4); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is a lease", func() bool { return l.lease.Load().valid(clock.Boot()) })
	for _, to := range []dfs.NodeID{4, 77} {
		if err := l.Transfer(soon(t), to); !errors.Is(err, ErrNotVoter) {
			t.Fatalf("transfer to %v: %v", to, err)
		}
	}
	if !l.Status().Leading || !l.lease.Load().valid(clock.Boot()) {
		t.Fatal("leadership or lease was given up")
	}
	if err := l.Transfer(soon(t), l.cfg.ID); err != nil {
		t.Fatalf("to itself: %v", err)
	}
	mustPropose(t, l, create(session, 1, inos.From+1))
}

// TestRemovedMasterKnows: whoever runs it must be told to stop it.
func TestRemovedMasterKnows(t *testing.T) {
	g, _, _ := bootstrapped(t, 3)
	g.settle()
	for range 2 {
		l := g.leader()
		removed := l.cfg.ID // the leader first, then a follower
		if l.cfg.ID == 1 || len(g.nodes()) < 3 {
			for id := range g.nodes() {
				if id != l.cfg.ID {
					removed = id
				}
			}
		}
		n := g.nodes()[removed]
		if n.Status().Removed {
			t.Fatal("said too early")
		}
		if err := l.Remove(soon(t), removed); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the removed master knows it", func() bool { return n.Status().Removed })
		g.stop(removed, true)
		if again := g.start(removed, false); !again.Status().Removed {
			t.Error("it has forgotten that at the next start")
		}
		g.stop(removed, true)
	}
}

// TestSyncThatFailsStopsTheNode: it says why, and acknowledges nothing more.
func TestSyncThatFailsStopsTheNode(t *testing.T) {
	g := newGroup(t)
	g.logs = map[dfs.NodeID]*disk.Mem{}
	_, session, inos := bootstrappedOn(g, t, 1)
	l := g.leader()
	mustPropose(t, l, create(session, 1, inos.From+1))
	cause := errors.New("the platter fell off")
	g.logs[1].Fail(disk.Rule{Op: disk.OpSync, Path: "raft/*", Err: cause})
	if r, err := l.Propose(soon(t), create(session, 2, inos.From+2)); err == nil {
		t.Fatalf("acknowledged: %+v", r)
	}
	eventually(t, "the node stops", func() bool { return l.Err() != nil && l.ctx.Err() != nil })
	if !errors.Is(l.Err(), cause) {
		t.Fatalf("it says %v", l.Err())
	}
	select {
	case <-l.Done():
	default:
		t.Fatal("Done is open")
	}
	if _, err := l.Propose(soon(t), create(session, 3, inos.From+3)); err == nil {
		t.Fatal("it goes on")
	}
	g.mu.Lock()
	delete(g.node, 1)
	g.mu.Unlock()
	_ = l.Abandon()
}

// TestEntryThatCannotBeAppliedStopsTheNode: skipping it would make it differ.
func TestEntryThatCannotBeAppliedStopsTheNode(t *testing.T) {
	for _, entry := range []struct {
		name string
		data []byte
		says string
	}{
		{"not a batch", []byte{0xff, 0xff}, "raft entry"},
		{"a later version", []byte{8, 99}, "format version 99"},
		{"panics", nil, "a folder is its own parent"},
	} {
		t.Run(entry.name, func(t *testing.T) {
			config := Config{ID: 1, Dir: t.TempDir(), Bootstrap: true}
			if entry.data == nil {
				config.apply = func(meta.Table, meta.Command) (meta.Reply, error) { panic("a folder is its own parent") }
			}
			l, err := Start(config)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "it leads", func() bool { return l.Status().Leading })
			if entry.data == nil {
				if _, err := l.Propose(soon(t), meta.Command{Op: &meta.GrantIDs{}}); err == nil {
					t.Fatal("acknowledged")
				}
			} else if err := l.do(soon(t), func() {
				if err := l.raft.Propose(entry.data); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the node stops and says why", func() bool { return l.Err() != nil })
			if got := l.Err().Error(); !strings.Contains(got, entry.says) {
				t.Errorf("it says %.200s, want %s", got, entry.says)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestProposeEndsWithItsContext: while no majority is there.
func TestProposeEndsWithItsContext(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	l := g.leader()
	for id := range g.nodes() {
		if id != l.cfg.ID {
			g.isolate(id, true)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := l.Propose(ctx, create(session, 1, inos.From+1))
		ended <- err
	}()
	cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Fatal("acknowledged without a majority")
		}
	case <-soon(t).Done():
		t.Fatal("it does not end")
	}
}

// TestOnlyTheLeaderItselfHandsOver: an election that is started so does not respect
// leases, so the leader must have given up its own before. Raft forwards a
// follower's wish to the leader behind its back.
func TestOnlyTheLeaderItselfHandsOver(t *testing.T) {
	g, session, inos := bootstrapped(t, 3)
	l := g.leader()
	g.settle()
	eventually(t, "there is a lease", func() bool { return l.lease.Load().valid(clock.Boot()) })
	term := l.Status().Term
	for id, n := range g.nodes() {
		if id == l.cfg.ID {
			continue
		}
		eventually(t, "the follower knows its leader", func() bool { return n.Status().Leader == l.cfg.ID })
		// As Transfer does in a node which has just lost its leadership.
		if err := n.do(soon(t), func() { n.raft.TransferLeader(uint64(id)) }); err != nil {
			t.Fatal(err)
		}
	}
	for seq := uint64(1); seq <= 30; seq++ {
		mustPropose(t, l, create(session, seq, inos.From+seq))
	}
	if s := l.Status(); !s.Leading || s.Term != term {
		t.Fatalf("it lost its leadership: %+v", s)
	}
}
