package meta

import (
	"fmt"

	"dfs"
)

// depthMax bounds the walk from a folder to the root. Paths are shorter, but
// folders can be made deeper than a path can say.
const depthMax = 1 << 24

// renaming is a rename with what it has read.
type renaming struct {
	*Rename
	tx       *tx
	from, to *inode // folders, maybe the same one
	source   *inode
	target   *inode // nil: the new name is free
}

// apply checks in the order of renameat2(2) on Linux (do_renameat2, vfs_rename):
// flags, names, both lookups, ancestry, permissions, types, then what the
// folders hold.
func (o *Rename) apply(tx *tx) (Reply, error) {
	r := &renaming{Rename: o, tx: tx}
	if err := r.names(); err != nil {
		return Reply{}, err
	}
	if err := r.find(); err != nil {
		return Reply{}, err
	}
	if err := r.ancestry(); err != nil {
		return Reply{}, err
	}
	if r.source == r.target {
		return tx.attr(r.source), nil // two names of one inode: rename(2) does nothing
	}
	if err := r.allowed(); err != nil {
		return Reply{}, err
	}
	move := r.replace
	if o.Flags&dfs.RenameExchange != 0 {
		move = r.exchange
	}
	if err := move(); err != nil {
		return Reply{}, err
	}
	return tx.attr(r.source), nil
}

func (r *renaming) names() error {
	const known = dfs.RenameNoReplace | dfs.RenameExchange | dfs.RenameWhiteout
	if r.Flags&^known != 0 || r.Flags&dfs.RenameExchange != 0 && r.Flags != dfs.RenameExchange {
		return dfs.EINVAL
	}
	for _, name := range [...]string{r.Name, r.NewName} {
		if err := checkName(name); err != nil {
			return err
		}
	}
	switch {
	case isDot(r.Name):
		return dfs.EBUSY
	case isDot(r.NewName) && r.Flags&dfs.RenameNoReplace != 0:
		return dfs.EEXIST
	case isDot(r.NewName):
		return dfs.EBUSY
	}
	return nil
}

// find reads both folders and what is at both names.
func (r *renaming) find() (err error) {
	if r.from, err = r.tx.dir(r.Parent); err != nil {
		return err
	}
	if r.to, err = r.tx.dir(r.NewParent); err != nil {
		return err
	}
	if r.source, err = r.at(r.from, r.Name); err != nil {
		return err
	}
	if r.source == nil {
		return dfs.ENOENT
	}
	if r.target, err = r.at(r.to, r.NewName); err != nil {
		return err
	}
	switch {
	case r.target != nil && r.Flags&dfs.RenameNoReplace != 0:
		return dfs.EEXIST
	case r.target == nil && r.Flags&dfs.RenameExchange != 0:
		return dfs.ENOENT
	}
	return nil
}

// at answers the inode at a name, nil when the name is free.
func (r *renaming) at(dir *inode, name string) (*inode, error) {
	b, i, err := r.tx.search(dir, name)
	if err != nil || i < 0 {
		return nil, err
	}
	return r.tx.entryInode(b.list[i])
}

// ancestry keeps the folders a tree: none may become its own ancestor.
func (r *renaming) ancestry() error {
	if r.from == r.to {
		return nil
	}
	if r.source.IsDir() {
		if above, err := r.tx.isAbove(r.source, r.to); err != nil || above {
			return orVerdict(err, dfs.EINVAL)
		}
	}
	if r.target != nil && r.target.IsDir() {
		if above, err := r.tx.isAbove(r.target, r.from); err != nil || above {
			if r.Flags&dfs.RenameExchange != 0 {
				return orVerdict(err, dfs.EINVAL)
			}
			return orVerdict(err, dfs.ENOTEMPTY)
		}
	}
	return nil
}

func orVerdict(err error, verdict dfs.Errno) error {
	if err != nil {
		return err
	}
	return verdict
}

// isAbove reports whether dir is below or is itself top.
func (tx *tx) isAbove(top, dir *inode) (bool, error) {
	// The inodes on the way are not kept: they do not change.
	at, up := dir.Ino, dir.parent
	for range depthMax {
		switch {
		case at == top.Ino:
			return true, nil
		case at == up || at == dfs.RootIno:
			return false, nil
		}
		in, err := tx.v.inode(up)
		if err != nil {
			return false, err
		}
		if in == nil {
			// The folder was removed and its parent too, and that one is reaped.
			return false, nil
		}
		at, up = in.Ino, in.parent
	}
	return false, fmt.Errorf("meta: folder %d is more than %d below the root", dir.Ino, depthMax)
}

