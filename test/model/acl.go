package model

import (
	"encoding/binary"
	"slices"

	"dfs"
)

// ace is one entry of an access control list: what somebody may do.
type ace struct {
	who  byte // 'u' the owner, 'U' a user, 'g' the group, 'G' a group, 'm' the mask, 'o' others
	id   uint32
	perm uint32
}

const order = "uUgGmo" // of the entries; their tags are the powers of two

func readACL(value string) ([]ace, dfs.Errno) {
	switch b := []byte(value); {
	case len(b) == 0:
		return nil, dfs.OK
	case len(b) > 4096:
		return nil, dfs.E2BIG
	case len(b)%8 != 4:
		return nil, dfs.EINVAL
	case binary.LittleEndian.Uint32(b) != 2:
		return nil, dfs.EOPNOTSUPP
	default:
		var list []ace
		for b = b[4:]; len(b) > 0; b = b[8:] {
			i := slices.Index([]uint16{1, 2, 4, 8, 16, 32}, binary.LittleEndian.Uint16(b))
			if i < 0 {
				return nil, dfs.EINVAL
			}
			list = append(list, ace{order[i], binary.LittleEndian.Uint32(b[4:]), uint32(binary.LittleEndian.Uint16(b[2:]))})
		}
		return list, sound(list)
	}
}

func sound(list []ace) dfs.Errno {
	if len(list) == 0 {
		return dfs.OK
	}
	text := ""
	for _, e := range list {
		if e.perm > 7 || (e.who == 'U' || e.who == 'G') && e.id == 1<<32-1 {
			return dfs.EINVAL
		}
		text += string(e.who)
	}
	return soundOrder(text)
}

// soundOrder wants u U* g G* m? o, and m when there is U or G.
func soundOrder(text string) dfs.Errno {
	count := map[byte]int{}
	last := -1
	for i := range len(text) {
		at := slices.Index([]byte(order), text[i])
		if at < last {
			return dfs.EINVAL
		}
		last = at
		count[text[i]]++
	}
	named := count['U']+count['G'] > 0
	if count['u'] != 1 || count['g'] != 1 || count['o'] != 1 || count['m'] > 1 || named && count['m'] == 0 {
		return dfs.EINVAL
	}
	return dfs.OK
}

func writeACL(list []ace) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range list {
		b = binary.LittleEndian.AppendUint16(b, 1<<slices.Index([]byte(order), e.who))
		b = binary.LittleEndian.AppendUint16(b, uint16(e.perm))
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

// one finds an entry; nil when there is none.
func one(list []ace, who byte) *ace {
	if i := slices.IndexFunc(list, func(e ace) bool { return e.who == who }); i >= 0 {
		return &list[i]
	}
	return nil
}

// classes are the entries that the nine bits of a mode stand for.
func classes(list []ace) [3]*ace {
	middle := one(list, 'm')
	if middle == nil {
		middle = one(list, 'g')
	}
	return [3]*ace{one(list, 'u'), middle, one(list, 'o')}
}

func bits(list []ace) uint32 {
	c := classes(list)
	return c[0].perm*64 + c[1].perm*8 + c[2].perm
}

func setBits(list []ace, mode uint32) {
	for i, e := range classes(list) {
		e.perm = mode >> (6 - 3*i) & 7
	}
}

func (n *Node) acl(name string) []ace {
	list, _ := readACL(n.Xattrs[name])
	return list
}

// allows says what the list says of the caller.
func (fs *FS) allows(n *Node, list []ace, want uint32) bool {
	bound := uint32(7)
	if m := one(list, 'm'); m != nil {
		bound = m.perm
	}
	if n.UID == fs.Cred.UID {
		return one(list, 'u').perm&want == want
	}
	for _, e := range list {
		if e.who == 'U' && e.id == fs.Cred.UID {
			return e.perm&bound&want == want
		}
	}
	groups, enough := 0, 0
	for _, e := range list {
		if e.who == 'g' && fs.member(n.GID) || e.who == 'G' && fs.member(e.id) {
			groups++
			if e.perm&bound&want == want {
				enough++
			}
		}
	}
	if groups > 0 {
		return enough > 0
	}
	return one(list, 'o').perm&want == want
}

// inherit is what a new inode gets from its folder.
func (n *Node) inherit(dir *Node, umask uint32) {
	list := dir.acl(dfs.XattrDefaultACL)
	switch {
	case n.is(dfs.TypeLink):
	case list == nil:
		n.Mode &^= umask
	default:
		if n.is(dfs.TypeDir) {
			n.Xattrs[dfs.XattrDefaultACL] = dir.Xattrs[dfs.XattrDefaultACL]
		}
		setBits(list, bits(list)&n.Mode)
		n.Mode = n.Mode&^0o777 | bits(list)
		if len(list) > 3 {
			n.Xattrs[dfs.XattrAccessACL] = writeACL(list)
		}
	}
}

// setACL is the part of setxattr(2) that is about lists.
func (fs *FS) setACL(n *Node, name, value string, strip bool) dfs.Errno {
	list, errno := readACL(value)
	switch {
	case errno != dfs.OK:
		return errno
	case list != nil && name == dfs.XattrDefaultACL && !n.is(dfs.TypeDir):
		return dfs.EACCES
	}
	delete(n.Xattrs, name)
	if list != nil && name == dfs.XattrAccessACL {
		n.Mode = n.Mode&^0o777 | bits(list)
		if strip || !fs.free() && !fs.member(n.GID) {
			n.Mode &^= 0o2000
		}
	}
	if list != nil && (name == dfs.XattrDefaultACL || len(list) > 3) {
		n.Xattrs[name] = value
	}
	return dfs.OK
}
