package model

import (
	"maps"
	"slices"
	"strings"

	"dfs"
)

// Cell is the content of one byte of a file: which byte of which record it is.
// The zero Cell is a hole.
type Cell struct {
	Chunk  dfs.ChunkID
	Record uint32
	Pos    uint32
}

// Node is an inode.
type Node struct {
	Ino                        dfs.Ino
	Mode, UID, GID, Rdev       uint32
	Layout                     dfs.Layout
	Atime, Mtime, Ctime, Btime dfs.Time
	Parent                     *Node            // of a folder
	Children                   map[string]*Node // of a folder
	Data                       []Cell           // of a file
	Target                     string           // of a symlink
	Xattrs                     map[string]string
	Unnamed                    bool // made without a name, and may get its first
}

// FS is the file system. Cred and Now are those of the next call.
type FS struct {
	Nodes map[dfs.Ino]*Node // also those without a name, until Reap
	Cred  dfs.Cred
	Now   dfs.Time
	// Granted says which numbers Create may use.
	Granted func(dfs.Ino) bool
}

// New returns a file system with a root folder.
func New(now dfs.Time) *FS {
	fs := &FS{Nodes: make(map[dfs.Ino]*Node), Now: now}
	root := fs.add(dfs.RootIno, dfs.TypeDir|0o755)
	root.Parent, root.Layout = root, dfs.DefaultLayout
	return fs
}

func (fs *FS) add(ino dfs.Ino, mode uint32) *Node {
	n := &Node{
		Ino: ino, Mode: mode, UID: fs.Cred.UID, GID: fs.Cred.GID,
		Atime: fs.Now, Mtime: fs.Now, Ctime: fs.Now, Btime: fs.Now, Xattrs: make(map[string]string),
	}
	if n.is(dfs.TypeDir) {
		n.Children = make(map[string]*Node)
	}
	fs.Nodes[ino] = n
	return n
}

func (n *Node) is(kind uint32) bool { return n.Mode&dfs.TypeMask == kind }

// names counts the entries that lead to n.
func (fs *FS) names(n *Node) uint32 {
	count := uint32(0)
	for _, dir := range fs.Nodes {
		for _, child := range dir.Children {
			if child == n {
				count++
			}
		}
	}
	return count
}

// dead reports whether n has no name any more.
func (fs *FS) dead(n *Node) bool { return n.Ino != dfs.RootIno && fs.names(n) == 0 }

// Attr is what stat(2) tells of n. Change is not modelled.
func (fs *FS) Attr(n *Node) dfs.Attr {
	a := dfs.Attr{
		Ino: n.Ino, Mode: n.Mode, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Layout: n.Layout, Nlink: fs.names(n),
		Size:  uint64(len(n.Data) + len(n.Children) + len(n.Target)),
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime,
	}
	for _, c := range n.Data {
		if c != (Cell{}) {
			a.Alloc++
		}
	}
	for name := range n.Xattrs {
		a.XattrBytes += uint32(len(name)) + 1
		switch name {
		case dfs.XattrAccessACL:
			a.Flags |= dfs.FlagAccessACL
		case dfs.XattrDefaultACL:
			a.Flags |= dfs.FlagDefaultACL
		case dfs.XattrCapability:
			a.Flags |= dfs.FlagCapability
		}
	}
	if n.Unnamed {
		a.Flags |= dfs.FlagTmpfile
	}
	if n.is(dfs.TypeDir) {
		if a.Nlink = 2; fs.dead(n) {
			a.Nlink = 0
		}
		for _, child := range n.Children {
			if child.is(dfs.TypeDir) {
				a.Nlink++
			}
		}
	}
	return a
}

// Orphans lists the inodes without a name.
func (fs *FS) Orphans() []dfs.Ino {
	var list []dfs.Ino
	for ino, n := range fs.Nodes {
		if fs.dead(n) {
			list = append(list, ino)
		}
	}
	slices.Sort(list)
	return list
}

// Reap forgets an inode without a name.
func (fs *FS) Reap(ino dfs.Ino) { delete(fs.Nodes, ino) }

// Who may do what.

const (
	x = 1
	w = 2
	r = 4
)

func (fs *FS) free() bool { return fs.Cred.Checked || fs.Cred.UID == 0 }

func (fs *FS) member(gid uint32) bool {
	return fs.Cred.GID == gid || slices.Contains(fs.Cred.Groups, gid)
}

