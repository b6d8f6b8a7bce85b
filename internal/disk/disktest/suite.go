// Package disktest holds what every disk.FS must do. An implementation's test calls
// Run with a function that makes an empty disk.
package disktest

import (
	"bytes"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"dfs/internal/disk"
)

// Run runs the suite. open returns a disk and a folder on it that is empty.
func Run(t *testing.T, open func(t *testing.T) (fs disk.FS, root string)) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, d dir)
	}{
		{"ReadSeesWrite", testReadWrite},
		{"HolesAreZeros", testHoles},
		{"TruncateThenGrowIsZeros", testTruncate},
		{"AllocateKeepsSize", testAllocate},
		{"PunchLeavesZeros", testPunch},
		{"OpenFlags", testFlags},
		{"RenameReplaces", testRename},
		{"RemovedFileStaysReadable", testRemove},
		{"ReadDirIsSorted", testReadDir},
		{"LockIsExclusive", testLock},
		{"UsageMakesSense", testUsage},
		{"WriteFileReplaces", testWriteFile},
		{"ConcurrentUse", testConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, root := open(t)
			c.test(t, dir{fs, root})
		})
	}
}

// Fail adds a fault, in the words of disk.ParseRule, until the test ends.
func Fail(t *testing.T, m *disk.Mem, rule string) (remove func()) {
	t.Helper()
	r, err := disk.ParseRule(rule)
	if err != nil {
		t.Fatal(err)
	}
	remove = m.Fail(r)
	t.Cleanup(remove)
	return remove
}

type dir struct {
	disk.FS
	root string
}

func (d dir) path(name string) string { return path.Join(d.root, name) }

func (d dir) create(t *testing.T, name, text string) disk.File {
	t.Helper()
	f, err := d.Create(d.path(name))
	check(t, err)
	t.Cleanup(func() { f.Close() })
	if text != "" {
		n, err := f.WriteAt([]byte(text), 0)
		check(t, err)
		if n != len(text) {
			t.Fatalf("wrote %d of %d bytes", n, len(text))
		}
	}
	return f
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
}

func content(t *testing.T, f disk.File) string {
	t.Helper()
	size, err := f.Size()
	check(t, err)
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) != size || err != nil && err != io.EOF {
		t.Fatalf("read %d of %d bytes: %v", n, size, err)
	}
	return string(b)
}

func testReadWrite(t *testing.T, d dir) {
	f := d.create(t, "a", "hello world")
	_, err := f.WriteAt([]byte("W"), 6)
	check(t, err)
	check(t, f.Sync())
	if got := content(t, f); got != "hello World" {
		t.Fatalf("read %q", got)
	}
	b := make([]byte, 10)
	n, err := f.ReadAt(b, 6)
	if n != 5 || err != io.EOF {
		t.Fatalf("short read: %d, %v", n, err)
	}
	if n, err = f.ReadAt(b, 100); n != 0 || err != io.EOF {
		t.Fatalf("read behind the end: %d, %v", n, err)
	}
	check(t, d.SyncDir(d.root))
	g, err := d.Open(d.path("a"))
	check(t, err)
	defer g.Close()
	if got := content(t, g); got != "hello World" {
		t.Fatalf("second reader has %q", got)
	}
	if _, err := g.WriteAt([]byte("x"), 0); err == nil {
		t.Fatal("wrote to a file that was opened for reading")
	}
}

func testHoles(t *testing.T, d dir) {
	f := d.create(t, "a", "")
	_, err := f.WriteAt([]byte("x"), 10000)
	check(t, err)
	if got := content(t, f); got != string(make([]byte, 10000))+"x" {
		t.Fatal("hole is not zeros")
	}
}

func testTruncate(t *testing.T, d dir) {
	f := d.create(t, "a", "hello world")
	check(t, f.Truncate(5))
	check(t, f.Truncate(8))
	if got := content(t, f); got != "hello\x00\x00\x00" {
		t.Fatalf("read %q", got)
	}
	check(t, f.Truncate(3))
	_, err := f.WriteAt([]byte("x"), 5)
	check(t, err)
	if got := content(t, f); got != "hel\x00\x00x" {
		t.Fatalf("read %q", got)
	}
}

func testAllocate(t *testing.T, d dir) {
	f := d.create(t, "a", "hello")
	check(t, f.Allocate(0, 1<<20))
	if got := content(t, f); got != "hello" {
		t.Fatalf("read %q", got)
	}
}

func testPunch(t *testing.T, d dir) {
	f := d.create(t, "a", strings.Repeat("x", 3*4096))
	if err := f.Punch(4096, 4096); errors.Is(err, syscall.EOPNOTSUPP) {
		return // the disk says so, and nothing has happened
	} else if err != nil {
		t.Fatal(err)
	}
	if got := content(t, f); got != strings.Repeat("x", 4096)+strings.Repeat("\x00", 4096)+strings.Repeat("x", 4096) {
		t.Fatalf("%d bytes, not those that were to stay, and zeros", len(got))
	}
}

