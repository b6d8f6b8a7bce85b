package posix

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

var readdirCases = []Case{
	{Name: "readdir/empty folder", Run: readdirEmpty},
	{Name: "readdir/types and inode numbers", Run: readdirTypes},
	{Name: "readdir/each of many entries once", Run: readdirMany},
	{Name: "readdir/seek to any place", Run: readdirSeek},
	{Name: "readdir/cookies survive removals and creations", Run: readdirStable},
	{Name: "readdir/removing what was read", Run: readdirRemove},
	{Name: "readdir/what stays is seen once while others come and go", Run: readdirConcurrent},
	{Name: "readdir/rewind sees what is new", Run: readdirRewind},
}

// dirent is one entry as getdents64(2) tells it.
type dirent struct {
	name string
	ino  uint64
	off  int64 // where the listing goes on after it
	kind byte
}

// getdents reads one buffer of entries; none at the end.
func getdents(t *testing.T, fd int, bufBytes int) []dirent {
	t.Helper()
	buf := make([]byte, bufBytes)
	n, err := unix.Getdents(fd, buf)
	must(t, err)
	var all []dirent
	for buf = buf[:n]; len(buf) > 0; {
		reclen := binary.NativeEndian.Uint16(buf[16:])
		name := buf[19:reclen]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		all = append(all, dirent{
			name: string(name),
			ino:  binary.NativeEndian.Uint64(buf),
			off:  int64(binary.NativeEndian.Uint64(buf[8:])),
			kind: buf[18],
		})
		buf = buf[reclen:]
	}
	return all
}

// list reads a folder from where the descriptor stands to the end.
func list(t *testing.T, fd, bufBytes int) []dirent {
	t.Helper()
	var all []dirent
	for {
		part := getdents(t, fd, bufBytes)
		if len(part) == 0 {
			return all
		}
		all = append(all, part...)
		if len(all) > 1_000_000 {
			t.Fatal("a listing without end")
		}
	}
}

func opendir(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func fill(t *testing.T, dir string, n int) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for i := range n {
		name := fmt.Sprintf("entry-%05d", i)
		names[name] = true
		write(t, filepath.Join(dir, name), nil)
	}
	return names
}

func readdirEmpty(t *testing.T, dir string) {
	got := map[string]uint64{}
	for _, e := range list(t, opendir(t, dir), 4096) {
		got[e.name] = e.ino
	}
	equal(t, "entries", len(got), 2)
	equal(t, "inode of .", got["."], stat(t, dir).Ino)
	equal(t, "inode of ..", got[".."], stat(t, filepath.Dir(dir)).Ino)
}

