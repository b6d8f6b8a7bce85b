package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of handing out files.
const (
	fileKeyMax  = 64              // bytes of a request
	fileTimeout = 2 * time.Second // for one
)

// errStranger says that the other end is neither root nor the same user.
var errStranger = errors.New("the process at the other end belongs to another user")

// FileServer hands out open files to processes of root or of the same user on this
// machine, in the same network namespace: over a socket of the abstract kind, which
// has no file and ends with its owner.
type FileServer struct {
	listener *net.UnixListener
	done     chan struct{}
}

// ServeFiles begins to hand out files under a name. open opens the file that a
// request is for; FileServer closes it.
func ServeFiles(name string, open func(key []byte) (*os.File, error)) (*FileServer, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: "@" + name, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	s := &FileServer{listener: l, done: make(chan struct{})}
	go func() { // ends with Close, which waits for it
		defer close(s.done)
		for {
			conn, err := l.AcceptUnix()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(10 * time.Millisecond) // out of descriptors
				continue
			}
			handOut(conn, open)
			conn.Close()
		}
	}()
	return s, nil
}

// Close ends it.
func (s *FileServer) Close() error {
	err := s.listener.Close()
	<-s.done
	return err
}

// handOut answers one request: an empty packet with the file, or the reason why not.
func handOut(conn *net.UnixConn, open func(key []byte) (*os.File, error)) {
	if err := conn.SetDeadline(time.Now().Add(fileTimeout)); err != nil {
		return
	}
	if err := familiar(conn); err != nil {
		return
	}
	key := make([]byte, fileKeyMax)
	n, err := conn.Read(key)
	if err != nil {
		return
	}
	f, err := open(key[:n])
	if err != nil {
		_, _ = fmt.Fprintf(conn, "%.500s", err.Error())
		return
	}
	defer f.Close()
	_, _, _ = conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
}

// OpenFile asks the process that hands out files under a name for one.
func OpenFile(ctx context.Context, name string, key []byte) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", "@"+name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, net.UnknownNetworkError("unixpacket")
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if err := familiar(conn); err != nil {
		return nil, err
	}
	if _, err := conn.Write(key); err != nil {
		return nil, err
	}
	text, rights := make([]byte, 512), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	if m == 0 {
		return nil, fmt.Errorf("refused: %s", text[:n])
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil {
		return nil, err
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			unix.CloseOnExec(fds[0])
			return os.NewFile(uintptr(fds[0]), name), nil
		}
	}
	return nil, errors.New("the answer has no file")
}

// familiar checks whose the process at the other end is.
func familiar(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var who *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	if who.Uid != 0 && int(who.Uid) != os.Geteuid() {
		return errStranger
	}
	return nil
}
