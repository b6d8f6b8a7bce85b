package disk

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// OS is the machine's own file system.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) Create(name string) (File, error) {
	return osFS{}.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (osFS) Open(name string) (File, error) { return osFS{}.OpenFile(name, os.O_RDONLY) }

func (osFS) OpenFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &osFile{File: f, raw: raw}, nil
}

func (osFS) Rename(source, target string) error { return os.Rename(source, target) }
func (osFS) Remove(name string) error           { return os.Remove(name) }
func (osFS) MkdirAll(name string) error         { return os.MkdirAll(name, 0o700) }

func (osFS) ReadDir(name string) ([]Entry, error) {
	list, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(list))
	for i, e := range list {
		entries[i] = Entry{Name: e.Name(), Dir: e.IsDir()}
	}
	return entries, nil
}

func (osFS) Stat(name string) (Info, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	return Info{Size: fi.Size(), Dir: fi.IsDir()}, nil
}

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	return err
}

// Lock writes the process id in the file, for the message of whoever comes second.
func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		var owner [32]byte
		n, _ := f.ReadAt(owner[:], 0)
		f.Close()
		if err != syscall.EWOULDBLOCK {
			return nil, &os.PathError{Op: "lock", Path: name, Err: err}
		}
		if pid := strings.TrimSpace(string(owner[:n])); pid != "" {
			return nil, fmt.Errorf("lock %s: %w (pid %s)", name, ErrLocked, pid)
		}
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	if err := f.Truncate(0); err == nil {
		// The id is a courtesy; the lock holds without it.
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}

type osFile struct {
	*os.File
	raw syscall.RawConn
}

func (f *osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// control runs a system call on the descriptor, which stays open meanwhile.
func (f *osFile) control(op string, call func(fd int) error) error {
	var err error
	if e := f.raw.Control(func(fd uintptr) {
		for {
			if err = call(int(fd)); err != syscall.EINTR {
				return
			}
		}
	}); e != nil {
		return e
	}
	if err != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}
