package posix

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var aclCases = []Case{
	{Name: "acl/set, get, remove", Run: aclBasics},
	{Name: "acl/refusals", Run: aclRefuse},
	{Name: "acl/mode and list agree", Run: aclMode},
	{Name: "acl/clears setgid of strangers", Root: true, Run: aclSetgid},
	{Name: "acl/who may open", Root: true, Run: aclOpen},
	{Name: "acl/who may search and change a folder", Root: true, Run: aclFolder},
	{Name: "acl/only the owner sets one", Root: true, Run: aclOwners},
	{Name: "acl/default is inherited", Run: aclDefault},
	{Name: "acl/default takes the place of the umask", Run: aclUmask},
	{Name: "acl/default without an entry for anybody", Run: aclDefaultMinimal},
	{Name: "acl/removed with the default", Run: aclDefaultRemoved},
}

const (
	aclAccess  = "system.posix_acl_access"
	aclInherit = "system.posix_acl_default"

	aclNone = 1<<32 - 1 // the id of entries that are about nobody by number
)

// entry is an entry of a list; the tags are those of POSIX.1e as Linux numbers them.
type entry struct {
	tag, perm uint16
	id        uint32
}

func owner(perm uint16) entry                 { return entry{0x01, perm, aclNone} }
func user(id uint32, perm uint16) entry       { return entry{0x02, perm, id} }
func ownGroup(perm uint16) entry              { return entry{0x04, perm, aclNone} }
func namedGroup(id uint32, perm uint16) entry { return entry{0x08, perm, id} }
func mask(perm uint16) entry                  { return entry{0x10, perm, aclNone} }
func others(perm uint16) entry                { return entry{0x20, perm, aclNone} }

func aclBytes(list ...entry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range list {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func setACL(t *testing.T, path, kind string, list ...entry) {
	t.Helper()
	if err := unix.Setxattr(path, kind, aclBytes(list...), 0); err != nil {
		t.Fatalf("setxattr %s of %s: %v", kind, path, err)
	}
}

// hasACL wants exactly that list; none at all when it is empty.
func hasACL(t *testing.T, path, kind string, want ...entry) {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Getxattr(path, kind, buf)
	if len(want) == 0 {
		refuse(t, kind+" of "+path, err, unix.ENODATA)
		return
	}
	if err != nil {
		t.Errorf("getxattr %s of %s: %v", kind, path, err)
		return
	}
	equal(t, kind+" of "+path, fmt.Sprintf("%x", buf[:n]), fmt.Sprintf("%x", aclBytes(want...)))
}

func perm(t *testing.T, path string) uint32 {
	t.Helper()
	return stat(t, path).Mode & 0o7777
}

func aclBasics(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("x"))
	hasACL(t, path, aclAccess)
	must(t, unix.Removexattr(path, aclAccess)) // Linux has it so
	list := []entry{owner(6), user(userA, 7), user(userB, 0), ownGroup(4), namedGroup(groupA, 6), mask(6), others(0)}
	before := stat(t, path)
	setACL(t, path, aclAccess, list...)
	hasACL(t, path, aclAccess, list...)
	if after := stat(t, path); after.Ctim == before.Ctim || after.Mtim != before.Mtim {
		t.Errorf("ctime %v, then %v; mtime %v, then %v", before.Ctim, after.Ctim, before.Mtim, after.Mtim)
	}
	must(t, os.Rename(path, path+"2"))
	path += "2"
	hasACL(t, path, aclAccess, list...)
	must(t, unix.Removexattr(path, aclAccess))
	hasACL(t, path, aclAccess)
	equal(t, "mode", perm(t, path), 0o660) // of the group is what the mask was
	setACL(t, dir, aclInherit, list...)
	hasACL(t, dir, aclInherit, list...)
	hasACL(t, dir, aclAccess)
	must(t, unix.Removexattr(dir, aclInherit))
	hasACL(t, dir, aclInherit)
}

func aclRefuse(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Symlink("f", filepath.Join(dir, "l")))
	good := []entry{owner(6), user(userA, 7), ownGroup(4), mask(6), others(0)}
	set := func(list ...entry) error { return unix.Setxattr(path, aclAccess, aclBytes(list...), 0) }
	refuse(t, "without a mask", set(owner(6), user(userA, 7), ownGroup(4), others(0)), unix.EINVAL)
	refuse(t, "without an owner", set(ownGroup(4), others(0)), unix.EINVAL)
	refuse(t, "without others", set(owner(6), ownGroup(4)), unix.EINVAL)
	refuse(t, "in another order", set(others(0), ownGroup(4), owner(6)), unix.EINVAL)
	refuse(t, "an entry twice", set(owner(6), owner(6), ownGroup(4), others(0)), unix.EINVAL)
	refuse(t, "a bit that is none", set(owner(14), ownGroup(4), others(0)), unix.EINVAL)
	refuse(t, "a tag that is none", set(owner(6), entry{0x40, 6, 0}, ownGroup(4), others(0)), unix.EINVAL)
	refuse(t, "cut short", unix.Setxattr(path, aclAccess, aclBytes(good...)[:10], 0), unix.EINVAL)
	refuse(t, "another version", unix.Setxattr(path, aclAccess, []byte{3, 0, 0, 0}, 0), unix.EOPNOTSUPP)
	refuse(t, "a default of a file", unix.Setxattr(path, aclInherit, aclBytes(good...), 0), unix.EACCES)
	refuse(t, "of a symlink", unix.Lsetxattr(filepath.Join(dir, "l"), aclAccess, aclBytes(good...), 0), unix.EOPNOTSUPP)
	equal(t, "mode", perm(t, path), 0o644)
	hasACL(t, path, aclAccess)
}

