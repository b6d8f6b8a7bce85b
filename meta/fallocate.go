package meta

import "dfs"

// apply changes at most extentsEach extents; Reply.More says that there are others, and
// the same command goes on.
func (o *Fallocate) apply(tx *tx) (Reply, error) {
	in, err := tx.stale(o.Ino)
	if err != nil {
		return Reply{}, err
	}
	end := o.Off + o.Len
	switch {
	case !in.IsFile():
		return Reply{}, dfs.ENODEV
	case o.Len == 0 || end < o.Off:
		return Reply{}, dfs.EINVAL
	case end > dfs.FileMax:
		return Reply{}, dfs.EFBIG
	}
	holes := false
	switch o.Mode {
	case 0, dfs.FallocKeepSize:
	case dfs.FallocPunchHole | dfs.FallocKeepSize, dfs.FallocZeroRange, dfs.FallocZeroRange | dfs.FallocKeepSize:
		holes = true
	default:
		return Reply{}, dfs.EOPNOTSUPP
	}
	var rep Reply
	if holes {
		to, err := tx.bound(in, o.Off, end)
		if err != nil {
			return Reply{}, err
		}
		if err := tx.cut(in, o.Off, to); err != nil {
			return Reply{}, err
		}
		rep.More = to < end
	}
	if o.Mode&dfs.FallocKeepSize == 0 {
		in.Size = max(in.Size, end)
	}
	if err := tx.written(in); err != nil {
		return Reply{}, err
	}
	rep.Attr = tx.attr(in).Attr
	return rep, nil
}

// extentsEach is how many extents one command changes at most, so that it does not hold
// up the Raft log.
const extentsEach = 4096

// bound shortens [off, end) so that no more than extentsEach extents lie in it.
func (tx *tx) bound(in *inode, off, end uint64) (uint64, error) {
	if in.Alloc == 0 {
		return end, nil
	}
	n := 0
	err := tx.t.Scan(key2(kindExtent, in.bodyOf(), off), key2(kindExtent, in.bodyOf(), end), func(k, _ []byte) (bool, error) {
		if n++; n > extentsEach {
			end = number(k, 1)
		}
		return n <= extentsEach, nil
	})
	return end, err
}

// written notes that the caller has written to a file just now.
func (tx *tx) written(in *inode) error {
	in.writer = writer{}
	in.Mtime = tx.c.Time
	if tx.c.Cred.UID != 0 {
		in.KillSuid()
	}
	if err := tx.dropXattr(in, dfs.XattrCapability); err != nil {
		return err
	}
	tx.change(in)
	return nil
}
