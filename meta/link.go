package meta

import "dfs"

// apply checks in the order of linkat(2) on Linux: the new name first, then what
// it is to lead to.
func (o *Link) apply(tx *tx) (Reply, error) {
	if err := checkName(o.Name); err != nil {
		return Reply{}, err
	}
	if isDot(o.Name) {
		return Reply{}, dfs.EEXIST
	}
	parent, err := tx.dir(o.Parent)
	if err != nil {
		return Reply{}, err
	}
	b, i, err := tx.search(parent, o.Name)
	if err != nil {
		return Reply{}, err
	}
	if i >= 0 {
		return Reply{}, dfs.EEXIST
	}
	in, err := tx.inode(o.Ino)
	if err != nil {
		return Reply{}, err
	}
	if in == nil {
		return Reply{}, dfs.ENOENT
	}
	if err := tx.mayAdd(parent, b); err != nil {
		return Reply{}, err
	}
	switch {
	case in.IsDir():
		return Reply{}, dfs.EPERM
	case in.Nlink == 0 && in.Flags&dfs.FlagTmpfile == 0:
		return Reply{}, dfs.ENOENT // the last name is gone; it never comes back
	case in.Nlink >= dfs.LinkMax:
		return Reply{}, dfs.EMLINK
	}
	if in.Nlink == 0 {
		if err := tx.adopt(in); err != nil {
			return Reply{}, err
		}
	}
	in.Nlink++
	tx.change(in)
	if err := tx.addName(b, o.Name, in); err != nil {
		return Reply{}, err
	}
	tx.changeDir(parent, 1, 0)
	return tx.attr(in), nil
}