func (fs *FS) can(n *Node, want uint32) bool {
	if fs.free() {
		return true
	}
	if list := n.acl(dfs.XattrAccessACL); list != nil && n.Mode&0o070 != 0 {
		return fs.allows(n, list, want)
	}
	switch {
	case n.UID == fs.Cred.UID:
		return n.Mode/64&want == want
	case fs.member(n.GID):
		return n.Mode/8&want == want
	default:
		return n.Mode&want == want
	}
}

func (fs *FS) owner(n *Node) bool { return fs.free() || n.UID == fs.Cred.UID }

// folder finds a folder that may be searched and looks the name up in it.
func (fs *FS) folder(ino dfs.Ino, name string) (dir, child *Node, errno dfs.Errno) {
	dir = fs.Nodes[ino]
	switch {
	case dir == nil:
		return nil, nil, dfs.ENOENT
	case !dir.is(dfs.TypeDir):
		return nil, nil, dfs.ENOTDIR
	case !fs.can(dir, x):
		return nil, nil, dfs.EACCES
	case fs.dead(dir) && name != "." && name != "..":
		return nil, nil, dfs.ENOENT
	case len(name) > 255:
		return nil, nil, dfs.ENAMETOOLONG
	}
	return dir, dir.Children[name], dfs.OK
}

func badName(name string) dfs.Errno {
	switch {
	case name == "":
		return dfs.ENOENT
	case strings.ContainsAny(name, "/\x00"):
		return dfs.EINVAL
	}
	return dfs.OK
}

func (fs *FS) mayAdd(dir *Node) dfs.Errno {
	if !fs.can(dir, w|x) {
		return dfs.EACCES
	}
	return dfs.OK
}

func (fs *FS) mayRemove(dir, child *Node) dfs.Errno {
	switch {
	case !fs.can(dir, w|x):
		return dfs.EACCES
	case dir.Mode&0o1000 != 0 && !fs.owner(dir) && !fs.owner(child):
		return dfs.EPERM
	}
	return dfs.OK
}

func (fs *FS) touch(dirs ...*Node) {
	for _, d := range dirs {
		d.Mtime, d.Ctime = fs.Now, fs.Now
	}
}

// Entry is what Create is asked for.
type Entry struct {
	Parent     dfs.Ino
	Name       string
	Ino        dfs.Ino
	Mode, Rdev uint32
	Umask      uint32
	Target     string
	Excl       bool
}

// Create is open(O_CREAT), mkdir, mknod and symlink.
func (fs *FS) Create(q Entry) (node *Node, existed bool, errno dfs.Errno) {
	kind := q.Mode & dfs.TypeMask
	if kind == 0 {
		kind = dfs.TypeFile
	}
	if e := badName(q.Name); e != dfs.OK {
		return nil, false, e
	}
	switch kind {
	case dfs.TypeFile, dfs.TypeDir, dfs.TypeLink, dfs.TypeFIFO, dfs.TypeSocket, dfs.TypeChar, dfs.TypeBlock:
	default:
		return nil, false, dfs.EINVAL
	}
	if kind == dfs.TypeLink {
		if q.Target == "" {
			return nil, false, dfs.ENOENT
		}
		if len(q.Target) > 4095 {
			return nil, false, dfs.ENAMETOOLONG
		}
	} else if q.Target != "" {
		return nil, false, dfs.EINVAL
	}
	if q.Name == "." || q.Name == ".." {
		return nil, false, dfs.EEXIST
	}
	dir, child, errno := fs.folder(q.Parent, q.Name)
	if errno != dfs.OK {
		return nil, false, errno
	}
	if child != nil {
		switch {
		case q.Excl || kind != dfs.TypeFile:
			return nil, false, dfs.EEXIST
		case child.is(dfs.TypeDir):
			return nil, false, dfs.EISDIR
		}
		return child, true, dfs.OK
	}
	if e := fs.mayAdd(dir); e != dfs.OK {
		return nil, false, e
	}
	if !fs.free() && (kind == dfs.TypeBlock || kind == dfs.TypeChar && q.Rdev != 0) {
		return nil, false, dfs.EPERM
	}
	if !fs.Granted(q.Ino) || fs.Nodes[q.Ino] != nil {
		return nil, false, dfs.EINVAL
	}

	n := fs.add(q.Ino, kind|q.Mode&0o7777)
	n.Rdev, n.Layout, n.Target = q.Rdev, dir.Layout, q.Target
	switch kind {
	case dfs.TypeLink:
		n.Mode = dfs.TypeLink | 0o777
	case dfs.TypeDir:
		n.Mode &^= 0o6000
		n.Parent = dir
	}
	fs.descend(n, dir, q.Umask)
	dir.Children[q.Name] = n
	fs.touch(dir)
	return n, false, dfs.OK
}

