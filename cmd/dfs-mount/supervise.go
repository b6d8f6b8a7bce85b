package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"dfs/fuse"

	"golang.org/x/sys/unix"
)

// A mount is served by two processes. The worker does everything; the supervisor starts
// it, has a copy of the connection to the kernel and of the mount's ledger, and starts
// another worker with them when the first one dies: the mount point, and what programs
// have open, stay. It does nothing else that could go wrong.
const (
	workerEnv = "DFS_MOUNT_WORKER" // a workerState

	fdControl = 3 // the worker's end of the socket to the supervisor
	fdLedger  = 4
	fdNext    = 5 // the connection, for a worker that takes a mount over; or the pipe of readyFD

	replaceCode = 75 // a worker's exit code: start another, of the program that is there now
	remountCode = 76 // a worker's exit code: it cannot take over, the mount is to be made anew

	soonDead    = time.Second // a worker that lives shorter than this has done nothing
	deathsFree  = 2           // of such workers in a row that are replaced at once
	deathsMax   = 12          // after which the supervisor gives up
	deathsPause = 200 * time.Millisecond
)

// Messages from the worker: one byte.
const (
	sayMounted = 'm' // with the connection
	sayReady   = 'r'
)

// errReplace says that the worker has made room for another one.
var errReplace = errors.New("another process serves the mount from here on")

// workerState is what a worker cannot find out by itself: to look at the mount point is
// to ask the mount.
type workerState struct {
	Mountpoint, LogFile, PidFile string
	Device                       bool // there is a connection to take over
}

// worker is the worker's side of the supervisor.
type worker struct {
	state   workerState
	control *os.File
	ledger  *fuse.Ledger
	device  *os.File // nil: not mounted yet
}

// asWorker finds out whether this process is a worker; nil when it is not.
func asWorker() (*worker, error) {
	text := os.Getenv(workerEnv)
	if text == "" {
		return nil, nil
	}
	os.Unsetenv(workerEnv)
	w := &worker{control: os.NewFile(fdControl, "supervisor")}
	unix.CloseOnExec(fdControl)
	unix.CloseOnExec(fdLedger)
	if err := json.Unmarshal([]byte(text), &w.state); err != nil {
		return nil, fmt.Errorf("%s: %w", workerEnv, err)
	}
	if w.state.Device {
		unix.CloseOnExec(fdNext)
		w.device = os.NewFile(fdNext, "/dev/fuse")
	}
	var err error
	w.ledger, err = fuse.OpenLedger(os.NewFile(fdLedger, "ledger"))
	return w, err
}

// say sends a message, and f's descriptor when it is not nil.
func (w *worker) say(what byte, f *os.File) error {
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	if err := unix.Sendmsg(int(w.control.Fd()), []byte{what}, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("the supervisor does not answer: %w", err)
	}
	return nil
}

// abandoned returns when the supervisor has ended.
func (w *worker) abandoned() {
	var b [1]byte
	for {
		if n, err := w.control.Read(b[:]); n == 0 || err != nil {
			return
		}
	}
}

// supervisor is the other side.
type supervisor struct {
	opts    *options
	logger  *slog.Logger
	exe     string
	ledger  *os.File
	ready   *os.File // for the first worker
	device  *os.File // nil: not mounted yet
	served  bool     // a worker has been ready
	serving bool     // the last one has
	quiet   func()   // lets go of the terminal
	signals chan os.Signal
	ending  bool // somebody wants the mount to end
}

// supervise mounts by a worker, and replaces it until the mount is gone.
func supervise(ctx context.Context, opts *options, stderr io.Writer, ready *os.File, quiet func()) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	for _, path := range []*string{&opts.logFile, &opts.pidFile, &opts.mountpoint} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if opts.mountpoint, err = filepath.EvalSymlinks(opts.mountpoint); err != nil {
		return fmt.Errorf("mountpoint: %w", err)
	}
	logger, closeLog, err := openLog(opts, stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	s := &supervisor{opts: opts, logger: logger, exe: exe, ready: ready, quiet: quiet, signals: make(chan os.Signal, 4)}
	if s.ledger, err = fuse.NewLedger(); err != nil {
		return err
	}
	defer func() { s.ledger.Close() }()
	signal.Notify(s.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(s.signals)
	deaths := 0
	for {
		start := time.Now()
		err := s.run(ctx)
		var exit *exec.ExitError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &exit) || !s.served && exit.Exited():
			s.detach() // when it has come so far
			return err // it has said why
		case !s.served || s.ending || s.gone():
			s.detach()
			return err
		}
		if exit.ExitCode() == replaceCode {
			logger.Info("the process that serves the mount is replaced", "mountpoint", opts.mountpoint)
			deaths = 0
			continue
		}
		// Who is killed is not to blame, once it served. Whom a request makes end by itself
		// gets the request again.
		killed := s.serving && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if exit.ExitCode() == remountCode {
			if err := s.renew(); err != nil {
				return err
			}
		}
		if deaths++; killed || time.Since(start) > soonDead {
			deaths = 0
		}
		logger.Error("the process that serves the mount has died, another one takes over", "mountpoint", opts.mountpoint, "how", exit.String())
		if deaths >= deathsMax {
			s.detach()
			err := fmt.Errorf("%s is unmounted: the process that serves it died %d times in a row at once (%s)", opts.mountpoint, deaths, exit)
			logger.Error("given up", "err", err)
			return err
		}
		if deaths > deathsFree && !s.pause(time.Duration(deaths-deathsFree)*deathsPause) {
			s.detach()
			return nil
		}
	}
}