func aclMode(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	setACL(t, path, aclAccess, owner(7), user(userA, 7), ownGroup(1), mask(5), others(2))
	equal(t, "mode shows the mask", perm(t, path), 0o752)
	must(t, unix.Chmod(path, 0o4624))
	equal(t, "mode", perm(t, path), 0o4624)
	hasACL(t, path, aclAccess, owner(6), user(userA, 7), ownGroup(1), mask(2), others(4))
	// One that says no more than the mode is the mode.
	setACL(t, path, aclAccess, owner(6), ownGroup(0), others(1))
	equal(t, "mode", perm(t, path), 0o4601)
	hasACL(t, path, aclAccess)
	setACL(t, path, aclAccess, owner(6), ownGroup(6), mask(4), others(0))
	equal(t, "mode", perm(t, path), 0o4640)
	hasACL(t, path, aclAccess, owner(6), ownGroup(6), mask(4), others(0))
	f := open(t, path, os.O_RDWR)
	must(t, unix.Fchmod(int(f.Fd()), 0o600))
	hasACL(t, path, aclAccess, owner(6), ownGroup(6), mask(0), others(0))
}

func aclSetgid(t *testing.T, dir string) {
	must(t, unix.Chmod(dir, 0o777))
	path := filepath.Join(dir, "f")
	list := []entry{owner(7), user(userB, 7), ownGroup(5), mask(7), others(5)}
	write(t, path, nil)
	must(t, os.Chown(path, userA, groupB))
	must(t, unix.Chmod(path, 0o2755))
	must(t, as(t, userA, groupA, nil, func() error { return unix.Setxattr(path, aclAccess, aclBytes(list...), 0) }))
	equal(t, "mode when set by one who is not of the group", perm(t, path), 0o775)
	must(t, unix.Chmod(path, 0o2755))
	must(t, as(t, userA, groupA, []int{groupB}, func() error { return unix.Setxattr(path, aclAccess, aclBytes(list...), 0) }))
	equal(t, "mode when set by one of the group", perm(t, path), 0o2775)
}

