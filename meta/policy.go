package meta

import "dfs"

// apply asks the owner also when the caller's kernel has checked permissions: no
// system call means this, so no kernel can have.
func (o *SetPolicy) apply(tx *tx) (Reply, error) {
	in, err := tx.stale(o.Ino)
	if err != nil {
		return Reply{}, err
	}
	switch cred := &tx.c.Cred; {
	case !o.Layout.Valid(), !in.IsDir() && !in.IsFile():
		return Reply{}, dfs.EINVAL
	case !root(cred) && cred.UID != in.UID:
		return Reply{}, dfs.EPERM
	}
	if in.Layout == o.Layout {
		return tx.attr(in), nil
	}
	in.Layout = o.Layout
	if o.KeepTimes {
		in.Change++
		in.dirty = true
	} else {
		tx.change(in)
	}
	return tx.attr(in), tx.useLayout(o.Layout)
}

// useLayout notes that the layout needs homes for its placement groups.
func (tx *tx) useLayout(l dfs.Layout) error {
	return tx.t.Set(key1(kindLayout, uint64(l)), markerRow)
}