// descend gives a new inode what it has from its folder.
func (fs *FS) descend(n, dir *Node, umask uint32) {
	n.Layout = dir.Layout
	if dir.Mode&0o2000 != 0 {
		n.GID = dir.GID
		switch {
		case n.is(dfs.TypeDir):
			n.Mode |= 0o2000
		case n.Mode&0o2010 == 0o2010 && !fs.free() && !fs.member(n.GID):
			n.Mode &^= 0o2000
		}
	}
	n.inherit(dir, umask)
}

// Tmpfile is open(O_TMPFILE).
func (fs *FS) Tmpfile(q Entry) (*Node, dfs.Errno) {
	dir := fs.Nodes[q.Parent]
	switch {
	case q.Name != "" || q.Target != "" || q.Mode&dfs.TypeMask != dfs.TypeFile && q.Mode&dfs.TypeMask != 0:
		return nil, dfs.EINVAL
	case dir == nil:
		return nil, dfs.ENOENT
	case !dir.is(dfs.TypeDir):
		return nil, dfs.ENOTDIR
	case !fs.can(dir, w|x):
		return nil, dfs.EACCES
	case fs.dead(dir):
		return nil, dfs.ENOENT
	case !fs.Granted(q.Ino) || fs.Nodes[q.Ino] != nil:
		return nil, dfs.EINVAL
	}
	n := fs.add(q.Ino, dfs.TypeFile|q.Mode&0o7777)
	n.Unnamed = !q.Excl
	fs.descend(n, dir, q.Umask)
	return n, dfs.OK
}

// Link is link(2).
func (fs *FS) Link(ino, parent dfs.Ino, name string) (*Node, dfs.Errno) {
	if e := badName(name); e != dfs.OK {
		return nil, e
	}
	if name == "." || name == ".." {
		return nil, dfs.EEXIST
	}
	dir, child, errno := fs.folder(parent, name)
	switch {
	case errno != dfs.OK:
		return nil, errno
	case child != nil:
		return nil, dfs.EEXIST
	}
	n := fs.Nodes[ino]
	if n == nil {
		return nil, dfs.ENOENT
	}
	if e := fs.mayAdd(dir); e != dfs.OK {
		return nil, e
	}
	switch {
	case n.is(dfs.TypeDir):
		return nil, dfs.EPERM
	case fs.dead(n) && !n.Unnamed:
		return nil, dfs.ENOENT
	}
	n.Unnamed = false
	dir.Children[name] = n
	n.Ctime = fs.Now
	fs.touch(dir)
	return n, dfs.OK
}

// Unlink is unlink(2).
func (fs *FS) Unlink(parent dfs.Ino, name string) dfs.Errno {
	if name == "." || name == ".." {
		return dfs.EISDIR
	}
	return fs.remove(parent, name, func(n *Node) dfs.Errno {
		if n.is(dfs.TypeDir) {
			return dfs.EISDIR
		}
		return dfs.OK
	})
}

// Rmdir is rmdir(2).
func (fs *FS) Rmdir(parent dfs.Ino, name string) dfs.Errno {
	switch name {
	case ".":
		return dfs.EINVAL
	case "..":
		return dfs.ENOTEMPTY
	}
	return fs.remove(parent, name, func(n *Node) dfs.Errno {
		switch {
		case !n.is(dfs.TypeDir):
			return dfs.ENOTDIR
		case len(n.Children) > 0:
			return dfs.ENOTEMPTY
		}
		return dfs.OK
	})
}

func (fs *FS) remove(parent dfs.Ino, name string, fits func(*Node) dfs.Errno) dfs.Errno {
	if e := badName(name); e != dfs.OK {
		return e
	}
	dir, child, errno := fs.folder(parent, name)
	switch {
	case errno != dfs.OK:
		return errno
	case child == nil:
		return dfs.ENOENT
	}
	if e := fs.mayRemove(dir, child); e != dfs.OK {
		return e
	}
	if e := fits(child); e != dfs.OK {
		return e
	}
	delete(dir.Children, name)
	child.Ctime = fs.Now
	fs.touch(dir)
	return dfs.OK
}

