package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

var renameCases = []Case{
	{Name: "rename/file over file", Run: renameFile},
	{Name: "rename/folder over empty folder", Run: renameFolder},
	{Name: "rename/refusals", Run: renameRefuse},
	{Name: "rename/across folders moves links", Run: renameLinks},
	{Name: "rename/two names of one inode", Run: renameSameInode},
	{Name: "rename/onto itself", Run: renameSelf},
	{Name: "rename/a symlink itself", Run: renameSymlink},
	{Name: "rename/NOREPLACE", Run: renameNoReplace},
	{Name: "rename/EXCHANGE", Run: renameExchange},
	{Name: "rename/WHITEOUT", Root: true, Run: renameWhiteout},
	{Name: "rename/unknown flags", Run: renameFlags},
	{Name: "rename/replaced file lives while open", Run: renameOpen},
	{Name: "rename/open descriptor follows", Run: renameFollows},
	{Name: "rename/is atomic to a reader", Run: renameAtomic},
	{Name: "rename/opposite moves do not make a ring", Run: renameRing},
}

func renameFile(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, []byte("a"))
	write(t, b, []byte("bb"))
	ino := stat(t, a).Ino
	must(t, unix.Rename(a, b))
	if exists(a) {
		t.Error("the old name is still there")
	}
	same(t, b, []byte("a"))
	equal(t, "inode", stat(t, b).Ino, ino)
	must(t, unix.Rename(b, filepath.Join(dir, "c")))
	same(t, filepath.Join(dir, "c"), []byte("a"))
}

func renameFolder(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, os.Mkdir(a, 0o755))
	must(t, os.Mkdir(b, 0o755))
	write(t, filepath.Join(a, "f"), []byte("x"))
	links := stat(t, dir).Nlink
	must(t, unix.Rename(a, b))
	same(t, filepath.Join(b, "f"), []byte("x"))
	equal(t, "links of the parent", stat(t, dir).Nlink, links-1)
	must(t, unix.Rename(b+"/", filepath.Join(dir, "c")+"/"))
	same(t, filepath.Join(dir, "c", "f"), []byte("x"))
}

func renameRefuse(t *testing.T, dir string) {
	at := func(s string) string { return filepath.Join(dir, s) }
	must(t, os.MkdirAll(at("d/sub"), 0o755))
	must(t, os.Mkdir(at("e"), 0o755))
	write(t, at("f"), nil)
	refuse(t, "nothing", unix.Rename(at("x"), at("y")), unix.ENOENT)
	refuse(t, "into nothing", unix.Rename(at("f"), at("x/y")), unix.ENOENT)
	refuse(t, "over a folder that is not empty", unix.Rename(at("e"), at("d")), unix.ENOTEMPTY, unix.EEXIST)
	refuse(t, "a file over a folder", unix.Rename(at("f"), at("e")), unix.EISDIR)
	refuse(t, "a folder over a file", unix.Rename(at("e"), at("f")), unix.ENOTDIR)
	refuse(t, "into its own subtree", unix.Rename(at("d"), at("d/sub/x")), unix.EINVAL)
	refuse(t, "into itself", unix.Rename(at("d"), at("d/x")), unix.EINVAL)
	refuse(t, "over its own parent", unix.Rename(at("d/sub"), at("d")), unix.ENOTEMPTY, unix.EEXIST)
	refuse(t, "below a file", unix.Rename(at("e"), at("f/x")), unix.ENOTDIR)
	refuse(t, "a file with a slash behind", unix.Rename(at("f")+"/", at("g")), unix.ENOTDIR)
	refuse(t, "a file to a name with a slash behind", unix.Rename(at("f"), at("g")+"/"), unix.ENOTDIR)
	refuse(t, ".", unix.Rename(at("d")+"/.", at("g")), unix.EBUSY, unix.EINVAL)
	refuse(t, "..", unix.Rename(at("d")+"/..", at("g")), unix.EBUSY, unix.EINVAL)
}

func renameLinks(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, os.MkdirAll(filepath.Join(a, "d"), 0o755))
	must(t, os.Mkdir(b, 0o755))
	write(t, filepath.Join(a, "d", "f"), []byte("deep"))
	must(t, unix.Rename(filepath.Join(a, "d"), filepath.Join(b, "d")))
	equal(t, "links of where it was", stat(t, a).Nlink, 2)
	equal(t, "links of where it is", stat(t, b).Nlink, 3)
	equal(t, "its ..", stat(t, filepath.Join(b, "d", "..")).Ino, stat(t, b).Ino)
	same(t, filepath.Join(b, "d", "f"), []byte("deep"))
	must(t, os.Remove(a))
}

