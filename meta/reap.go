package meta

import (
	"fmt"

	"dfs"
)

// ReapMax is how many extents and xattrs a Reap command frees when it does not
// say, and reapMost how many it may ask for.
const (
	ReapMax  = 1024
	reapMost = 1 << 16
)

func (o *Reap) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	left := int(min(o.ExtentsMax, reapMost))
	if left == 0 {
		left = ReapMax
	}
	var rep Reply
	for _, ino := range o.Inodes {
		k := key1(kindOrphan, uint64(ino))
		b, err := tx.t.Get(k)
		if err != nil {
			return Reply{}, err
		}
		if b == nil {
			continue // reaped before, by an earlier leader maybe
		}
		in, err := tx.v.inode(ino)
		if err != nil {
			return Reply{}, err
		}
		if in == nil {
			return Reply{}, fmt.Errorf("meta: orphan %d has no row", ino)
		}
		n, done, err := tx.reap(in, left)
		if err != nil {
			return Reply{}, err
		}
		left -= n
		if !done {
			rep.More = true
			break
		}
		if err := tx.t.Delete(k); err != nil {
			return Reply{}, err
		}
		tx.counts.orphans--
		rep.Reaped = append(rep.Reaped, ino)
	}
	return rep, nil
}

// reap frees at most limit extents and xattrs of an orphan, and the inode itself
// when that was all.
func (tx *tx) reap(in *inode, limit int) (n int, done bool, err error) {
	if in.Alloc > 0 {
		if n, err = tx.reapExtents(in, limit); err != nil {
			return n, false, err
		}
	}
	if in.Alloc == 0 && in.XattrBytes > 0 {
		ino := uint64(in.Ino)
		m, err := tx.deleteSome(key1(kindXattr, ino), after(kindXattr, ino), limit-n)
		if err != nil {
			return n, false, err
		}
		if m < limit-n {
			in.XattrBytes = 0
		}
		n += m
	}
	if in.Alloc > 0 || in.XattrBytes > 0 {
		return n, false, tx.t.Set(key1(kindInode, uint64(in.Ino)), in.encode(nil))
	}
	tx.counts.files--
	return n, true, tx.t.Delete(key1(kindInode, uint64(in.Ino)))
}

func (tx *tx) reapExtents(in *inode, limit int) (int, error) {
	if limit == 0 {
		return 0, nil
	}
	var list []dfs.Extent
	body := in.bodyOf()
	err := tx.t.Scan(key1(kindExtent, body), after(kindExtent, body), func(k, v []byte) (bool, error) {
		e, err := decodeExtent(number(k, 1), v)
		list = append(list, e)
		return len(list) < limit, err
	})
	if err != nil {
		return 0, err
	}
	if len(list) == 0 {
		return 0, fmt.Errorf("meta: inode %d has %d bytes in no extent", in.Ino, in.Alloc)
	}
	for _, e := range list {
		if err := tx.t.Delete(tx.extentKey(in, e.Off)); err != nil {
			return 0, err
		}
		if err := tx.live(e.Chunk, -int64(e.Len)); err != nil {
			return 0, err
		}
		in.Alloc -= uint64(e.Len)
		tx.counts.bytes -= int64(e.Len)
	}
	return len(list), nil
}
