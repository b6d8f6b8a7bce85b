package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"dfs/internal/cli"

	"golang.org/x/sys/unix"
)

// readyFD is the variable that tells a background process on which descriptor
// its parent waits for the word that the mount can be used.
const readyFD = "DFS_MOUNT_READY_FD"

// readyWord is what the child writes when it is mounted; anything else is why
// it could not.
const readyWord = "mounted\n"

// readyPipe is the pipe to the parent; nil when there is none.
func readyPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(readyFD))
	if err != nil || fd < 3 {
		return nil
	}
	os.Unsetenv(readyFD) // not for the helpers that we start
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}

// startBackground runs this program again as a daemon, and returns when it has
// mounted or failed.
func startBackground(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot start in the background: %w; use -f", err)
	}
	child := exec.Command(exe, os.Args[1:]...) // not CommandContext: it outlives us
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), readyFD+"=3")
	child.ExtraFiles = []*os.File{w}
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		w.Close()
		return fmt.Errorf("cannot start in the background: %w; use -f", err)
	}
	w.Close()
	// Ctrl-C while it waits for the cluster is for the child, too.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	release := context.AfterFunc(ctx, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer release()
	text, err := io.ReadAll(r)
	switch {
	case err != nil:
		return err
	case string(text) == readyWord:
		return child.Process.Release()
	case len(text) > 0:
		_ = child.Wait()
		return errors.New(strings.TrimSpace(string(text)))
	}
	return fmt.Errorf("the background process ended before it mounted: %w", child.Wait())
}

// work serves as a worker. ready is the pipe to who started the mount; nil for one that
// takes it over, and in the foreground.
func work(ctx context.Context, opts *options, w *worker, ready *os.File) error {
	opts.mountpoint, opts.logFile, opts.pidFile = w.state.Mountpoint, w.state.LogFile, w.state.PidFile
	if opts.foreground {
		return serve(ctx, opts, w, os.Stderr, func() {})
	}
	log, keepStderr := backgroundLog()
	mounted := false
	err := serve(ctx, opts, w, log, func() {
		mounted = true
		if ready == nil {
			return
		}
		detachStdio(keepStderr)
		_, _ = io.WriteString(ready, readyWord)
		ready.Close()
	})
	if err != nil && !mounted && ready != nil {
		_, _ = io.WriteString(ready, err.Error())
		ready.Close()
		os.Exit(cli.Code(err)) // the first process prints it
	}
	return err
}

// backgroundLog is where a daemon without a log file logs to: to stderr when
// somebody made it a file, else to the system's log, else nowhere.
func backgroundLog() (w io.Writer, keepStderr bool) {
	var st unix.Stat_t
	if unix.Fstat(2, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		return os.Stderr, true
	}
	if log, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "dfs-mount"); err == nil {
		return log, false
	}
	return io.Discard, false
}

// detachStdio lets go of the terminal or the pipe that we were started from:
// whoever reads it would wait for us for ever.
func detachStdio(keepStderr bool) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	for fd := range 3 {
		if fd == 2 && keepStderr {
			continue
		}
		_ = unix.Dup2(int(null.Fd()), fd)
	}
	_ = os.Chdir("/") // do not keep another file system busy
}