func renameSameInode(t *testing.T, dir string) {
	// POSIX: two names of one file: nothing happens, both stay.
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, []byte("x"))
	must(t, os.Link(a, b))
	must(t, unix.Rename(a, b))
	if !exists(a) || !exists(b) {
		t.Error("a name is gone")
	}
	equal(t, "links", stat(t, a).Nlink, 2)
}

func renameSelf(t *testing.T, dir string) {
	a := filepath.Join(dir, "a")
	write(t, a, []byte("x"))
	must(t, unix.Rename(a, a))
	same(t, a, []byte("x"))
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, unix.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "d")))
}

func renameSymlink(t *testing.T, dir string) {
	write(t, filepath.Join(dir, "f"), []byte("target"))
	must(t, os.Symlink("f", filepath.Join(dir, "l")))
	must(t, unix.Rename(filepath.Join(dir, "l"), filepath.Join(dir, "m")))
	target, err := os.Readlink(filepath.Join(dir, "m"))
	must(t, err)
	equal(t, "target", target, "f")
	must(t, unix.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "m")))
	same(t, filepath.Join(dir, "m"), []byte("target"))
	equal(t, "type", stat(t, filepath.Join(dir, "m")).Mode&unix.S_IFMT, unix.S_IFREG)
}

func renameat2(from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

func renameNoReplace(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, []byte("a"))
	write(t, b, []byte("b"))
	refuse(t, "over a file", renameat2(a, b, unix.RENAME_NOREPLACE), unix.EEXIST)
	same(t, b, []byte("b"))
	must(t, renameat2(a, filepath.Join(dir, "c"), unix.RENAME_NOREPLACE))
	same(t, filepath.Join(dir, "c"), []byte("a"))
	refuse(t, "onto itself", renameat2(b, b, unix.RENAME_NOREPLACE), unix.EEXIST)
}

func renameExchange(t *testing.T, dir string) {
	at := func(s string) string { return filepath.Join(dir, s) }
	must(t, os.MkdirAll(at("p/d/sub"), 0o755))
	must(t, os.Mkdir(at("q"), 0o755))
	write(t, at("q/f"), []byte("file"))
	must(t, renameat2(at("p/d"), at("q/f"), unix.RENAME_EXCHANGE))
	same(t, at("p/d"), []byte("file"))
	equal(t, "the folder's ..", stat(t, at("q/f/..")).Ino, stat(t, at("q")).Ino)
	equal(t, "links of p", stat(t, at("p")).Nlink, 2)
	equal(t, "links of q", stat(t, at("q")).Nlink, 3)
	refuse(t, "with nothing", renameat2(at("p"), at("x"), unix.RENAME_EXCHANGE), unix.ENOENT)
	refuse(t, "with its own subtree", renameat2(at("q"), at("q/f"), unix.RENAME_EXCHANGE), unix.EINVAL)
	refuse(t, "with its own parent", renameat2(at("q/f"), at("q"), unix.RENAME_EXCHANGE), unix.EINVAL, unix.ENOTEMPTY)
	refuse(t, "and NOREPLACE", renameat2(at("p"), at("q"), unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), unix.EINVAL)
	must(t, renameat2(at("p"), at("q"), unix.RENAME_EXCHANGE))
	same(t, at("q/d"), []byte("file"))
}

