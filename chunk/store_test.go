package chunk_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/code"
	"dfs/chunk/record"
	"dfs/internal/disk"
	"dfs/internal/disk/disktest"
)

func open(t testing.TB, fs disk.FS, cfg chunk.Config) *chunk.Store {
	t.Helper()
	cfg.FS = fs
	if cfg.Dirs == nil {
		cfg.Dirs = []string{"/data"}
	}
	s, err := chunk.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// record makes a record of n random bytes in copies=3.
func testRecord(seed uint64, seq uint64, off uint32, n int) chunk.Record {
	data := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, seq))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return chunk.Record{
		Chunk: dfs.MakeChunkID(dfs.DefaultLayout, seq), Session: 7, Epoch: 3, Offset: off,
		RecordLen: uint32(n), Data: data, CRCs: dfs.PageCRCs(nil, data),
	}
}

func appendOK(t testing.TB, s *chunk.Store, r chunk.Record) uint32 {
	t.Helper()
	end, err := s.Append(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := r.Offset + uint32(dfs.RecordSpace(len(r.Data))); end != want {
		t.Fatalf("the chunk ends at %d, want %d", end, want)
	}
	return end
}

func readOK(t testing.TB, s *chunk.Store, r chunk.Record) {
	t.Helper()
	got, err := s.Read(record.Piece{Chunk: r.Chunk, Fragment: r.Fragment, Record: r.Offset, Len: uint32(len(r.Data))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Off != 0 || !bytes.Equal(got.Data, r.Data) {
		t.Fatalf("record at %d reads as something else", r.Offset)
	}
}

func wantErrno(t testing.TB, err error, want dfs.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func TestAppendedRecordsReadBackAfterReopen(t *testing.T) {
	for _, name := range []string{"mem", "os"} {
		t.Run(name, func(t *testing.T) {
			var fs disk.FS = disk.NewMem()
			dir := "/data"
			if name == "os" {
				fs, dir = disk.OS(), t.TempDir()
			}
			s, err := chunk.Open(chunk.Config{FS: fs, Dirs: []string{dir}})
			if err != nil {
				t.Fatal(err)
			}
			var all []chunk.Record
			off := uint32(dfs.FirstRecord)
			for i, n := range []int{1, 4028, 4029, 4096, 4097, 100000, 1 << 20, 5, 1<<20 - 1} {
				r := testRecord(uint64(i), 1, off, n)
				off = appendOK(t, s, r)
				all = append(all, r)
			}
			for _, r := range all {
				readOK(t, s, r)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, fs, chunk.Config{Dirs: []string{dir}})
			for _, r := range all {
				readOK(t, s, r)
			}
			r := testRecord(100, 1, off, 3000)
			off = appendOK(t, s, r)
			readOK(t, s, r)
			if end, err := s.Seal(r.Chunk); err != nil || end != off {
				t.Fatalf("sealed at %d: %v", end, err)
			}
			_, err = s.Append(testRecord(101, 1, off, 10))
			wantErrno(t, err, dfs.ESTALE)
		})
	}
}

func TestSameRecordAgainIsAcknowledged(t *testing.T) {
	m := disk.NewMem()
	s, err := chunk.Open(chunk.Config{FS: m, Dirs: []string{"/data"}})
	if err != nil {
		t.Fatal(err)
	}
	first := testRecord(1, 1, dfs.FirstRecord, 10000)
	second := testRecord(2, 1, appendOK(t, s, first), 100)
	end := appendOK(t, s, second)
	for range 2 {
		appendOK(t, s, first)
		appendOK(t, s, second)
		other := testRecord(3, 1, dfs.FirstRecord, 10000)
		_, err := s.Append(other)
		wantErrno(t, err, dfs.EINVAL)
		_, err = s.Append(testRecord(1, 1, dfs.FirstRecord+4096, 10))
		wantErrno(t, err, dfs.EINVAL)
		if info, _ := s.Stat(first.Chunk); info.End != end {
			t.Fatalf("the chunk ends at %d, want %d", info.End, end)
		}
		// Once more, as found by the next process.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, m, chunk.Config{})
	}
	appendOK(t, s, testRecord(4, 1, end, 100))
	readOK(t, s, first)
}

// The bytes that a killed process left in the kernel's memory are no proof: when the
// same record comes again they are written and synced again.
func TestRecordAgainAfterAKillIsReallyOnDisk(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	first := testRecord(1, 1, dfs.FirstRecord, 9000)
	second := testRecord(2, 1, appendOK(t, s, first), 9000)
	disktest.Fail(t, m, "sync "+path.Base(file(second))+" times=1")
	_, err := s.Append(second)
	wantErrno(t, err, dfs.EIO)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, m, chunk.Config{}) // reads what the failed sync left in memory
	appendOK(t, s, second)
	for seed := range uint64(20) {
		readOK(t, open(t, m.Crash(rand.New(rand.NewPCG(seed, 1))), chunk.Config{}), second)
	}
}

func TestAppendNeedsTheRightSessionFragmentAndEnd(t *testing.T) {
	s := open(t, disk.NewMem(), chunk.Config{})
	r := testRecord(1, 1, dfs.FirstRecord, 100)
	end := appendOK(t, s, r)
	next := testRecord(2, 1, end, 100)
	for want, change := range map[dfs.Errno]func(r *chunk.Record){
		dfs.ESTALE: func(r *chunk.Record) { r.Session++ },
		dfs.EINVAL: func(r *chunk.Record) { r.Offset += 4096 },
		dfs.EIO:    func(r *chunk.Record) { r.CRCs = []uint32{1} },
	} {
		bad := next
		change(&bad)
		_, err := s.Append(bad)
		wantErrno(t, err, want)
	}
	bad := next
	bad.Fragment = 1
	_, err := s.Append(bad)
	wantErrno(t, err, dfs.EINVAL)
	_, err = s.Append(testRecord(1, 9, end, 100)) // no such chunk
	wantErrno(t, err, dfs.EINVAL)
	appendOK(t, s, next)
	if err := s.Delete(r.Chunk); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(r.Chunk); err != nil {
		t.Fatal(err)
	}
	_, err = s.Seal(r.Chunk)
	wantErrno(t, err, dfs.ENOENT)
	_, err = s.Read(record.Piece{Chunk: r.Chunk, Record: r.Offset, Len: 1}, nil)
	wantErrno(t, err, dfs.ENOENT)
}

func TestChunkIsFullAtItsLimit(t *testing.T) {
	s := open(t, disk.NewMem(), chunk.Config{})
	off, n := uint32(dfs.FirstRecord), 0
	for ; off+uint32(dfs.RecordSpace(1<<20)) <= dfs.ChunkBytes; n++ {
		off = appendOK(t, s, testRecord(uint64(n), 1, off, 1<<20))
	}
	_, err := s.Append(testRecord(1, 1, off, 1<<20))
	wantErrno(t, err, dfs.EINVAL)
	for off < dfs.ChunkBytes { // small ones still fit, to the last byte
		off = appendOK(t, s, testRecord(uint64(off), 1, off, 4000))
	}
	_, err = s.Append(testRecord(1, 1, off, 1))
	wantErrno(t, err, dfs.EINVAL)
}

func TestReadAnswersWholePages(t *testing.T) {
	s := open(t, disk.NewMem(), chunk.Config{})
	r := testRecord(1, 1, dfs.FirstRecord, 100001)
	appendOK(t, s, r)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		off := uint32(rng.IntN(len(r.Data)))
		n := uint32(1 + rng.IntN(30000))
		p := record.Piece{Chunk: r.Chunk, Fragment: 2, Record: r.Offset, Off: off, Len: n} // copies are all the same
		buf := make([]byte, p.BufBytes())
		got, err := s.Read(p, buf)
		if err != nil {
			t.Fatal(err)
		}
		from, to := off/4096*4096, min((off+n+4095)/4096*4096, uint32(len(r.Data)))
		if got.Off != from || !bytes.Equal(got.Data, r.Data[from:to]) || dfs.CheckPages(0, got.Data, got.CRCs) != nil {
			t.Fatalf("%d bytes at %d: %d bytes at %d", n, off, len(got.Data), got.Off)
		}
		if &got.Data[0] != &buf[0] {
			t.Fatal("the buffer was not used")
		}
	}
	for _, p := range []record.Piece{
		{Chunk: r.Chunk, Record: r.Offset, Off: 100001, Len: 1},
		{Chunk: r.Chunk, Record: r.Offset, Len: 0},
		{Chunk: r.Chunk, Record: r.Offset + 1, Len: 1},
		{Chunk: r.Chunk, Record: 0, Len: 1},
		{Chunk: r.Chunk, Record: r.Offset, Off: 1<<32 - 1, Len: 1<<32 - 1},
	} {
		_, err := s.Read(p, nil)
		wantErrno(t, err, dfs.EINVAL)
	}
	_, err := s.Read(record.Piece{Chunk: r.Chunk, Record: r.Offset + 1<<20, Len: 1}, nil)
	wantErrno(t, err, dfs.ENOENT)
	_, err = s.Read(record.Piece{Chunk: r.Chunk, Record: r.Offset + 8192, Len: 1}, nil) // in the middle of the payload
	wantErrno(t, err, dfs.EIO)
}

func TestErasureCodedFragmentsAreKeptApart(t *testing.T) {
	l, err := dfs.EC(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	data := testRecord(1, 1, 0, 50001).Data
	fragments, err := code.Encode(l, data)
	if err != nil {
		t.Fatal(err)
	}
	have := make([][]byte, len(fragments))
	for i, f := range fragments {
		s := open(t, disk.NewMem(), chunk.Config{})
		r := chunk.Record{
			Chunk: dfs.MakeChunkID(l, 1), Fragment: uint32(i), Session: 1, Offset: dfs.FirstRecord,
			RecordLen: uint32(len(data)), CRCs: f.CRCs, Data: f.Data,
		}
		appendOK(t, s, r)
		got, err := s.Read(record.Piece{Chunk: r.Chunk, Fragment: uint32(i), Record: r.Offset, Len: 1 << 20}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if i != 0 && i != 2 {
			have[i] = got.Data
		}
		_, err = s.Read(record.Piece{Chunk: r.Chunk, Fragment: uint32(i+1) % 6, Record: r.Offset, Len: 1}, nil)
		wantErrno(t, err, dfs.ENOENT)
	}
	if got, err := code.Decode(l, len(data), have); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("decoded to something else: %v", err)
	}
}

func TestAppendsThatComeDuringASyncShareTheNext(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	off := appendOK(t, s, testRecord(1, 1, dfs.FirstRecord, 40000)) // large enough that no zeros are written ahead
	var all []chunk.Record
	for i := range 50 {
		all = append(all, testRecord(uint64(2+i), 1, off, 40000))
		off += uint32(dfs.RecordSpace(40000))
	}
	disktest.Fail(t, m, "sync *.0 delay=200ms times=1")
	before := s.Stats().Syncs
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Add(1)
		s.Submit(r, func(_ uint32, err error) {
			defer wg.Done()
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.Stats().Syncs - before; n > 10 {
		t.Fatalf("50 appends took %d syncs", n)
	}
}

func TestOpenFilesAreBounded(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{FilesMax: 4})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 25 {
				r := testRecord(uint64(i), uint64(w*25+i), dfs.FirstRecord, 6000)
				if _, err := s.Append(r); err != nil {
					t.Error(err)
					return
				}
				p := record.Piece{Chunk: r.Chunk, Record: r.Offset, Len: 6000}
				if got, err := s.Read(p, nil); err != nil || !bytes.Equal(got.Data, r.Data) {
					t.Error(err)
				}
				if i%3 == 0 {
					if err := s.Delete(r.Chunk); err != nil {
						t.Error(err)
					}
				}
				if i%3 == 1 {
					if _, err := s.Seal(r.Chunk); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := s.Stats().OpenFiles; n > 4 {
		t.Fatalf("%d files are open", n)
	}
	if n := s.Stats().Fragments; n != 8*16 {
		t.Fatalf("%d fragments", n)
	}
	if ids := s.Chunks(); len(ids) != 8*16 || !slices.IsSorted(ids) {
		t.Fatalf("listed %v", ids)
	}
}

func TestNewChunksGoToTheEmptiestDisk(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{Dirs: []string{"/a", "/b"}, LookInterval: time.Millisecond})
	disktest.Fail(t, m, "usage a")
	waitFor(t, "somebody notices that a disk is gone", func() bool { return s.Check() != nil })
	r := testRecord(1, 1, dfs.FirstRecord, 100)
	appendOK(t, s, r)
	if info, _ := s.Stat(r.Chunk); info.Dir != "/b" {
		t.Fatalf("the chunk is in %s", info.Dir)
	}
}

func TestClosedStoreRefuses(t *testing.T) {
	s := open(t, disk.NewMem(), chunk.Config{})
	r := testRecord(1, 1, dfs.FirstRecord, 100)
	end := appendOK(t, s, r)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Append(testRecord(2, 1, end, 100))
	if !errors.Is(err, chunk.ErrClosed) {
		t.Fatal(err)
	}
	if _, err = s.Append(testRecord(2, 2, dfs.FirstRecord, 100)); !errors.Is(err, chunk.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := s.Seal(r.Chunk); !errors.Is(err, chunk.ErrClosed) {
		t.Fatal(err)
	}
}

// A chunk whose writer never came back is read as a whole once, not at each start.
func TestRecordsCheckedAtOneStartAreNotReadAtTheNext(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	first := testRecord(1, 1, dfs.FirstRecord, 1<<20)
	end := appendOK(t, s, first)
	appendOK(t, s, testRecord(2, 1, end, 1<<20))
	for start, max := range []int{100, 2, 2} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		reads := 0
		remove := m.Fail(disk.Rule{Op: disk.OpRead, Path: path.Base(file(first)), Do: func() { reads++ }})
		s = open(t, m, chunk.Config{})
		remove()
		if reads > max {
			t.Fatalf("start %d read the file %d times", start, reads)
		}
		readOK(t, s, first)
	}
	next := testRecord(3, 1, end+uint32(dfs.RecordSpace(1<<20)), 1<<20)
	appendOK(t, s, next)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	readOK(t, open(t, m, chunk.Config{}), next)
}
