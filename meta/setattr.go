package meta

import "dfs"

// apply checks in the order of notify_change and setattr_prepare on Linux. System
// calls set one thing at a time; several at once take effect together or not at all.
func (o *SetAttr) apply(tx *tx) (Reply, error) {
	in, err := tx.stale(o.Ino)
	if err != nil {
		return Reply{}, err
	}
	if err := o.check(tx.v, in, &tx.c.Cred); err != nil {
		return Reply{}, err
	}
	if !o.changes() {
		return tx.attr(in), nil
	}
	o.setOwner(in, &tx.c.Cred)
	if o.Mode != nil {
		if err := tx.chmodACL(in); err != nil {
			return Reply{}, err
		}
	}
	if o.KillSuid || o.UID != nil || o.GID != nil || o.Size != nil {
		if err := tx.dropXattr(in, dfs.XattrCapability); err != nil {
			return Reply{}, err
		}
	}
	if o.Size != nil {
		if err := tx.truncate(in, *o.Size); err != nil {
			return Reply{}, err
		}
		in.Mtime = tx.c.Time
	}
	o.setTimes(in, tx.c.Time)
	tx.change(in)
	return tx.attr(in), nil
}

func (o *SetAttr) changes() bool {
	return o.Mode != nil || o.UID != nil || o.GID != nil || o.Size != nil ||
		o.Atime != nil || o.Mtime != nil || o.AtimeNow || o.MtimeNow || o.KillSuid
}

func (o *SetAttr) check(v View, in *inode, cred *dfs.Cred) error {
	if o.Size != nil {
		switch {
		case in.IsDir():
			return dfs.EISDIR
		case !in.IsFile():
			return dfs.EINVAL
		case *o.Size > dfs.FileMax:
			return dfs.EFBIG
		}
		if !o.Handle {
			if err := v.may(in, cred, mayWrite); err != nil {
				return err
			}
		}
	}
	for _, t := range [...]*dfs.Time{o.Atime, o.Mtime} {
		if t != nil && t.Nsec >= 1e9 {
			return dfs.EINVAL
		}
	}
	if o.Mode != nil && in.Type() == dfs.TypeLink {
		return dfs.EOPNOTSUPP // Linux never changes the mode of a symlink
	}
	if cred.Checked || root(cred) {
		return nil
	}
	if o.UID != nil && (!in.owns(cred) || *o.UID != in.UID) {
		return dfs.EPERM
	}
	if o.GID != nil && (!in.owns(cred) || *o.GID != in.GID && !inGroup(cred, *o.GID)) {
		return dfs.EPERM
	}
	if o.Mode != nil && !in.owns(cred) {
		return dfs.EPERM
	}
	return o.checkTimes(v, in, cred)
}

// checkTimes: both times to now needs what a write needs, anything else the owner.
func (o *SetAttr) checkTimes(v View, in *inode, cred *dfs.Cred) error {
	atime, mtime := o.AtimeNow || o.Atime != nil, o.MtimeNow || o.Mtime != nil
	switch {
	case !atime && !mtime || in.owns(cred):
		return nil
	case o.AtimeNow && o.MtimeNow:
		return v.may(in, cred, mayWrite)
	}
	return dfs.EPERM
}

// setOwner sets mode, owner and group, and takes away the set-id bits that must
// not outlive a change of owner or content.
func (o *SetAttr) setOwner(in *inode, cred *dfs.Cred) {
	unprivileged := !cred.Checked && !root(cred)
	owner := o.UID != nil || o.GID != nil
	if o.UID != nil {
		in.UID = *o.UID
	}
	if o.GID != nil {
		in.GID = *o.GID
	}
	if o.KillSuid || owner || o.Size != nil && unprivileged {
		in.KillSuid()
	}
	if o.Mode != nil {
		in.Mode = in.Mode&dfs.TypeMask | *o.Mode&modePerm
		if unprivileged && !inGroup(cred, in.GID) {
			in.Mode &^= modeSetgid
		}
	}
}

func (o *SetAttr) setTimes(in *inode, now dfs.Time) {
	switch {
	case o.AtimeNow:
		in.Atime = now
	case o.Atime != nil:
		in.Atime = *o.Atime
	}
	switch {
	case o.MtimeNow:
		in.Mtime = now
	case o.Mtime != nil:
		in.Mtime = *o.Mtime
	}
}
