package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var linkCases = []Case{
	{Name: "link/one inode, two names", Run: linkTwo},
	{Name: "link/refusals", Run: linkRefuse},
	{Name: "link/a symlink itself", Run: linkSymlink},
	{Name: "link/many", Run: linkMany},
}

func linkTwo(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, []byte("one"))
	before := stat(t, a)
	must(t, unix.Link(a, b))
	st := stat(t, b)
	equal(t, "inode", st.Ino, before.Ino)
	equal(t, "links", st.Nlink, 2)
	if st.Ctim.Nano() < before.Ctim.Nano() {
		t.Error("ctime went back")
	}
	write(t, b, []byte("through b"))
	same(t, a, []byte("through b"))
	must(t, os.Chmod(a, 0o600))
	equal(t, "mode", stat(t, b).Mode&0o777, 0o600)
	must(t, os.Remove(a))
	same(t, b, []byte("through b"))
}

func linkRefuse(t *testing.T, dir string) {
	at := func(s string) string { return filepath.Join(dir, s) }
	write(t, at("f"), nil)
	write(t, at("g"), nil)
	must(t, os.Mkdir(at("d"), 0o755))
	refuse(t, "over a file", unix.Link(at("f"), at("g")), unix.EEXIST)
	refuse(t, "a folder", unix.Link(at("d"), at("e")), unix.EPERM)
	refuse(t, "nothing", unix.Link(at("x"), at("y")), unix.ENOENT)
	refuse(t, "into nothing", unix.Link(at("f"), at("x/y")), unix.ENOENT)
	refuse(t, "below a file", unix.Link(at("f"), at("g/y")), unix.ENOTDIR)
}

func linkSymlink(t *testing.T, dir string) {
	must(t, os.Symlink("nowhere", filepath.Join(dir, "l")))
	must(t, unix.Link(filepath.Join(dir, "l"), filepath.Join(dir, "m")))
	target, err := os.Readlink(filepath.Join(dir, "m"))
	must(t, err)
	equal(t, "target", target, "nowhere")
	equal(t, "links", stat(t, filepath.Join(dir, "l")).Nlink, 2)
}

func linkMany(t *testing.T, dir string) {
	write(t, filepath.Join(dir, "f"), []byte("x"))
	for i := range 100 {
		must(t, unix.Link(filepath.Join(dir, "f"), filepath.Join(dir, "l"+string(rune('0'+i/10))+string(rune('0'+i%10)))))
	}
	equal(t, "links", stat(t, filepath.Join(dir, "f")).Nlink, 101)
}
