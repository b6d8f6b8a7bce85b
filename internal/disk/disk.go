// Package disk is the seam between dfs and the machine's disks. OS is the real
// one. Mem lives in memory, forgets or tears at a Crash what was not synced, and
// fails where a test tells it to, so that crash safety is shown and not argued.
// Both pass the suite in disktest.
//
// Locks: Mem has one, and calls nobody while it holds it.
package disk

import (
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
)

// ErrLocked is the cause when another process (or another part of this one)
// holds a lock.
var ErrLocked = errors.New("locked by another process")

// FS is a disk. Names are slash paths as the operating system takes them. All
// methods may be called by many goroutines at once. Errors wrap the usual ones:
// fs.ErrNotExist, fs.ErrExist, syscall.ENOSPC, syscall.EIO and so on.
//
// What lasts through a loss of power: the bytes of a file, up to its last Sync
// that returned nil; a name in a folder (made, renamed or removed), up to the last
// SyncDir of that folder that returned nil. A file whose bytes were synced can
// still be lost with its name. Later changes may last too, wholly, in part, or not.
type FS interface {
	// Create makes an empty file, open for reading and writing; one that exists is
	// cut to nothing.
	Create(name string) (File, error)
	// Open opens a file for reading. WriteAt of it fails.
	Open(name string) (File, error)
	// OpenFile is open(2): flag joins os.O_RDONLY or os.O_RDWR with any of
	// os.O_CREATE, os.O_EXCL, os.O_TRUNC.
	OpenFile(name string, flag int) (File, error)
	// Rename replaces target if it is there, in one step.
	Rename(source, target string) error
	// Remove removes a file or an empty folder. Files that are open stay readable.
	Remove(name string) error
	// MkdirAll makes a folder and what lacks above it. Nothing of it is synced.
	MkdirAll(name string) error
	// ReadDir lists a folder in order of name.
	ReadDir(name string) ([]Entry, error)
	// Stat tells about a file or folder.
	Stat(name string) (Info, error)
	// SyncDir makes the names in a folder last.
	SyncDir(name string) error
	// Lock takes the exclusive lock of a file, which it makes if need be, and never
	// waits: ErrLocked when somebody has it. It ends with Close or the process.
	Lock(name string) (io.Closer, error)
	// Usage tells how many bytes the disk of a file or folder has, and how many of
	// them this process may still use.
	Usage(name string) (total, free uint64, err error)
}

// File is an open file. All methods but Close may be called by many goroutines at
// once; Close once, when no other call runs.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync is fdatasync(2): when it returns nil, all that was written before the
	// call lasts, and the size. After an error nobody knows what lasts of that: the
	// kernel forgets that the pages were dirty, so that a later Sync says nil
	// without having saved them. Whoever gets an error must give up what he wrote.
	Sync() error
	// Truncate sets the size; what it adds reads as zeros.
	Truncate(size int64) error
	// Allocate reserves space for [off, off+n) without changing the size. It is a
	// hint: a disk that cannot do it says nil. ENOSPC is said.
	Allocate(off, n int64) error
	// Punch gives the space of [off, off+n) back: it reads as zeros from then on. The size
	// stays. EOPNOTSUPP where the disk cannot.
	Punch(off, n int64) error
	// Size in bytes.
	Size() (int64, error)
	Close() error
}

// Entry is one name in a folder.
type Entry struct {
	Name string
	Dir  bool
}

// Info is what Stat tells.
type Info struct {
	Size int64 // bytes, of a file
	Dir  bool
}

// MkdirSync makes a folder and what lacks above it, and makes their names last. A
// folder above that may not be read is taken to be older than we are.
func MkdirSync(fs FS, name string) error {
	name = filepath.Clean(name)
	if err := fs.MkdirAll(name); err != nil {
		return err
	}
	for dir := filepath.Dir(name); dir != name; name, dir = dir, filepath.Dir(dir) {
		if err := fs.SyncDir(dir); errors.Is(err, iofs.ErrPermission) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// RemoveAll removes a name and what is below it; one that is not there is removed
// already.
func RemoveAll(fs FS, name string) error {
	info, err := fs.Stat(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Dir {
		entries, err := fs.ReadDir(name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := RemoveAll(fs, filepath.Join(name, e.Name)); err != nil {
				return err
			}
		}
	}
	if err := fs.Remove(name); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	return nil
}

// ReadFile reads a whole file of at most max bytes; a larger one is an error.
func ReadFile(fs FS, name string, max int64) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > max {
		return nil, &os.PathError{Op: "read", Path: name, Err: errTooLarge}
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}

var errTooLarge = errors.New("file is larger than it can be")

// WriteFile replaces a file by one with these bytes, so that after a loss of power
// either the old or the new one is there, whole. It uses the name with ".tmp".
func WriteFile(fs FS, name string, data []byte) error {
	temp := name + ".tmp"
	f, err := fs.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = fs.Rename(temp, name)
	}
	if err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(name))
}
