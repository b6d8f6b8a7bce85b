package client

import (
	"cmp"
	"math"
	"slices"

	"dfs"
)

// extentsMax is how many extents of one file are kept. Of a larger file, those around
// what is being read are.
const extentsMax = 16 << 10

// forever is the end of a range without end.
const forever = math.MaxInt64

// span is the file offsets from from up to and without to.
type span struct{ from, to int64 }

// extentList is what is known of a file's committed extents, for one value of its
// Attr.Change: all of them within loaded, in order, without overlaps.
type extentList struct {
	list   []dfs.Extent
	loaded []span // in order, not touching
}

func (x *extentList) reset() { x.list, x.loaded = nil, nil }

// known reports whether all extents that overlap [from, to) are here, and else from
// where on they are not.
func (x *extentList) known(from, to int64) (ok bool, missing int64) {
	for _, s := range x.loaded {
		if s.from <= from && from < s.to {
			from = s.to
		}
	}
	return from >= to, from
}

// load takes over extents that the masters listed: all that overlap [from, to).
func (x *extentList) load(from, to int64, list []dfs.Extent) {
	if len(x.list)+len(list) > extentsMax {
		x.reset()
	}
	for _, e := range list {
		x.put(e)
	}
	x.mark(from, to)
}

// write takes over an extent that was committed.
func (x *extentList) write(e dfs.Extent) {
	if len(x.list) >= extentsMax {
		x.reset()
	}
	x.put(e)
	x.mark(int64(e.Off), int64(e.End()))
}

// put inserts e over what is there.
func (x *extentList) put(e dfs.Extent) {
	if n := len(x.list); n == 0 || x.list[n-1].End() <= e.Off { // a stream
		x.list = append(x.list, e)
		return
	}
	i, j := x.overlap(int64(e.Off), int64(e.End()))
	var repl [3]dfs.Extent
	r := repl[:0]
	if i < j && x.list[i].Off < e.Off {
		r = append(r, clip(x.list[i], x.list[i].Off, e.Off))
	}
	r = append(r, e)
	if i < j && x.list[j-1].End() > e.End() {
		r = append(r, clip(x.list[j-1], e.End(), x.list[j-1].End()))
	}
	x.list = slices.Replace(x.list, i, j, r...)
}

// overlap is the range of indices of extents that overlap [from, to).
func (x *extentList) overlap(from, to int64) (i, j int) {
	i, _ = slices.BinarySearchFunc(x.list, uint64(from), func(e dfs.Extent, off uint64) int {
		if e.End() > off {
			return 1
		}
		return -1
	})
	j, _ = slices.BinarySearchFunc(x.list, uint64(to), func(e dfs.Extent, off uint64) int { return cmp.Compare(e.Off, off) })
	return i, max(i, j)
}

// in lists the extents in [from, to), clipped to it.
func (x *extentList) in(from, to int64) []dfs.Extent {
	i, j := x.overlap(from, to)
	out := make([]dfs.Extent, 0, j-i)
	for _, e := range x.list[i:j] {
		out = append(out, clip(e, max(e.Off, uint64(from)), min(e.End(), uint64(to))))
	}
	return out
}

// clip is the part of e in [from, to).
func clip(e dfs.Extent, from, to uint64) dfs.Extent {
	e.Start += uint32(from - e.Off)
	e.Off, e.Len = from, uint32(to-from)
	return e
}

// mark adds [from, to) to what is loaded.
func (x *extentList) mark(from, to int64) {
	i := 0
	for i < len(x.loaded) && x.loaded[i].to < from {
		i++
	}
	j := i
	for j < len(x.loaded) && x.loaded[j].from <= to {
		from, to = min(from, x.loaded[j].from), max(to, x.loaded[j].to)
		j++
	}
	x.loaded = slices.Replace(x.loaded, i, j, span{from, to})
}
