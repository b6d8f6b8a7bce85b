package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

func testFS(t *testing.T) *fileSystem {
	fs := newFileSystem(t.Context(), Config{Logger: slog.New(slog.DiscardHandler)}, dfs.Attr{})
	t.Cleanup(fs.close)
	return fs
}

func TestVerdictsPassUnchangedAndFailuresBecomeErrnos(t *testing.T) {
	fs := testFS(t)
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{dfs.ENOENT, syscall.ENOENT},
		{dfs.ENOTEMPTY, syscall.ENOTEMPTY},
		{fmt.Errorf("rename: %w", dfs.EXDEV), syscall.EXDEV},
		{fmt.Errorf("no leader: %w", context.DeadlineExceeded), syscall.ETIMEDOUT},
		{errors.New("anything else"), syscall.EIO},
	} {
		r := fs.begin(opLookup, make(chan struct{}), &gofuse.InHeader{})
		status := r.status(c.err)
		if status != gofuse.Status(c.want) {
			t.Errorf("%v: got %v, want %v", c.err, status, c.want)
		}
		r.end(&status)
	}
}

func TestEachErrnoOfDfsIsLinux(t *testing.T) {
	for errno, want := range map[dfs.Errno]syscall.Errno{
		dfs.EPERM: syscall.EPERM, dfs.ENODATA: syscall.ENODATA, dfs.EOPNOTSUPP: syscall.EOPNOTSUPP, dfs.ENAMETOOLONG: syscall.ENAMETOOLONG,
		dfs.ELOOP: syscall.ELOOP, dfs.EDEADLK: syscall.EDEADLK, dfs.ESTALE: syscall.ESTALE, dfs.EDQUOT: syscall.EDQUOT,
	} {
		if int(errno) != int(want) {
			t.Errorf("%d is not %d", errno, want)
		}
	}
}

func TestSignalEffect(t *testing.T) {
	const none = "0000000000000000"
	bit := func(signals ...syscall.Signal) string {
		var m uint64
		for _, s := range signals {
			m |= 1 << (s - 1)
		}
		return fmt.Sprintf("%016x", m)
	}
	for _, c := range []struct {
		name                                     string
		thread, shared, blocked, ignored, caught string
		want                                     signalEffect
	}{
		{"nothing pending", none, none, none, none, none, signalNone},
		{"SIGKILL", bit(syscall.SIGKILL), none, none, none, none, signalKills},
		{"Ctrl-C at a program without a handler", bit(syscall.SIGKILL), bit(syscall.SIGINT), none, none, none, signalKills},
		{"SIGQUIT without a handler dumps core", none, bit(syscall.SIGQUIT), none, none, none, signalKills},
		{"Ctrl-C at one with a handler", none, bit(syscall.SIGINT), none, none, bit(syscall.SIGINT), signalAsks},
		{"a timer with a handler", none, bit(syscall.SIGALRM), none, none, bit(syscall.SIGALRM), signalNone},
		{"Go's scheduler", bit(syscall.SIGURG), none, none, none, bit(syscall.SIGURG), signalNone},
		{"SIGURG without a handler", bit(syscall.SIGURG), none, none, none, none, signalNone},
		{"a child ended", none, bit(syscall.SIGCHLD), none, none, none, signalNone},
		{"ignored", none, bit(syscall.SIGINT), none, bit(syscall.SIGINT), none, signalNone},
		{"blocked", none, bit(syscall.SIGTERM), bit(syscall.SIGTERM), none, none, signalNone},
	} {
		text := fmt.Sprintf("Name:\tx\nSigQ:\t0/1\nSigPnd:\t%s\nShdPnd:\t%s\nSigBlk:\t%s\nSigIgn:\t%s\nSigCgt:\t%s\nCapInh:\t0\n",
			c.thread, c.shared, c.blocked, c.ignored, c.caught)
		if got := effectOf([]byte(text)); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if got := pendingSignal(uint32(os.Getpid())); got == signalKills {
		t.Error("this process is said to be dying")
	}
	if got := pendingSignal(0); got != signalNone {
		t.Errorf("a thread of another pid namespace: %v", got)
	}
}

func TestInterruptOfDeadProgramEndsRequestAtOnce(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	fs := testFS(t)
	cancel := make(chan struct{})
	r := fs.begin(opRead, cancel, &gofuse.InHeader{Caller: gofuse.Caller{Pid: uint32(cmd.Process.Pid)}})
	derived, stop := context.WithTimeout(r, time.Minute) // as rpc does
	defer stop()
	start := time.Now()
	close(cancel)
	<-derived.Done()
	if took := time.Since(start); took > askedGrace {
		t.Errorf("took %v", took)
	}
	status := r.status(fmt.Errorf("read: %w", derived.Err()))
	if status != gofuse.EINTR {
		t.Errorf("got %v, want EINTR", status)
	}
	r.end(&status)
}

func TestHarmlessSignalDoesNotEndRequest(t *testing.T) {
	fs := testFS(t)
	cancel := make(chan struct{})
	r := fs.begin(opRead, cancel, &gofuse.InHeader{Caller: gofuse.Caller{Pid: uint32(os.Getpid())}})
	close(cancel)
	select {
	case <-r.Done():
		t.Error("the request ended although nothing asks the program to")
	case <-time.After(3 * signalPoll):
	}
	status := gofuse.OK
	r.end(&status)
	<-r.Done()
}
