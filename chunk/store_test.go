package chunk_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"dfs"
	"dfs/chunk"
	"dfs/internal/disk"
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

// record makes a record of n random bytes in copies=3.
func record(seed uint64, seq uint64, off uint32, n int) chunk.Record {
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
	got, err := s.Read(chunk.Piece{Chunk: r.Chunk, Fragment: r.Fragment, Record: r.Offset, Len: uint32(len(r.Data))}, nil)
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
				r := record(uint64(i), 1, off, n)
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
			r := record(100, 1, off, 3000)
			off = appendOK(t, s, r)
			readOK(t, s, r)
			if end, err := s.Seal(r.Chunk); err != nil || end != off {
				t.Fatalf("sealed at %d: %v", end, err)
			}
			_, err = s.Append(record(101, 1, off, 10))
			wantErrno(t, err, dfs.ESTALE)
		})
	}
}
