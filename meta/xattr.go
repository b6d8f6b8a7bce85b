package meta

import (
	"strings"

	"dfs"
)

// checkXattr refuses names and, by namespace, inodes and callers, as Linux's
// xattr_permission does. What must not be written is EPERM, what must not be
// seen looks as if it did not exist.
func (v View) checkXattr(in *inode, cred *dfs.Cred, name string, mask uint32) error {
	if name == "" || len(name) > dfs.XattrNameMax {
		return dfs.ERANGE
	}
	hidden := dfs.ENODATA
	if mask&mayWrite != 0 {
		hidden = dfs.EPERM
	}
	switch space := name[:strings.IndexByte(name, '.')+1]; space {
	case dfs.XattrUser:
		if !in.IsFile() && !in.IsDir() {
			return hidden
		}
		if in.IsDir() && in.Mode&modeSticky != 0 && mask&mayWrite != 0 && !in.owns(cred) {
			return dfs.EPERM
		}
	case dfs.XattrTrusted:
		if !root(cred) {
			return hidden
		}
	case dfs.XattrSecurity:
		if mask&mayWrite != 0 && !cred.Checked && !root(cred) {
			return dfs.EPERM
		}
	default:
		if aclFlag(name) == 0 || in.Type() == dfs.TypeLink {
			return dfs.EOPNOTSUPP
		}
		if mask&mayWrite != 0 && !in.owns(cred) {
			return dfs.EPERM
		}
		return nil
	}
	if strings.HasSuffix(name, ".") && strings.Count(name, ".") == 1 || strings.IndexByte(name, 0) >= 0 {
		return dfs.EINVAL
	}
	if strings.HasPrefix(name, dfs.XattrUser) {
		return v.may(in, cred, mask)
	}
	return nil
}

func (o *SetXattr) apply(tx *tx) (Reply, error) {
	if o.Flags&^(dfs.XattrCreate|dfs.XattrReplace|dfs.XattrKillSetgid) != 0 {
		return Reply{}, dfs.EINVAL
	}
	if len(o.Value) > dfs.XattrMax {
		return Reply{}, dfs.E2BIG
	}
	in, old, err := tx.xattr(o.Ino, o.Name)
	switch {
	case err != nil:
		return Reply{}, err
	case old && o.Flags&dfs.XattrCreate != 0:
		return Reply{}, dfs.EEXIST
	case !old && o.Flags&dfs.XattrReplace != 0:
		return Reply{}, dfs.ENODATA
	}
	var list acl
	isACL := aclFlag(o.Name) != 0
	if isACL {
		if list, err = o.checkACL(in); err != nil {
			return Reply{}, err
		}
	}
	if !old && in.XattrBytes+uint32(len(o.Name))+1 > dfs.XattrMax {
		return Reply{}, dfs.ENOSPC // listxattr(2) could not list them
	}
	if isACL {
		err = o.setACL(tx, in, list)
	} else {
		err = tx.putXattr(in, o.Name, o.Value)
	}
	if err != nil {
		return Reply{}, err
	}
	tx.change(in)
	return tx.attr(in), nil
}

// xattrFlag is the flag of inodes that have an attribute with a meaning; 0 of others.
func xattrFlag(name string) uint32 {
	if name == dfs.XattrCapability {
		return dfs.FlagCapability
	}
	return aclFlag(name)
}

// putXattr sets an extended attribute of an inode that is changed.
func (tx *tx) putXattr(in *inode, name string, value []byte) error {
	k := xattrKey(in.Ino, name)
	old := false
	if in.XattrBytes > 0 {
		b, err := tx.t.Get(k)
		if err != nil {
			return err
		}
		old = b != nil
	}
	if !old {
		in.XattrBytes += uint32(len(name)) + 1
	}
	in.Flags |= xattrFlag(name)
	return tx.t.Set(k, append(append(make([]byte, 0, 1+len(value)), rowVersion), value...))
}

// dropXattr removes an attribute with a meaning, if it is there, of an inode that is
// changed.
func (tx *tx) dropXattr(in *inode, name string) error {
	flag := xattrFlag(name)
	if in.Flags&flag == 0 {
		return nil
	}
	in.Flags &^= flag
	in.XattrBytes -= uint32(len(name)) + 1
	return tx.t.Delete(xattrKey(in.Ino, name))
}

func (o *RemoveXattr) apply(tx *tx) (Reply, error) {
	in, old, err := tx.xattr(o.Ino, o.Name)
	if err != nil {
		return Reply{}, err
	}
	if !old && aclFlag(o.Name) != 0 {
		return tx.attr(in), nil // Linux has it so
	}
	if !old {
		return Reply{}, dfs.ENODATA
	}
	if err := tx.t.Delete(xattrKey(o.Ino, o.Name)); err != nil {
		return Reply{}, err
	}
	in.XattrBytes -= uint32(len(o.Name)) + 1
	in.Flags &^= xattrFlag(o.Name)
	tx.change(in)
	return tx.attr(in), nil
}

// xattr reads an inode whose attribute the caller may write, and whether it has it.
func (tx *tx) xattr(ino dfs.Ino, name string) (in *inode, old bool, err error) {
	if in, err = tx.stale(ino); err != nil {
		return nil, false, err
	}
	if err := tx.v.checkXattr(in, &tx.c.Cred, name, mayWrite); err != nil {
		return nil, false, err
	}
	if in.XattrBytes == 0 {
		return in, false, nil
	}
	v, err := tx.t.Get(xattrKey(ino, name))
	return in, v != nil, err
}

// GetXattr answers the value of an extended attribute.
func (v View) GetXattr(cred dfs.Cred, ino dfs.Ino, name string) ([]byte, error) {
	in, err := v.stale(ino)
	if err != nil {
		return nil, err
	}
	if err := v.checkXattr(in, &cred, name, mayRead); err != nil {
		return nil, err
	}
	if in.XattrBytes == 0 {
		return nil, dfs.ENODATA
	}
	b, err := v.r.Get(xattrKey(ino, name))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, dfs.ENODATA
	}
	return decodeXattr(b)
}

func decodeXattr(b []byte) ([]byte, error) {
	d := decode("xattr", b)
	value := append([]byte{}, d.b...)
	d.b = nil
	return value, d.done()
}

// ListXattr lists the names of the extended attributes that cred may see.
func (v View) ListXattr(cred dfs.Cred, ino dfs.Ino) ([]string, error) {
	in, err := v.stale(ino)
	if err != nil || in.XattrBytes == 0 {
		return nil, err
	}
	var names []string
	err = v.r.Scan(key1(kindXattr, uint64(ino)), after(kindXattr, uint64(ino)), func(k, _ []byte) (bool, error) {
		if name := string(k[9:]); root(&cred) || !strings.HasPrefix(name, dfs.XattrTrusted) {
			names = append(names, name)
		}
		return true, nil
	})
	return names, err
}