// renew takes the mount away and forgets it, for the next worker to mount anew. Programs
// that use it get errors for what they have open; new ones find the new mount.
func (s *supervisor) renew() error {
	s.logger.Error("the mount cannot be taken over and is made anew: what programs have open there fails", "mountpoint", s.opts.mountpoint)
	s.detach()
	s.device.Close()
	s.ledger.Close()
	s.device = nil
	var err error
	s.ledger, err = fuse.NewLedger()
	return err
}

// pause waits; false when a signal says that the mount is to end.
func (s *supervisor) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case sig := <-s.signals:
			if sig != syscall.SIGHUP {
				return false
			}
		}
	}
}

// gone reports whether the mount was taken away.
func (s *supervisor) gone() bool {
	fds := []unix.PollFd{{Fd: int32(s.device.Fd())}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLERR != 0
}

// detach takes the mount out of the tree: nobody will serve it.
func (s *supervisor) detach() {
	if s.opts.pidFile != "" {
		_ = os.Remove(s.opts.pidFile)
	}
	if s.device == nil || s.gone() {
		return
	}
	if err := fuse.Detach(s.opts.mountpoint); err != nil {
		s.logger.Error("detach failed: remove the mount by hand", "err", err, "command", "fusermount3 -uz "+s.opts.mountpoint)
	}
}

// run starts a worker and waits until it has ended.
func (s *supervisor) run(ctx context.Context) error {
	s.serving = false
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs, ours := os.NewFile(uintptr(pair[0]), "worker"), pair[1]
	defer unix.Close(ours)
	defer theirs.Close()
	state, err := json.Marshal(workerState{
		Mountpoint: s.opts.mountpoint, LogFile: s.opts.logFile, PidFile: s.opts.pidFile, Device: s.device != nil,
	})
	if err != nil {
		return err
	}
	cmd := exec.Command(s.exe, os.Args[1:]...) // not CommandContext: signals are passed on
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), workerEnv+"="+string(state))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, s.ledger}
	switch {
	case s.device != nil:
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.device)
	case s.ready != nil:
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.ready)
		cmd.Env = append(cmd.Env, readyFD+"="+strconv.Itoa(fdNext))
	}
	// In a group of its own: Ctrl-C is passed on, once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	theirs.Close()
	if s.ready != nil {
		s.ready.Close()
		s.ready = nil
	}
	heard, done := make(chan struct{}), make(chan error, 1)
	go func() { // ends with the worker, and run waits for it
		defer close(heard)
		s.listen(ours)
	}()
	go func() { done <- cmd.Wait() }() // ends with the worker, and run waits for it
	for {
		select {
		case err := <-done:
			<-heard
			return err
		case sig := <-s.signals:
			s.ending = s.ending || sig != syscall.SIGHUP
			_ = cmd.Process.Signal(sig)
		case <-ctx.Done():
			s.ending = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
			ctx = context.WithoutCancel(ctx)
		}
	}
}

// listen takes in what a worker says, until it has ended.
func (s *supervisor) listen(socket int) {
	for {
		var buf [1]byte
		oob := make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := unix.Recvmsg(socket, buf[:], oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		switch buf[0] {
		case sayMounted:
			if fd, err := fuse.DescriptorOf(oob[:oobn]); err == nil {
				s.device = os.NewFile(uintptr(fd), "/dev/fuse")
			}
		case sayReady:
			if !s.served {
				s.quiet()
			}
			s.served, s.serving = true, true
		}
	}
}
