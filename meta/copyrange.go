package meta

import "dfs"

// apply makes extents of one file extents of another one, too: their bytes are not copied.
// It takes over as much as extentsEach extents of either file allow; Reply.Copied says how
// much that was.
func (o *CopyRange) apply(tx *tx) (Reply, error) {
	from, err := tx.stale(o.From)
	if err != nil {
		return Reply{}, err
	}
	to := from
	if o.To != o.From {
		if to, err = tx.stale(o.To); err != nil {
			return Reply{}, err
		}
	}
	if !from.IsFile() || !to.IsFile() {
		return Reply{}, dfs.EINVAL
	}
	if o.FromOff > dfs.FileMax || o.ToOff > dfs.FileMax {
		return Reply{}, dfs.EFBIG
	}
	n := min(o.Len, max(from.Size, o.FromOff)-o.FromOff)
	switch {
	case from.Layout != to.Layout:
		return Reply{}, dfs.EOPNOTSUPP // the bytes are not kept as they are to be
	case n > dfs.FileMax-o.ToOff:
		return Reply{}, dfs.EFBIG
	case to == from && o.FromOff < o.ToOff+n && o.ToOff < o.FromOff+n:
		return Reply{}, dfs.EINVAL
	case n == 0:
		return Reply{Attr: tx.attr(to).Attr}, nil
	}
	end, err := tx.bound(from, o.FromOff, o.FromOff+n)
	if err != nil {
		return Reply{}, err
	}
	n = end - o.FromOff
	if end, err = tx.bound(to, o.ToOff, o.ToOff+n); err != nil {
		return Reply{}, err
	}
	n = end - o.ToOff
	var extents []dfs.Extent
	if from.Alloc > 0 {
		if extents, err = tx.overlapping(from, o.FromOff, o.FromOff+n); err != nil {
			return Reply{}, err
		}
	}
	if err := tx.cut(to, o.ToOff, o.ToOff+n); err != nil {
		return Reply{}, err
	}
	for _, e := range extents {
		if e.Off < o.FromOff {
			e = tail(e, o.FromOff)
		}
		if e.End() > o.FromOff+n {
			e = head(e, o.FromOff+n)
		}
		e.Off = e.Off - o.FromOff + o.ToOff
		if err := tx.write(to, e); err != nil {
			return Reply{}, err
		}
	}
	to.Size = max(to.Size, o.ToOff+n)
	if err := tx.written(to); err != nil {
		return Reply{}, err
	}
	return Reply{Attr: tx.attr(to).Attr, Copied: n}, nil
}
