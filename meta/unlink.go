package meta

import (
	"fmt"

	"dfs"
)

func (o *Unlink) apply(tx *tx) (Reply, error) {
	if isDot(o.Name) {
		return Reply{}, dfs.EISDIR
	}
	v, err := tx.victim(o.Parent, o.Name)
	if err != nil {
		return Reply{}, err
	}
	if v.in.IsDir() {
		return Reply{}, dfs.EISDIR
	}
	return Reply{}, tx.remove(v, 0)
}

// victim is a name that is to be removed.
type victim struct {
	dir *inode
	b   *bucket
	i   int
	in  *inode // what the name leads to
}

// victim finds a name that the caller may remove.
func (tx *tx) victim(parent dfs.Ino, name string) (victim, error) {
	if err := checkName(name); err != nil {
		return victim{}, err
	}
	dir, err := tx.dir(parent)
	if err != nil {
		return victim{}, err
	}
	v := victim{dir: dir}
	if v.b, v.i, err = tx.search(dir, name); err != nil {
		return victim{}, err
	}
	if v.i < 0 {
		return victim{}, dfs.ENOENT
	}
	if v.in, err = tx.entryInode(v.b.list[v.i]); err != nil {
		return victim{}, err
	}
	return v, tx.v.mayRemove(&tx.c.Cred, dir, v.in)
}

// remove takes the name away.
func (tx *tx) remove(v victim, dirs int) error {
	if err := tx.removeName(v.b, v.i); err != nil {
		return err
	}
	tx.changeDir(v.dir, -1, dirs)
	return tx.dropLink(v.in)
}

// entryInode reads the inode that an entry leads to, which must be there.
func (tx *tx) entryInode(e dentry) (*inode, error) {
	in, err := tx.inode(e.ino)
	if err == nil && in == nil {
		err = fmt.Errorf("meta: entry %q leads to inode %d, which has no row", e.name, e.ino)
	}
	return in, err
}