func aclOpen(t *testing.T, dir string) {
	must(t, unix.Chmod(dir, 0o755))
	path := filepath.Join(dir, "f")
	write(t, path, []byte("x"))
	must(t, os.Chown(path, userA, groupA))
	const third = userB + 1
	open := func(uid, gid int, groups []int, flags int) error { return as(t, uid, gid, groups, try(path, flags)) }
	must(t, open(userB, groupB, nil, unix.O_RDONLY))
	setACL(t, path, aclAccess, owner(2), user(userB, 6), ownGroup(0), namedGroup(groupB, 7), mask(4), others(6))
	refuse(t, "the owner, who may only write", open(userA, groupA, nil, unix.O_RDONLY), unix.EACCES)
	must(t, open(userA, groupA, nil, unix.O_WRONLY))
	must(t, open(userB, groupA, nil, unix.O_RDONLY))
	refuse(t, "a user with a right that the mask takes", open(userB, groupA, nil, unix.O_RDWR), unix.EACCES)
	must(t, open(third, groupB, nil, unix.O_RDONLY))
	must(t, open(third, groupA, []int{groupB}, unix.O_RDONLY))
	refuse(t, "a group with a right that the mask takes", open(third, groupB, nil, unix.O_WRONLY), unix.EACCES)
	refuse(t, "the group, which others may do more than", open(third, groupA, nil, unix.O_RDONLY), unix.EACCES)
	must(t, open(third, third, nil, unix.O_RDWR))
	must(t, open(0, 0, nil, unix.O_RDWR))
	must(t, unix.Removexattr(path, aclAccess))
	must(t, unix.Chmod(path, 0o600))
	refuse(t, "after the list is gone", open(userB, groupB, nil, unix.O_RDONLY), unix.EACCES)
}

func aclFolder(t *testing.T, dir string) {
	d := filepath.Join(dir, "d")
	must(t, os.Mkdir(d, 0o700))
	write(t, filepath.Join(d, "f"), []byte("x"))
	must(t, unix.Chmod(filepath.Join(d, "f"), 0o666))
	other := func(fn func() error) error { return as(t, userB, groupB, nil, fn) }
	f := filepath.Join(d, "f")
	refuse(t, "through a closed folder", other(try(f, unix.O_RDONLY)), unix.EACCES)
	setACL(t, d, aclAccess, owner(7), user(userB, 1), ownGroup(0), mask(7), others(0))
	must(t, other(try(f, unix.O_RDONLY)))
	refuse(t, "listing", other(try(d, unix.O_RDONLY|unix.O_DIRECTORY)), unix.EACCES)
	refuse(t, "making a name", other(try(f+"2", unix.O_CREAT|unix.O_RDWR)), unix.EACCES)
	setACL(t, d, aclAccess, owner(7), user(userB, 3), ownGroup(0), mask(7), others(0))
	must(t, other(try(f+"2", unix.O_CREAT|unix.O_RDWR)))
	must(t, other(func() error { return unix.Rename(f+"2", f+"3") }))
	must(t, other(func() error { return unix.Unlink(f + "3") }))
	refuse(t, "listing", other(try(d, unix.O_RDONLY|unix.O_DIRECTORY)), unix.EACCES)
	must(t, unix.Chmod(d, 0o710)) // the mask
	must(t, other(try(f, unix.O_RDONLY)))
	refuse(t, "making a name after chmod", other(try(f+"2", unix.O_CREAT|unix.O_RDWR)), unix.EACCES)
	must(t, unix.Chmod(d, 0o700))
	refuse(t, "through a folder closed by chmod", other(try(f, unix.O_RDONLY)), unix.EACCES)
}

func aclOwners(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	list := aclBytes(owner(7), user(userB, 7), ownGroup(7), mask(7), others(7))
	must(t, unix.Chmod(path, 0o777))
	refuse(t, "set by another", as(t, userB, groupB, nil, func() error { return unix.Setxattr(path, aclAccess, list, 0) }), unix.EPERM)
	must(t, unix.Setxattr(path, aclAccess, list, 0))
	refuse(t, "removed by another", as(t, userB, groupB, nil, func() error { return unix.Removexattr(path, aclAccess) }), unix.EPERM)
	must(t, as(t, userB, groupB, nil, func() error {
		_, err := unix.Getxattr(path, aclAccess, make([]byte, 100))
		return err
	}))
	must(t, os.Chown(path, userB, groupB))
	must(t, as(t, userB, groupB, nil, func() error { return unix.Removexattr(path, aclAccess) }))
}

