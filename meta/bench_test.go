package meta

import (
	"fmt"
	"testing"

	"dfs"
)

func BenchmarkCreate(b *testing.B) {
	bb := newBench(b)
	var grant Range
	sets := bb.table.sets
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if grant.Len() == 0 {
			grant = bb.do(&GrantIDs{Inodes: true}).Inodes
		}
		bb.do(&Create{Parent: 1, Name: fmt.Sprintf("file-%d", i), Ino: dfs.Ino(grant.From), Mode: dfs.TypeFile | 0o644})
		grant.From++
	}
	b.ReportMetric(float64(bb.table.sets-sets)/float64(b.N), "sets/op")
}

// BenchmarkCommit appends 64 KiB to one file with each command.
func BenchmarkCommit(b *testing.B) {
	bb := newBench(b)
	bb.do(&Create{Parent: 1, Name: "f", Ino: 16, Mode: dfs.TypeFile | 0o644})
	chunk, end := uint64(1), uint32(firstRecord)
	const bytes = 64 << 10
	sets := bb.table.sets
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		record := end
		end += 2*dfs.PageBytes + bytes
		sealed := end+bytes+2*dfs.PageBytes > dfs.ChunkBytes
		bb.do(&Commit{
			Chunks: []ChunkCommit{{Chunk: testChunk(chunk), Committed: end, Servers: allThree(), Sealed: sealed}},
			Files: []FileCommit{{Ino: 16, Extents: []dfs.Extent{
				{Off: uint64(i) * bytes, Len: bytes, Chunk: testChunk(chunk), Record: record, RecordLen: bytes}}}},
		})
		if sealed {
			chunk, end = chunk+1, firstRecord
			if chunk%chunksGrant == 1 {
				bb.do(&GrantIDs{Chunks: true})
			}
		}
	}
	b.ReportMetric(float64(bb.table.sets-sets)/float64(b.N), "sets/op")
}

// BenchmarkCommitManyFiles commits 100 files of 4 KiB with each command.
func BenchmarkCommitManyFiles(b *testing.B) {
	bb := newBench(b)
	const files = 100
	for i := range dfs.Ino(files) {
		bb.do(&Create{Parent: 1, Name: fmt.Sprint(i), Ino: 16 + i, Mode: dfs.TypeFile | 0o644})
	}
	bb.do(&Commit{Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: 1 << 20, Servers: allThree()}}})
	b.ReportAllocs()
	for b.Loop() {
		c := &Commit{}
		for i := range dfs.Ino(files) {
			c.Files = append(c.Files, FileCommit{Ino: 16 + i, Extents: []dfs.Extent{
				{Len: 4096, Chunk: testChunk(1), Record: 4096, RecordLen: files * 4096, Start: uint32(i) * 4096}}})
		}
		bb.do(c)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
}
