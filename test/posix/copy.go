package posix

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var copyCases = []Case{
	{Name: "copy/copy_file_range", Run: copyRange},
	{Name: "copy/sendfile and splice", Run: copySplice},
	{Name: "copy/copy_file_range of holes and parts", Run: copyParts},
	{Name: "copy/copy_file_range outlives its source", Run: copyOutlives},
	{Name: "fallocate/grows", Run: fallocateGrows},
	{Name: "fallocate/PUNCH_HOLE and ZERO_RANGE", Run: fallocateHoles},
	{Name: "fallocate/refusals", Run: fallocateRefuses},
	{Name: "fallocate/times and modes", Run: fallocateTimes},
}

func copyRange(t *testing.T, dir string) {
	data := pattern(300001, 11)
	write(t, filepath.Join(dir, "a"), data)
	a := open(t, filepath.Join(dir, "a"), os.O_RDONLY)
	b := open(t, filepath.Join(dir, "b"), os.O_RDWR|os.O_CREATE)
	for done := 0; done < len(data); {
		n, err := unix.CopyFileRange(int(a.Fd()), nil, int(b.Fd()), nil, len(data)-done, 0)
		must(t, err)
		if n == 0 {
			t.Fatal("copied nothing before the end")
		}
		done += n
	}
	same(t, filepath.Join(dir, "b"), data)
}

func copySplice(t *testing.T, dir string) {
	data := pattern(200001, 12)
	write(t, filepath.Join(dir, "a"), data)
	a := open(t, filepath.Join(dir, "a"), os.O_RDONLY)
	b := open(t, filepath.Join(dir, "b"), os.O_RDWR|os.O_CREATE)
	for done := 0; done < len(data); {
		n, err := unix.Sendfile(int(b.Fd()), int(a.Fd()), nil, len(data)-done)
		must(t, err)
		if n == 0 {
			t.Fatal("sent nothing before the end")
		}
		done += n
	}
	same(t, filepath.Join(dir, "b"), data)
	var p [2]int
	must(t, unix.Pipe(p[:]))
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	off := int64(1000)
	n, err := unix.Splice(int(a.Fd()), &off, p[1], nil, 10000, 0)
	must(t, err)
	got := make([]byte, n)
	_, err = unix.Read(p[0], got)
	must(t, err)
	sameBytes(t, "splice", got, data[1000:1000+n])
}

func copyParts(t *testing.T, dir string) {
	data := pattern(1<<20, 21)
	a := open(t, filepath.Join(dir, "a"), os.O_RDWR|os.O_CREATE)
	for _, at := range []int64{0, 3 << 20} { // with a hole between
		_, err := a.WriteAt(data, at)
		must(t, err)
	}
	source := make([]byte, 4<<20)
	copy(source, data)
	copy(source[3<<20:], data)
	want := pattern(6<<20, 22)
	write(t, filepath.Join(dir, "b"), want)
	b := open(t, filepath.Join(dir, "b"), os.O_RDWR)
	for _, c := range []struct{ from, to, n int64 }{
		{0, 0, 100}, {4096, 8192, 4096}, {1000, 3001, 70001}, {1<<20 - 10, 1 << 20, 20}, {2 << 20, 4 << 20, 1 << 20}, {3<<20 - 5, 5<<20 + 77, 1 << 20},
		{4<<20 - 100, 6<<20 + 5000, 1 << 20}, // past the end of both
		{4 << 20, 0, 10}, {5 << 20, 0, 10},
	} {
		from, to, n := c.from, c.to, max(0, min(c.n, int64(len(source))-c.from))
		for left := int(c.n); left > 0; {
			k, err := unix.CopyFileRange(int(a.Fd()), &from, int(b.Fd()), &to, left, 0)
			must(t, err)
			if k == 0 {
				break
			}
			left -= k
		}
		equal(t, "copied", from-c.from, n)
		if end := int(c.to + n); n > 0 && end > len(want) {
			want = append(want, make([]byte, end-len(want))...)
		}
		copy(want[c.to:], source[min(c.from, int64(len(source))):min(c.from, int64(len(source)))+n])
		same(t, filepath.Join(dir, "b"), want)
	}
	same(t, filepath.Join(dir, "a"), source)
	// Within one file, beside each other.
	from, to := int64(0), int64(2<<20)
	_, err := unix.CopyFileRange(int(a.Fd()), &from, int(a.Fd()), &to, 1<<20, 0)
	must(t, err)
	copy(source[2<<20:], source[:1<<20])
	same(t, filepath.Join(dir, "a"), source)
	from, to = 0, 1000
	_, err = unix.CopyFileRange(int(a.Fd()), &from, int(a.Fd()), &to, 1<<20, 0)
	refuse(t, "overlapping", err, unix.EINVAL)
}