func readdirTypes(t *testing.T, dir string) {
	write(t, filepath.Join(dir, "file"), nil)
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o755))
	must(t, os.Symlink("x", filepath.Join(dir, "symlink")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	want := map[string]byte{".": unix.DT_DIR, "..": unix.DT_DIR, "file": unix.DT_REG, "folder": unix.DT_DIR, "symlink": unix.DT_LNK, "fifo": unix.DT_FIFO}
	for _, e := range list(t, opendir(t, dir), 4096) {
		equal(t, "type of "+e.name, e.kind, want[e.name])
		if e.name != ".." {
			equal(t, "inode of "+e.name, e.ino, stat(t, filepath.Join(dir, e.name)).Ino)
		}
		delete(want, e.name)
	}
	equal(t, "entries missing", len(want), 0)
}

func readdirMany(t *testing.T, dir string) {
	want := fill(t, dir, 3000)
	want["."], want[".."] = true, true
	for _, bufBytes := range []int{300, 4096, 1 << 20} {
		seen := map[string]int{}
		for _, e := range list(t, opendir(t, dir), bufBytes) {
			seen[e.name]++
			if !want[e.name] || seen[e.name] > 1 {
				t.Fatalf("%q seen %d times, wanted: %v", e.name, seen[e.name], want[e.name])
			}
		}
		equal(t, "entries", len(seen), len(want))
	}
}

func readdirSeek(t *testing.T, dir string) {
	fill(t, dir, 300)
	fd := opendir(t, dir)
	all := list(t, fd, 4096)
	for _, i := range []int{0, 1, 2, 50, 100, 200, len(all) - 2} {
		off, err := unix.Seek(fd, all[i].off, unix.SEEK_SET)
		must(t, err)
		equal(t, "position", off, all[i].off)
		rest := list(t, fd, 1000)
		equal(t, "entries after the place", len(rest), len(all)-i-1)
		if len(rest) > 0 {
			equal(t, "first of them", rest[0].name, all[i+1].name)
		}
	}
}

func readdirStable(t *testing.T, dir string) {
	fill(t, dir, 400)
	fd := opendir(t, dir)
	all := list(t, fd, 4096)
	place := all[200]
	// Half of what was read and half of what is to come goes, the place itself too.
	gone := map[string]bool{}
	for i, e := range all {
		if e.name != "." && e.name != ".." && (i%2 == 0 || i == 200) {
			must(t, os.Remove(filepath.Join(dir, e.name)))
			gone[e.name] = true
		}
	}
	for i := range 100 {
		write(t, filepath.Join(dir, fmt.Sprintf("new-%d", i)), nil)
	}
	// A listing of another descriptor, which must not matter.
	list(t, opendir(t, dir), 4096)
	_, err := unix.Seek(fd, place.off, unix.SEEK_SET)
	must(t, err)
	got := map[string]bool{}
	for _, e := range list(t, fd, 4096) {
		got[e.name] = true
	}
	for i, e := range all {
		if e.name == "." || e.name == ".." || gone[e.name] {
			continue
		}
		if got[e.name] != (i > 200) {
			t.Fatalf("entry %d of %d, %q: seen after place 200: %v", i, len(all), e.name, got[e.name])
		}
	}
}

func readdirRemove(t *testing.T, dir string) {
	// rm -r: read some, remove them, read on.
	fill(t, dir, 1000)
	fd := opendir(t, dir)
	removed := 0
	for {
		part := getdents(t, fd, 2000)
		if len(part) == 0 {
			break
		}
		for _, e := range part {
			if e.name != "." && e.name != ".." {
				must(t, unix.Unlinkat(fd, e.name, 0))
				removed++
			}
		}
	}
	equal(t, "removed", removed, 1000)
	must(t, os.Remove(dir))
	must(t, os.Mkdir(dir, 0o755))
}

func readdirConcurrent(t *testing.T, dir string) {
	stay := fill(t, dir, 500)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				path := filepath.Join(dir, fmt.Sprintf("guest-%d-%d", w, i))
				if err := os.WriteFile(path, nil, 0o644); err != nil {
					t.Error(err)
					return
				}
				if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		seen := map[string]int{}
		for _, e := range list(t, opendir(t, dir), 1000) {
			seen[e.name]++
		}
		for name := range stay {
			if seen[name] != 1 {
				t.Errorf("%q, which stayed, was seen %d times", name, seen[name])
			}
		}
	}
	stop.Store(true)
	wg.Wait()
}

func readdirRewind(t *testing.T, dir string) {
	fill(t, dir, 10)
	fd := opendir(t, dir)
	equal(t, "entries", len(list(t, fd, 4096)), 12)
	write(t, filepath.Join(dir, "new"), nil)
	must(t, os.Remove(filepath.Join(dir, "entry-00003")))
	must(t, os.Remove(filepath.Join(dir, "entry-00004")))
	_, err := unix.Seek(fd, 0, unix.SEEK_SET)
	must(t, err)
	names := map[string]bool{}
	for _, e := range list(t, fd, 4096) {
		names[e.name] = true
	}
	equal(t, "entries after rewind", len(names), 11)
	equal(t, "the new one", names["new"], true)
	equal(t, "the removed one", names["entry-00003"], false)
}
