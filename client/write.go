package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dfs"
	appender "dfs/client/append"
)

// memoryPause is how often a write that waits for memory looks whether there is room
// on the servers.
const memoryPause = 200 * time.Millisecond

// Write writes p at off, or at the end of the file when it is open with O_APPEND. It
// copies p. With O_SYNC or O_DSYNC the bytes are durable when it returns.
func (f *File) Write(ctx context.Context, p []byte, off int64) (int, error) {
	return f.WritePart(ctx, p, off, nil)
}

// WritePart is Write for a part of a greater write: until the next one to the file, or
// until goesOn answers false, or writePartMax has passed, no other client sees the file. With
// nil it is the last part.
func (f *File) WritePart(ctx context.Context, p []byte, off int64, goesOn func() bool) (int, error) {
	return f.writePart(ctx, p, off, goesOn, f.flags&flagAppend != 0)
}

// WriteMapped writes what a program has stored in a mapping, where it has stored it: the
// kernel takes any handle for that, also one that was opened with O_APPEND.
func (f *File) WriteMapped(ctx context.Context, p []byte, off int64) (int, error) {
	return f.writePart(ctx, p, off, nil, false)
}

func (f *File) writePart(ctx context.Context, p []byte, off int64, goesOn func() bool, atEnd bool) (int, error) {
	if f.flags&flagAccess == flagRead {
		return 0, dfs.EBADF
	}
	if f.in.fs.cfg.Restrict&dfs.ReadOnly != 0 {
		return 0, dfs.EROFS
	}
	if len(p) == 0 {
		return 0, nil
	}
	in := f.in
	if err := in.lockWriting(ctx); err != nil {
		return 0, err
	}
	if f.flags&flagDirect != 0 {
		in.fs.leases.disown(in.ino) // the kernel may read and keep old bytes meanwhile
	}
	// Nobody else may look at the file while it is between two states, and where it
	// ends is known to who has the lease.
	bounded, cancel := in.fs.bound(ctx)
	held, err := in.fs.leases.hold(bounded, in)
	cancel()
	pinned := err == nil
	if !pinned && !errors.Is(err, errNoLeases) {
		in.unlockWriting()
		return 0, err
	}
	n, kill, err := f.write(ctx, p, off, atEnd)
	if pinned {
		if n < len(p) {
			goesOn = nil
		}
		in.fs.leases.unpin(held, goesOn)
	}
	in.unlockWriting()
	if n > 0 && (kill || f.flags&flagDsync != 0) {
		if err := f.Fsync(ctx, true); err != nil {
			return 0, err
		}
		if kill {
			in.fs.invalidate(in.ino) // the kernel does not know that a write changes the mode
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// write buffers p; in.writing is held. kill says that set-id bits or the capability have
// to go, which must not wait.
func (f *File) write(ctx context.Context, p []byte, off int64, atEnd bool) (n int, kill bool, err error) {
	in := f.in
	if atEnd {
		in.mu.Lock()
		off = in.size()
		in.mu.Unlock()
	}
	switch {
	case off < 0:
		return 0, false, dfs.EINVAL
	case off > dfs.FileMax-int64(len(p)):
		return 0, false, dfs.EFBIG
	}
	var bounded context.Context
	for {
		in.mu.Lock()
		suid := in.attr.Mode&0o6000 != 0 && f.cred.UID != 0
		kill = suid || in.attr.Flags&dfs.FlagCapability != 0 // which the masters take away with any commit
		full := in.fs.app.Full(in.attr.Layout)
		if full {
			in.told = true
		}
		var k int
		var push, first bool
		if !full {
			k, push, first = in.writeLocked(p[n:], off+int64(n), suid)
		}
		in.mu.Unlock()
		if first {
			in.fs.markDirty(in)
		}
		if push {
			in.fs.app.Push()
		}
		n += k
		if n == len(p) {
			return n, kill, nil
		}
		if full {
			return n, kill, dfs.ENOSPC
		}
		// No memory: wait until some of it is written back.
		if bounded == nil {
			var cancel context.CancelFunc
			bounded, cancel = in.fs.bound(ctx)
			defer cancel()
		}
		if err := bounded.Err(); err != nil {
			return n, kill, fmt.Errorf("too much is waiting to be written back: %w", err)
		}
		in.fs.flushAll()
		in.fs.memory.wait(bounded, memoryPause)
	}
}

// writeLocked puts p in the dirty list. push says that something was submitted,
// first that the list was empty.
//
// +checklocks:in.mu
func (in *inode) writeLocked(p []byte, off int64, kill bool) (n int, push, first bool) {
	d := &in.dirty
	first = len(d.segs) == 0
	n = d.write(p, off, in.fs.alloc)
	if n == 0 {
		return 0, false, false
	}
	if in.end == 0 {
		in.sure = in.attr.Change
	}
	now := time.Now()
	in.mtime = in.fs.time()
	in.ctime = in.mtime
	in.kill = in.kill || kill
	if first {
		in.since = now
	}
	end := off + int64(n)
	in.end = max(in.end, end)
	if len(d.segs) > segmentsMax || in.fs.memory.over() && d.bytes >= dfs.RecordBytes {
		in.submitLocked()
		return n, true, first
	}
	// Whole blocks of the file that were just completed go out while the program
	// writes on.
	lo, hi := off-off%dfs.RecordBytes, end-end%dfs.RecordBytes
	if lo >= hi {
		return n, false, first
	}
	whole := false
	in.submitSomeLocked(func(i int) bool {
		s := &in.dirty.segs[i]
		is := s.off >= lo && s.end() <= hi
		whole = whole || is
		return is
	})
	return n, whole, first
}

var _ appender.Owner = (*inode)(nil)