// within reports whether dir is n or below it.
func within(dir, n *Node) bool {
	for dir != n && dir.Parent != dir {
		dir = dir.Parent
	}
	return dir == n
}

// Rename is renameat2(2).
func (fs *FS) Rename(parent dfs.Ino, name string, newParent dfs.Ino, newName string, flags uint32, whiteout dfs.Ino) (*Node, dfs.Errno) {
	noreplace, exchange := flags&1 != 0, flags&2 != 0
	if flags > 7 || exchange && flags != 2 {
		return nil, dfs.EINVAL
	}
	for _, s := range []string{name, newName} {
		if e := badName(s); e != dfs.OK {
			return nil, e
		}
	}
	if name == "." || name == ".." {
		return nil, dfs.EBUSY
	}
	if newName == "." || newName == ".." {
		if noreplace {
			return nil, dfs.EEXIST
		}
		return nil, dfs.EBUSY
	}
	for _, ino := range []dfs.Ino{parent, newParent} {
		if dir := fs.Nodes[ino]; dir == nil {
			return nil, dfs.ENOENT
		} else if !dir.is(dfs.TypeDir) {
			return nil, dfs.ENOTDIR
		}
	}
	from, source, errno := fs.folder(parent, name)
	switch {
	case errno != dfs.OK:
		return nil, errno
	case source == nil:
		return nil, dfs.ENOENT
	}
	to, target, errno := fs.folder(newParent, newName)
	switch {
	case errno != dfs.OK:
		return nil, errno
	case target != nil && noreplace:
		return nil, dfs.EEXIST
	case target == nil && exchange:
		return nil, dfs.ENOENT
	}
	if from != to {
		if source.is(dfs.TypeDir) && within(to, source) {
			return nil, dfs.EINVAL
		}
		if target != nil && target.is(dfs.TypeDir) && within(from, target) {
			if exchange {
				return nil, dfs.EINVAL
			}
			return nil, dfs.ENOTEMPTY
		}
	}
	if source == target {
		return source, dfs.OK
	}
	if e := fs.mayRename(from, to, source, target, exchange); e != dfs.OK {
		return nil, e
	}
	if flags&4 != 0 && (!fs.Granted(whiteout) || fs.Nodes[whiteout] != nil) {
		return nil, dfs.EINVAL
	}
	to.Children[newName] = source
	if flags&4 != 0 {
		from.Children[name] = fs.add(whiteout, dfs.TypeChar)
		from.Children[name].Layout = from.Layout
		if from.Mode&0o2000 != 0 {
			from.Children[name].GID = from.GID
		}
	} else if exchange {
		from.Children[name] = target
	} else {
		delete(from.Children, name)
	}
	if source.Parent != nil {
		source.Parent = to
	}
	if exchange && target.Parent != nil {
		target.Parent = from
	}
	source.Ctime = fs.Now
	if target != nil {
		target.Ctime = fs.Now
	}
	fs.touch(from, to)
	return source, dfs.OK
}

func (fs *FS) mayRename(from, to, source, target *Node, exchange bool) dfs.Errno {
	if e := fs.mayRemove(from, source); e != dfs.OK {
		return e
	}
	if target == nil {
		if e := fs.mayAdd(to); e != dfs.OK {
			return e
		}
	} else {
		if e := fs.mayRemove(to, target); e != dfs.OK {
			return e
		}
		if !exchange && source.is(dfs.TypeDir) && !target.is(dfs.TypeDir) {
			return dfs.ENOTDIR
		}
		if !exchange && !source.is(dfs.TypeDir) && target.is(dfs.TypeDir) {
			return dfs.EISDIR
		}
	}
	if from != to {
		if source.is(dfs.TypeDir) && !fs.can(source, w) {
			return dfs.EACCES
		}
		if exchange && target.is(dfs.TypeDir) && !fs.can(target, w) {
			return dfs.EACCES
		}
	}
	if !exchange && target != nil && len(target.Children) > 0 {
		return dfs.ENOTEMPTY
	}
	return dfs.OK
}

