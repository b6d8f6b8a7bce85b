package replica

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/meta"
)

// spyPort remembers what is sent.
type spyPort struct {
	Transport
	mu       sync.Mutex
	messages []*raftpb.Message
}

func (s *spyPort) Send(messages []*raftpb.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, messages...)
}

func (s *spyPort) sent() []*raftpb.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages
}

// TestStopDuringInstallAcknowledgesNothing: a leader that took the answer for true
// would tell this master of a commit beyond its log, which raft panics at.
func TestStopDuringInstallAcknowledgesNothing(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	l := g.leader()
	n := g.start(2, false)
	if err := l.AddLearner(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	g.settle()
	g.isolate(2, true)
	for seq := uint64(1); seq <= 20; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	checkpoint := filepath.Join(t.TempDir(), "checkpoint")
	p, err := l.store.Checkpoint(checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := snapshotAt(p)
	if err != nil {
		t.Fatal(err)
	}
	incoming, err := n.store.Incoming()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(incoming, os.DirFS(checkpoint)); err != nil {
		t.Fatal(err)
	}
	m := &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), To: proto.Uint64(2), From: proto.Uint64(1), Term: proto.Uint64(l.Status().Term), Snapshot: snapshot,
	}
	spy := &spyPort{Transport: n.cfg.Transport}
	release := hold(t, n) // the installation waits for the View
	var failed error
	if err := n.do(t.Context(), func() {
		n.cfg.Transport = spy
		n.cancel()
		n.step(m)
		failed = n.handleReady()
	}); err != nil {
		t.Fatal(err)
	}
	for _, m := range spy.sent() {
		if m.GetType() == raftpb.MsgAppResp && !m.GetReject() && m.GetIndex() >= p.Index {
			t.Errorf("entry %d is acknowledged, and nobody waited for the snapshot", m.GetIndex())
		}
	}
	if failed != nil {
		t.Errorf("a stop is no failure: %v", failed)
	}
	release()
	g.stop(2, true)
	g.isolate(2, false)
	g.start(2, false)
	g.same()
}

// TestReadOfAStoppedNodeIsAFailure: a call that comes while the node is closed, or
// after, is answered and does no harm.
func TestReadOfAStoppedNodeIsAFailure(t *testing.T) {
	g, _, _ := bootstrapped(t, 1)
	n := g.leader()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				err := n.Read(t.Context(), func(v meta.View) error {
					_, err := v.GetAttr(dfs.RootIno)
					return err
				})
				if errors.Is(err, ErrStopped) {
					return
				}
				if err != nil {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for !errors.Is(n.Compact(0), ErrStopped) {
			n.Usage()
		}
	})
	eventually(t, "reads are served", func() bool { return n.lease.Load() != nil })
	g.stop(1, true)
	wg.Wait()
	if err := n.LocalRead(func(meta.View) error { return nil }); !errors.Is(err, ErrStopped) {
		t.Errorf("%v", err)
	}
}
