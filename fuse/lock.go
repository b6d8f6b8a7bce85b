package fuse

import (
	"context"
	"syscall"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// GetLk is fcntl(2) with F_GETLK and F_OFD_GETLK.
func (fs *fileSystem) GetLk(cancel <-chan struct{}, input *gofuse.LkIn, out *gofuse.LkOut) (status gofuse.Status) {
	r := fs.begin(opGetLk, cancel, &input.InHeader)
	defer r.end(&status)
	f := fs.file(input.Fh)
	if f == nil {
		return gofuse.EBADF
	}
	lock, ok := lockOf(input)
	if !ok || lock.Type == dfs.Unlocked {
		return gofuse.EINVAL
	}
	found, is, err := f.GetLock(r, lock)
	if err != nil {
		return r.status(err)
	}
	out.Lk = input.Lk
	out.Lk.Typ, out.Lk.Pid = syscall.F_UNLCK, 0
	if is {
		out.Lk = gofuse.FileLock{Start: found.Start, End: found.End, Typ: syscall.F_RDLCK, Pid: found.PID}
		if found.Type == dfs.LockAlone {
			out.Lk.Typ = syscall.F_WRLCK
		}
	}
	return gofuse.OK
}

// SetLk is flock(2) with LOCK_NB, and fcntl(2) with F_SETLK and F_OFD_SETLK.
func (fs *fileSystem) SetLk(cancel <-chan struct{}, input *gofuse.LkIn) (status gofuse.Status) {
	r := fs.begin(opSetLk, cancel, &input.InHeader)
	defer r.end(&status)
	return fs.setLock(r, r, input, false)
}

// SetLkw is the same for who waits. Any signal ends the waiting, as it does for locks of
// a local file; the kernel then asks again if the program wants that (SA_RESTART).
func (fs *fileSystem) SetLkw(cancel <-chan struct{}, input *gofuse.LkIn) (status gofuse.Status) {
	r := fs.begin(opSetLkw, cancel, &input.InHeader)
	defer r.end(&status)
	ctx, stop := context.WithCancel(r)
	defer stop()
	go func() { // ends with ctx
		select {
		case <-cancel:
			r.interrupted.Store(true)
			stop()
		case <-ctx.Done():
		}
	}()
	return fs.setLock(ctx, r, input, true)
}

func (fs *fileSystem) setLock(ctx context.Context, r *request, input *gofuse.LkIn, wait bool) gofuse.Status {
	f := fs.file(input.Fh)
	if f == nil {
		return gofuse.EBADF
	}
	lock, ok := lockOf(input)
	if !ok {
		return gofuse.EINVAL
	}
	lock.Mount = f.walIndex
	err := f.SetLock(ctx, lock, wait)
	fs.locked(f)
	return r.status(err)
}

// lockOf reads which lock the kernel means. The owner is the process or the open file
// description, as a number that says nothing else.
func lockOf(in *gofuse.LkIn) (dfs.Lock, bool) {
	l := dfs.Lock{Kind: dfs.LockBytes, Owner: in.Owner, Start: in.Lk.Start, End: min(in.Lk.End, dfs.LockEnd), PID: in.Lk.Pid}
	if in.LkFlags&gofuse.FUSE_LK_FLOCK != 0 {
		l.Kind, l.Start, l.End = dfs.LockFile, 0, dfs.LockEnd
	}
	switch in.Lk.Typ {
	case syscall.F_RDLCK:
		l.Type = dfs.LockShared
	case syscall.F_WRLCK:
		l.Type = dfs.LockAlone
	case syscall.F_UNLCK:
		l.Type = dfs.Unlocked
	default:
		return dfs.Lock{}, false
	}
	return l, l.Valid()
}
