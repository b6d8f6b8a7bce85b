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
	{Name: "copy/fallocate works or is refused", Run: copyFallocate},
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

func copyFallocate(t *testing.T, dir string) {
	f := open(t, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	_, err := f.WriteString("abc")
	must(t, err)
	switch err := unix.Fallocate(int(f.Fd()), 0, 0, 10000); err {
	case nil:
		equal(t, "size", fstat(t, f.Fd()).Size, 10000)
	default:
		refuse(t, "fallocate", err, unix.EOPNOTSUPP)
		equal(t, "size", fstat(t, f.Fd()).Size, 3)
	}
	got := make([]byte, 3)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	equal(t, "content", string(got), "abc")
}
