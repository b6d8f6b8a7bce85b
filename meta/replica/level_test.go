package replica

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"dfs"
	"dfs/meta"
)

// TestSnapshotOfALaterLevelIsRefused: a master with an older program keeps what it has.
func TestSnapshotOfALaterLevelIsRefused(t *testing.T) {
	g, _, _ := bootstrapped(t, 1)
	n := g.leader()
	if r := mustPropose(t, n, meta.Command{Op: &meta.SetLevel{Level: 2, Program: "v2"}}); r.Errno != dfs.OK {
		t.Fatal(r.Errno)
	}
	dir := filepath.Join(t.TempDir(), "checkpoint")
	p, err := n.store.Checkpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := snapshotAt(p)
	if err != nil {
		t.Fatal(err)
	}
	old, err := Start(Config{ID: 99, Dir: t.TempDir(), Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	err = old.ReceiveSnapshot(t.Context(), &raftpb.Message{Type: raftpb.MsgSnap.Enum(), Snapshot: snapshot}, func(to string) error {
		return os.CopyFS(to, os.DirFS(dir))
	})
	var newer *meta.NewerError
	if !errors.As(err, &newer) || newer.Program != "v2" {
		t.Errorf("a snapshot of level 2: %v", err)
	}
	if old.Applied() != 0 || old.Err() != nil {
		t.Errorf("it is at %d, %v", old.Applied(), old.Err())
	}
}
