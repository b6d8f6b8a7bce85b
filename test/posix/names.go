package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var nameCases = []Case{
	{Name: "names/every byte but two", Run: namesBytes},
	{Name: "names/are not normalized", Run: namesExact},
	{Name: "names/255 bytes", Run: namesLong},
	{Name: "names/PATH_MAX", Run: namesPath},
}

func namesBytes(t *testing.T, dir string) {
	var want []string
	for c := 1; c < 256; c++ {
		if c == '/' {
			continue
		}
		name := "n" + string([]byte{byte(c)})
		want = append(want, name)
		write(t, filepath.Join(dir, name), []byte(name))
	}
	for _, name := range []string{" ", "...", "-rf", "*", "a\nb", "\xff\xfe", "日本語", "~", "#", `\`} {
		want = append(want, name)
		write(t, dir+"/"+name, []byte(name))
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
		same(t, dir+"/"+e.Name(), []byte(e.Name()))
	}
	sort.Strings(got)
	sort.Strings(want)
	equal(t, "names", fmt.Sprintf("%q", got), fmt.Sprintf("%q", want))
}

func namesExact(t *testing.T, dir string) {
	names := []string{"a", "A", "é", "e\u0301", "a ", "a."}
	for i, name := range names {
		write(t, filepath.Join(dir, name), []byte{byte(i)})
	}
	for i, name := range names {
		same(t, filepath.Join(dir, name), []byte{byte(i)})
	}
}

func namesLong(t *testing.T, dir string) {
	long := strings.Repeat("x", 255)
	path := filepath.Join(dir, long)
	write(t, path, []byte("long"))
	same(t, path, []byte("long"))
	entries, err := os.ReadDir(dir)
	must(t, err)
	equal(t, "entries", len(entries), 1)
	equal(t, "name", entries[0].Name(), long)
	must(t, os.Rename(path, filepath.Join(dir, strings.Repeat("y", 255))))
	tooLong := filepath.Join(dir, strings.Repeat("x", 256))
	_, err = os.Stat(tooLong)
	refuse(t, "stat", err, unix.ENAMETOOLONG)
	_, err = unix.Open(tooLong, unix.O_CREAT|unix.O_WRONLY, 0o644)
	refuse(t, "create", err, unix.ENAMETOOLONG)
	refuse(t, "mkdir", unix.Mkdir(tooLong, 0o755), unix.ENAMETOOLONG)
	refuse(t, "unlink", unix.Unlink(tooLong), unix.ENAMETOOLONG)
	refuse(t, "rmdir", unix.Rmdir(tooLong), unix.ENAMETOOLONG)
	refuse(t, "symlink", unix.Symlink("x", tooLong), unix.ENAMETOOLONG)
	refuse(t, "mknod", unix.Mkfifo(tooLong, 0o644), unix.ENAMETOOLONG)
	write(t, filepath.Join(dir, "f"), nil)
	refuse(t, "link", unix.Link(filepath.Join(dir, "f"), tooLong), unix.ENAMETOOLONG)
	refuse(t, "rename", unix.Rename(filepath.Join(dir, "f"), tooLong), unix.ENAMETOOLONG)
}

func namesPath(t *testing.T, dir string) {
	long := dir + strings.Repeat("/.", 2048)
	var st unix.Stat_t
	refuse(t, "stat of a path over PATH_MAX", unix.Stat(long, &st), unix.ENAMETOOLONG)
	must(t, unix.Stat(long[:4090&^1|len(dir)&1], &st))
}
