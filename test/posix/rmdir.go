package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var rmdirCases = []Case{
	{Name: "rmdir/refusals", Run: rmdirRefuse},
	{Name: "rmdir/an open folder is empty and dead", Run: rmdirOpen},
	{Name: "rmdir/links of the parent", Run: rmdirLinks},
}

func rmdirRefuse(t *testing.T, dir string) {
	d := filepath.Join(dir, "d")
	must(t, os.Mkdir(d, 0o755))
	write(t, filepath.Join(d, "f"), nil)
	refuse(t, "not empty", unix.Rmdir(d), unix.ENOTEMPTY, unix.EEXIST)
	refuse(t, "a file", unix.Rmdir(filepath.Join(d, "f")), unix.ENOTDIR)
	refuse(t, "nothing", unix.Rmdir(filepath.Join(dir, "x")), unix.ENOENT)
	refuse(t, ".", unix.Rmdir(d+"/."), unix.EINVAL)
	refuse(t, "..", unix.Rmdir(d+"/.."), unix.ENOTEMPTY)
	must(t, os.Symlink("d", filepath.Join(dir, "l")))
	refuse(t, "a symlink to a folder", unix.Rmdir(filepath.Join(dir, "l")), unix.ENOTDIR)
	must(t, os.Remove(filepath.Join(d, "f")))
	must(t, unix.Rmdir(d))
}

func rmdirOpen(t *testing.T, dir string) {
	d := filepath.Join(dir, "d")
	must(t, os.Mkdir(d, 0o755))
	f := open(t, d, os.O_RDONLY)
	must(t, unix.Rmdir(d))
	_, err := unix.Openat(int(f.Fd()), "x", unix.O_CREAT|unix.O_WRONLY, 0o644)
	refuse(t, "creating in a removed folder", err, unix.ENOENT)
	refuse(t, "mkdir in a removed folder", unix.Mkdirat(int(f.Fd()), "x", 0o755), unix.ENOENT)
	names, _ := f.Readdirnames(-1)
	equal(t, "entries of a removed folder", len(names), 0)
	must(t, os.Mkdir(d, 0o755))
}

func rmdirLinks(t *testing.T, dir string) {
	before := stat(t, dir).Nlink
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	equal(t, "links with a subfolder", stat(t, dir).Nlink, before+1)
	must(t, os.Remove(filepath.Join(dir, "d")))
	equal(t, "links without", stat(t, dir).Nlink, before)
}
