package meta

import "dfs"

func (o *Create) apply(tx *tx) (Reply, error) {
	if err := tx.needSession(); err != nil {
		return Reply{}, err
	}
	if o.Tmpfile {
		return o.tmpfile(tx)
	}
	mode, err := o.check()
	if err != nil {
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
		return o.existing(tx, b.list[i])
	}
	if err := tx.mayAdd(parent, b); err != nil {
		return Reply{}, err
	}
	cred := &tx.c.Cred
	isDir := mode&dfs.TypeMask == dfs.TypeDir
	if t := mode & dfs.TypeMask; !cred.Checked && !root(cred) && (t == dfs.TypeBlock || t == dfs.TypeChar && o.Rdev != 0) {
		return Reply{}, dfs.EPERM // CAP_MKNOD; character device 0,0 is a whiteout, which anybody may make
	}
	if isDir && parent.Nlink >= dfs.LinkMax {
		return Reply{}, dfs.EMLINK
	}
	if err := tx.checkIno(o.Ino); err != nil {
		return Reply{}, err
	}

	in := tx.newInode(o.Ino, mode)
	in.Rdev, in.Layout = o.Rdev, parent.Layout
	switch {
	case isDir:
		in.Nlink, in.parent = 2, parent.Ino
	case in.Type() == dfs.TypeLink:
		in.target, in.Size = o.Target, uint64(len(o.Target))
	}
	inheritGroup(in, parent, cred)
	if err := tx.inheritACL(in, parent, o.Umask); err != nil {
		return Reply{}, err
	}
	tx.born(in)
	if err := tx.addName(b, o.Name, in); err != nil {
		return Reply{}, err
	}
	dirs := 0
	if isDir {
		dirs = 1
	}
	tx.changeDir(parent, 1, dirs)
	return tx.attr(in), nil
}

// check looks at what the request says by itself, and answers the mode.
func (o *Create) check() (mode uint32, err error) {
	if err := checkName(o.Name); err != nil {
		return 0, err
	}
	mode = o.Mode & (dfs.TypeMask | modePerm)
	switch mode & dfs.TypeMask {
	case 0: // mknod(2): the same as a regular file
		mode |= dfs.TypeFile
	case dfs.TypeFile, dfs.TypeSocket, dfs.TypeFIFO, dfs.TypeBlock, dfs.TypeChar:
	case dfs.TypeDir:
		mode &^= modeSetuid | modeSetgid // mkdir(2) takes neither; setgid is inherited only
	case dfs.TypeLink:
		mode = dfs.TypeLink | 0o777 // POSIX leaves it open, Linux has it so
		switch {
		case o.Target == "":
			return 0, dfs.ENOENT
		case len(o.Target) >= dfs.PathMax:
			return 0, dfs.ENAMETOOLONG
		}
		return mode, nil
	default:
		return 0, dfs.EINVAL
	}
	if o.Target != "" {
		return 0, dfs.EINVAL
	}
	return mode, nil
}

// existing answers a Create whose name is there: open(2) with O_CREAT opens it.
func (o *Create) existing(tx *tx, e dentry) (Reply, error) {
	if t := o.Mode & dfs.TypeMask; o.Excl || t != 0 && t != dfs.TypeFile {
		return Reply{}, dfs.EEXIST
	}
	if e.mode == dfs.TypeDir {
		return Reply{}, dfs.EISDIR
	}
	in, err := tx.entryInode(e)
	if err != nil {
		return Reply{}, err
	}
	rep := tx.attr(in)
	rep.Existed = true
	return rep, nil
}

// tmpfile is open(O_TMPFILE).
func (o *Create) tmpfile(tx *tx) (Reply, error) {
	if t := o.Mode & dfs.TypeMask; o.Name != "" || o.Target != "" || t != 0 && t != dfs.TypeFile {
		return Reply{}, dfs.EINVAL
	}
	parent, err := tx.dir(o.Parent)
	if err != nil {
		return Reply{}, err
	}
	if err := tx.v.may(parent, &tx.c.Cred, mayWrite|mayExec); err != nil {
		return Reply{}, err
	}
	if parent.Nlink == 0 {
		return Reply{}, dfs.ENOENT
	}
	if err := tx.checkIno(o.Ino); err != nil {
		return Reply{}, err
	}
	in := tx.newInode(o.Ino, dfs.TypeFile|o.Mode&modePerm)
	in.Layout, in.Nlink = parent.Layout, 0
	if !o.Excl {
		in.Flags |= dfs.FlagTmpfile
	}
	inheritGroup(in, parent, &tx.c.Cred)
	if err := tx.inheritACL(in, parent, o.Umask); err != nil {
		return Reply{}, err
	}
	tx.born(in)
	return tx.attr(in), tx.orphan(in.Ino)
}

// newInode is an inode of the caller with one name.
func (tx *tx) newInode(ino dfs.Ino, mode uint32) *inode {
	return &inode{Attr: dfs.Attr{
		Ino: ino, Mode: mode, Nlink: 1, UID: tx.c.Cred.UID, GID: tx.c.Cred.GID,
		Atime: tx.c.Time, Mtime: tx.c.Time, Btime: tx.c.Time,
	}}
}

// born adds a new inode to those that flush writes.
func (tx *tx) born(in *inode) {
	tx.keep(in)
	tx.change(in)
	tx.counts.files++
}

// checkIno refuses a number that the session was not given or that is in use.
func (tx *tx) checkIno(ino dfs.Ino) error {
	granted := false
	for _, r := range tx.tally.inodes {
		granted = granted || r.Contains(uint64(ino))
	}
	if !granted {
		return dfs.EINVAL
	}
	in, err := tx.inode(ino)
	if err == nil && in != nil {
		err = dfs.EINVAL
	}
	return err
}

// inheritGroup sets the group of a new inode as Linux's inode_init_owner does: a
// setgid folder gives its group to all and its bit to subfolders. A program that
// is not in that group cannot make a file that runs with it.
func inheritGroup(in, parent *inode, cred *dfs.Cred) {
	if parent.Mode&modeSetgid == 0 {
		return
	}
	in.GID = parent.GID
	if in.IsDir() {
		in.Mode |= modeSetgid
	} else if in.Mode&(modeSetgid|modeGroupX) == modeSetgid|modeGroupX &&
		!cred.Checked && !root(cred) && !inGroup(cred, in.GID) {
		in.Mode &^= modeSetgid
	}
}

// attr answers with the inode as it is when the operation ends.
func (tx *tx) attr(in *inode) Reply {
	a := in.Attr
	return Reply{Attr: &a}
}
