package meta

import (
	"slices"

	"dfs"
)

// bucket is the entries of a folder whose names have one hash: nearly always one.
type bucket struct {
	key  [17]byte
	list []dentry
}

func (v View) bucket(parent dfs.Ino, name string) (*bucket, error) {
	b := &bucket{}
	k := appendKey2(b.key[:0], kindDentry, uint64(parent), v.hash(name))
	val, err := v.r.Get(k)
	if err != nil || val == nil {
		return b, err
	}
	b.list, err = decodeDentries(val)
	return b, err
}

// find answers where in the bucket the name is, -1 when it is not.
func (b *bucket) find(name string) int {
	return slices.IndexFunc(b.list, func(e dentry) bool { return e.name == name })
}

// search finds a name in a folder that the caller may search. In a folder that
// was removed, while somebody still has it open, there is none and will be none.
func (tx *tx) search(dir *inode, name string) (b *bucket, i int, err error) {
	if err := tx.v.may(dir, &tx.c.Cred, mayExec); err != nil {
		return nil, -1, err
	}
	if dir.Nlink == 0 {
		return nil, -1, dfs.ENOENT
	}
	if len(name) > dfs.NameMax {
		return nil, -1, dfs.ENAMETOOLONG
	}
	b, err = tx.v.bucket(dir.Ino, name)
	if err != nil {
		return nil, -1, err
	}
	return b, b.find(name), nil
}

// mayAdd checks whether the caller may add a name to the folder.
func (tx *tx) mayAdd(dir *inode, b *bucket) error {
	if err := tx.v.may(dir, &tx.c.Cred, mayWrite|mayExec); err != nil {
		return err
	}
	if len(b.list) > slotMax {
		return dfs.ENOSPC
	}
	return nil
}

// addName adds an entry; its slot, and so its cookie, stays until it is removed.
func (tx *tx) addName(b *bucket, name string, in *inode) error {
	e := dentry{name: name, ino: in.Ino, mode: in.Type()}
	i := 0
	for i < len(b.list) && b.list[i].slot == e.slot {
		e.slot++
		i++
	}
	b.list = slices.Insert(b.list, i, e)
	return tx.saveBucket(b)
}

// setName makes an entry lead to another inode; its cookie stays.
func (tx *tx) setName(b *bucket, i int, in *inode) error {
	b.list[i].ino, b.list[i].mode = in.Ino, in.Type()
	return tx.saveBucket(b)
}

func (tx *tx) removeName(b *bucket, i int) error {
	b.list = slices.Delete(b.list, i, i+1)
	return tx.saveBucket(b)
}

func (tx *tx) saveBucket(b *bucket) error {
	if len(b.list) == 0 {
		return tx.t.Delete(b.key[:])
	}
	return tx.t.Set(b.key[:], encodeDentries(tx.value[:0], b.list))
}
