package chunk_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/record"
	"dfs/internal/disk"
	"dfs/internal/disk/disktest"
)

// noPace lets all bytes go.
func noPace(int) error { return nil }

// copyOf answers the records of a chunk of a store, as Restore wants them.
func copyOf(t testing.TB, s *chunk.Store, id dfs.ChunkID, end uint32) func() (record.Header, []byte, error) {
	t.Helper()
	r := &rawReader{t: t, s: s, id: id, off: dfs.FirstRecord, end: end}
	return record.NewStream(r, dfs.FirstRecord).Next
}

type rawReader struct {
	t        testing.TB
	s        *chunk.Store
	id       dfs.ChunkID
	off, end uint32
}

func (r *rawReader) Read(p []byte) (int, error) {
	if r.off >= r.end {
		return 0, io.EOF
	}
	raw, err := r.s.ReadRaw(r.id, r.off, p[:min(len(p), int(r.end-r.off))])
	if err != nil {
		return 0, err
	}
	r.off += uint32(len(raw.Data))
	return copy(p, raw.Data), nil
}

// fill makes a sealed chunk with records of some sizes.
func fill(t testing.TB, s *chunk.Store, seq uint64) (records []chunk.Record, end uint32) {
	t.Helper()
	end = dfs.FirstRecord
	for i, n := range []int{1, 100, 4096, 5000, 70_000, dfs.RecordBytes, 300_001} {
		r := testRecord(uint64(i), seq, end, n)
		if i == 1 {
			r.Intents = []byte("what it is part of")
		}
		end = appendOK(t, s, r)
		records = append(records, r)
	}
	if got, err := s.Seal(records[0].Chunk); err != nil || got != end {
		t.Fatalf("sealed at %d, %v, want %d", got, err, end)
	}
	return records, end
}

func TestRestoredFragmentIsWhole(t *testing.T) {
	mem := disk.NewMem()
	from := open(t, disk.NewMem(), chunk.Config{Node: 1, Cluster: 9})
	to := open(t, mem, chunk.Config{Node: 2, Cluster: 9})
	records, end := fill(t, from, 5)
	id := records[0].Chunk
	l := chunk.Lost{Chunk: id, Fragment: 2, Session: 7, End: end}
	if err := to.Restore(l, copyOf(t, from, id, end)); err != nil {
		t.Fatal(err)
	}
	check := func(s *chunk.Store) {
		t.Helper()
		if info, ok := s.Stat(id); !ok || info.Fragment != 2 || info.End != end || !info.Sealed {
			t.Fatalf("restored as %+v", info)
		}
		for _, r := range records {
			r.Fragment = 2
			readOK(t, s, r)
		}
		if err := s.Verify(id, end, noPace); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Seal(id); err != nil || got != end {
			t.Fatalf("sealed at %d, %v", got, err)
		}
		list, err := s.Intents(id, 0)
		if err != nil || len(list.Records) != len(records) || string(list.Records[1].Intents) != string(records[1].Intents) {
			t.Fatalf("intents %+v, %v", list, err)
		}
		r := testRecord(1, 5, end, 10)
		r.Fragment = 2
		if _, err := s.Append(r); !errors.Is(err, dfs.ESTALE) {
			t.Errorf("append to a restored chunk: %v, want ESTALE", err)
		}
	}
	check(to)
	// It lasts: the power goes at once.
	check(open(t, mem.Crash(rand.New(rand.NewPCG(1, 2))), chunk.Config{}))
}

func TestRestoreTakesThePlaceOfWhatIsDamaged(t *testing.T) {
	from := open(t, disk.NewMem(), chunk.Config{Node: 1, Cluster: 9})
	mem := disk.NewMem()
	to := open(t, mem, chunk.Config{Node: 2, Cluster: 9})
	records, end := fill(t, from, 5)
	fill(t, to, 5)
	id := records[0].Chunk
	name, err := to.Path(id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := mem.Flip(name, int64(records[4].Offset)+9000, 4); err != nil {
		t.Fatal(err)
	}
	if err := to.Verify(id, end, noPace); !errors.Is(err, dfs.EIO) {
		t.Fatalf("a flipped bit was not found: %v", err)
	}
	if err := to.Restore(chunk.Lost{Chunk: id, Session: 7, End: end}, copyOf(t, from, id, end)); err != nil {
		t.Fatal(err)
	}
	if err := to.Verify(id, end, noPace); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		readOK(t, to, r)
	}
}

// TestRestoreThatFailsLeavesAllAsItWas: what the source lacks, what is damaged on the way, and a
// crash at any write.
func TestRestoreThatFailsLeavesAllAsItWas(t *testing.T) {
	from := open(t, disk.NewMem(), chunk.Config{Node: 1, Cluster: 9})
	records, end := fill(t, from, 5)
	id := records[0].Chunk
	mem := disk.NewMem()
	to := open(t, mem, chunk.Config{Node: 2, Cluster: 9})
	short := records[len(records)-1].Offset
	if err := to.Restore(chunk.Lost{Chunk: id, Session: 7, End: end}, copyOf(t, from, id, short)); !errors.Is(err, dfs.EIO) {
		t.Errorf("a source without the last record: %v, want EIO", err)
	}
	broken := errors.New("broken")
	n := 0
	next := copyOf(t, from, id, end)
	err := to.Restore(chunk.Lost{Chunk: id, Session: 7, End: end}, func() (record.Header, []byte, error) {
		if n++; n == 4 {
			return record.Header{}, nil, broken
		}
		return next()
	})
	if !errors.Is(err, broken) {
		t.Errorf("a source that breaks: %v", err)
	}
	next = copyOf(t, from, id, end)
	err = to.Restore(chunk.Lost{Chunk: id, Session: 8, End: end}, next)
	if !errors.Is(err, dfs.EIO) {
		t.Errorf("another session's chunk: %v, want EIO", err)
	}
	if _, ok := to.Stat(id); ok {
		t.Error("something of the chunk is there")
	}
	if err := to.Restore(chunk.Lost{Chunk: id, Session: 7, End: end}, copyOf(t, from, id, end)); err != nil {
		t.Error(err)
	}
}

// TestRestoreNeverHasMuchToSync: programs whose bytes go to the same disk would wait for it.
func TestRestoreNeverHasMuchToSync(t *testing.T) {
	mem := disk.NewMem()
	from := open(t, disk.NewMem(), chunk.Config{Node: 1, Cluster: 9})
	to := open(t, mem, chunk.Config{Node: 2, Cluster: 9})
	end, id := uint32(dfs.FirstRecord), dfs.ChunkID(0)
	const records = 16
	for i := range records {
		r := testRecord(uint64(i), 5, end, dfs.RecordBytes)
		end, id = appendOK(t, from, r), r.Chunk
	}
	if _, err := from.Seal(id); err != nil {
		t.Fatal(err)
	}
	disktest.Fail(t, mem, "sync *.part")
	next, n := copyOf(t, from, id, end), 0
	err := to.Restore(chunk.Lost{Chunk: id, Fragment: 2, Session: 7, End: end}, func() (record.Header, []byte, error) {
		n++
		return next()
	})
	if !errors.Is(err, dfs.EIO) || n >= records/2 {
		t.Errorf("%d of %d records were written before the first sync: %v", n, records, err)
	}
}
