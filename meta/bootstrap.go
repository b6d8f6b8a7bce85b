package meta

import "dfs"

// bucketsMax: a bucket has 16 bits in a dfs.PG.
const bucketsMax = 1 << 16

func (o *Bootstrap) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	is, err := tx.v.Bootstrapped()
	switch {
	case err != nil:
		return Reply{}, err
	case is:
		return Reply{}, dfs.EEXIST
	case o.Cluster == 0, o.Buckets == 0, o.Buckets > bucketsMax:
		return Reply{}, dfs.EINVAL
	}
	in := &inode{Attr: dfs.Attr{
		Ino: dfs.RootIno, Mode: dfs.TypeDir | 0o755, Nlink: 2, Layout: dfs.DefaultLayout,
		Atime: tx.c.Time, Mtime: tx.c.Time, Btime: tx.c.Time,
	}, parent: dfs.RootIno}
	tx.keep(in)
	tx.change(in)
	tx.counts.files++
	c := counters{nextIno: uint64(dfs.FirstIno), nextChunk: 1, nextSession: 1}
	if err := tx.t.Set(key0(kindCounters), c.encode(nil)); err != nil {
		return Reply{}, err
	}
	cl := cluster{id: o.Cluster, buckets: o.Buckets, epoch: 1}
	if err := tx.t.Set(key0(kindCluster), cl.encode(nil)); err != nil {
		return Reply{}, err
	}
	if err := tx.useLayout(dfs.DefaultLayout); err != nil {
		return Reply{}, err
	}
	rep := tx.attr(in)
	rep.Epoch = cl.epoch
	return rep, nil
}
