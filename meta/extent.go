package meta

import "dfs"

// cutMax is how many extents a truncation to zero takes away itself. Those of a
// larger file are left to Reap: see truncate.
const cutMax = 4096

// bodyOf is the number under which the inode's extents are kept.
func (in *inode) bodyOf() uint64 {
	if in.body != 0 {
		return uint64(in.body)
	}
	return uint64(in.Ino)
}

// truncate sets the size and takes away the extents beyond it.
//
// Emptying a file of terabytes must not hold up the Raft log: its extents become
// those of a new orphan, an inode that never had a name, and the file goes on
// under that orphan's number, which nothing else uses.
func (tx *tx) truncate(in *inode, size uint64) error {
	in.writer = writer{}
	if size == 0 && in.Alloc > 0 {
		n := 0
		err := tx.t.Scan(key1(kindExtent, in.bodyOf()), after(kindExtent, in.bodyOf()), func(_, _ []byte) (bool, error) {
			n++
			return n <= cutMax, nil
		})
		if err != nil {
			return err
		}
		if n > cutMax {
			return tx.shed(in)
		}
	}
	if size < in.Size {
		if err := tx.cut(in, size, 1<<64-1); err != nil {
			return err
		}
	}
	in.Size = size
	return nil
}

// shed moves all extents of a file to a new orphan.
func (tx *tx) shed(in *inode) error {
	c, err := tx.v.counters()
	if err != nil {
		return err
	}
	ghost := &inode{Attr: in.Attr, body: dfs.Ino(in.bodyOf())}
	ghost.Ino, ghost.Nlink = dfs.Ino(c.nextIno), 0
	c.nextIno++
	if err := tx.t.Set(key0(kindCounters), c.encode(nil)); err != nil {
		return err
	}
	tx.keep(ghost)
	tx.change(ghost)
	tx.counts.files++
	in.body, in.Size, in.Alloc = ghost.Ino, 0, 0
	return tx.orphan(ghost.Ino)
}

// cut takes the bytes in [off, end) away from the extents of a file.
func (tx *tx) cut(in *inode, off, end uint64) error {
	if in.Alloc == 0 {
		return nil
	}
	old, err := tx.overlapping(in, off, end)
	if err != nil {
		return err
	}
	for _, e := range old {
		if e.Off >= off { // else what is left of it is written under the same key
			if err := tx.t.Delete(tx.extentKey(in, e.Off)); err != nil {
				return err
			}
		} else if err := tx.setExtent(in, head(e, off)); err != nil {
			return err
		}
		if e.End() > end {
			if err := tx.setExtent(in, tail(e, end)); err != nil {
				return err
			}
		}
		n := int64(min(e.End(), end) - max(e.Off, off))
		if err := tx.live(e.Chunk, -n); err != nil {
			return err
		}
		in.Alloc -= uint64(n)
		tx.counts.bytes -= n
	}
	return nil
}

// overlapping lists the extents of a file that have bytes in [off, end).
func (tx *tx) overlapping(in *inode, off, end uint64) ([]dfs.Extent, error) {
	var list []dfs.Extent
	first, err := tx.extentBefore(in, off)
	if err != nil {
		return nil, err
	}
	if first.End() > off {
		list = append(list, first)
	}
	err = tx.t.Scan(key2(kindExtent, in.bodyOf(), off), key2(kindExtent, in.bodyOf(), end), func(k, v []byte) (bool, error) {
		e, err := decodeExtent(number(k, 1), v)
		list = append(list, e)
		return true, err
	})
	return list, err
}

// extentBefore is the last extent that begins before off; of no length when there
// is none.
func (tx *tx) extentBefore(in *inode, off uint64) (dfs.Extent, error) {
	k, v, err := tx.t.Last(key1(kindExtent, in.bodyOf()), key2(kindExtent, in.bodyOf(), off))
	if err != nil || k == nil {
		return dfs.Extent{}, err
	}
	return decodeExtent(number(k, 1), v)
}

// head is the part of e before off.
func head(e dfs.Extent, off uint64) dfs.Extent {
	e.Len = uint32(off - e.Off)
	return e
}

// tail is the part of e from off on.
func tail(e dfs.Extent, off uint64) dfs.Extent {
	n := uint32(off - e.Off)
	e.Off, e.Len, e.Start = off, e.Len-n, e.Start+n
	return e
}

// joins reports whether f goes on where e ends, in the file and in the record.
func joins(e, f dfs.Extent) bool {
	return e.Len > 0 && f.Len > 0 && e.End() == f.Off && e.Chunk == f.Chunk && e.Record == f.Record &&
		e.RecordLen == f.RecordLen && e.Start+e.Len == f.Start
}

func (tx *tx) extentKey(in *inode, off uint64) []byte {
	return appendKey2(tx.key[:0], kindExtent, in.bodyOf(), off)
}

func (tx *tx) setExtent(in *inode, e dfs.Extent) error {
	return tx.t.Set(tx.extentKey(in, e.Off), encodeExtent(tx.value[:0], e))
}

// write puts an extent in a file, over what was there. The size grows to its end.
// Extents never end after the size, so at or after it there is nothing to cut.
func (tx *tx) write(in *inode, e dfs.Extent) error {
	if e.Off < in.Size {
		if err := tx.cut(in, e.Off, e.End()); err != nil {
			return err
		}
	}
	in.Alloc += uint64(e.Len)
	tx.counts.bytes += int64(e.Len)
	if err := tx.live(e.Chunk, int64(e.Len)); err != nil {
		return err
	}
	if e.Record < tx.chunks[e.Chunk].before {
		var err error
		if e, err = tx.join(in, e); err != nil {
			return err
		}
	}
	in.Size = max(in.Size, e.End())
	return tx.setExtent(in, e)
}

// join makes one of e and the extents beside it, when they are parts of the same
// record. Only a record that an earlier command committed can have some.
func (tx *tx) join(in *inode, e dfs.Extent) (dfs.Extent, error) {
	prev, err := tx.extentBefore(in, e.Off)
	if err != nil {
		return e, err
	}
	if joins(prev, e) {
		prev.Len += e.Len
		e = prev
	}
	v, err := tx.t.Get(tx.extentKey(in, e.End()))
	if err != nil || v == nil {
		return e, err
	}
	next, err := decodeExtent(e.End(), v)
	if err != nil || !joins(e, next) {
		return e, err
	}
	e.Len += next.Len
	return e, tx.t.Delete(tx.extentKey(in, next.Off))
}
