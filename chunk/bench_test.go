package chunk_test

import (
	"fmt"
	"os"
	"testing"

	"dfs"
	"dfs/chunk"
)

// BenchmarkAppend measures one writer that waits for each append, and one that has
// several under way, on a real disk: set DFS_BENCH_DIR to choose it.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ bytes, depth int }{{4 << 10, 1}, {4 << 10, 16}, {64 << 10, 1}, {1 << 20, 1}, {1 << 20, 8}} {
		b.Run(fmt.Sprintf("%dKiB/depth=%d", c.bytes>>10, c.depth), func(b *testing.B) {
			dir, err := os.MkdirTemp(os.Getenv("DFS_BENCH_DIR"), "bench")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			s, err := chunk.Open(chunk.Config{Dirs: []string{dir}})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			data := make([]byte, c.bytes)
			for i := range data {
				data[i] = byte(i * 7)
			}
			r := chunk.Record{Session: 1, RecordLen: uint32(len(data)), Data: data, CRCs: dfs.PageCRCs(nil, data)}
			space := uint32(dfs.RecordSpace(len(data)))
			slots := make(chan error, c.depth)
			for range c.depth {
				slots <- nil
			}
			seq, off := uint64(0), uint32(dfs.ChunkBytes)
			b.SetBytes(int64(c.bytes))
			b.ResetTimer()
			for range b.N {
				if err := <-slots; err != nil {
					b.Fatal(err)
				}
				if off+space > dfs.ChunkBytes {
					seq, off = seq+1, dfs.FirstRecord
				}
				r.Chunk, r.Offset = dfs.MakeChunkID(dfs.DefaultLayout, seq), off
				off += space
				s.Submit(r, func(_ uint32, err error) { slots <- err })
			}
			for range c.depth {
				if err := <-slots; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