// Chmod is chmod(2).
func (fs *FS) Chmod(ino dfs.Ino, mode uint32) (*Node, dfs.Errno) {
	n := fs.Nodes[ino]
	switch {
	case n == nil:
		return nil, dfs.ESTALE
	case n.is(dfs.TypeLink):
		return nil, dfs.EOPNOTSUPP
	case !fs.owner(n):
		return nil, dfs.EPERM
	}
	n.Mode = n.Mode&dfs.TypeMask | mode&0o7777
	if !fs.free() && !fs.member(n.GID) {
		n.Mode &^= 0o2000
	}
	if list := n.acl(dfs.XattrAccessACL); list != nil {
		setBits(list, n.Mode)
		n.Xattrs[dfs.XattrAccessACL] = writeACL(list)
	}
	n.Ctime = fs.Now
	return n, dfs.OK
}

// Chown is chown(2); nil is -1.
func (fs *FS) Chown(ino dfs.Ino, uid, gid *uint32) (*Node, dfs.Errno) {
	n := fs.Nodes[ino]
	if n == nil {
		return nil, dfs.ESTALE
	}
	if !fs.free() {
		if uid != nil && (n.UID != fs.Cred.UID || *uid != n.UID) {
			return nil, dfs.EPERM
		}
		if gid != nil && (n.UID != fs.Cred.UID || *gid != n.GID && !fs.member(*gid)) {
			return nil, dfs.EPERM
		}
	}
	if uid == nil && gid == nil {
		return n, dfs.OK
	}
	if uid != nil {
		n.UID = *uid
	}
	if gid != nil {
		n.GID = *gid
	}
	n.dropSuid()
	n.Ctime = fs.Now
	return n, dfs.OK
}

func (n *Node) dropSuid() {
	if n.is(dfs.TypeDir) {
		return
	}
	if n.Mode&0o2010 == 0o2010 {
		n.Mode -= 0o2000
	}
	n.Mode &^= 0o4000
}

// Truncate is truncate(2), or ftruncate(2) when handle.
func (fs *FS) Truncate(ino dfs.Ino, size uint64, handle bool) (*Node, dfs.Errno) {
	n := fs.Nodes[ino]
	switch {
	case n == nil:
		return nil, dfs.ESTALE
	case n.is(dfs.TypeDir):
		return nil, dfs.EISDIR
	case !n.is(dfs.TypeFile):
		return nil, dfs.EINVAL
	case !handle && !fs.can(n, w):
		return nil, dfs.EACCES
	}
	if !fs.free() {
		n.dropSuid()
	}
	n.resize(size)
	n.Mtime, n.Ctime = fs.Now, fs.Now
	return n, dfs.OK
}

func (n *Node) resize(size uint64) {
	for uint64(len(n.Data)) < size {
		n.Data = append(n.Data, Cell{})
	}
	n.Data = n.Data[:size]
}

// Utimens is utimensat(2); nil is UTIME_OMIT, and now says UTIME_NOW.
func (fs *FS) Utimens(ino dfs.Ino, atime, mtime *dfs.Time, anow, mnow bool) (*Node, dfs.Errno) {
	n := fs.Nodes[ino]
	if n == nil {
		return nil, dfs.ESTALE
	}
	if atime == nil && mtime == nil && !anow && !mnow {
		return n, dfs.OK
	}
	if !fs.owner(n) {
		if !anow || !mnow {
			return nil, dfs.EPERM
		}
		if !fs.can(n, w) {
			return nil, dfs.EACCES
		}
	}
	if atime != nil {
		n.Atime = *atime
	}
	if mtime != nil {
		n.Mtime = *mtime
	}
	if anow {
		n.Atime = fs.Now
	}
	if mnow {
		n.Mtime = fs.Now
	}
	n.Ctime = fs.Now
	return n, dfs.OK
}

// Write puts cells at off; the size becomes at least sizeMin. ESTALE when the
// file is gone.
func (fs *FS) Write(ino dfs.Ino, off uint64, cells []Cell, sizeMin uint64, mtime dfs.Time) dfs.Errno {
	n := fs.Nodes[ino]
	if n == nil {
		return dfs.ESTALE
	}
	n.resize(max(uint64(len(n.Data)), off+uint64(len(cells)), sizeMin))
	copy(n.Data[off:], cells)
	n.Mtime, n.Ctime = mtime, fs.Now
	return dfs.OK
}

