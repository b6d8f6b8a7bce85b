package meta

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dfs"
)

// place is where a byte of a file is kept; the zero place is a hole.
type place struct {
	chunk  dfs.ChunkID
	record uint32
	at     uint32
}

// placesOf is where each byte of a file is kept, by its extents.
func placesOf(t tester, v View, ino dfs.Ino) []place {
	attr, err := v.GetAttr(ino)
	if err != nil {
		t.Fatalf("%v", err)
	}
	all := make([]place, attr.Size)
	for off, more := uint64(0), true; more; {
		var list []dfs.Extent
		if list, more, err = v.Extents(ino, off, 7); err != nil {
			t.Fatalf("%v", err)
		}
		for _, e := range list {
			for i := range uint64(e.Len) {
				if all[e.Off+i] != (place{}) {
					t.Fatalf("byte %d is in two extents", e.Off+i)
				}
				all[e.Off+i] = place{e.Chunk, e.Record, e.Start + uint32(i)}
			}
			off = e.End()
		}
	}
	return all
}

// TestExtentsAreThoseOfEachByte writes, truncates, punches and copies at random, and compares
// with a model that knows of each byte where it is kept.
func TestExtentsAreThoseOfEachByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench(t)
		const files, sizeMax, recordBytes = 2, 64, 40
		var inos [files]dfs.Ino
		var model [files][]place
		for i := range inos {
			inos[i] = dfs.FirstIno + dfs.Ino(i)
			b.do(&Create{Parent: dfs.RootIno, Name: string(rune('a' + i)), Ino: inos[i], Mode: dfs.TypeFile | 0o644})
		}
		grow := func(f int, size uint64) {
			if n := int(size) - len(model[f]); n > 0 {
				model[f] = append(model[f], make([]place, n)...)
			}
		}
		committed := uint32(firstRecord)
		chunk := testChunk(1)
		number := func(name string, most uint64) uint64 { return rapid.Uint64Range(0, most).Draw(t, name) }
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			f := int(number("file", files-1))
			off := number("off", sizeMax)
			n := number("n", recordBytes-1) + 1
			switch number("kind", 5) {
			case 0, 1: // write
				start := number("start", recordBytes-n)
				e := dfs.Extent{Off: off, Len: uint32(n), Chunk: chunk, Record: committed, RecordLen: recordBytes, Start: uint32(start)}
				b.do(&Commit{
					Files:  []FileCommit{{Ino: inos[f], Extents: []dfs.Extent{e}, SizeMin: e.End()}},
					Chunks: []ChunkCommit{{Chunk: chunk, Committed: committed + dfs.PageBytes, Servers: []dfs.NodeID{1, 2, 3}}},
				})
				grow(f, off+n)
				for i := range n {
					model[f][off+i] = place{chunk, committed, uint32(start + i)}
				}
				committed += dfs.PageBytes
			case 2: // truncate
				b.do(&SetAttr{Ino: inos[f], Size: &off})
				grow(f, off)
				model[f] = model[f][:off]
			case 3:
				mode := rapid.SampledFrom([]uint32{0, dfs.FallocKeepSize, dfs.FallocPunchHole | dfs.FallocKeepSize, dfs.FallocZeroRange, dfs.FallocZeroRange | dfs.FallocKeepSize}).Draw(t, "mode")
				b.do(&Fallocate{Ino: inos[f], Mode: mode, Off: off, Len: n})
				if mode&dfs.FallocKeepSize == 0 {
					grow(f, off+n)
				}
				if mode&^dfs.FallocKeepSize != 0 && off < uint64(len(model[f])) {
					clear(model[f][off:min(off+n, uint64(len(model[f])))])
				}
			default:
				to, toOff := int(number("to", files-1)), number("to off", sizeMax)
				size := uint64(len(model[f]))
				want := min(n, max(size, off)-off)
				if f == to && off < toOff+want && toOff < off+want {
					if rep := b.try(&CopyRange{inos[f], off, inos[to], toOff, n}); rep.Errno != dfs.EINVAL {
						t.Fatalf("overlapping: %v", rep.Errno)
					}
					break
				}
				if rep := b.do(&CopyRange{inos[f], off, inos[to], toOff, n}); rep.Copied != want {
					t.Fatalf("%d bytes copied, want %d", rep.Copied, want)
				}
				if want > 0 {
					grow(to, toOff+want)
					copy(model[to][toOff:], model[f][off:off+want])
				}
			}
			for i := range inos {
				got := placesOf(t, b.view(), inos[i])
				if len(got) != len(model[i]) {
					t.Fatalf("file %d has %d bytes, want %d", i, len(got), len(model[i]))
				}
				for at := range got {
					if got[at] != model[i][at] {
						t.Fatalf("byte %d of file %d is at %+v, want %+v", at, i, got[at], model[i][at])
					}
				}
			}
			small, err := b.view().SmallFiles(inos[0], inos[0]+files, true)
			for _, f := range small {
				list, more, lerr := b.view().Extents(f.Attr.Ino, 0, smallExtents+1)
				if attr, aerr := b.view().GetAttr(f.Attr.Ino); more || lerr != nil || aerr != nil || attr != f.Attr || !slices.Equal(list, f.Extents) {
					t.Fatalf("together with others file %d has %+v and %v, else %+v and %v", f.Attr.Ino, f.Attr, f.Extents, attr, list)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			b.check() // live bytes of chunks, too
		}
	})
}

// TestManyExtentsTakeManyCommands: what one command does has a bound.
func TestManyExtentsTakeManyCommands(t *testing.T) {
	b := newBench(t)
	const n = extentsEach + extentsEach/2
	from, to := dfs.FirstIno, dfs.FirstIno+1
	for i, ino := range []dfs.Ino{from, to} {
		b.do(&Create{Parent: dfs.RootIno, Name: string(rune('a' + i)), Ino: ino, Mode: dfs.TypeFile | 0o644})
	}
	commit := &Commit{Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: firstRecord + dfs.PageBytes, Servers: []dfs.NodeID{1, 2, 3}}}}
	file := FileCommit{Ino: from}
	for i := range uint64(n) {
		file.Extents = append(file.Extents, dfs.Extent{Off: 10 * i, Len: 5, Chunk: testChunk(1), Record: firstRecord, RecordLen: 100})
	}
	commit.Files = []FileCommit{file}
	b.do(commit)
	size := uint64(10*n - 5)
	commands := 0
	for done := uint64(0); done < size; commands++ {
		rep := b.do(&CopyRange{from, done, to, done, size - done})
		if rep.Copied == 0 {
			t.Fatal("nothing is copied")
		}
		done += rep.Copied
	}
	if commands != 2 {
		t.Errorf("copied by %d commands, want 2", commands)
	}
	if got, want := placesOf(t, b.view(), to), placesOf(t, b.view(), from); len(got) != len(want) {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	commands = 1
	punch := &Fallocate{Ino: from, Mode: dfs.FallocPunchHole | dfs.FallocKeepSize, Len: size}
	for b.do(punch).More {
		commands++
	}
	if commands != 2 {
		t.Errorf("punched by %d commands, want 2", commands)
	}
	if attr, err := b.view().GetAttr(from); err != nil || attr.Alloc != 0 || attr.Size != size {
		t.Errorf("%d bytes of %d are left: %v", attr.Alloc, attr.Size, err)
	}
	b.check()
}
