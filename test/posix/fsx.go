package posix

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var fsxCases = []Case{
	{Name: "fsx/random operations on one file", Run: fsxOne},
	{Name: "fsx/with a mapping", Run: fsxMapped},
}

const fsxMax = 400_000 // bytes

// fsxOne does random reads, writes, truncations, syncs and reopens on a file and
// keeps the truth in memory. The seed is in the name of a failure.
func fsxOne(t *testing.T, dir string) {
	for seed := range uint64(4) {
		fsx(t, filepath.Join(dir, fmt.Sprintf("f%d", seed)), seed, false)
	}
}

func fsxMapped(t *testing.T, dir string) {
	for seed := range uint64(2) {
		fsx(t, filepath.Join(dir, fmt.Sprintf("f%d", seed)), 100+seed, true)
	}
}

func fsx(t *testing.T, path string, seed uint64, mapped bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	must(t, err)
	defer func() { f.Close() }()
	var truth []byte
	var log []string
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s; last operations: %v", seed, fmt.Sprintf(format, args...), log[max(0, len(log)-15):])
	}
	for op := range 250 {
		off := rng.IntN(fsxMax)
		n := 1 + rng.IntN(1<<rng.IntN(17))
		n = min(n, fsxMax-off)
		kind := rng.IntN(14)
		log = append(log, fmt.Sprintf("%d(%d,%d)", kind, off, n))
		switch {
		case kind <= 3: // write
			p := pattern(n, seed*1000+uint64(op))
			if off+n > len(truth) {
				truth = append(truth, make([]byte, off+n-len(truth))...)
			}
			copy(truth[off:], p)
			if _, err := f.WriteAt(p, int64(off)); err != nil {
				fail("write: %v", err)
			}
		case kind == 4: // truncate
			if off > len(truth) {
				truth = append(truth, make([]byte, off-len(truth))...)
			} else {
				truth = truth[:off:off]
			}
			if err := f.Truncate(int64(off)); err != nil {
				fail("truncate: %v", err)
			}
		case kind == 5:
			if err := f.Sync(); err != nil {
				fail("fsync: %v", err)
			}
		case kind == 6: // close and open
			if err := f.Close(); err != nil {
				fail("close: %v", err)
			}
			if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
				fail("open: %v", err)
			}
		case kind == 7 && mapped && len(truth) > 0: // write through a mapping
			off %= len(truth)
			n = min(n, len(truth)-off)
			m, err := unix.Mmap(int(f.Fd()), 0, len(truth), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				fail("mmap: %v", err)
			}
			p := pattern(n, seed*1000+uint64(op))
			if !bytes.Equal(m[off:off+n], truth[off:off+n]) {
				fail("the mapping at %d+%d is wrong", off, n)
			}
			copy(m[off:], p)
			copy(truth[off:], p)
			if rng.IntN(2) == 0 {
				if err := unix.Msync(m, unix.MS_SYNC); err != nil {
					fail("msync: %v", err)
				}
			}
			if err := unix.Munmap(m); err != nil {
				fail("munmap: %v", err)
			}
		case kind == 10 && len(truth) > 0: // a hole
			off %= len(truth)
			n = min(n, len(truth)-off)
			mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
			if rng.IntN(2) == 0 {
				mode = unix.FALLOC_FL_ZERO_RANGE | uint32(rng.IntN(2))*unix.FALLOC_FL_KEEP_SIZE
			}
			clear(truth[off : off+n])
			if err := unix.Fallocate(int(f.Fd()), mode, int64(off), int64(n)); err != nil {
				fail("fallocate %#x: %v", mode, err)
			}
		case kind == 11: // a longer file
			if err := unix.Fallocate(int(f.Fd()), 0, int64(off), int64(n)); err != nil {
				fail("fallocate: %v", err)
			}
			if off+n > len(truth) {
				truth = append(truth, make([]byte, off+n-len(truth))...)
			}
		case kind == 12 && len(truth) > 1: // a part of it at another place
			from := int64(rng.IntN(len(truth)))
			to := int64(off)
			n = min(n, len(truth)-int(from))
			if from < to+int64(n) && to < from+int64(n) {
				break // they overlap
			}
			if end := int(to) + n; end > len(truth) {
				truth = append(truth, make([]byte, end-len(truth))...)
			}
			copy(truth[to:], truth[from:int(from)+n])
			for left := n; left > 0; {
				k, err := unix.CopyFileRange(int(f.Fd()), &from, int(f.Fd()), &to, left, 0)
				if err != nil || k == 0 {
					fail("copy_file_range: %d, %v", k, err)
				}
				left -= k
			}
		default: // read
			if off >= len(truth) {
				off = 0
			}
			n = min(n, len(truth)-off)
			got := make([]byte, n)
			if _, err := f.ReadAt(got, int64(off)); err != nil {
				fail("read: %v", err)
			}
			if !bytes.Equal(got, truth[off:off+n]) {
				fail("read of %d bytes at %d is wrong", n, off)
			}
		}
	}
	same(t, path, truth)
}
