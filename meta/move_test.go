package meta

import (
	"slices"
	"testing"

	"dfs"
)

// TestMoveNeverUndoesAWrite: of what is moved only that takes its place which nobody has written
// over since it was read, and nothing else of the file changes.
func TestMoveNeverUndoesAWrite(t *testing.T) {
	b := newBench(t)
	ino := dfs.Ino(16)
	b.do(&Create{Parent: 1, Name: "f", Ino: ino, Mode: dfs.TypeFile | 0o644})
	const n = 64 << 10
	write := func(chunk uint64, record uint32, off uint64, f FileCommit) {
		t.Helper()
		f.Ino = ino
		f.Extents = []dfs.Extent{{Off: off, Len: n, Chunk: testChunk(chunk), Record: record, RecordLen: n}}
		r := b.do(&Commit{Chunks: []ChunkCommit{{Chunk: testChunk(chunk), Committed: 16 << 20, Servers: allThree()}}, Files: []FileCommit{f}})
		if r.Errno != dfs.OK || r.StaleMap {
			t.Fatalf("%v", r)
		}
	}
	extents := func() []dfs.Extent {
		t.Helper()
		list, _, err := NewView(b.table).Extents(ino, 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	attr := func() dfs.Attr {
		t.Helper()
		a, err := NewView(b.table).GetAttr(ino)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	write(1, firstRecord, 0, FileCommit{SizeMin: n})
	was, before := extents(), attr()
	write(2, firstRecord, 0, FileCommit{Move: true, Was: was})
	if got := extents(); len(got) != 1 || got[0].Chunk != testChunk(2) || attr() != before {
		t.Fatalf("moved to %v, %+v, was %+v", got, attr(), before)
	}
	// Somebody writes in the middle of it after it was read.
	was = extents()
	b.do(&Commit{Files: []FileCommit{{Ino: ino, Extents: []dfs.Extent{{Off: 4096, Len: 4096, Chunk: testChunk(1), Record: 1 << 20, RecordLen: n}}}}})
	now := extents()
	write(3, firstRecord, 0, FileCommit{Move: true, Was: was})
	if got := extents(); !slices.Equal(got, now) {
		t.Fatalf("a move has undone a write: %v, was %v", got, now)
	}
	// All that is there now is moved at once; of a part, that part.
	write(4, firstRecord, 0, FileCommit{Move: true, Was: now})
	if got := extents(); len(got) != 1 || got[0].Chunk != testChunk(4) {
		t.Fatalf("%v", got)
	}
	b.do(&SetAttr{Ino: ino, Size: new(uint64)})
	before = attr()
	write(5, firstRecord, 0, FileCommit{Move: true, Was: was})
	if got := extents(); len(got) > 0 || attr() != before {
		t.Fatalf("a move has made bytes: %v", got)
	}
	if problems := Check(b.table); len(problems) > 0 {
		t.Fatal(problems)
	}
}
