package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// How long a request goes on after a signal that does not kill the program.
//
// The kernel tells us of any signal, and a system call that we end with EINTR
// is not restarted. A local file system ends none: git's progress timer and the
// signals by which Go schedules its goroutines would fail programs that work
// everywhere else. So a signal that kills ends the request at once; one by which
// a user asks a program to stop ends it when it does not get on; and any other
// only when the request has been stuck for longer than a change of the leading
// master takes.
const (
	askedGrace  = time.Second
	signalGrace = 5 * time.Second
	signalPoll  = 50 * time.Millisecond // the kernel tells of the first signal only
)

// request is the context of one kernel request. It ends with the request, or
// when the program that waits for it is to be let go.
type request struct {
	context.Context
	stop        context.CancelFunc
	fs          *fileSystem
	op          *opMetrics
	start       time.Time
	interrupt   <-chan struct{} // closed by go-fuse on FUSE_INTERRUPT
	pid         uint32          // the calling thread; 0 when it is in another pid namespace
	watch       sync.Once
	interrupted atomic.Bool
}

// begin starts a request; the caller must end it.
func (fs *fileSystem) begin(op op, cancel <-chan struct{}, h *gofuse.InHeader) *request {
	fs.gate.RLock()
	r := &request{fs: fs, op: &fs.metrics[op], start: time.Now(), interrupt: cancel, pid: h.Pid}
	r.Context, r.stop = context.WithCancel(fs.base)
	return r
}

// end tells the answer to the counters and releases the request's context.
func (r *request) end(status *gofuse.Status) {
	r.stop()
	r.op.observe(time.Since(r.start), *status)
	r.fs.gate.RUnlock()
}

// Done starts to watch for signals when somebody is going to wait. Many
// requests are answered from memory and never get here.
func (r *request) Done() <-chan struct{} {
	r.watch.Do(func() {
		r.fs.watchers.Add(1)
		go r.watchSignals()
	})
	return r.Context.Done()
}

func (r *request) watchSignals() {
	defer r.fs.watchers.Done()
	select {
	case <-r.Context.Done():
		return
	case <-r.interrupt:
	}
	since := time.Now()
	ticker := time.NewTicker(signalPoll)
	defer ticker.Stop()
	for {
		grace := signalGrace
		switch pendingSignal(r.pid) {
		case signalKills:
			grace = 0
		case signalAsks:
			grace = askedGrace
		}
		if time.Since(since) >= grace {
			r.interrupted.Store(true)
			r.stop()
			return
		}
		select {
		case <-r.Context.Done():
			return
		case <-ticker.C:
		}
	}
}

// status turns what client answered into what the kernel is told: a verdict is
// passed on as it is, a failure becomes the errno that POSIX has for it.
func (r *request) status(err error) gofuse.Status {
	if err == nil {
		return gofuse.OK
	}
	var errno dfs.Errno
	if errors.As(err, &errno) {
		return gofuse.Status(errno)
	}
	if r.interrupted.Load() || r.fs.base.Err() != nil {
		return gofuse.EINTR
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		r.fs.complain(r.op.name, "ETIMEDOUT", err)
		return gofuse.Status(syscall.ETIMEDOUT)
	}
	if errors.Is(err, context.Canceled) {
		return gofuse.EINTR
	}
	r.fs.complain(r.op.name, "EIO", err)
	return gofuse.EIO
}

// cred is on whose behalf the request is made. The kernel has checked its
// permissions (default_permissions).
func (fs *fileSystem) cred(h *gofuse.InHeader) dfs.Cred {
	return fs.restrict.Squash(dfs.Cred{UID: h.Uid, GID: h.Gid, Checked: true})
}

// maker is cred for what makes an inode: the kernel leaves the umask to us, since a
// default ACL takes its place (FUSE_DONT_MASK).
func (fs *fileSystem) maker(h *gofuse.InHeader, umask uint32) dfs.Cred {
	c := fs.cred(h)
	c.Umask = umask
	return c
}

type signalEffect int

const (
	signalNone  signalEffect = iota // nothing is known, or nothing that ends a program
	signalAsks                      // the program catches a signal that asks it to end
	signalKills                     // the program ends as soon as we let it
)

const (
	asking = 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGTERM-1) | 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGQUIT-1)
	// Signals that do nothing to a program that does not catch them, or stop it.
	harmless = 1<<(syscall.SIGCHLD-1) | 1<<(syscall.SIGCONT-1) | 1<<(syscall.SIGURG-1) | 1<<(syscall.SIGWINCH-1) |
		1<<(syscall.SIGSTOP-1) | 1<<(syscall.SIGTSTP-1) | 1<<(syscall.SIGTTIN-1) | 1<<(syscall.SIGTTOU-1)
)

// pendingSignal looks at what waits for a thread to leave the kernel. A signal
// that kills is shown as a pending SIGKILL, except for those that dump core.
func pendingSignal(pid uint32) signalEffect {
	if pid == 0 {
		return signalNone
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		return signalKills // nobody waits any more
	}
	if err != nil {
		return signalNone
	}
	return effectOf(text)
}

func effectOf(status []byte) signalEffect {
	mask := func(name string) uint64 {
		_, rest, ok := bytes.Cut(status, []byte("\n"+name+":\t"))
		if !ok {
			return 0
		}
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		v, err := strconv.ParseUint(string(line), 16, 64)
		if err != nil {
			return 0
		}
		return v
	}
	pending := (mask("SigPnd") | mask("ShdPnd")) &^ mask("SigBlk")
	caught := mask("SigCgt")
	switch {
	case pending&^mask("SigIgn")&^caught&^harmless != 0:
		return signalKills
	case pending&caught&asking != 0:
		return signalAsks
	}
	return signalNone
}
