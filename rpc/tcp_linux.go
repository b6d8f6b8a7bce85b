package rpc

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout bounds how long the peer's machine may be silent. A kernel that does
// not know it leaves that to keepalives.
func userTimeout(conn *net.TCPConn) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(keepaliveTimeout.Milliseconds()))
		})
	}
}

// For attentionRounds times attention a reader waits in a system call of its own for
// what comes next, before it waits as Go does.
const (
	attention       = 8 * time.Millisecond
	attentionRounds = 3 // fewer than fit between two heartbeats, so that who is idle sleeps
)

// attending counts the readers of this process that wait so. Only one may, since it
// keeps one of Go's processors; it is package state as those are.
var attending atomic.Int32

// attentive reads a connection on which the next message is likely to come soon. When
// all goroutines wait, Go lets all its threads sleep, and it wakes several for the next
// message: the one that polls the network, the monitor, and one to look for more work.
// That costs more than a small call itself. A thread that waits in a system call is
// woken alone, and goes on at once.
func attentive(conn net.Conn) io.Reader {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	return &attentiveReader{raw: raw}
}

type attentiveReader struct {
	raw     syscall.RawConn
	yielded time.Time
}

func (r *attentiveReader) Read(p []byte) (n int, err error) {
	first := true
	wait := r.raw.Read(func(fd uintptr) bool {
		n, err = readNow(int(fd), p)
		if err == unix.EAGAIN && first {
			first = false
			if r.await(int(fd)) {
				n, err = readNow(int(fd), p)
			}
		}
		return err != unix.EAGAIN
	})
	switch {
	case wait != nil:
		return 0, wait
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// writeNow writes what the kernel takes at once; ok is false where it cannot be asked.
func writeNow(conn net.Conn, b []byte) (n int, ok bool, err error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0, false, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	wait := raw.Write(func(fd uintptr) bool {
		for {
			if n, err = unix.Write(int(fd), b); err != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case wait != nil:
		return 0, true, wait
	case err == unix.EAGAIN:
		err = nil
	case err != nil:
		err = os.NewSyscallError("write", err)
	}
	return max(n, 0), true, err
}

func readNow(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// await waits until something has arrived, for a while and if a processor is left.
func (r *attentiveReader) await(fd int) bool {
	defer attending.Add(-1)
	if attending.Add(1) > 1 || runtime.GOMAXPROCS(0) == 1 {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for range attentionRounds {
		// A goroutine that never yields has its processor taken away after 10 ms, and each
		// time that it does another thread is woken.
		if now := time.Now(); now.Sub(r.yielded) > attention/2 {
			r.yielded = now
			runtime.Gosched()
		}
		if n, err := unix.Poll(fds, int(attention.Milliseconds())); n > 0 || err != nil && err != unix.EINTR {
			return true
		}
	}
	return false
}
