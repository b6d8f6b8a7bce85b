package lostfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"dfs/internal/disk"
	"dfs/internal/disk/disktest"
	"dfs/test/lostfs"

	"golang.org/x/sys/unix"
)

func mount(t *testing.T) (d *lostfs.Disk, dir string) {
	t.Helper()
	dir = t.TempDir()
	d, err := lostfs.Mount(dir)
	must(t, err)
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return d, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// Through the kernel it is a disk like any other.
func TestIsADisk(t *testing.T) {
	disktest.Run(t, func(t *testing.T) (disk.FS, string) {
		_, dir := mount(t)
		return disk.OS(), dir
	})
}

func TestCutKeepsWhatWasSynced(t *testing.T) {
	d, dir := mount(t)
	name := filepath.Join(dir, "a", "f")
	must(t, disk.MkdirSync(disk.OS(), filepath.Dir(name)))
	seen := map[string]bool{}
	for seed := range uint64(40) {
		must(t, disk.WriteFile(disk.OS(), name, bytes.Repeat([]byte("o"), 8192)))
		f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
		must(t, err)
		_, err = f.Write(bytes.Repeat([]byte("n"), 8192))
		must(t, err)
		must(t, f.Close())
		must(t, os.WriteFile(filepath.Join(dir, "a", "g"), nil, 0o600))
		r := rng(seed)
		if seed == 0 {
			r = nil
		}
		must(t, d.Cut(r))
		got, err := os.ReadFile(name)
		must(t, err)
		if len(got) < 8192 || bytes.Count(got[:8192], []byte("o")) != 8192 {
			t.Fatalf("seed %d: synced bytes are lost: %d bytes", seed, len(got))
		}
		_, err = os.Stat(filepath.Join(dir, "a", "g"))
		if r == nil && (len(got) != 8192 || !errors.Is(err, fs.ErrNotExist)) {
			t.Fatalf("what was not synced is not forgotten: %d bytes, %v", len(got), err)
		}
		seen["name"] = seen["name"] || err == nil
		seen["no name"] = seen["no name"] || err != nil
		switch bytes.Count(got[8192:], []byte("n")) {
		case 0:
			seen["lost"] = true
		case 8192:
			seen["whole"] = true
		default:
			seen["torn"] = true
		}
		must(t, os.RemoveAll(filepath.Join(dir, "a", "g")))
	}
	for _, s := range []string{"lost", "whole", "torn", "name", "no name"} {
		if !seen[s] {
			t.Errorf("no cut of 40 had: %s", s)
		}
	}
}

func TestNamesLastWithTheirFolder(t *testing.T) {
	d, dir := mount(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t, disk.WriteFile(disk.OS(), path("a"), []byte("a")))
	must(t, os.Link(path("a"), path("b")))
	must(t, disk.OS().SyncDir(dir))
	must(t, os.Rename(path("a"), path("c")))
	must(t, os.Remove(path("b")))
	must(t, d.Cut(nil))
	for name, want := range map[string]bool{"a": true, "b": true, "c": false} {
		if data, err := os.ReadFile(path(name)); want != (err == nil && string(data) == "a") {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

// What daemons do to files, and fsync after it.
func TestWaysToWrite(t *testing.T) {
	d, dir := mount(t)
	name := filepath.Join(dir, "f")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	must(t, err)
	defer func() { f.Close() }()
	must(t, unix.Fallocate(int(f.Fd()), 0, 0, 16384))
	page, err := unix.Mmap(int(f.Fd()), 4096, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	copy(page, "mapped")
	aligned, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	copy(aligned, "direct")
	_, err = f.WriteAt(aligned, 0)
	must(t, err)
	_, err = f.WriteAt(aligned, 8192)
	must(t, err)
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, 4096))
	must(t, f.Sync())
	must(t, unix.Munmap(page))
	must(t, unix.Munmap(aligned))
	must(t, disk.OS().SyncDir(dir))
	must(t, os.Remove(name))
	info, err := f.Stat() // without a name
	must(t, err)
	if info.Size() != 16384 {
		t.Errorf("%d bytes", info.Size())
	}
	must(t, f.Close())
	must(t, d.Cut(nil))
	got, err := os.ReadFile(name)
	must(t, err)
	want := make([]byte, 16384)
	copy(want, "direct")
	copy(want[4096:], "mapped")
	if !bytes.Equal(got, want) {
		t.Error("other bytes than were synced")
	}
}

func TestLiesAreLost(t *testing.T) {
	d, dir := mount(t)
	must(t, disk.WriteFile(disk.OS(), filepath.Join(dir, "before"), []byte("x")))
	d.Lie()
	must(t, disk.WriteFile(disk.OS(), filepath.Join(dir, "after"), []byte("x")))
	must(t, d.Cut(nil))
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != "before" {
		t.Errorf("left is %v", entries)
	}
}