func (fs *FS) xattr(ino dfs.Ino, name string, write bool) (*Node, dfs.Errno) {
	n := fs.Nodes[ino]
	if n == nil {
		return nil, dfs.ESTALE
	}
	if name == "" || len(name) > 255 {
		return nil, dfs.ERANGE
	}
	not := dfs.ENODATA
	if write {
		not = dfs.EPERM
	}
	space, rest, _ := strings.Cut(name, ".")
	want := uint32(r)
	if write {
		want = w
	}
	if name == dfs.XattrAccessACL || name == dfs.XattrDefaultACL {
		switch {
		case n.is(dfs.TypeLink):
			return nil, dfs.EOPNOTSUPP
		case write && !fs.owner(n):
			return nil, dfs.EPERM
		}
		return n, dfs.OK
	}
	switch {
	case !strings.Contains(name, ".") || space != "user" && space != "trusted" && space != "security":
		return nil, dfs.EOPNOTSUPP
	case space == "user" && !n.is(dfs.TypeFile) && !n.is(dfs.TypeDir):
		return nil, not
	case space == "user" && write && n.is(dfs.TypeDir) && n.Mode&0o1000 != 0 && !fs.owner(n):
		return nil, dfs.EPERM
	case space == "trusted" && fs.Cred.UID != 0:
		return nil, not
	case space == "security" && write && !fs.free():
		return nil, dfs.EPERM
	case rest == "":
		return nil, dfs.EINVAL
	case space == "user" && !fs.can(n, want):
		return nil, dfs.EACCES
	}
	return n, dfs.OK
}

// SetXattr is setxattr(2).
func (fs *FS) SetXattr(ino dfs.Ino, name, value string, flags uint32) (*Node, dfs.Errno) {
	if len(value) > 65536 {
		return nil, dfs.E2BIG
	}
	n, errno := fs.xattr(ino, name, true)
	if errno != dfs.OK {
		return nil, errno
	}
	_, has := n.Xattrs[name]
	switch {
	case has && flags&1 != 0:
		return nil, dfs.EEXIST
	case !has && flags&2 != 0:
		return nil, dfs.ENODATA
	}
	if name == dfs.XattrAccessACL || name == dfs.XattrDefaultACL {
		if e := fs.setACL(n, name, value, flags&dfs.XattrKillSetgid != 0); e != dfs.OK {
			return nil, e
		}
	} else {
		n.Xattrs[name] = value
	}
	n.Ctime = fs.Now
	return n, dfs.OK
}

// RemoveXattr is removexattr(2).
func (fs *FS) RemoveXattr(ino dfs.Ino, name string) (*Node, dfs.Errno) {
	n, errno := fs.xattr(ino, name, true)
	if errno != dfs.OK {
		return nil, errno
	}
	if _, has := n.Xattrs[name]; !has {
		if name == dfs.XattrAccessACL || name == dfs.XattrDefaultACL {
			return n, dfs.OK
		}
		return nil, dfs.ENODATA
	}
	delete(n.Xattrs, name)
	n.Ctime = fs.Now
	return n, dfs.OK
}

// GetXattr is getxattr(2).
func (fs *FS) GetXattr(ino dfs.Ino, name string) (string, dfs.Errno) {
	n, errno := fs.xattr(ino, name, false)
	if errno != dfs.OK {
		return "", errno
	}
	value, has := n.Xattrs[name]
	if !has {
		return "", dfs.ENODATA
	}
	return value, dfs.OK
}

// ListXattr is listxattr(2).
func (fs *FS) ListXattr(ino dfs.Ino) []string {
	names := slices.Sorted(maps.Keys(fs.Nodes[ino].Xattrs))
	return slices.DeleteFunc(names, func(s string) bool { return strings.HasPrefix(s, "trusted.") && fs.Cred.UID != 0 })
}

// Lookup finds a name, also "." and "..".
func (fs *FS) Lookup(parent dfs.Ino, name string) (*Node, dfs.Errno) {
	if e := badName(name); e != dfs.OK {
		return nil, e
	}
	dir, child, errno := fs.folder(parent, name)
	switch {
	case errno != dfs.OK:
		return nil, errno
	case name == ".":
		return dir, dfs.OK
	case name == ".." && fs.Nodes[dir.Parent.Ino] == nil:
		return nil, dfs.ESTALE // both were removed, and the parent forgotten
	case name == "..":
		return dir.Parent, dfs.OK
	case child == nil:
		return nil, dfs.ENOENT
	}
	return child, dfs.OK
}
