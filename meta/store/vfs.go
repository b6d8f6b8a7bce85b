package store

import (
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"dfs/internal/disk"
)

// pebbleFS is the disk as Pebble wants it. The machine's own Pebble knows better than
// the seam does: it writes back early, and makes checkpoints of hard links.
func pebbleFS(fs disk.FS) vfs.FS {
	if fs == disk.OS() {
		return vfs.Default
	}
	return &seamFS{fs: fs}
}

// seamFS has Pebble's files on a disk.FS. A name is synced by syncing its folder, as
// Pebble does.
type seamFS struct{ fs disk.FS }

var _ vfs.FS = (*seamFS)(nil)

func (s *seamFS) open(name string, flag int) (vfs.File, error) {
	f, err := s.fs.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return &seamFile{File: f, name: name}, nil
}

// Create makes a new inode: who has the old file open keeps it.
func (s *seamFS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.fs.Remove(name); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, err
	}
	return s.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Link is what the seam has not: Pebble copies instead.
func (s *seamFS) Link(oldname, newname string) error {
	return &os.LinkError{Op: "link", Old: oldname, New: newname, Err: syscall.EOPNOTSUPP}
}

func (s *seamFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(f)
	}
	return f, nil
}

func (s *seamFS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.open(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(f)
	}
	return f, nil
}

func (s *seamFS) OpenDir(name string) (vfs.File, error) {
	if _, err := s.fs.Stat(name); err != nil {
		return nil, err
	}
	return seamDir{fs: s.fs, name: name}, nil
}

func (s *seamFS) Remove(name string) error             { return s.fs.Remove(name) }
func (s *seamFS) RemoveAll(name string) error          { return disk.RemoveAll(s.fs, name) }
func (s *seamFS) Rename(oldname, newname string) error { return s.fs.Rename(oldname, newname) }

func (s *seamFS) ReuseForWrite(oldname, newname string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.fs.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return s.open(newname, os.O_RDWR|os.O_CREATE)
}

func (s *seamFS) MkdirAll(dir string, _ os.FileMode) error { return s.fs.MkdirAll(dir) }
func (s *seamFS) Lock(name string) (io.Closer, error)      { return s.fs.Lock(name) }

func (s *seamFS) List(dir string) ([]string, error) {
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	return names, nil
}

func (s *seamFS) Stat(name string) (vfs.FileInfo, error) {
	info, err := s.fs.Stat(name)
	if err != nil {
		return nil, err
	}
	return seamInfo{name: filepath.Base(name), info: info}, nil
}

func (s *seamFS) PathBase(path string) string    { return filepath.Base(path) }
func (s *seamFS) PathJoin(elem ...string) string { return filepath.Join(elem...) }
func (s *seamFS) PathDir(path string) string     { return filepath.Dir(path) }
func (s *seamFS) Unwrap() vfs.FS                 { return nil }
func (s *seamFS) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	total, free, err := s.fs.Usage(path)
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: total, UsedBytes: total - free}, err
}

// seamFile adds to a file the place where Read and Write go on. Pebble reads one way at
// a time and writes one way at a time.
type seamFile struct {
	disk.File
	name    string
	read    int64 // place of the next Read
	written atomic.Int64
	closing sync.Once
	closed  error
}

func (f *seamFile) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.read)
	f.read += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *seamFile) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.written.Load())
	f.written.Add(int64(n))
	return n, err
}

func (f *seamFile) Preallocate(offset, length int64) error { return f.Allocate(offset, length) }
func (f *seamFile) SyncTo(int64) (bool, error)             { return true, f.Sync() }
func (f *seamFile) SyncData() error                        { return f.Sync() }
func (f *seamFile) Prefetch(int64, int64) error            { return nil }
func (f *seamFile) Fd() uintptr                            { return vfs.InvalidFd }

func (f *seamFile) Stat() (vfs.FileInfo, error) {
	size, err := f.Size()
	return seamInfo{name: filepath.Base(f.name), info: disk.Info{Size: size}}, err
}

func (f *seamFile) Close() error {
	f.closing.Do(func() { f.closed = f.File.Close() })
	return f.closed
}

// seamDir is a folder that is open to be synced.
type seamDir struct {
	vfs.File // nil: nothing else is done with a folder
	fs       disk.FS
	name     string
}

func (d seamDir) Sync() error                  { return d.fs.SyncDir(d.name) }
func (d seamDir) SyncData() error              { return d.fs.SyncDir(d.name) }
func (d seamDir) SyncTo(int64) (bool, error)   { return false, nil }
func (d seamDir) Preallocate(_, _ int64) error { return nil }
func (d seamDir) Prefetch(int64, int64) error  { return nil }
func (d seamDir) Fd() uintptr                  { return vfs.InvalidFd }
func (d seamDir) Close() error                 { return nil }
func (d seamDir) Stat() (vfs.FileInfo, error) {
	return seamInfo{name: filepath.Base(d.name), info: disk.Info{Dir: true}}, nil
}

// seamInfo is what a disk tells of a file.
type seamInfo struct {
	name string
	info disk.Info
}

func (i seamInfo) Name() string           { return i.name }
func (i seamInfo) Size() int64            { return i.info.Size }
func (i seamInfo) IsDir() bool            { return i.info.Dir }
func (i seamInfo) ModTime() time.Time     { return time.Time{} }
func (i seamInfo) Sys() any               { return nil }
func (i seamInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

func (i seamInfo) Mode() os.FileMode {
	if i.info.Dir {
		return os.ModeDir | 0o700
	}
	return 0o600
}
