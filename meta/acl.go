package meta

import (
	"encoding/binary"

	"dfs"
)

// An access control list as its extended attribute holds it, which is how Linux hands
// it over: a version, then entries in the order of their tags.
const (
	aclVersion    = 2
	aclHeader     = 4
	aclEntryBytes = 8

	// aclMax is what the kernel takes: a page.
	aclMax = 4096
)

// Tags of entries; POSIX.1e draft 17, 23.2.
const (
	aclOwner  = 0x01
	aclUser   = 0x02
	aclGroup0 = 0x04 // the group of the inode
	aclGroup  = 0x08
	aclMask   = 0x10 // bounds all entries but those of the owner and of others
	aclOther  = 0x20
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

type acl []aclEntry

// parseACL reads a list and refuses one that POSIX does not know, as Linux's
// posix_acl_from_xattr and posix_acl_valid do. An empty one is no list.
func parseACL(b []byte) (acl, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > aclMax {
		return nil, dfs.E2BIG
	}
	if len(b) < aclHeader || (len(b)-aclHeader)%aclEntryBytes != 0 {
		return nil, dfs.EINVAL
	}
	if binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, dfs.EOPNOTSUPP
	}
	var list acl
	var seen uint16
	for b = b[aclHeader:]; len(b) > 0; b = b[aclEntryBytes:] {
		e := aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])}
		if !e.follows(seen) {
			return nil, dfs.EINVAL
		}
		seen |= e.tag
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, nil
	}
	const needed = aclOwner | aclGroup0 | aclOther
	if seen&needed != needed || seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0 {
		return nil, dfs.EINVAL
	}
	return list, nil
}

// follows reports whether the entry may stand behind entries with those tags.
func (e aclEntry) follows(seen uint16) bool {
	if e.perm&^7 != 0 {
		return false
	}
	switch e.tag {
	case aclUser, aclGroup:
		return seen < e.tag<<1 && e.id != 1<<32-1 // again and again
	case aclOwner, aclGroup0, aclMask, aclOther:
		return seen < e.tag
	}
	return false
}

func (a acl) encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, aclHeader+aclEntryBytes*len(a)), aclVersion)
	for _, e := range a {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// find is the entry with a tag that is there once at most; nil when it is not.
func (a acl) find(tag uint16) *aclEntry {
	for i := range a {
		if a[i].tag == tag {
			return &a[i]
		}
	}
	return nil
}

// class is the entry that the mode's bits of the group stand for: the mask, if there is
// one.
func (a acl) class() *aclEntry {
	if m := a.find(aclMask); m != nil {
		return m
	}
	return a.find(aclGroup0)
}

// minimal reports whether the list says nothing that the mode does not.
func (a acl) minimal() bool { return len(a) == 3 }

// mode is the permission bits that the list stands for.
func (a acl) mode() uint32 {
	return uint32(a.find(aclOwner).perm)<<6 | uint32(a.class().perm)<<3 | uint32(a.find(aclOther).perm)
}

// chmod makes the list stand for the permission bits of a mode.
func (a acl) chmod(mode uint32) {
	a.find(aclOwner).perm = uint16(mode >> 6 & 7)
	a.class().perm = uint16(mode >> 3 & 7)
	a.find(aclOther).perm = uint16(mode & 7)
}

// permits carries out the algorithm of POSIX.1e, 23.1.5, as Linux's posix_acl_permission
// does, for a caller who is not root.
func (a acl) permits(in *inode, cred *dfs.Cred, want uint16) bool {
	mask := uint16(7)
	if m := a.find(aclMask); m != nil {
		mask = m.perm
	}
	ofGroup := false
	for _, e := range a {
		switch e.tag {
		case aclOwner:
			if cred.UID == in.UID {
				return want&^e.perm == 0
			}
		case aclUser:
			if cred.UID == e.id {
				return want&^(e.perm&mask) == 0
			}
		case aclGroup0, aclGroup:
			gid := e.id
			if e.tag == aclGroup0 {
				gid = in.GID
			}
			if inGroup(cred, gid) {
				ofGroup = true
				if want&^e.perm == 0 {
					return want&^mask == 0
				}
			}
		case aclOther:
			return !ofGroup && want&^e.perm == 0
		}
	}
	return false
}

// aclFlag is the flag of inodes that have that list; 0 for another attribute.
func aclFlag(name string) uint32 {
	switch name {
	case dfs.XattrAccessACL:
		return dfs.FlagAccessACL
	case dfs.XattrDefaultACL:
		return dfs.FlagDefaultACL
	}
	return 0
}

// acl reads one of the inode's lists, nil when it has none.
func (v View) acl(in *inode, name string) (acl, error) {
	if in.Flags&aclFlag(name) == 0 {
		return nil, nil
	}
	b, err := v.r.Get(xattrKey(in.Ino, name))
	if err != nil || b == nil {
		return nil, err
	}
	if b, err = decodeXattr(b); err != nil {
		return nil, err
	}
	return parseACL(b)
}

// inheritACL gives a new inode what its folder's default ACL says, as Linux's
// posix_acl_create does, or takes the umask from its mode.
func (tx *tx) inheritACL(in, parent *inode, umask uint32) error {
	if in.Type() == dfs.TypeLink {
		return nil
	}
	list, err := tx.v.acl(parent, dfs.XattrDefaultACL)
	if err != nil {
		return err
	}
	if list == nil {
		in.Mode &^= umask & 0o777
		return nil
	}
	if in.IsDir() {
		if err := tx.putXattr(in, dfs.XattrDefaultACL, list.encode()); err != nil {
			return err
		}
	}
	// Who makes it asks for some of the bits, the list allows some of them.
	list.chmod(list.mode() & in.Mode)
	in.Mode = in.Mode&^0o777 | list.mode()
	if list.minimal() {
		return nil
	}
	return tx.putXattr(in, dfs.XattrAccessACL, list.encode())
}

// chmodACL makes the access ACL agree with a mode that was set.
func (tx *tx) chmodACL(in *inode) error {
	list, err := tx.v.acl(in, dfs.XattrAccessACL)
	if err != nil || list == nil {
		return err
	}
	list.chmod(in.Mode)
	return tx.putXattr(in, dfs.XattrAccessACL, list.encode())
}

// checkACL refuses what setxattr(2) refuses of an ACL.
func (o *SetXattr) checkACL(in *inode) (acl, error) {
	list, err := parseACL(o.Value)
	if err == nil && list != nil && o.Name == dfs.XattrDefaultACL && !in.IsDir() {
		err = dfs.EACCES
	}
	return list, err
}

// setACL sets an ACL. One that says no more than the mode becomes the mode.
func (o *SetXattr) setACL(tx *tx, in *inode, list acl) error {
	if list != nil && o.Name == dfs.XattrAccessACL {
		in.Mode = in.Mode&^0o777 | list.mode()
		if cred := &tx.c.Cred; o.Flags&dfs.XattrKillSetgid != 0 || !cred.Checked && !root(cred) && !inGroup(cred, in.GID) {
			in.Mode &^= modeSetgid
		}
		if list.minimal() {
			list = nil
		}
	}
	if list == nil {
		return tx.dropXattr(in, o.Name)
	}
	return tx.putXattr(in, o.Name, list.encode())
}
