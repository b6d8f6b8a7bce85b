package replica

import (
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/internal/disk"
	"dfs/meta/store"
)

// at is a position whose only voter is node 1.
func at(t *testing.T, index, term uint64) store.Position {
	t.Helper()
	conf, err := proto.Marshal(&raftpb.ConfState{Voters: []uint64{1}})
	if err != nil {
		t.Fatal(err)
	}
	return store.Position{Index: index, Term: term, ConfState: conf}
}

// entries are of one term.
func entriesOf(from, to, term uint64) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := from; i <= to; i++ {
		out = append(out, &raftpb.Entry{Index: proto.Uint64(i), Term: proto.Uint64(term), Data: []byte("x")})
	}
	return out
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: proto.Uint64(term), Vote: proto.Uint64(vote), Commit: proto.Uint64(commit)}
}

func mustOpenStorage(t *testing.T, fs disk.FS, p store.Position) *storage {
	t.Helper()
	s, err := openStorage(fs, "disk/log", testSegment, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.wal.close() })
	return s
}

func mustSave(t *testing.T, s *storage, state *raftpb.HardState, entries []*raftpb.Entry) {
	t.Helper()
	if err := s.save(state, entries, true); err != nil {
		t.Fatal(err)
	}
}

// TestCrashBetweenInstallAndResetLeavesALogThatOpens: the rows of a snapshot are in
// place, the log still ends before it. What is written then must be found again.
func TestCrashBetweenInstallAndResetLeavesALogThatOpens(t *testing.T) {
	mem := newDisk(t)
	s := mustOpenStorage(t, mem, at(t, 1, 1))
	mustSave(t, s, hardState(2, 1, 10), entriesOf(2, 10, 2))
	// The process is killed with the snapshot at 100 installed and no reset written.
	p := at(t, 100, 3)
	s = mustOpenStorage(t, mem, p)
	mustSave(t, s, hardState(3, 1, 100), entriesOf(101, 103, 3))
	s = mustOpenStorage(t, mem, p)
	if last, err := s.LastIndex(); err != nil || last != 103 {
		t.Fatalf("last entry %d, %v", last, err)
	}
}

// TestEntriesOfAnotherHistoryDoNotComeBack: the log holds entries which the snapshot
// overrules, at the same places.
func TestEntriesOfAnotherHistoryDoNotComeBack(t *testing.T) {
	mem := newDisk(t)
	s := mustOpenStorage(t, mem, at(t, 1, 1))
	mustSave(t, s, hardState(2, 1, 1), entriesOf(2, 120, 2)) // never committed
	p := at(t, 100, 3)
	s = mustOpenStorage(t, mem, p)
	mustSave(t, s, hardState(3, 1, 100), entriesOf(101, 103, 3))
	// The rows move on, and the next process starts from there.
	s = mustOpenStorage(t, mem, at(t, 102, 3))
	first, err := s.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := first; i <= 100; i++ {
		if term, err := s.Term(i); err == nil && term == 2 {
			t.Fatalf("entry %d of the overruled term %d is in the log", i, term)
		}
	}
	if last, err := s.LastIndex(); err != nil || last != 103 {
		t.Fatalf("last entry %d, %v", last, err)
	}
}

// TestWhatWasReadAtStartLasts: a process is killed between write and sync; the next
// one reads the record, acts upon it, and then the power goes.
func TestWhatWasReadAtStartLasts(t *testing.T) {
	for seed := range uint64(60) {
		mem := newDisk(t)
		w, _ := mustOpenLog(t, mem)
		if err := w.append(kindAppend, numbered(1, 100), 1); err != nil {
			t.Fatal(err)
		}
		// The kill: written, not synced.
		if _, err := w.file.WriteAt(appendRecord(nil, w.salt, kindAppend, numbered(2, 3000)), w.off); err != nil {
			t.Fatal(err)
		}
		again, got := mustOpenLog(t, mem)
		if len(got) != 2 {
			t.Fatalf("%d records", len(got))
		}
		final, all, err := openLog(mem.Crash(rand.New(rand.NewPCG(seed, 4))))
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 2 {
			t.Fatalf("seed %d: the second process had 2 records, the third has %d", seed, len(all))
		}
		for _, l := range []*wal{w, again, final} {
			_ = l.close()
		}
	}
}

// TestSegmentReadAtStartLasts: the same for the name of a new segment, killed
// between its rename and the sync of the folder.
func TestSegmentReadAtStartLasts(t *testing.T) {
	for seed := range uint64(60) {
		mem := newDisk(t)
		w, _ := mustOpenLog(t, mem)
		if err := w.append(kindAppend, numbered(1, 1000), 1); err != nil {
			t.Fatal(err)
		}
		rule, err := disk.ParseRule("syncdir log err=EIO")
		if err != nil {
			t.Fatal(err)
		}
		heal := mem.Fail(rule)
		for i := uint64(2); err == nil; i++ {
			err = w.append(kindAppend, numbered(i, 1000), i)
		}
		heal()
		_ = w.close()
		again, got := mustOpenLog(t, mem)
		if len(again.segments) != 2 {
			t.Fatalf("%d segments", len(again.segments))
		}
		if err := again.append(kindAppend, numbered(100, 1000), 100); err != nil {
			t.Fatal(err)
		}
		crashed := mem.Crash(rand.New(rand.NewPCG(seed, 5)))
		_ = again.close()
		final, all, err := openLog(crashed)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != len(got)+1 {
			t.Fatalf("seed %d: record 100 was acknowledged and is lost: %d records, want %d", seed, len(all), len(got)+1)
		}
		_ = final.close()
	}
}

// TestReadyOfAnySizeIsWritten: a follower that was paused finds many full messages.
func TestReadyOfAnySizeIsWritten(t *testing.T) {
	mem := newDisk(t)
	s := mustOpenStorage(t, mem, at(t, 1, 1))
	entries := entriesOf(2, 70, 1)
	for _, e := range entries {
		e.Data = make([]byte, 1<<20)
	}
	if err := s.save(hardState(1, 1, 1), entries, true); err != nil {
		t.Fatal(err)
	}
}

// TestLostLogIsRefused: rows without the log that they came from have lost votes
// and acknowledged entries.
func TestLostLogIsRefused(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	for seq := uint64(1); seq <= 5; seq++ {
		g.retry(create(session, seq, inos.From+seq))
	}
	dir := g.leader().cfg.Dir
	g.stop(1, true)
	if err := os.RemoveAll(path.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	n, err := Start(Config{ID: 1, Dir: dir})
	if err == nil {
		_ = n.Close()
		t.Fatal("a master whose log is lost was started")
	}
	if !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
}

// TestBootstrapOverALogIsRefused: the rows are gone, the log is there.
func TestBootstrapOverALogIsRefused(t *testing.T) {
	g, session, inos := bootstrapped(t, 1)
	g.retry(create(session, 1, inos.From+1))
	dir := g.leader().cfg.Dir
	g.stop(1, true)
	if err := os.RemoveAll(path.Join(dir, "meta")); err != nil {
		t.Fatal(err)
	}
	n, err := Start(Config{ID: 1, Dir: dir, Bootstrap: true})
	if err == nil {
		_ = n.Close()
		t.Fatal("a second cluster was made over the log of the first")
	}
	if !errors.Is(err, ErrExists) && !strings.Contains(err.Error(), "log") {
		t.Fatal(err)
	}
	_ = dfs.NodeID(1)
}
