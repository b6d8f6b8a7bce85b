package replica

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs/meta"
)

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// hold keeps a View open, so that the applier cannot commit, until release is
// called.
func hold(t testing.TB, n *Node) (release func()) {
	t.Helper()
	held, free, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.LocalRead(func(meta.View) error {
			close(held)
			<-free
			return nil
		})
	}()
	<-held
	done := false
	release = func() {
		if !done {
			done = true
			close(free)
			<-ended
		}
	}
	t.Cleanup(release)
	return release
}

// TestSnapshotBehindEntriesIsInstalled: a follower has committed entries to apply
// yet when the snapshot comes, as after a restart with much to replay.
func TestSnapshotBehindEntriesIsInstalled(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	l := g.leader()
	lagging := g.start(2, false)
	if err := l.AddLearner(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	g.settle()
	release := hold(t, lagging)
	// One job occupies the applier, the next waits in the queue.
	for seq := uint64(1); len(lagging.applies) == 0; seq++ {
		g.retry(create(session, seq, inos.From+seq))
		if seq > 1000 {
			t.Fatal("no job waits")
		}
	}
	g.isolate(2, true)
	for seq := uint64(2001); seq <= 2050; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	if err := l.Compact(0); err != nil {
		t.Fatal(err)
	}
	waiting := len(lagging.applies)
	g.isolate(2, false)
	eventually(t, "the snapshot waits behind the entries", func() bool { return len(lagging.applies) > waiting })
	release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := lagging.WaitApplied(ctx, l.Applied()-1); err != nil {
		t.Fatalf("the follower is at %d of %d: %v", lagging.Applied(), l.Applied(), err)
	}
	g.same()
}

// TestMembershipIsInForceOnceRaftWentPastIt: raft allows the next change, and to
// stand for election, once it holds the last change for applied.
func TestMembershipIsInForceOnceRaftWentPastIt(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	l := g.leader()
	release := hold(t, l)
	// A command whose commit waits for the View occupies the applier.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = l.Propose(t.Context(), create(session, 1, inos.From+1))
	}()
	defer func() { release(); <-ended }()
	eventually(t, "the command is committed", func() (yes bool) {
		_ = l.do(t.Context(), func() { yes = l.raft.BasicStatus().Applied > l.Applied() })
		return yes && len(l.applies) == 0
	})
	kind := raftpb.ConfChangeAddLearnerNode
	before := uint64(0)
	if err := l.do(t.Context(), func() {
		before = l.raft.BasicStatus().GetCommit()
		cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: &kind, NodeId: proto.Uint64(9)}}}
		if err := l.raft.ProposeConfChange(cc); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "raft has applied the change", func() (past bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = l.do(ctx, func() {
			s := l.raft.Status()
			past = s.Applied > before
			if _, member := s.Config.Learners[9]; past && !member {
				t.Error("raft went past a change of the membership that is not in force")
			}
		})
		return past
	})
}

// TestSnapshotThatCannotBeOpenedHarmsNothing: the files that come are no checkpoint,
// or are of another position.
func TestSnapshotThatCannotBeOpenedHarmsNothing(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func(dir string) error
	}{
		{"empty", func(string) error { return nil }},
		{"no manifest", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "000004.sst"), []byte("no table"), 0o600)
		}},
	} {
		t.Run(damage.name, func(t *testing.T) {
			g, session, inos := bootstrapped(t, 1)
			for seq := uint64(1); seq <= 5; seq++ {
				g.retry(create(session, seq, inos.From+seq))
			}
			l := g.leader()
			n := g.start(2, false)
			if err := l.AddLearner(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			g.same()
			want := len(names(t, n))
			g.isolate(2, true)
			m := &raftpb.Message{
				Type: raftpb.MsgSnap.Enum(), To: proto.Uint64(2), From: proto.Uint64(1), Term: proto.Uint64(l.Status().Term),
				Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
					Index: proto.Uint64(n.Applied() + 1000), Term: proto.Uint64(l.Status().Term),
					ConfState: &raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}},
				}},
			}
			if err := n.ReceiveSnapshot(t.Context(), m, damage.do); err == nil {
				t.Fatal("a snapshot that is none was taken")
			}
			// It may have stopped; it must end in order, and start again with what it had.
			g.mu.Lock()
			delete(g.node, 2)
			g.mu.Unlock()
			_ = n.Close()
			// Still cut off: nobody gives it back what it had.
			again := g.start(2, false)
			if got := len(names(t, again)); got != want {
				t.Fatalf("%d names, want %d", got, want)
			}
			g.isolate(2, false)
			g.same()
		})
	}
}
