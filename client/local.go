package client

import (
	"strings"
	"time"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// This file makes changes in memory, under exclusive leases, by the rules of package
// meta: what is answered here must be what the masters do when they hear of it. Where a
// rule is not here, or something is not known, the answer is not ok and the masters are
// asked instead.

// local makes one change in memory and puts it on the lane. make answers nil when it
// cannot be made here; what it changes it answers too.
func (fs *FS) local(cred dfs.Cred, make func(l *leases, at dfs.Time) *change) bool {
	l := fs.leases
	// Programs without the kernel's checks have theirs made by the masters, and what a
	// session may not do at all they refuse.
	if !cred.Checked || fs.cfg.Restrict&dfs.ReadOnly != 0 || !l.good() || fs.lane.full() {
		return false
	}
	s := fs.session.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.good() || fs.session.Load() != s {
		return false
	}
	at := fs.timeLocked()
	c := make(l, at)
	if c == nil {
		return false
	}
	c.session = s
	c.mutation.Cred = rpc.CredToProto(cred)
	c.mutation.Time = rpc.TimeToProto(at)
	c.bytes += 256
	for _, ino := range c.inos {
		l.nodes[ino].pending++
		l.touch(ino, false)
	}
	fs.lane.add(c, false)
	l.evictLocked()
	return true
}

// time is what the clock of the masters says, as far as it is known here.
func (fs *FS) time() dfs.Time {
	fs.leases.mu.Lock()
	defer fs.leases.mu.Unlock()
	return fs.timeLocked()
}

// timeLocked is the leader's clock as far as it is known here, and never goes back.
//
// +checklocks:fs.leases.mu
func (fs *FS) timeLocked() dfs.Time {
	l := fs.leases
	t := dfs.TimeOf(time.Now().Add(time.Duration(fs.skew.Load())))
	if t.Compare(l.stamped) <= 0 {
		t = l.stamped
		if t.Nsec++; t.Nsec == 1e9 {
			t.Sec, t.Nsec = t.Sec+1, 0
		}
	}
	l.stamped = t
	return t
}

// after is a time at which inodes may be changed: not before they were changed last.
func after(at dfs.Time, nodes ...*node) bool {
	for _, n := range nodes {
		if n != nil && at.Compare(n.attr.Ctime) < 0 {
			return false
		}
	}
	return true
}

// folder finds a folder in which names can be changed here.
//
// +checklocks:l.mu
func (l *leases) folder(ino dfs.Ino) *node {
	n := l.useLocked(ino)
	if n == nil || !n.changeable() || !n.attr.IsDir() || n.attr.Nlink < 2 {
		return nil
	}
	return n
}

// inode finds an inode that can be changed here.
//
// +checklocks:l.mu
func (l *leases) inode(ino dfs.Ino) *node {
	if n := l.useLocked(ino); n != nil && n.changeable() && n.commits == 0 {
		return n
	}
	return nil
}

// nameable reports whether a name is one without special meaning.
func nameable(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= dfs.NameMax && strings.IndexByte(name, '/') < 0 && strings.IndexByte(name, 0) < 0
}

// makeLocal is Create.
func (fs *FS) makeLocal(cred dfs.Cred, c *metapb.Create) (attr dfs.Attr, ok bool) {
	s := fs.session.Load()
	parent, name, typ := dfs.Ino(c.Parent), string(c.Name), c.Mode&dfs.TypeMask
	isDir := typ == dfs.TypeDir
	ok = fs.local(cred, func(l *leases, at dfs.Time) *change {
		dir := l.folder(parent)
		if dir == nil || !nameable(name) || !dir.attr.Layout.Valid() || isDir && dir.attr.Nlink >= dfs.LinkMax || !after(at, dir) {
			return nil
		}
		if ino, known := dir.find(name); !known || ino != 0 {
			return nil
		}
		if dir.attr.Flags&dfs.FlagDefaultACL != 0 && typ != dfs.TypeLink {
			return nil // what it says is not known here
		}
		attr = dfs.Attr{
			Mode: typ | c.Mode&0o7777&^(c.Umask&0o777), Nlink: 1, UID: cred.UID, GID: cred.GID, Rdev: c.Rdev, Layout: dir.attr.Layout,
			Atime: at, Mtime: at, Ctime: at, Btime: at, Change: 1,
		}
		switch typ {
		case dfs.TypeDir:
			attr.Mode &^= 0o6000
			attr.Nlink = 2
		case dfs.TypeLink:
			if len(c.Target) == 0 || len(c.Target) >= dfs.PathMax {
				return nil
			}
			attr.Mode, attr.Size = dfs.TypeLink|0o777, uint64(len(c.Target))
		case dfs.TypeFile, dfs.TypeSocket, dfs.TypeFIFO, dfs.TypeBlock, dfs.TypeChar:
		default:
			return nil
		}
		if dir.attr.Mode&0o2000 != 0 {
			attr.GID = dir.attr.GID
			if isDir {
				attr.Mode |= 0o2000
			}
		}
		ino, there := fs.tryIno(s)
		if !there {
			return nil
		}
		attr.Ino = ino
		n := l.addLocked(ino)
		n.exclusive, n.unlocked, n.known, n.attr, n.target, n.opened = true, true, true, attr, string(c.Target), true
		l.setName(dir, name, ino)
		dirs := 0
		if isDir {
			dirs = 1
		}
		dir.attr.EntriesChanged(at, 1, dirs)
		expect := attr
		return &change{
			mutation: &metapb.Mutation{Op: &metapb.Mutation_Create{Create: &metapb.Create{
				Parent: c.Parent, Name: c.Name, Ino: uint64(ino), Mode: c.Mode, Rdev: c.Rdev, Target: c.Target, Excl: true, Umask: c.Umask,
			}}},
			inos: []dfs.Ino{parent, ino}, attr: &expect, bytes: len(name) + len(c.Target),
		}
	})
	return attr, ok
}

// removeLocal is Unlink and Rmdir. gone says that the inode has no name any more.
func (fs *FS) removeLocal(cred dfs.Cred, parent dfs.Ino, name string, isDir bool) (ino dfs.Ino, gone, ok bool) {
	ok = fs.local(cred, func(l *leases, at dfs.Time) *change {
		dir := l.folder(parent)
		if dir == nil || !nameable(name) {
			return nil
		}
		ino, _ = dir.find(name)
		if ino == 0 {
			return nil
		}
		n := l.inode(ino)
		if n == nil || n.attr.IsDir() != isDir || n.attr.Nlink == 0 || !after(at, dir, n) {
			return nil
		}
		op := &metapb.Mutation{Op: &metapb.Mutation_Unlink{Unlink: &metapb.Unlink{Parent: uint64(parent), Name: []byte(name)}}}
		dirs := 0
		if isDir {
			if n.attr.Size > 0 {
				return nil
			}
			op.Op = &metapb.Mutation_Rmdir{Rmdir: &metapb.Rmdir{Parent: uint64(parent), Name: []byte(name)}}
			dirs = -1
		}
		l.setName(dir, name, 0)
		dir.attr.EntriesChanged(at, -1, dirs)
		n.attr.DropLink(at)
		gone = n.attr.Nlink == 0
		return &change{mutation: op, inos: []dfs.Ino{parent, ino}, bytes: len(name)}
	})
	return ino, gone, ok
}

// renameLocal is Rename of anything within one folder, and of what is no folder between
// two. victim is what the name led to before, when that has no name any more.
func (fs *FS) renameLocal(cred dfs.Cred, parent dfs.Ino, name string, newParent dfs.Ino, newName string, flags uint32) (moved, victim dfs.Ino, ok bool) {
	if flags&^dfs.RenameNoReplace != 0 {
		return 0, 0, false
	}
	ok = fs.local(cred, func(l *leases, at dfs.Time) *change {
		from, to := l.folder(parent), l.folder(newParent)
		if from == nil || to == nil || !nameable(name) || !nameable(newName) {
			return nil
		}
		source, _ := from.find(name)
		target, known := to.find(newName)
		if source == 0 || !known || target == source {
			return nil
		}
		n := l.inode(source)
		if n == nil || n.attr.IsDir() && (from != to || target != 0) || !after(at, from, to, n) {
			return nil
		}
		inos := []dfs.Ino{parent, source}
		if newParent != parent {
			inos = append(inos, newParent)
		}
		entries := 1
		if target != 0 {
			v := l.inode(target)
			if v == nil || v.attr.IsDir() || flags != 0 || !after(at, v) {
				return nil
			}
			entries = 0
			v.attr.DropLink(at)
			if v.attr.Nlink == 0 {
				victim = target
			}
			inos = append(inos, target)
		}
		dirs := 0
		if n.attr.IsDir() {
			dirs = 1
		}
		l.setName(to, newName, source)
		l.setName(from, name, 0)
		from.attr.EntriesChanged(at, -1, -dirs)
		to.attr.EntriesChanged(at, entries, dirs)
		n.attr.Changed(at)
		moved = source
		expect := n.attr
		return &change{
			mutation: &metapb.Mutation{Op: &metapb.Mutation_Rename{Rename: &metapb.Rename{
				Parent: uint64(parent), Name: []byte(name), NewParent: uint64(newParent), NewName: []byte(newName), Flags: flags,
			}}},
			inos: inos, attr: &expect, bytes: len(name) + len(newName),
		}
	})
	return moved, victim, ok
}

// linkLocal is Link.
func (fs *FS) linkLocal(cred dfs.Cred, ino, parent dfs.Ino, name string) (attr dfs.Attr, ok bool) {
	ok = fs.local(cred, func(l *leases, at dfs.Time) *change {
		dir, n := l.folder(parent), l.inode(ino)
		if dir == nil || n == nil || !nameable(name) || n.attr.IsDir() || n.attr.Nlink == 0 || n.attr.Nlink >= dfs.LinkMax || !after(at, dir, n) {
			return nil
		}
		if there, known := dir.find(name); !known || there != 0 {
			return nil
		}
		n.attr.Nlink++
		n.attr.Changed(at)
		l.setName(dir, name, ino)
		dir.attr.EntriesChanged(at, 1, 0)
		attr = n.attr
		expect := attr
		return &change{
			mutation: &metapb.Mutation{Op: &metapb.Mutation_Link{Link: &metapb.Link{Ino: uint64(ino), Parent: uint64(parent), Name: []byte(name)}}},
			inos:     []dfs.Ino{parent, ino}, attr: &expect, bytes: len(name),
		}
	})
	return attr, ok
}

// setLocal is SetAttr of anything but the size.
func (fs *FS) setLocal(cred dfs.Cred, ino dfs.Ino, set *SetAttr, p *metapb.SetAttr) (attr dfs.Attr, ok bool) {
	ok = fs.local(cred, func(l *leases, at dfs.Time) *change {
		n := l.inode(ino)
		if n == nil || n.attr.Nlink == 0 || set.Size != nil || set.Mode != nil && n.attr.Type() == dfs.TypeLink || !after(at, n) {
			return nil
		}
		for _, t := range [...]*dfs.Time{set.Atime, set.Mtime} {
			if t != nil && t.Nsec >= 1e9 {
				return nil
			}
		}
		if !set.times() && !set.owner() && !set.KillSuid {
			return nil
		}
		if set.Mode != nil && n.attr.Flags&dfs.FlagAccessACL != 0 || (set.owner() || set.KillSuid) && n.attr.Flags&dfs.FlagCapability != 0 {
			return nil // an extended attribute changes too
		}
		a := &n.attr
		if set.UID != nil {
			a.UID = *set.UID
		}
		if set.GID != nil {
			a.GID = *set.GID
		}
		if set.KillSuid || set.UID != nil || set.GID != nil {
			a.KillSuid()
		}
		if set.Mode != nil {
			a.Mode = a.Mode&dfs.TypeMask | *set.Mode&0o7777
		}
		switch {
		case set.AtimeNow:
			a.Atime = at
		case set.Atime != nil:
			a.Atime = *set.Atime
		}
		switch {
		case set.MtimeNow:
			a.Mtime = at
		case set.Mtime != nil:
			a.Mtime = *set.Mtime
		}
		n.attr.Changed(at)
		attr = *a
		expect := attr
		return &change{
			mutation: &metapb.Mutation{Op: &metapb.Mutation_SetAttr{SetAttr: p}},
			inos:     []dfs.Ino{ino}, attr: &expect,
		}
	})
	return attr, ok
}

// tryIno takes an unused inode number if there is one now.
func (fs *FS) tryIno(s *session) (dfs.Ino, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fs.tryInoLocked(s)
}
