package posix

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

var mkdirCases = []Case{
	{Name: "mkdir/refusals", Run: mkdirRefuse},
	{Name: "mkdir/mode and links", Run: mkdirMode},
	{Name: "mkdir/many at once", Run: mkdirMany},
	{Name: "mkdir/deep", Run: mkdirDeep},
	{Name: "mkdir/setgid is inherited", Root: true, Run: mkdirSetgid},
}

func mkdirRefuse(t *testing.T, dir string) {
	must(t, unix.Mkdir(filepath.Join(dir, "d"), 0o755))
	write(t, filepath.Join(dir, "f"), nil)
	refuse(t, "over a folder", unix.Mkdir(filepath.Join(dir, "d"), 0o755), unix.EEXIST)
	refuse(t, "over a file", unix.Mkdir(filepath.Join(dir, "f"), 0o755), unix.EEXIST)
	refuse(t, "in nothing", unix.Mkdir(filepath.Join(dir, "x", "y"), 0o755), unix.ENOENT)
	refuse(t, "in a file", unix.Mkdir(filepath.Join(dir, "f", "y"), 0o755), unix.ENOTDIR)
	refuse(t, ".", unix.Mkdir(filepath.Join(dir, "d")+"/.", 0o755), unix.EEXIST)
	must(t, os.Symlink("nowhere", filepath.Join(dir, "l")))
	refuse(t, "over a dangling symlink", unix.Mkdir(filepath.Join(dir, "l"), 0o755), unix.EEXIST)
	must(t, unix.Mkdir(filepath.Join(dir, "slash")+"/", 0o755))
}

func mkdirMode(t *testing.T, dir string) {
	d := filepath.Join(dir, "d")
	must(t, unix.Mkdir(d, 0o1777))
	st := stat(t, d)
	equal(t, "mode", st.Mode, unix.S_IFDIR|0o1755)
	equal(t, "links", st.Nlink, 2)
	must(t, unix.Mkdir(filepath.Join(d, "e"), 0o700))
	equal(t, "links with one subfolder", stat(t, d).Nlink, 3)
}

func mkdirMany(t *testing.T, dir string) {
	var wg sync.WaitGroup
	var made atomic.Int32
	for range 8 {
		wg.Go(func() {
			for i := range 20 {
				err := os.Mkdir(filepath.Join(dir, string(rune('a'+i))), 0o755)
				if err == nil {
					made.Add(1)
				} else if !errors.Is(err, unix.EEXIST) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	equal(t, "folders made", made.Load(), 20)
	equal(t, "links", stat(t, dir).Nlink, 22)
}

func mkdirDeep(t *testing.T, dir string) {
	// Deeper than PATH_MAX allows in one path: one step at a time.
	const depth = 120
	name := strings.Repeat("n", 60)
	fds := []int{}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	fds = append(fds, fd)
	for range depth {
		must(t, unix.Mkdirat(fd, name, 0o755))
		fd, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		fds = append(fds, fd)
	}
	f, err := unix.Openat(fd, "leaf", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	unix.Close(f)
	must(t, unix.Unlinkat(fd, "leaf", 0))
	for i := len(fds) - 2; i >= 0; i-- {
		must(t, unix.Unlinkat(fds[i], name, unix.AT_REMOVEDIR))
	}
}

func mkdirSetgid(t *testing.T, dir string) {
	must(t, os.Chown(dir, 0, groupA))
	must(t, unix.Chmod(dir, 0o2777))
	must(t, as(t, userA, groupB, nil, func() error {
		if err := unix.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
			return err
		}
		fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		unix.Close(fd)
		return unix.Symlink("f", filepath.Join(dir, "l"))
	}))
	d := stat(t, filepath.Join(dir, "d"))
	equal(t, "group of the folder", d.Gid, groupA)
	equal(t, "owner of the folder", d.Uid, userA)
	equal(t, "mode of the folder", d.Mode&0o7777, 0o2755)
	f := stat(t, filepath.Join(dir, "f"))
	equal(t, "group of the file", f.Gid, groupA)
	equal(t, "mode of the file", f.Mode&0o7777, 0o644)
	equal(t, "group of the symlink", stat(t, filepath.Join(dir, "l")).Gid, groupA)
}
