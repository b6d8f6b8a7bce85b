package chunk_test

import (
	"bytes"
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/record"
	"dfs/internal/disk"
)

var (
	crashSeed  = flag.Uint64("crash.seed", 0, "run this seed of the crash test only")
	crashSeeds = flag.Int("crash.seeds", 60, "seeds of the crash test")
)

// history is what was asked of a store, and what it acknowledged.
type history struct {
	mu      sync.Mutex
	records map[dfs.ChunkID]map[uint32]chunk.Record // all that were submitted
	acked   map[dfs.ChunkID]map[uint32]bool
	end     map[dfs.ChunkID]uint32 // of what was submitted
	sealed  map[dfs.ChunkID]uint32 // acknowledged
	deleted map[dfs.ChunkID]bool   // asked for
}

func newHistory() *history {
	return &history{
		records: map[dfs.ChunkID]map[uint32]chunk.Record{}, acked: map[dfs.ChunkID]map[uint32]bool{},
		end: map[dfs.ChunkID]uint32{}, sealed: map[dfs.ChunkID]uint32{}, deleted: map[dfs.ChunkID]bool{},
	}
}

// snapshot is what was acknowledged by now; it shares the records.
//
// +checklocks:h.mu
func (h *history) snapshot() *history {
	c := newHistory()
	for id, r := range h.records {
		c.records[id] = maps.Clone(r)
	}
	for id, a := range h.acked {
		c.acked[id] = maps.Clone(a)
	}
	c.end, c.sealed, c.deleted = maps.Clone(h.end), maps.Clone(h.sealed), maps.Clone(h.deleted)
	return c
}

// Crash at any operation of the disk, any number of times: what was acknowledged is
// there, byte for byte; of the rest nothing is served that was not written.
func TestCrashLosesNothingAcknowledged(t *testing.T) {
	if *crashSeed != 0 {
		crashRun(t, *crashSeed)
		return
	}
	for seed := range uint64(*crashSeeds) {
		if crashRun(t, seed+1); t.Failed() {
			t.Fatalf("seed %d; again with -crash.seed=%d", seed+1, seed+1)
		}
	}
}

func crashRun(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 99))
	m, h := disk.NewMem(), newHistory()
	for round := range 4 {
		var next *disk.Mem
		var after *history
		crashRng := rand.New(rand.NewPCG(seed, uint64(round)))
		crash := disk.Rule{Path: "*", Times: 1, Do: func() {
			h.mu.Lock() // nobody says that a chunk is to be deleted, and deletes it, in between
			defer h.mu.Unlock()
			after = h.snapshot() // before the crash: all of it must survive
			next = m.Crash(crashRng)
		}}
		remove := func() {}
		if rng.IntN(3) == 0 { // perhaps while the store is opened
			crash.After = rng.IntN(1200)
			remove = m.Fail(crash)
		}
		s, err := chunk.Open(chunk.Config{FS: m, Dirs: []string{"/a", "/b"}, FilesMax: 3})
		if err != nil {
			t.Errorf("round %d: open: %v", round, err)
			return
		}
		if checkHistory(t, s, h); t.Failed() {
			s.Close()
			return
		}
		if next == nil {
			remove()
			crash.After = rng.IntN(250)
			remove = m.Fail(crash)
		}
		work(s, h, rng)
		remove()
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
			return
		}
		if next == nil { // the work needed fewer operations
			h.mu.Lock()
			after, next = h.snapshot(), m.Crash(crashRng)
			h.mu.Unlock()
		}
		m, h = next, after
	}
}

// work does random things, some at once.
func work(s *chunk.Store, h *history, rng *rand.Rand) {
	var wg sync.WaitGroup
	for range 25 + rng.IntN(25) {
		id := dfs.MakeChunkID(dfs.DefaultLayout, rng.Uint64N(6)+256*rng.Uint64N(2))
		switch n := rng.IntN(20); {
		case n < 16:
			submit(s, h, id, rng, &wg)
		case n == 16:
			wg.Wait()
			if end, err := s.Seal(id); err == nil {
				h.mu.Lock()
				h.sealed[id] = end
				h.mu.Unlock()
			}
		case n == 17:
			wg.Wait()
			h.mu.Lock()
			h.deleted[id] = true
			h.mu.Unlock()
			_ = s.Delete(id)
			h.mu.Lock()
			delete(h.records, id)
			delete(h.acked, id)
			delete(h.sealed, id)
			h.mu.Unlock()
		default:
			wg.Wait()
		}
	}
	wg.Wait()
}

