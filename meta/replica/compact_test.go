package replica

import (
	"context"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestWhatIsKeptForFollowersIsBoundedInBytes: entries may be large, and they are in
// memory.
func TestWhatIsKeptForFollowersIsBoundedInBytes(t *testing.T) {
	const each = 1 << 20
	for _, c := range []struct {
		name       string
		keep, hold uint64
		bytes      int // that may stay
		least      uint64
	}{
		{"nothing", 0, 100, 0, 0},
		{"some", 10, 100, 10 * each, 10},
		{"many", keepEntries, 100, keepBytes, keepBytes / each},
		{"a snapshot is sent", 0, 40, 60 * each, 60},
		{"a snapshot is sent for long", 0, 2, holdBytes, holdBytes / each},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustOpenStorage(t, newDisk(t), at(t, 1, 1))
			entries := entriesOf(2, 100, 1)
			for _, e := range entries {
				e.Data = make([]byte, each)
			}
			mustSave(t, s, hardState(1, 1, 1), entries)
			if err := s.compact(100, c.keep, c.hold); err != nil {
				t.Fatal(err)
			}
			first, err := s.FirstIndex()
			if err != nil {
				t.Fatal(err)
			}
			if kept := 101 - first; kept*each > uint64(c.bytes) || kept < c.least {
				t.Fatalf("%d entries of 1 MiB are kept, want %d", kept, c.least)
			}
		})
	}
}

// slowPort holds snapshots back.
type slowPort struct {
	Transport
	once        sync.Once
	began, free chan struct{}
}

func (s *slowPort) SendSnapshot(ctx context.Context, m *raftpb.Message, dir string) error {
	s.once.Do(func() { close(s.began) })
	select {
	case <-s.free:
	case <-ctx.Done():
	}
	return s.Transport.SendSnapshot(ctx, m, dir)
}

// TestCompactionWaitsForASnapshotOnItsWay: what comes after the snapshot is there
// when it has come, so that it is not followed by another.
func TestCompactionWaitsForASnapshotOnItsWay(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	l := g.leader()
	for seq := uint64(1); seq <= 20; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	if err := l.Compact(0); err != nil {
		t.Fatal(err)
	}
	slow := &slowPort{Transport: l.cfg.Transport, began: make(chan struct{}), free: make(chan struct{})}
	if err := l.do(t.Context(), func() { l.cfg.Transport = slow }); err != nil {
		t.Fatal(err)
	}
	g.start(2, false)
	if err := l.AddLearner(soon(t), 2); err != nil {
		t.Fatal(err)
	}
	<-slow.began
	sent := l.Applied()
	for seq := uint64(21); seq <= 60; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	if err := l.Compact(0); err != nil {
		t.Fatal(err)
	}
	first := uint64(0)
	if err := l.do(t.Context(), func() { first, _ = l.storage.FirstIndex() }); err != nil {
		t.Fatal(err)
	}
	close(slow.free)
	if first > sent+1 {
		t.Fatalf("the log begins at %d, the snapshot on its way is at %d", first, sent)
	}
	g.same()
}