func testFlags(t *testing.T, d dir) {
	_, err := d.Open(d.path("none"))
	want(t, err, iofs.ErrNotExist)
	_, err = d.OpenFile(d.path("none"), os.O_RDWR)
	want(t, err, iofs.ErrNotExist)
	d.create(t, "a", "hello")
	_, err = d.OpenFile(d.path("a"), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	want(t, err, iofs.ErrExist)
	f, err := d.OpenFile(d.path("a"), os.O_RDWR|os.O_CREATE)
	check(t, err)
	defer f.Close()
	if got := content(t, f); got != "hello" {
		t.Fatalf("opening has changed it to %q", got)
	}
	g := d.create(t, "a", "")
	if got := content(t, g); got != "" {
		t.Fatalf("creating anew left %q", got)
	}
	_, err = d.Create(d.path("no/folder"))
	want(t, err, iofs.ErrNotExist)
}

func testRename(t *testing.T, d dir) {
	check(t, d.MkdirAll(d.path("x/y")))
	d.create(t, "a", "new")
	d.create(t, "x/y/b", "old")
	check(t, d.Rename(d.path("a"), d.path("x/y/b")))
	check(t, d.SyncDir(d.path("x/y")))
	_, err := d.Stat(d.path("a"))
	want(t, err, iofs.ErrNotExist)
	b, err := disk.ReadFile(d, d.path("x/y/b"), 100)
	check(t, err)
	if string(b) != "new" {
		t.Fatalf("read %q", b)
	}
	want(t, d.Rename(d.path("a"), d.path("c")), iofs.ErrNotExist)
	if err := d.Rename(d.path("x"), d.path("x/y/z")); err == nil {
		t.Fatal("moved a folder below itself")
	}
}

func testRemove(t *testing.T, d dir) {
	f := d.create(t, "a", "hello")
	check(t, d.Remove(d.path("a")))
	if got := content(t, f); got != "hello" {
		t.Fatalf("read %q", got)
	}
	want(t, d.Remove(d.path("a")), iofs.ErrNotExist)
	check(t, d.MkdirAll(d.path("x/y")))
	if err := d.Remove(d.path("x")); err == nil {
		t.Fatal("removed a folder that is not empty")
	}
	check(t, d.Remove(d.path("x/y")))
	check(t, d.Remove(d.path("x")))
}

func testReadDir(t *testing.T, d dir) {
	for _, name := range []string{"b", "a", "c"} {
		d.create(t, name, "x")
	}
	check(t, d.MkdirAll(d.path("aa")))
	check(t, d.MkdirAll(d.path("aa"))) // it is there already: fine
	got, err := d.ReadDir(d.root)
	check(t, err)
	if !slices.Equal(got, []disk.Entry{{Name: "a"}, {Name: "aa", Dir: true}, {Name: "b"}, {Name: "c"}}) {
		t.Fatalf("listed %v", got)
	}
	_, err = d.ReadDir(d.path("none"))
	want(t, err, iofs.ErrNotExist)
	info, err := d.Stat(d.path("aa"))
	check(t, err)
	if !info.Dir {
		t.Fatal("a folder is no folder")
	}
	if info, err = d.Stat(d.path("a")); err != nil || info.Dir || info.Size != 1 {
		t.Fatalf("stat: %+v, %v", info, err)
	}
	if err := d.MkdirAll(d.path("a/b")); err == nil {
		t.Fatal("made a folder in a file")
	}
}

func testLock(t *testing.T, d dir) {
	l, err := d.Lock(d.path("lock"))
	check(t, err)
	_, err = d.Lock(d.path("lock"))
	want(t, err, disk.ErrLocked)
	check(t, l.Close())
	l, err = d.Lock(d.path("lock"))
	check(t, err)
	check(t, l.Close())
}

func testUsage(t *testing.T, d dir) {
	total, free, err := d.Usage(d.root)
	check(t, err)
	if total == 0 || free == 0 || free > total {
		t.Fatalf("%d of %d bytes are free", free, total)
	}
}

func testWriteFile(t *testing.T, d dir) {
	for _, text := range []string{"one", "two"} {
		check(t, disk.WriteFile(d, d.path("a"), []byte(text)))
		b, err := disk.ReadFile(d, d.path("a"), 3)
		check(t, err)
		if string(b) != text {
			t.Fatalf("read %q, want %q", b, text)
		}
	}
	if _, err := disk.ReadFile(d, d.path("a"), 2); err == nil {
		t.Fatal("read more than was allowed")
	}
}

func testConcurrent(t *testing.T, d dir) {
	f := d.create(t, "a", "")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			page := bytes.Repeat([]byte{byte('a' + i)}, 4096)
			for j := range 16 {
				if _, err := f.WriteAt(page, int64(j*8+i)*4096); err != nil {
					t.Error(err)
				}
				if err := f.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := content(t, f)
	for i := range len(got) {
		if got[i] != byte('a'+i/4096%8) {
			t.Fatalf("byte %d is %q", i, got[i])
		}
	}
}