func aclDefault(t *testing.T, dir string) {
	list := []entry{owner(7), user(userA, 7), ownGroup(5), mask(7), others(5)}
	setACL(t, dir, aclInherit, list...)
	at := func(s string) string { return filepath.Join(dir, s) }
	f, err := os.OpenFile(at("f"), os.O_CREATE|os.O_RDWR, 0o640)
	must(t, err)
	must(t, f.Close())
	equal(t, "mode of a file", perm(t, at("f")), 0o640)
	hasACL(t, at("f"), aclAccess, owner(6), user(userA, 7), ownGroup(5), mask(4), others(0))
	hasACL(t, at("f"), aclInherit)
	must(t, os.Mkdir(at("d"), 0o777))
	equal(t, "mode of a folder", perm(t, at("d")), 0o775)
	hasACL(t, at("d"), aclAccess, owner(7), user(userA, 7), ownGroup(5), mask(7), others(5))
	hasACL(t, at("d"), aclInherit, list...)
	must(t, unix.Mkfifo(at("p"), 0o600))
	hasACL(t, at("p"), aclAccess, owner(6), user(userA, 7), ownGroup(5), mask(0), others(0))
	must(t, os.Symlink("f", at("l")))
	tmp := tmpfile(t, dir, unix.O_RDWR, 0o660)
	buf := make([]byte, 100)
	n, err := unix.Fgetxattr(int(tmp.Fd()), aclAccess, buf)
	must(t, err)
	equal(t, "list of an O_TMPFILE", string(buf[:n]), string(aclBytes(owner(6), user(userA, 7), ownGroup(5), mask(6), others(0))))
	must(t, name(tmp, at("t")))
	hasACL(t, at("t"), aclAccess, owner(6), user(userA, 7), ownGroup(5), mask(6), others(0))
	// Deeper, and a file that is there already stays as it is.
	write(t, at("d/f"), nil)
	hasACL(t, at("d/f"), aclAccess, owner(6), user(userA, 7), ownGroup(5), mask(4), others(4))
	must(t, unix.Removexattr(at("f"), aclAccess))
	must(t, os.Rename(at("f"), at("d/g")))
	hasACL(t, at("d/g"), aclAccess)
}

func aclUmask(t *testing.T, dir string) {
	defer unix.Umask(unix.Umask(0o077))
	setACL(t, dir, aclInherit, owner(7), user(userA, 7), ownGroup(7), mask(7), others(6))
	at := func(s string) string { return filepath.Join(dir, s) }
	write(t, at("f"), nil) // 0644
	equal(t, "mode of a file", perm(t, at("f")), 0o644)
	must(t, os.Mkdir(at("d"), 0o777))
	equal(t, "mode of a folder", perm(t, at("d")), 0o776)
	must(t, unix.Mkfifo(at("p"), 0o666))
	equal(t, "mode of a FIFO", perm(t, at("p")), 0o666)
	must(t, unix.Removexattr(dir, aclInherit))
	must(t, os.Mkdir(at("e"), 0o777))
	equal(t, "mode of a folder without one", perm(t, at("e")), 0o700)
	write(t, at("g"), nil)
	equal(t, "mode of a file without one", perm(t, at("g")), 0o600)
	must(t, unix.Mkfifo(at("q"), 0o666))
	equal(t, "mode of a FIFO without one", perm(t, at("q")), 0o600)
}

func aclDefaultMinimal(t *testing.T, dir string) {
	setACL(t, dir, aclInherit, owner(7), ownGroup(1), others(0))
	hasACL(t, dir, aclInherit, owner(7), ownGroup(1), others(0))
	write(t, filepath.Join(dir, "f"), nil)
	equal(t, "mode of a file", perm(t, filepath.Join(dir, "f")), 0o600)
	hasACL(t, filepath.Join(dir, "f"), aclAccess)
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o777))
	equal(t, "mode of a folder", perm(t, filepath.Join(dir, "d")), 0o710)
	hasACL(t, filepath.Join(dir, "d"), aclAccess)
	hasACL(t, filepath.Join(dir, "d"), aclInherit, owner(7), ownGroup(1), others(0))
}

func aclDefaultRemoved(t *testing.T, dir string) {
	setACL(t, dir, aclInherit, owner(7), user(userA, 7), ownGroup(7), mask(7), others(7))
	must(t, unix.Setxattr(dir, aclInherit, aclBytes(), 0)) // an empty one is none
	hasACL(t, dir, aclInherit)
	write(t, filepath.Join(dir, "f"), nil)
	equal(t, "mode", perm(t, filepath.Join(dir, "f")), 0o644)
	hasACL(t, filepath.Join(dir, "f"), aclAccess)
}
