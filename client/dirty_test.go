package client

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"dfs"
	appender "dfs/client/append"
)

func TestDirtyListHoldsExactlyWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const space = 3 << 20
		model := make([]byte, space)
		written := make([]bool, space)
		var d dirtyList
		live := 0
		alloc := func(n int) *appender.Buffer {
			if n > dfs.RecordBytes {
				rt.Fatalf("buffer of %d bytes", n)
			}
			live++
			return appender.NewBuffer(bytes.Repeat([]byte{0xdd}, n), func(*appender.Buffer) { live-- })
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			off := rapid.OneOf(rapid.IntRange(0, space-1), rapid.IntRange(0, 20_000), rapid.Just(int(d.end()))).Draw(rt, "off")
			n := rapid.OneOf(rapid.IntRange(1, 9000), rapid.IntRange(1, 2<<20)).Draw(rt, "len")
			if off >= space {
				continue
			}
			n = min(n, space-off)
			if rapid.IntRange(0, 9).Draw(rt, "cut") == 0 {
				d.cut(int64(off))
				clear(written[off:])
				continue
			}
			p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(rt, "byte"))}, n)
			if got := d.write(p, int64(off), alloc); got != n {
				rt.Fatalf("wrote %d of %d", got, n)
			}
			copy(model[off:], p)
			for i := range n {
				written[off+i] = true
			}
		}
		var sum int64
		end := int64(0)
		for i := range d.segs {
			s := &d.segs[i]
			if s.off < end || s.n == 0 {
				rt.Fatalf("segment of %d at %d overlaps the one before, or is empty", s.n, s.off)
			}
			if s.off/dfs.RecordBytes != (s.end()-1)/dfs.RecordBytes {
				rt.Fatalf("segment of %d at %d crosses a record's boundary", s.n, s.off)
			}
			for j := end; j < s.off; j++ {
				if written[j] {
					rt.Fatalf("byte %d is missing", j)
				}
			}
			for j, b := range s.bytes() {
				if at := s.off + int64(j); !written[at] || model[at] != b {
					rt.Fatalf("byte %d is %x, written %v as %x", at, b, written[at], model[at])
				}
			}
			end = s.end()
			sum += int64(s.n)
		}
		for j := end; j < space; j++ {
			if written[j] {
				rt.Fatalf("byte %d is missing", j)
			}
		}
		if sum != d.bytes || live != len(d.segs) {
			rt.Fatalf("%d bytes, counted %d; %d buffers for %d segments", sum, d.bytes, live, len(d.segs))
		}
	})
}

func TestExtentListAgreesWithAnArray(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const space = 2000
		var x extentList
		var owner [space]dfs.Extent // the extent that has the byte, clipped to it
		var known [space]bool
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			off := rapid.IntRange(0, space-1).Draw(rt, "off")
			n := rapid.IntRange(1, space-off).Draw(rt, "len")
			e := dfs.Extent{Off: uint64(off), Len: uint32(n), Chunk: dfs.ChunkID(i), Record: 4096, RecordLen: 4000, Start: uint32(i)}
			x.write(e)
			for j := range n {
				owner[off+j] = clip(e, uint64(off+j), uint64(off+j+1))
				known[off+j] = true
			}
			from := rapid.IntRange(0, space-1).Draw(rt, "from")
			to := rapid.IntRange(from+1, space).Draw(rt, "to")
			ok, missing := x.known(int64(from), int64(to))
			for j := from; j < to; j++ {
				if !known[j] {
					if ok || missing != int64(j) {
						rt.Fatalf("[%d,%d) known %v, missing from %d, want %d", from, to, ok, missing, j)
					}
					break
				}
			}
			covered := 0
			for _, e := range x.in(int64(from), int64(to)) {
				if e.Off < uint64(from) || e.End() > uint64(to) {
					rt.Fatalf("%+v is not in [%d,%d)", e, from, to)
				}
				for o := e.Off; o < e.End(); o++ {
					if clip(e, o, o+1) != owner[o] {
						rt.Fatalf("byte %d is in %+v, want %+v", o, e, owner[o])
					}
					covered++
				}
			}
			want := 0
			for j := from; j < to; j++ {
				if known[j] {
					want++
				}
			}
			if covered != want {
				rt.Fatalf("%d bytes of [%d,%d) have extents, want %d", covered, from, to, want)
			}
		}
	})
}

func TestBudgetLetsTheFirstTakeAnything(t *testing.T) {
	b := newBudget(10)
	if !b.take(20) || b.take(1) {
		t.Error("the first must get its bytes, the second none")
	}
	b.give(20)
	if !b.take(10) || b.take(1) {
		t.Error("the bound does not hold")
	}
}

func TestReadAheadFollowsSequentialReadersOnly(t *testing.T) {
	var ra readAhead
	var total int64
	for off := int64(0); off < 64<<20; off += 128 << 10 {
		from, to := ra.advise(off, 128<<10, aheadBytes)
		if to > off+(128<<10)+aheadBytes || from < 0 || to < from {
			t.Fatalf("at %d: [%d,%d)", off, from, to)
		}
		total += to - from
	}
	if total < 60<<20 || total > 80<<20 {
		t.Errorf("%d MiB ahead of 64", total>>20)
	}
	ra = readAhead{}
	for i := range int64(100) {
		if from, to := ra.advise(i*7919%100*(16<<20)+5, 4096, aheadBytes); from < to {
			t.Errorf("read ahead of a reader that jumps: [%d,%d)", from, to)
		}
	}
}