func renameWhiteout(t *testing.T, dir string) {
	at := func(s string) string { return filepath.Join(dir, s) }
	whiteout := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, at(from), unix.AT_FDCWD, at(to), unix.RENAME_WHITEOUT|flags)
	}
	check := func(name string) {
		t.Helper()
		st := stat(t, at(name))
		equal(t, "type and mode of "+name, st.Mode, unix.S_IFCHR)
		equal(t, "device of "+name, st.Rdev, 0)
		equal(t, "links of "+name, st.Nlink, 1)
	}
	must(t, os.Mkdir(at("d"), 0o755))
	must(t, os.Mkdir(at("sub"), 0o755))
	write(t, at("a"), []byte("a"))
	write(t, at("b"), []byte("b"))
	ino := stat(t, at("a")).Ino
	must(t, whiteout("a", "x", 0))
	check("a")
	equal(t, "inode that moved", stat(t, at("x")).Ino, ino)
	refuse(t, "over one with NOREPLACE", whiteout("b", "x", unix.RENAME_NOREPLACE), unix.EEXIST)
	same(t, at("b"), []byte("b"))
	must(t, whiteout("b", "x", 0))
	check("b")
	same(t, at("x"), []byte("b"))
	must(t, whiteout("x", "d/x", unix.RENAME_NOREPLACE))
	check("x")
	same(t, at("d/x"), []byte("b"))
	links := stat(t, dir).Nlink
	must(t, whiteout("sub", "d/sub", 0))
	check("sub")
	equal(t, "links of the parent", stat(t, dir).Nlink, links-1)
	refuse(t, "with EXCHANGE", whiteout("d/x", "d/sub", unix.RENAME_EXCHANGE), unix.EINVAL)
	refuse(t, "of nothing", whiteout("nothing", "y", 0), unix.ENOENT)
	list, err := os.ReadDir(dir)
	must(t, err)
	equal(t, "names", len(list), 5)
	for _, name := range []string{"a", "b", "x", "sub"} {
		must(t, os.Remove(at(name)))
	}
}

func renameFlags(t *testing.T, dir string) {
	write(t, filepath.Join(dir, "a"), nil)
	refuse(t, "an unknown flag", renameat2(filepath.Join(dir, "a"), filepath.Join(dir, "b"), 1<<10), unix.EINVAL)
}

func renameOpen(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, []byte("new"))
	write(t, b, []byte("replaced"))
	f := open(t, b, os.O_RDWR)
	must(t, unix.Rename(a, b))
	got := make([]byte, 8)
	_, err := f.ReadAt(got, 0)
	must(t, err)
	equal(t, "content of the replaced file", string(got), "replaced")
	equal(t, "its links", fstat(t, f.Fd()).Nlink, 0)
	_, err = f.WriteAt([]byte("X"), 0)
	must(t, err)
	same(t, b, []byte("new"))
}

func renameFollows(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	f := open(t, a, os.O_RDWR|os.O_CREATE)
	_, err := f.WriteString("before ")
	must(t, err)
	must(t, unix.Rename(a, b))
	_, err = f.WriteString("after")
	must(t, err)
	must(t, f.Close())
	same(t, b, []byte("before after"))
}

func renameAtomic(t *testing.T, dir string) {
	// The name that is replaced is there at every moment, with one whole content.
	path := filepath.Join(dir, "f")
	write(t, path, filled(0))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Errorf("a reader: %v", err)
					return
				}
				for _, c := range data {
					if len(data) != 2000 || c != data[0] {
						t.Errorf("a reader saw a mixture of %d bytes", len(data))
						return
					}
				}
			}
		})
	}
	for i := range 100 {
		tmp := filepath.Join(dir, fmt.Sprintf("tmp-%d", i))
		if err := os.WriteFile(tmp, filled(byte(i)), 0o644); err != nil {
			t.Error(err)
			break
		}
		if err := unix.Rename(tmp, path); err != nil {
			t.Error(err)
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

// filled is 2000 times the same byte.
func filled(c byte) []byte {
	p := make([]byte, 2000)
	for i := range p {
		p[i] = c
	}
	return p
}

func renameRing(t *testing.T, dir string) {
	// a into b and b into a at the same time: one of them must fail, else both
	// would hang loose below each other.
	for range 20 {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		must(t, os.Mkdir(a, 0o755))
		must(t, os.Mkdir(b, 0o755))
		var wg sync.WaitGroup
		var ok atomic.Int32
		wg.Go(func() {
			if unix.Rename(a, filepath.Join(b, "x")) == nil {
				ok.Add(1)
			}
		})
		wg.Go(func() {
			if unix.Rename(b, filepath.Join(a, "x")) == nil {
				ok.Add(1)
			}
		})
		wg.Wait()
		if ok.Load() != 1 {
			t.Fatalf("%d of two opposite moves worked", ok.Load())
		}
		must(t, os.RemoveAll(a))
		must(t, os.RemoveAll(b))
	}
}
