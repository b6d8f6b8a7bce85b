package meta

import "dfs"

func (o *PutMaster) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	if o.ID == 0 || o.Name == "" || len(o.Name) > hostMax || len(o.Addr) > hostMax {
		return Reply{}, dfs.EINVAL
	}
	list, err := tx.v.Masters()
	if err != nil {
		return Reply{}, err
	}
	for _, m := range list {
		if m.Name == o.Name && m.ID != o.ID {
			return Reply{}, dfs.EEXIST
		}
	}
	return Reply{}, tx.t.Set(key1(kindMaster, uint64(o.ID)), encodeMaster(nil, Master{Name: o.Name, Addr: o.Addr}))
}

func (o *RemoveMaster) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	k := key1(kindMaster, uint64(o.ID))
	b, err := tx.t.Get(k)
	if err != nil {
		return Reply{}, err
	}
	if b == nil {
		return Reply{}, dfs.ENOENT
	}
	return Reply{}, tx.t.Delete(k)
}
