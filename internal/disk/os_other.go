//go:build !linux

package disk

import (
	"os"
	"syscall"
)

func (f *osFile) Sync() error { return f.File.Sync() }

func (f *osFile) Allocate(off, n int64) error { return nil }

func (f *osFile) Punch(off, n int64) error { return syscall.EOPNOTSUPP }

func (osFS) Usage(name string) (total, free uint64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(name, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	return uint64(st.Blocks) * uint64(st.Bsize), uint64(st.Bavail) * uint64(st.Bsize), nil
}
