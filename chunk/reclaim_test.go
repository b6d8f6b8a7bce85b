package chunk_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/record"
	"dfs/internal/disk"
)

// spanOf is where a record lies.
func spanOf(r chunk.Record) chunk.Span {
	return chunk.Span{From: r.Offset, To: r.Offset + uint32(dfs.RecordSpace(len(r.Data)))}
}

func gone(t testing.TB, s *chunk.Store, r chunk.Record) {
	t.Helper()
	_, err := s.Read(record.Piece{Chunk: r.Chunk, Fragment: r.Fragment, Record: r.Offset, Len: 1}, nil)
	if !errors.Is(err, dfs.ENOENT) && !errors.Is(err, dfs.EIO) {
		t.Errorf("record at %d: %v, want that it is not there", r.Offset, err)
	}
}

func TestReclaimTakesOnlyWhatIsDead(t *testing.T) {
	mem := disk.NewMem()
	s := open(t, mem, chunk.Config{Node: 1, Cluster: 9})
	records, end := fill(t, s, 5)
	id := records[0].Chunk
	// Live: the second, the fifth and the last.
	live := []chunk.Span{spanOf(records[1]), spanOf(records[4]), spanOf(records[6])}
	check := func(s *chunk.Store) {
		t.Helper()
		for _, i := range []int{1, 4, 6} {
			readOK(t, s, records[i])
		}
		gone(t, s, records[5])
		gone(t, s, records[3])
		readOK(t, s, records[0]) // too small to be worth a hole
		if err := s.Verify(id, end, noPace); err != nil {
			t.Error(err)
		}
	}
	freed, err := s.Reclaim(id, end, live)
	if err != nil || freed < dfs.RecordBytes {
		t.Fatalf("%d bytes given back, %v", freed, err)
	}
	check(s)
	if again, err := s.Reclaim(id, end, live); err != nil || again != 0 {
		t.Errorf("once more: %d bytes, %v", again, err)
	}
	check(open(t, mem.Crash(rand.New(rand.NewPCG(1, 2))), chunk.Config{}))
	// More dies: holes grow together.
	if _, err := s.Reclaim(id, end, live[2:]); err != nil {
		t.Fatal(err)
	}
	readOK(t, s, records[6])
	gone(t, s, records[1])
	if err := s.Verify(id, end, noPace); err != nil {
		t.Error(err)
	}
	// A copy of it has the same holes.
	to := open(t, disk.NewMem(), chunk.Config{Node: 2, Cluster: 9})
	if err := to.Restore(chunk.Lost{Chunk: id, Fragment: 1, Session: 7, End: end}, copyOf(t, s, id, end)); err != nil {
		t.Fatal(err)
	}
	last := records[6]
	last.Fragment = 1
	readOK(t, to, last)
	gone(t, to, records[5])
	if err := to.Verify(id, end, noPace); err != nil {
		t.Error(err)
	}
}

// TestReclaimRefusesWhatItDoesNotUnderstand: bounds that cut a record change nothing.
func TestReclaimRefusesWhatItDoesNotUnderstand(t *testing.T) {
	s := open(t, disk.NewMem(), chunk.Config{Node: 1, Cluster: 9})
	records, end := fill(t, s, 5)
	id := records[0].Chunk
	inside := chunk.Span{From: records[5].Offset + 100*dfs.PageBytes, To: records[5].Offset + 101*dfs.PageBytes}
	for name, live := range map[string][]chunk.Span{
		"within a record": {inside},
		"not in order":    {spanOf(records[6]), spanOf(records[1])},
		"beyond the end":  {{end, end + dfs.PageBytes}},
		"backwards":       {{records[6].Offset, records[5].Offset}},
	} {
		if _, err := s.Reclaim(id, end, live); !errors.Is(err, dfs.EINVAL) && !errors.Is(err, dfs.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, r := range records[5:] {
		readOK(t, s, r)
	}
	if err := s.Verify(id, end, noPace); err != nil {
		t.Error(err)
	}
	if _, err := s.Reclaim(dfs.MakeChunkID(dfs.DefaultLayout, 99), end, nil); !errors.Is(err, dfs.ENOENT) {
		t.Errorf("a chunk that is not here: %v", err)
	}
}

// TestCrashWhileReclaiming: whatever reaches the disk of what was not synced, live records
// are there, and the fragment is whole or known not to be.
func TestCrashWhileReclaiming(t *testing.T) {
	for seed := range uint64(40) {
		mem := disk.NewMem()
		s := open(t, mem, chunk.Config{Node: 1, Cluster: 9})
		records, end := fill(t, s, 5)
		id := records[0].Chunk
		live := []chunk.Span{spanOf(records[2]), spanOf(records[4]), spanOf(records[6])}
		rng := rand.New(rand.NewPCG(seed, 3))
		var after *disk.Mem
		n := rng.IntN(6)
		remove := mem.Fail(disk.Rule{Op: disk.OpWrite, Path: "*", After: n, Times: 1, Do: func() { after = mem.Crash(rng) }})
		if _, err := s.Reclaim(id, end, live); err != nil {
			t.Fatal(err)
		}
		remove()
		if after == nil {
			after = mem.Crash(rng)
		}
		again := open(t, after, chunk.Config{})
		for _, i := range []int{2, 4, 6} {
			readOK(t, again, records[i])
		}
		if err := again.Verify(id, end, noPace); err != nil && !errors.Is(err, dfs.EIO) {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}
