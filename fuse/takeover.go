package fuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"dfs"
	"dfs/client"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A mount outlives the process that serves it as long as somebody has the descriptor of
// its connection. Whoever takes it over goes on where the other one was:
//
//  1. it opens a session, and tells the masters of the files that programs have open,
//     which the ledger has, so that those without a name stay;
//  2. it makes the kernel forget all names and attributes. Until then those are covered by
//     the leases of the dead process's session, which nobody has given back;
//  3. it ends that session, and with it all that is still on its way from the dead
//     process. Only now may anybody change what the kernel had cached;
//  4. it has the kernel send again what the dead process has read and not answered
//     (FUSE_NOTIFY_RESEND, Linux 6.9), and serves.
//
// The kernel sends INIT once in the life of a connection, and go-fuse begins with it. So
// INIT is kept, and go-fuse reads it from a socket, which is replaced by the connection
// when it has answered. A later process, maybe of a newer version, sees of the kernel's
// flags those only that were agreed on, and must agree to the same.
const (
	notifyResend = 7
	resendMinor  = 40 // of protocol 7
)

// ErrTakeover says that a connection cannot be taken over: the mount has to be made anew.
var ErrTakeover = errors.New("the mount cannot be taken over")

var (
	errOther = fmt.Errorf("%w: it was made by a version that agreed on other things with the kernel", ErrTakeover)
	errOld   = fmt.Errorf("%w: the kernel does not send requests again (Linux 6.9 does)", ErrTakeover)
)

// offsets in INIT and its answer, behind the header of each.
const (
	inHeaderLen  = int(unsafe.Sizeof(gofuse.InHeader{}))
	outHeaderLen = 16
)