func submit(s *chunk.Store, h *history, id dfs.ChunkID, rng *rand.Rand, wg *sync.WaitGroup) {
	h.mu.Lock()
	off := max(h.end[id], dfs.FirstRecord)
	skip := h.deleted[id]
	h.mu.Unlock()
	if skip {
		return
	}
	r := testRecord(rng.Uint64(), id.Seq(), off, 1+rng.IntN([]int{100, 5000, 40000, 200000}[rng.IntN(4)]))
	if rng.IntN(2) == 0 {
		r.Intents = make([]byte, rng.IntN(min(300, dfs.IntentRoom(len(r.Data)))+1))
		for i := range r.Intents {
			r.Intents[i] = byte(rng.Uint32())
		}
	}
	h.mu.Lock()
	if h.records[id] == nil {
		h.records[id], h.acked[id] = map[uint32]chunk.Record{}, map[uint32]bool{}
	}
	h.records[id][off] = r
	h.end[id] = off + uint32(dfs.RecordSpace(len(r.Data)))
	h.mu.Unlock()
	wg.Add(1)
	s.Submit(r, func(_ uint32, err error) {
		defer wg.Done()
		h.mu.Lock()
		defer h.mu.Unlock()
		if err == nil {
			h.acked[id][off] = true
		}
	})
}

// checkIntents looks for the intents of a sealed chunk's records.
func checkIntents(t *testing.T, s *chunk.Store, h *history, id dfs.ChunkID) {
	if _, err := s.Seal(id); err != nil { // once more, since the store was opened
		t.Errorf("chunk %s: seal: %v", id, err)
		return
	}
	list, err := s.Intents(id, 0)
	if err != nil {
		t.Errorf("chunk %s: intents: %v", id, err)
		return
	}
	found := map[uint32][]byte{}
	for _, r := range list.Records {
		found[r.Record] = r.Intents
	}
	for off, r := range h.records[id] {
		intents, ok := found[off]
		if h.acked[id][off] && !ok || ok && !bytes.Equal(intents, r.Intents) {
			t.Errorf("chunk %s: the record at %d has the intents %x (%v), not %x", id, off, intents, ok, r.Intents)
		}
	}
}

// checkHistory compares a store that was opened after a crash with what was known
// before. What it finds beyond is settled: it is now acknowledged or forgotten.
func checkHistory(t *testing.T, s *chunk.Store, h *history) {
	for _, id := range slices.Sorted(maps.Keys(h.records)) {
		for off, r := range h.records[id] {
			got, err := s.Read(record.Piece{Chunk: id, Record: off, Len: uint32(len(r.Data))}, nil)
			switch {
			case err == nil && !bytes.Equal(got.Data, r.Data):
				t.Errorf("chunk %s: the record at %d reads as something else", id, off)
			case err != nil && h.acked[id][off] && !h.deleted[id]:
				t.Errorf("chunk %s: the record at %d was acknowledged and is lost: %v", id, off, err)
			case err == nil:
				h.acked[id][off] = true
			default:
				delete(h.records[id], off)
			}
		}
		if end, ok := h.sealed[id]; ok && !h.deleted[id] {
			info, there := s.Stat(id)
			if !there || !info.Sealed || info.End != end {
				t.Errorf("chunk %s was sealed at %d, now: %+v", id, end, info)
			}
			checkIntents(t, s, h, id)
		}
	}
	// Also of chunks that came between the snapshot and the crash.
	clear(h.end)
	s.List(func(i chunk.Info) bool {
		h.end[i.Chunk] = i.End
		if i.Damaged {
			t.Errorf("chunk %s is taken for damaged after a crash", i.Chunk)
		}
		return true
	})
}
