package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var unlinkCases = []Case{
	{Name: "unlink/refusals", Run: unlinkRefuse},
	{Name: "unlink/an open file lives on", Run: unlinkOpen},
	{Name: "unlink/the name can be used again at once", Run: unlinkReuse},
	{Name: "unlink/takes one link", Run: unlinkOneLink},
	{Name: "unlink/an open file that was never written", Run: unlinkNeverWritten},
}

func unlinkRefuse(t *testing.T, dir string) {
	refuse(t, "nothing", unix.Unlink(filepath.Join(dir, "x")), unix.ENOENT)
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	refuse(t, "a folder", unix.Unlink(filepath.Join(dir, "d")), unix.EISDIR, unix.EPERM)
	write(t, filepath.Join(dir, "f"), nil)
	refuse(t, "below a file", unix.Unlink(filepath.Join(dir, "f", "x")), unix.ENOTDIR)
	refuse(t, "a file with a slash behind", unix.Unlink(filepath.Join(dir, "f")+"/"), unix.ENOTDIR)
	must(t, os.Symlink("d", filepath.Join(dir, "l")))
	must(t, unix.Unlink(filepath.Join(dir, "l")))
	if !exists(filepath.Join(dir, "d")) {
		t.Error("unlink followed the symlink")
	}
}

func unlinkOpen(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(150000, 8)
	write(t, path, data)
	f := open(t, path, os.O_RDWR)
	g := open(t, path, os.O_RDONLY)
	must(t, os.Remove(path))
	if exists(path) {
		t.Fatal("the name is still there")
	}
	st := fstat(t, f.Fd())
	equal(t, "links", st.Nlink, 0)
	equal(t, "size", st.Size, int64(len(data)))
	got := make([]byte, len(data))
	_, err := g.ReadAt(got, 0)
	must(t, err)
	sameBytes(t, "the unlinked file", got, data)
	more := pattern(50000, 9)
	_, err = f.WriteAt(more, int64(len(data)))
	must(t, err)
	must(t, f.Sync())
	must(t, f.Chmod(0o600))
	equal(t, "mode", fstat(t, g.Fd()).Mode&0o777, 0o600)
	got = make([]byte, len(more))
	_, err = g.ReadAt(got, int64(len(data)))
	must(t, err)
	sameBytes(t, "what was written after the unlink", got, more)
	must(t, f.Close())
	_, err = g.ReadAt(got, int64(len(data)))
	must(t, err)
	sameBytes(t, "after one of the two was closed", got, more)
}

func unlinkReuse(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("old"))
	f := open(t, path, os.O_RDONLY)
	ino := stat(t, path).Ino
	must(t, os.Remove(path))
	write(t, path, []byte("new one"))
	if stat(t, path).Ino == ino {
		t.Error("the new file has the inode number of the open one")
	}
	same(t, path, []byte("new one"))
	got := make([]byte, 10)
	n, _ := f.ReadAt(got, 0)
	equal(t, "old content", string(got[:n]), "old")
}

func unlinkOneLink(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, []byte("both"))
	must(t, os.Link(a, b))
	before := stat(t, b)
	must(t, os.Remove(a))
	after := stat(t, b)
	equal(t, "links", after.Nlink, 1)
	if after.Ctim.Nano() < before.Ctim.Nano() {
		t.Error("ctime went back")
	}
	same(t, b, []byte("both"))
}

func unlinkNeverWritten(t *testing.T, dir string) {
	path := filepath.Join(dir, "tmp")
	f := open(t, path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	must(t, os.Remove(path))
	_, err := f.WriteString("scratch")
	must(t, err)
	got := make([]byte, 7)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	equal(t, "content", string(got), "scratch")
	must(t, f.Truncate(100))
	equal(t, "size", fstat(t, f.Fd()).Size, 100)
}