func copyOutlives(t *testing.T, dir string) {
	data := pattern(300001, 23)
	name := func(i int) string { return filepath.Join(dir, string(rune('a'+i))) }
	write(t, name(0), data)
	for i := range 3 {
		a := open(t, name(i), os.O_RDONLY)
		b := open(t, name(i+1), os.O_RDWR|os.O_CREATE)
		for done := 0; done < len(data); {
			n, err := unix.CopyFileRange(int(a.Fd()), nil, int(b.Fd()), nil, len(data)-done, 0)
			must(t, err)
			done += n
		}
		must(t, a.Close())
		must(t, b.Close())
	}
	must(t, os.Remove(name(0)))
	must(t, os.Truncate(name(1), 1000))
	changed := pattern(5000, 24)
	f := open(t, name(2), os.O_RDWR)
	_, err := f.WriteAt(changed, 100000)
	must(t, err)
	must(t, f.Sync())
	same(t, name(1), data[:1000])
	same(t, name(3), data)
	copy(data[100000:], changed)
	same(t, name(2), data)
}

func fallocateGrows(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(3000, 25)
	write(t, path, data)
	f := open(t, path, os.O_RDWR)
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 100000))
	equal(t, "size that is kept", fstat(t, f.Fd()).Size, 3000)
	must(t, unix.Fallocate(int(f.Fd()), 0, 1000, 500))
	equal(t, "size within", fstat(t, f.Fd()).Size, 3000)
	must(t, unix.Fallocate(int(f.Fd()), 0, 5000, 5000))
	equal(t, "size", fstat(t, f.Fd()).Size, 10000)
	same(t, path, append(data, make([]byte, 7000)...))
}

func fallocateHoles(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	data := pattern(1<<20, 26)
	write(t, path, data)
	f := open(t, path, os.O_RDWR)
	must(t, f.Sync())
	before := fstat(t, f.Fd()).Blocks
	hole := func(mode uint32, off, n int) {
		t.Helper()
		must(t, unix.Fallocate(int(f.Fd()), mode, int64(off), int64(n)))
		if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && off+n > len(data) {
			data = append(data, make([]byte, off+n-len(data))...)
		}
		if off < len(data) {
			clear(data[off:min(off+n, len(data))])
		}
		same(t, path, data)
	}
	punch := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	hole(punch, 1000, 10)
	hole(punch, 4096, 300000)
	hole(punch, 4000, 4200) // what is one already
	must(t, f.Sync())
	if after := fstat(t, f.Fd()).Blocks; after > before-300000/512+16 {
		t.Errorf("%d blocks with holes, %d before", after, before)
	}
	hole(punch, len(data)-100, 1000)
	hole(punch, len(data)+5000, 1000)
	hole(unix.FALLOC_FL_ZERO_RANGE, 500000, 70001)
	hole(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, len(data)-50, 1000)
	hole(unix.FALLOC_FL_ZERO_RANGE, len(data)-50, 1000)
	// Written again.
	again := pattern(100, 27)
	_, err := f.WriteAt(again, 10000)
	must(t, err)
	copy(data[10000:], again)
	same(t, path, data)
}

func fallocateRefuses(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	refuse(t, "no bytes", unix.Fallocate(int(f.Fd()), 0, 0, 0), unix.EINVAL)
	refuse(t, "before the start", unix.Fallocate(int(f.Fd()), 0, -1, 10), unix.EINVAL)
	refuse(t, "a hole past the size", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE, 0, 10), unix.EOPNOTSUPP)
	refuse(t, "too large", unix.Fallocate(int(f.Fd()), 0, 1<<62, 1<<62), unix.EFBIG)
	r := open(t, filepath.Join(dir, "f"), os.O_RDONLY)
	refuse(t, "open for reading", unix.Fallocate(int(r.Fd()), 0, 0, 10), unix.EBADF)
	equal(t, "size", fstat(t, f.Fd()).Size, 0)
}

func fallocateTimes(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, pattern(100000, 28))
	past := unix.Timespec{Sec: 1_000_000_000}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{past, past}, 0))
	f := open(t, path, os.O_RDWR)
	before := fstat(t, f.Fd())
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 5000))
	after := fstat(t, f.Fd())
	if after.Mtim.Sec <= before.Mtim.Sec || after.Ctim.Nano() < before.Ctim.Nano() {
		t.Errorf("mtime %v and ctime %v, were %v and %v", after.Mtim, after.Ctim, before.Mtim, before.Ctim)
	}
}
