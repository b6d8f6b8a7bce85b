package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A program maps a file that it has open to append: what it stores lands where it stored it.
func TestStoresInAFileThatIsOpenToAppend(t *testing.T) {
	path := filepath.Join(folder(t), "f")
	must(t, os.WriteFile(path, make([]byte, 5000), 0o644))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 5000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	m[10] = 'x'
	must(t, unix.Msync(m, unix.MS_SYNC))
	must(t, unix.Munmap(m))
	got, err := os.ReadFile(path)
	if err != nil || len(got) != 5000 || got[10] != 'x' {
		t.Errorf("%d bytes, %q at 10, %v", len(got), got[10], err)
	}
}
