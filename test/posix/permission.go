package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var permissionCases = []Case{
	{Name: "permission/open by owner, group and others", Root: true, Run: permissionOpen},
	{Name: "permission/folders", Root: true, Run: permissionFolder},
	{Name: "permission/sticky folder", Root: true, Run: permissionSticky},
	{Name: "permission/access(2)", Root: true, Run: permissionAccess},
	{Name: "permission/a new file belongs to its maker", Root: true, Run: permissionOwner},
	{Name: "permission/rename of another's folder", Root: true, Run: permissionRename},
}

func try(path string, flags int) func() error {
	return func() error {
		fd, err := unix.Open(path, flags, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func permissionOpen(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("x"))
	must(t, os.Chown(path, userA, groupA))
	must(t, os.Chmod(path, 0o640))
	must(t, as(t, userA, groupB, nil, try(path, unix.O_RDWR)))
	must(t, as(t, userB, groupA, nil, try(path, unix.O_RDONLY)))
	must(t, as(t, userB, groupB, []int{groupA}, try(path, unix.O_RDONLY)))
	refuse(t, "writing as the group", as(t, userB, groupA, nil, try(path, unix.O_WRONLY)), unix.EACCES)
	refuse(t, "reading as another", as(t, userB, groupB, nil, try(path, unix.O_RDONLY)), unix.EACCES)
	refuse(t, "truncating as another", as(t, userB, groupB, nil, func() error { return unix.Truncate(path, 0) }), unix.EACCES)
	// The owner's bits count for the owner even when the others' are wider.
	must(t, os.Chmod(path, 0o066))
	refuse(t, "reading as an owner without the bit", as(t, userA, groupB, nil, try(path, unix.O_RDONLY)), unix.EACCES)
	must(t, as(t, userB, groupB, nil, try(path, unix.O_RDWR)))
}

func permissionFolder(t *testing.T, dir string) {
	d := filepath.Join(dir, "d")
	must(t, os.Mkdir(d, 0o700))
	write(t, filepath.Join(d, "f"), []byte("x"))
	must(t, os.Chmod(filepath.Join(d, "f"), 0o666))
	other := func(fn func() error) error { return as(t, userB, groupB, nil, fn) }
	refuse(t, "through a closed folder", other(try(filepath.Join(d, "f"), unix.O_RDONLY)), unix.EACCES)
	refuse(t, "listing a closed folder", other(try(d, unix.O_RDONLY|unix.O_DIRECTORY)), unix.EACCES)
	must(t, os.Chmod(d, 0o711))
	must(t, other(try(filepath.Join(d, "f"), unix.O_RDWR)))
	refuse(t, "listing one that may only be passed", other(try(d, unix.O_RDONLY|unix.O_DIRECTORY)), unix.EACCES)
	must(t, os.Chmod(d, 0o755))
	for what, fn := range map[string]func() error{
		"create":  try(filepath.Join(d, "g"), unix.O_CREAT|unix.O_WRONLY),
		"unlink":  func() error { return unix.Unlink(filepath.Join(d, "f")) },
		"mkdir":   func() error { return unix.Mkdir(filepath.Join(d, "x"), 0o755) },
		"rename":  func() error { return unix.Rename(filepath.Join(d, "f"), filepath.Join(d, "g")) },
		"symlink": func() error { return unix.Symlink("f", filepath.Join(d, "g")) },
	} {
		refuse(t, what+" in a folder one may not write", other(fn), unix.EACCES)
	}
}

func permissionSticky(t *testing.T, dir string) {
	must(t, unix.Chmod(dir, 0o1777))
	at := func(s string) string { return filepath.Join(dir, s) }
	for _, name := range []string{"f", "g"} {
		write(t, at(name), nil)
		must(t, os.Chown(at(name), userA, groupA))
	}
	write(t, at("mine"), nil)
	must(t, os.Chown(at("mine"), userB, groupB))
	refuse(t, "unlink of another's", as(t, userB, groupB, nil, func() error { return unix.Unlink(at("f")) }), unix.EPERM)
	refuse(t, "rename of another's", as(t, userB, groupB, nil, func() error { return unix.Rename(at("f"), at("x")) }), unix.EPERM)
	refuse(t, "rename over another's", as(t, userB, groupB, nil, func() error { return unix.Rename(at("mine"), at("f")) }), unix.EPERM)
	must(t, as(t, userA, groupA, nil, func() error { return unix.Rename(at("g"), at("h")) }))
	must(t, as(t, userA, groupA, nil, func() error { return unix.Unlink(at("f")) }))
}

func permissionAccess(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Chown(path, userA, groupA))
	must(t, os.Chmod(path, 0o640))
	as2 := func(uid int, mode uint32) error {
		return as(t, uid, groupB, nil, func() error { return unix.Access(path, mode) })
	}
	must(t, as2(userA, unix.R_OK|unix.W_OK))
	refuse(t, "owner executes", as2(userA, unix.X_OK), unix.EACCES)
	refuse(t, "another reads", as2(userB, unix.R_OK), unix.EACCES)
	must(t, as2(userB, unix.F_OK))
}

func permissionOwner(t *testing.T, dir string) {
	must(t, unix.Chmod(dir, 0o777))
	must(t, as(t, userA, groupB, []int{groupA}, func() error {
		if err := try(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_WRONLY)(); err != nil {
			return err
		}
		if err := unix.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
			return err
		}
		if err := unix.Mkfifo(filepath.Join(dir, "p"), 0o644); err != nil {
			return err
		}
		return unix.Symlink("f", filepath.Join(dir, "l"))
	}))
	for _, name := range []string{"f", "d", "p", "l"} {
		st := stat(t, filepath.Join(dir, name))
		equal(t, "owner of "+name, st.Uid, userA)
		equal(t, "group of "+name, st.Gid, groupB)
	}
}

func permissionRename(t *testing.T, dir string) {
	// Moving a folder changes its "..": its owner must agree (Linux wants write
	// permission on the folder itself when its parent changes).
	at := func(s string) string { return filepath.Join(dir, s) }
	for _, d := range []string{"a", "b"} {
		must(t, os.Mkdir(at(d), 0o777))
		must(t, os.Chmod(at(d), 0o777))
	}
	must(t, os.Mkdir(at("a/d"), 0o755))
	refuse(t, "moving another's folder", as(t, userA, groupA, nil, func() error { return unix.Rename(at("a/d"), at("b/d")) }), unix.EACCES)
	must(t, as(t, userA, groupA, nil, func() error { return unix.Rename(at("a/d"), at("a/e")) }))
}