// attachTo makes go-fuse serve the connection device.
func attachTo(fs *fileSystem, device *os.File, l *Ledger, opts *gofuse.MountOptions) (*gofuse.Server, error) {
	first := !l.Mounted()
	if first {
		buf := make([]byte, writeBytes+8192)
		n, err := unix.Read(int(device.Fd()), buf)
		if err != nil {
			return nil, fmt.Errorf("the kernel's first message: %w", err)
		}
		if err := l.setText(ledgerInit, buf[:n]); err != nil {
			return nil, err
		}
	}
	init := l.text(ledgerInit)
	if len(init) < inHeaderLen+int(unsafe.Sizeof(gofuse.InitIn{}))-44 {
		return nil, errors.New("the kernel's first message is too short")
	}
	agreed := l.text(ledgerReply)
	if !first {
		agreeOn(init, agreed)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	if _, err := unix.Write(pair[1], init); err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	srv, err := gofuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", pair[0]), opts)
	if err != nil {
		return nil, err
	}
	reply := make([]byte, ledgerTextMax)
	n, err := unix.Read(pair[1], reply)
	if err != nil {
		return nil, err
	}
	reply = reply[:n]
	switch {
	case first:
		if err := l.setText(ledgerReply, reply); err != nil {
			return nil, err
		}
		if _, err := unix.Write(int(device.Fd()), reply); err != nil {
			return nil, fmt.Errorf("answer to the kernel's first message: %w", err)
		}
		l.word(headRoot).Store(uint64(fs.root))
		l.word(headMounted).Store(1)
	case !bytes.Equal(reply, agreed):
		return nil, errOther
	}
	return srv, unix.Dup3(int(device.Fd()), pair[0], unix.O_CLOEXEC)
}

// warm touches memory for the buffers into which go-fuse reads requests. A thread that is
// killed may still take a request, and the kernel answers it with EIO when it cannot copy
// it: to pages that are there it can, and the request is sent again to the next process.
func warm() {
	const more = 4 // requests that are being handled
	bufs := make([][]byte, min(max(runtime.GOMAXPROCS(0), 2), 16)+more)
	for i := range bufs {
		bufs[i] = make([]byte, writeBytes+4*dfs.PageBytes)
		for at := 0; at < len(bufs[i]); at += dfs.PageBytes {
			bufs[i][at] = 1
		}
	}
	runtime.KeepAlive(bufs)
	clear(bufs)
	runtime.GC() // what go-fuse allocates next is this
}

// agreeOn takes out of the kernel's INIT what it was not taken up on.
func agreeOn(init, agreed []byte) {
	// Both bodies begin: major, minor, max_readahead, flags.
	in, out := init[inHeaderLen:], agreed[outHeaderLen:]
	put := func(off int, v uint32) { binary.NativeEndian.PutUint32(in[off:], v) }
	get := func(b []byte, off int) uint32 { return binary.NativeEndian.Uint32(b[off:]) }
	const initExt = 1 << 30 // FUSE_INIT_EXT: flags2 counts
	put(8, get(out, 8))
	put(12, get(in, 12)&(get(out, 12)|initExt))
	const outFlags2 = 32 // behind max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment
	put(16, get(in, 16)&get(out, outFlags2))
}

// adopt takes over the open files of the processes before.
func (fs *fileSystem) adopt(ctx context.Context) ([]client.Adopted, []*client.File, error) {
	opens := fs.ledger.files()
	adopted := make([]client.Adopted, len(opens))
	for i := range opens {
		adopted[i] = opens[i].Adopted
	}
	files, err := fs.client.Adopt(ctx, adopted)
	if err != nil {
		return nil, nil, fmt.Errorf("open files could not be told: %w", err)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range opens {
		o := &opens[i]
		fs.files[o.handle] = &fileHandle{File: files[i], byRoot: o.Cred.UID == 0, walIndex: o.Flags&flagWALIndex != 0, slot: o.slot, dirty: o.Lost, untold: o.Lost}
		fs.openedBy[o.unique] = o.handle
	}
	return adopted, files, nil
}

// takeOver makes the connection of a process that died, or made room for this one, ours.
// The files that programs have open have been adopted.
func (fs *fileSystem) takeOver(ctx context.Context, adopted []client.Adopted, files []*client.File) error {
	srv := fs.kernel.server
	if !srv.KernelSettings().SupportsVersion(7, resendMinor) {
		return errOld
	}
	fs.doubtNames()
	srv.InodeNotify(gofuse.FUSE_ROOT_ID, attributesOnly, 0)
	var listed []uint64
	fs.ledger.allKnown(func(known uint64) {
		if known&listedNode != 0 {
			listed = append(listed, known)
			return
		}
		fs.forget(known)
	})
	fs.forgetListings(ctx, listed)
	for _, f := range files {
		srv.InodeNotify(fs.node(f.Ino()), attributesOnly, 0)
	}
	for _, id := range fs.ledger.sessionsBut(fs.client.Stats().Session) {
		if err := fs.client.EndSession(ctx, id); err != nil {
			return fmt.Errorf("the session of the process before: %w", err)
		}
		fs.ledger.ended(id)
	}
	if fs.ledger.pending() {
		fs.client.LostChanges()
	}
	fs.client.Reopen(ctx, adopted, files)
	return fs.resend()
}

// forgetListings makes the kernel forget the listings of folders. It holds a page of one only
// while it copies from it, but if a program has it copied to a file that it has mapped, the
// page may wait until we serve.
func (fs *fileSystem) forgetListings(ctx context.Context, listed []uint64) {
	done := make(chan struct{})
	go func() { // ends when the kernel has, which at the latest an unmount makes it
		defer close(done)
		for _, known := range listed {
			fs.forget(known)
		}
	}()
	select {
	case <-done:
	case <-time.After(forgetWait):
	case <-ctx.Done():
	}
}

const forgetWait = 2 * time.Second

// resend has the kernel send again what nobody has answered.
func (fs *fileSystem) resend() error {
	fs.kernel.mu.Lock()
	defer fs.kernel.mu.Unlock()
	_, err := fs.kernel.device.Write(notification(notifyResend))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("requests that were not answered cannot be had again: %w", err)
	}
	return nil
}

// wrote notes that bytes were written through a handle. It is called after they were
// taken and before the kernel is answered: if the process dies before, it sends them again.
func (fs *fileSystem) wrote(h *fileHandle) {
	if fs.ledger == nil {
		return
	}
	h.dirtyMu.Lock()
	defer h.dirtyMu.Unlock()
	if !h.dirty {
		h.dirty = true
		fs.ledger.mark(h.slot, fileDirty, true)
	}
}

// locked notes whether locks were set through a handle: they are lost with this process.
func (fs *fileSystem) locked(h *fileHandle) {
	if fs.ledger != nil {
		fs.ledger.mark(h.slot, fileLocked, h.HoldsLocks())
	}
}

// told notes that a program has heard of what was lost through a handle.
func (fs *fileSystem) told(h *fileHandle, err error) {
	if err == nil {
		return
	}
	h.dirtyMu.Lock()
	h.untold = false
	h.dirtyMu.Unlock()
}

// settled notes that nothing of what was written through a handle can be lost any more
// without a word.
func (fs *fileSystem) settled(h *fileHandle) {
	if fs.ledger == nil {
		return
	}
	h.dirtyMu.Lock()
	defer h.dirtyMu.Unlock()
	if h.dirty && !h.untold && h.Clean() {
		h.dirty = false
		fs.ledger.mark(h.slot, fileDirty|fileLocked, false)
	}
}

// settleEvery is the time after which bytes that were written back by themselves are
// known to be safe.
const settleEvery = 200 * time.Millisecond

// settleLoop looks after handles whose bytes were written back without an fsync.
func (fs *fileSystem) settleLoop() {
	ticker := time.NewTicker(settleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-fs.base.Done():
			return
		case <-ticker.C:
		}
		fs.mu.RLock()
		all := make([]*fileHandle, 0, len(fs.files))
		for _, h := range fs.files {
			all = append(all, h)
		}
		fs.mu.RUnlock()
		for _, h := range all {
			fs.settled(h)
		}
	}
}