// allowed checks permissions, types and limits.
func (r *renaming) allowed() error {
	cred, exchange := &r.tx.c.Cred, r.Flags&dfs.RenameExchange != 0
	if err := r.tx.v.mayRemove(cred, r.from, r.source); err != nil {
		return err
	}
	if r.target == nil {
		b, err := r.tx.v.bucket(r.to.Ino, r.NewName)
		if err != nil {
			return err
		}
		if err := r.tx.mayAdd(r.to, b); err != nil {
			return err
		}
	} else {
		if err := r.tx.v.mayRemove(cred, r.to, r.target); err != nil {
			return err
		}
		switch {
		case exchange:
		case r.source.IsDir() && !r.target.IsDir():
			return dfs.ENOTDIR
		case !r.source.IsDir() && r.target.IsDir():
			return dfs.EISDIR
		}
	}
	if r.from != r.to {
		// A folder that moves gets another "..", which is a write to it.
		if r.source.IsDir() {
			if err := r.tx.v.may(r.source, cred, mayWrite); err != nil {
				return err
			}
		}
		if exchange && r.target.IsDir() {
			if err := r.tx.v.may(r.target, cred, mayWrite); err != nil {
				return err
			}
		}
		more, fewer := isDir(r.source), isDir(r.target)
		if more > fewer && r.to.Nlink >= dfs.LinkMax || exchange && fewer > more && r.from.Nlink >= dfs.LinkMax {
			return dfs.EMLINK
		}
	}
	if !exchange && r.target != nil && r.target.IsDir() && r.target.Size > 0 {
		return dfs.ENOTEMPTY
	}
	if r.Flags&dfs.RenameWhiteout != 0 {
		if err := r.tx.needSession(); err != nil {
			return err
		}
		return r.tx.checkIno(r.Whiteout)
	}
	return nil
}

// isDir is how many folders in is: one or none.
func isDir(in *inode) int {
	if in != nil && in.IsDir() {
		return 1
	}
	return 0
}

// replace moves source over target, if there is one.
func (r *renaming) replace() error {
	tx, dirs, gone, entries := r.tx, isDir(r.source), isDir(r.target), 1
	// The new name first: the two names can be in one row, which is read again.
	b, err := tx.v.bucket(r.to.Ino, r.NewName)
	if err != nil {
		return err
	}
	if r.target != nil {
		entries = 0
		err = tx.setName(b, b.find(r.NewName), r.source)
		if err == nil {
			err = tx.dropLink(r.target)
		}
	} else {
		err = tx.addName(b, r.NewName, r.source)
	}
	if err != nil {
		return err
	}
	if b, err = tx.v.bucket(r.from.Ino, r.Name); err != nil {
		return err
	}
	left := 0
	if r.Flags&dfs.RenameWhiteout != 0 {
		err = tx.setName(b, b.find(r.Name), r.whiteout())
	} else {
		err = tx.removeName(b, b.find(r.Name))
		left = -1
	}
	if err != nil {
		return err
	}
	tx.changeDir(r.from, left, -dirs)
	tx.changeDir(r.to, entries, dirs-gone)
	r.moved(r.source, r.to)
	return nil
}

// whiteout makes what stays at the old name: character device 0,0, by which a union
// file system says that there is nothing.
func (r *renaming) whiteout() *inode {
	in := r.tx.newInode(r.Whiteout, dfs.TypeChar)
	in.Layout = r.from.Layout
	inheritGroup(in, r.from, &r.tx.c.Cred)
	r.tx.born(in)
	return in
}

// exchange swaps source and target.
func (r *renaming) exchange() error {
	tx := r.tx
	b, err := tx.v.bucket(r.to.Ino, r.NewName)
	if err != nil {
		return err
	}
	if err := tx.setName(b, b.find(r.NewName), r.source); err != nil {
		return err
	}
	if b, err = tx.v.bucket(r.from.Ino, r.Name); err != nil {
		return err
	}
	if err := tx.setName(b, b.find(r.Name), r.target); err != nil {
		return err
	}
	more := isDir(r.source) - isDir(r.target)
	tx.changeDir(r.from, 0, -more)
	tx.changeDir(r.to, 0, more)
	r.moved(r.source, r.to)
	r.moved(r.target, r.from)
	return nil
}

// moved notes that in has a name in dir now.
func (r *renaming) moved(in, dir *inode) {
	if in.IsDir() {
		in.parent = dir.Ino
	}
	r.tx.change(in)
}
