package meta

import "dfs"

func (o *Rmdir) apply(tx *tx) (Reply, error) {
	switch o.Name {
	case ".":
		return Reply{}, dfs.EINVAL
	case "..":
		return Reply{}, dfs.ENOTEMPTY
	}
	v, err := tx.victim(o.Parent, o.Name)
	switch {
	case err != nil:
		return Reply{}, err
	case !v.in.IsDir():
		return Reply{}, dfs.ENOTDIR
	case v.in.Size > 0:
		return Reply{}, dfs.ENOTEMPTY
	}
	return Reply{}, tx.remove(v, -1)
}
