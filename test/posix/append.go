package posix

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var appendCases = []Case{
	{Name: "append/always at the end", Run: appendEnd},
	{Name: "append/pwrite ignores its offset", Run: appendPwrite},
	{Name: "append/many writers lose nothing", Run: appendMany},
	{Name: "append/after a truncation", Run: appendTruncate},
}

func appendEnd(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	a := open(t, path, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	b := open(t, path, os.O_RDWR|os.O_APPEND)
	var want []byte
	for i := range 30 {
		f := a
		if i%2 == 1 {
			f = b
		}
		piece := pattern(1+i*311, uint64(i))
		_, err := unix.Write(int(f.Fd()), piece)
		must(t, err)
		want = append(want, piece...)
		off, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_CUR)
		must(t, err)
		equal(t, "position after the write", off, int64(len(want)))
	}
	same(t, path, want)
	_, err := unix.Seek(int(b.Fd()), 0, unix.SEEK_SET)
	must(t, err)
	_, err = unix.Write(int(b.Fd()), []byte("end"))
	must(t, err)
	same(t, path, append(want, "end"...))
}

func appendPwrite(t *testing.T, dir string) {
	// POSIX wants the offset to count; Linux appends (pwrite(2), BUGS), and so
	// must we, as programs were tested on it.
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	_, err := unix.Pwrite(int(f.Fd()), []byte("one"), 0)
	must(t, err)
	_, err = unix.Pwrite(int(f.Fd()), []byte("two"), 0)
	must(t, err)
	same(t, path, []byte("onetwo"))
}

func appendMany(t *testing.T, dir string) {
	path := filepath.Join(dir, "log")
	const writers, lines = 8, 100
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		wg.Go(func() {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
			if err != nil {
				errs <- err
				return
			}
			defer f.Close()
			for i := range lines {
				if _, err := f.WriteString(fmt.Sprintf("%02d %04d %s\n", w, i, strings.Repeat("x", i))); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		must(t, err)
	}
	data, err := os.ReadFile(path)
	must(t, err)
	got := strings.Split(string(bytes.TrimSuffix(data, []byte("\n"))), "\n")
	var want []string
	for w := range writers {
		for i := range lines {
			want = append(want, fmt.Sprintf("%02d %04d %s", w, i, strings.Repeat("x", i)))
		}
	}
	sort.Strings(got)
	equal(t, "lines", len(got), len(want))
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("line %q, want %q", got[i], want[i])
		}
	}
}

func appendTruncate(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	_, err := f.WriteString("0123456789")
	must(t, err)
	must(t, os.Truncate(path, 4))
	_, err = f.WriteString("x")
	must(t, err)
	must(t, os.Truncate(path, 8))
	_, err = f.WriteString("y")
	must(t, err)
	same(t, path, []byte("0123x\x00\x00\x00y"))
}
