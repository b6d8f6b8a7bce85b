package client

import (
	"math/bits"
	"slices"

	"dfs"
	appender "dfs/client/append"
)

// segment is a run of bytes that were written and not submitted: the first n of buf,
// at off in the file. It grows in place while there is room.
type segment struct {
	off int64
	n   int
	buf *appender.Buffer
}

func (s *segment) end() int64    { return s.off + int64(s.n) }
func (s *segment) bytes() []byte { return s.buf.Bytes[:s.n] }

// dirtyList is the unsubmitted bytes of one file: segments in order of offset, which
// never overlap. Only bytes that were written are in it.
type dirtyList struct {
	segs  []segment
	bytes int64
}

// after is the index of the first segment that ends after off.
func (d *dirtyList) after(off int64) int {
	i, _ := slices.BinarySearchFunc(d.segs, off, func(s segment, off int64) int {
		if s.end() > off {
			return 1
		}
		return -1
	})
	return i
}

// write puts p at off, over what was there. alloc returns a buffer of that many
// bytes, or nil when there is no memory: fewer bytes than len(p) are written then.
func (d *dirtyList) write(p []byte, off int64, alloc func(n int) *appender.Buffer) int {
	done := 0
	for done < len(p) {
		at, rest := off+int64(done), p[done:]
		i := d.after(at)
		if i < len(d.segs) && d.segs[i].off <= at { // over bytes that are here
			s := &d.segs[i]
			done += copy(s.bytes()[at-s.off:], rest)
			continue
		}
		if i < len(d.segs) { // up to the next segment at most
			rest = rest[:min(int64(len(rest)), d.segs[i].off-at)]
		}
		if i > 0 && d.segs[i-1].end() == at && d.segs[i-1].n < len(d.segs[i-1].buf.Bytes) { // behind the one before
			s := &d.segs[i-1]
			n := copy(s.buf.Bytes[s.n:], rest)
			s.n += n
			d.bytes += int64(n)
			done += n
			continue
		}
		before := 0
		if i > 0 && d.segs[i-1].end() == at {
			before = len(d.segs[i-1].buf.Bytes)
		}
		buf := alloc(capacity(at, len(rest), before))
		if buf == nil {
			break
		}
		n := copy(buf.Bytes, rest)
		d.segs = slices.Insert(d.segs, i, segment{off: at, n: n, buf: buf})
		d.bytes += int64(n)
		done += n
	}
	return done
}

// capacity is the size of a buffer for n bytes at off that go on behind a buffer of
// before bytes: who writes on and on gets ever larger ones. None crosses a multiple
// of the record size in the file, so that aligned reads touch one record each.
func capacity(off int64, n, before int) int {
	c := max(1<<bits.Len(uint(n-1)), dfs.PageBytes)
	c = max(c, 2*before)
	room := dfs.RecordBytes - int(off%dfs.RecordBytes)
	return min(c, room)
}

// cut takes away what lies at or after size.
func (d *dirtyList) cut(size int64) {
	for i := len(d.segs) - 1; i >= 0; i-- {
		s := &d.segs[i]
		if s.end() <= size {
			break
		}
		if s.off < size {
			n := int(size - s.off)
			d.bytes -= int64(s.n - n)
			s.n = n
			break
		}
		d.bytes -= int64(s.n)
		s.buf.Drop()
		d.segs = d.segs[:i]
	}
}

// end is the offset just after the last dirty byte, 0 when there is none.
func (d *dirtyList) end() int64 {
	if len(d.segs) == 0 {
		return 0
	}
	return d.segs[len(d.segs)-1].end()
}

// gap is a part of a read that is still to be filled: p[from:to].
type gap struct{ from, to int }

// lay copies src, which lies at srcOff in the file, into those gaps of p (at off)
// that it covers, and returns the gaps that are left.
func lay(gaps []gap, p []byte, off int64, src []byte, srcOff int64) []gap {
	lo, hi := srcOff-off, srcOff-off+int64(len(src))
	if hi <= 0 || lo >= int64(len(p)) {
		return gaps
	}
	for i := 0; i < len(gaps); i++ {
		g := gaps[i]
		a, b := max(int64(g.from), lo), min(int64(g.to), hi)
		if a >= b {
			continue
		}
		copy(p[a:b], src[a-lo:])
		var left []gap
		if int64(g.from) < a {
			left = append(left, gap{g.from, int(a)})
		}
		if b < int64(g.to) {
			left = append(left, gap{int(b), g.to})
		}
		gaps = slices.Replace(gaps, i, i+1, left...)
		i += len(left) - 1
	}
	return gaps
}
