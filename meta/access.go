package meta

import "dfs"

// apply asks nobody for permission: whoever could read has read.
func (o *Access) apply(tx *tx) (Reply, error) {
	if len(o.Inodes) != len(o.Times) {
		return Reply{}, dfs.EINVAL
	}
	for i, ino := range o.Inodes {
		in, err := tx.inode(ino)
		if err != nil {
			return Reply{}, err
		}
		if at := o.Times[i]; in != nil && at.Nsec < 1e9 && in.Accessed(at, tx.c.Time) {
			in.dirty = true
		}
	}
	return Reply{}, nil
}
