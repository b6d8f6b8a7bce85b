package meta

import (
	"slices"
	"strings"

	"dfs"
)

// What a caller wants to do with an inode, as in access(2).
const (
	mayExec  = 1
	mayWrite = 2
	mayRead  = 4
)

const (
	modeSetuid = 0o4000
	modeSetgid = 0o2000
	modeSticky = 0o1000
	modePerm   = 0o7777
	modeGroupX = 0o0010
	modeAnyX   = 0o0111
)

func inGroup(cred *dfs.Cred, gid uint32) bool {
	return cred.GID == gid || slices.Contains(cred.Groups, gid)
}

// root reports whether the caller has Linux's CAP_DAC_OVERRIDE, CAP_FOWNER,
// CAP_CHOWN and CAP_FSETID: in dfs that is user 0.
func root(cred *dfs.Cred) bool { return cred.UID == 0 }

// may checks the permission bits and the access ACL as Linux's generic_permission does:
// exactly one class counts, and root still needs one x bit to execute what is no folder.
func (v View) may(in *inode, cred *dfs.Cred, mask uint32) error {
	if cred.Checked {
		return nil
	}
	if root(cred) {
		if mask&mayExec != 0 && !in.IsDir() && in.Mode&modeAnyX == 0 {
			return dfs.EACCES
		}
		return nil
	}
	// Linux does not look at a list whose mask allows nothing.
	if in.Flags&dfs.FlagAccessACL != 0 && in.Mode&0o070 != 0 {
		list, err := v.acl(in, dfs.XattrAccessACL)
		if err != nil {
			return err
		}
		if list != nil {
			if !list.permits(in, cred, uint16(mask)) {
				return dfs.EACCES
			}
			return nil
		}
	}
	bits := in.Mode
	switch {
	case cred.UID == in.UID:
		bits >>= 6
	case inGroup(cred, in.GID):
		bits >>= 3
	}
	if mask&^bits&7 != 0 {
		return dfs.EACCES
	}
	return nil
}

// owns reports whether the caller may do what only the owner and root may.
func (in *inode) owns(cred *dfs.Cred) bool {
	return cred.Checked || root(cred) || cred.UID == in.UID
}

// mayRemove checks whether the caller may take a name of victim out of dir, as
// Linux's may_delete does before it looks at the types.
func (v View) mayRemove(cred *dfs.Cred, dir, victim *inode) error {
	if err := v.may(dir, cred, mayWrite|mayExec); err != nil {
		return err
	}
	if dir.Mode&modeSticky != 0 && !victim.owns(cred) && !dir.owns(cred) {
		return dfs.EPERM
	}
	return nil
}

func checkDir(in *inode) error {
	switch {
	case in == nil:
		return dfs.ENOENT // removed, and reaped by now
	case !in.IsDir():
		return dfs.ENOTDIR
	}
	return nil
}

// checkName refuses what can be no name at all. The length is looked at later,
// after the permission to search, as Linux does.
func checkName(name string) error {
	if name == "" {
		return dfs.ENOENT
	}
	if strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0 {
		return dfs.EINVAL
	}
	return nil
}

func isDot(name string) bool { return name == "." || name == ".." }