// dropResent closes the file that the dead process has opened for the same request, and
// did not tell the kernel.
func (fs *fileSystem) dropResent(h *gofuse.InHeader) {
	first, again := uniqueOf(h.Unique)
	if !again {
		return
	}
	fs.mu.Lock()
	handle, ok := fs.openedBy[first]
	delete(fs.openedBy, first)
	fs.mu.Unlock()
	if ok {
		fs.release(handle)
	}
}

// bornNow is how old an inode may be at most that a request has made which the kernel
// sent a second time.
const bornNow = time.Minute

// made reports whether err, of a request to make something, says only that the dead
// process has made it: the request was sent to it, and there is one, of the caller, of the same
// type, that is new. Then it returns its attributes.
func (fs *fileSystem) made(r *request, h *gofuse.InHeader, name string, mode uint32, err error) (dfs.Attr, bool) {
	if _, again := uniqueOf(h.Unique); !again || !errors.Is(err, dfs.EEXIST) {
		return dfs.Attr{}, false
	}
	attr, err := fs.client.Lookup(r, fs.cred(h), fs.ino(h.NodeId), name)
	if err != nil || attr.UID != h.Uid || attr.Type() != mode&unix.S_IFMT {
		return dfs.Attr{}, false
	}
	born := time.Unix(attr.Btime.Sec, int64(attr.Btime.Nsec))
	return attr, time.Since(born).Abs() < bornNow
}

// gone reports whether err, of a request to remove or rename, says only that the dead
// process has done so: the kernel had found the name when it sent the request.
func gone(h *gofuse.InHeader, err error) bool {
	_, again := uniqueOf(h.Unique)
	return again && errors.Is(err, dfs.ENOENT)
}
