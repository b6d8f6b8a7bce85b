package client

import (
	"context"
	"sync"
	"sync/atomic"

	"dfs"
)

// Flags of open(2) that the client heeds, with Linux's numbers on every platform.
const (
	flagAccess  = 0o3
	flagRead    = 0o0
	flagWrite   = 0o1
	flagCreate  = 0o100
	flagExcl    = 0o200
	flagTrunc   = 0o1000
	flagNoAtime = 0o1000000
	flagAppend  = 0o2000
	flagDsync   = 0o10000
	flagDirect  = 0o40000
)

// File is an open file. Safe for concurrent use; Release ends it.
type File struct {
	in       *inode
	id       uint64 // of the session's, for locks
	flags    uint32
	cred     dfs.Cred
	released atomic.Bool
	ahead    readAhead

	mu     sync.Mutex
	told   uint64 // +checklocks:mu — failures of writing back up to this were told by fsync
	closed uint64 // +checklocks:mu — and up to this by close of a descriptor
}

func newFile(in *inode, cred dfs.Cred, flags uint32, registered bool) *File {
	in.opened(registered)
	in.mu.Lock()
	told := in.errSeq
	in.mu.Unlock()
	return &File{in: in, id: in.fs.lockIDs.Add(1), flags: flags, cred: cred, told: told, closed: told}
}

// Ino is the inode's number.
func (f *File) Ino() dfs.Ino { return f.in.ino }

// Attr tells the file's attributes as GetAttr does.
func (f *File) Attr(ctx context.Context) (dfs.Attr, error) { return f.in.fs.GetAttr(ctx, f.in.ino) }

// failure is a failure of writing back that this File was not told of yet. What a close has
// told is told by fsync once more: many descriptors may be of one File, and a process that
// ends closes those that it has inherited and heeds no error.
func (f *File) failure(closing bool) error {
	f.in.mu.Lock()
	err, seq := f.in.err, f.in.errSeq
	f.in.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq == f.told || closing && seq == f.closed {
		return nil
	}
	f.closed = seq
	if closing {
		return err
	}
	f.told = seq
	f.in.fs.mu.Lock()
	delete(f.in.fs.losses, f.in.ino)
	f.in.fs.mu.Unlock()
	return err
}

// Release closes the file. What is still dirty is written back in the background.
func (f *File) Release() {
	if f.released.Swap(true) {
		return
	}
	f.unlockFile()
	f.in.closed()
	f.in.release()
}
