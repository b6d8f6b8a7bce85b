package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dfs"
	"dfs/client"
	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// locksView is the schema of `dfs lock list -o json`.
type locksView struct {
	Schema string     `json:"schema"` // dfs.locks/v1
	Locks  []lockView `json:"locks"`
}

type lockView struct {
	Name       string  `json:"name,omitempty"`  // of dfs lock run
	Token      uint64  `json:"token,omitempty"` // of dfs lock run
	Ino        uint64  `json:"ino,omitempty"`   // of a file
	Kind       string  `json:"kind"`            // name, flock, fcntl
	Type       string  `json:"type"`            // shared, exclusive
	Start      uint64  `json:"start"`
	Length     *uint64 `json:"length"` // null: to the end of the file
	PID        uint32  `json:"pid,omitempty"`
	Session    string  `json:"session"`
	Host       string  `json:"host"`
	Mountpoint string  `json:"mountpoint,omitempty"`
}

func newLock(g *global) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "lock",
		Short: "Locks: those of files on all mounts, and those of names",
		Long: `Programs on any mounts lock files with flock(2) and fcntl(2) as on one machine. A
name can be locked without a file or a mount: dfs lock run.`,
	}, newLockRun(g), newLockList(g))
}

func newLockList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the locks that are held",
		Long: `Lists the locks that the masters know of. What a mount has locked in a file that no
other mount asks about it keeps to itself; it is not listed.`,
		Example: "  dfs lock list -o wide",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			view := locksView{Schema: "dfs.locks/v1", Locks: []lockView{}}
			t := table{columns: []string{"WHAT", "KIND", "TYPE", "BYTES", "HOST", "PID", "TOKEN", "SESSION", "MOUNTPOINT"}, narrow: 7}
			for after, more := uint64(0), true; more; {
				var reply *adminpb.LocksReply
				err := g.admin(cmd.Context(), "", func(ctx context.Context, c adminpb.AdminClient) (err error) {
					reply, err = c.Locks(ctx, &adminpb.LocksRequest{After: after})
					return err
				})
				if err != nil {
					return err
				}
				for _, l := range reply.Locks {
					v := newLockView(l)
					view.Locks = append(view.Locks, v)
					t.rows = append(t.rows, v.row())
					after = l.Ino
				}
				more = reply.More
			}
			return g.emit(cmd, view, t, nil)
		},
	}
}

func newLockView(l *adminpb.Lock) lockView {
	v := lockView{
		Name: l.Name, Token: l.Token, Start: l.Start, PID: l.Pid, Session: dfs.SessionID(l.Session).String(), Host: l.Host, Mountpoint: l.Mountpoint,
		Kind: map[dfs.LockKind]string{dfs.LockFile: "flock", dfs.LockBytes: "fcntl", dfs.LockName: "name"}[dfs.LockKind(l.Kind)], Type: "shared",
	}
	if dfs.LockType(l.Type) == dfs.LockAlone {
		v.Type = "exclusive"
	}
	if l.Name == "" {
		v.Ino = l.Ino
	}
	if l.End < dfs.LockEnd {
		n := l.End - l.Start + 1
		v.Length = &n
	}
	return v
}

func (v lockView) row() []string {
	what, bytes, token := v.Name, "all", ""
	if what == "" {
		what = fmt.Sprintf("inode %d", v.Ino)
	}
	if v.Length != nil {
		bytes = fmt.Sprintf("%d-%d", v.Start, v.Start+*v.Length-1)
	} else if v.Start > 0 {
		bytes = fmt.Sprintf("%d-", v.Start)
	}
	if v.Token > 0 {
		token = strconv.FormatUint(v.Token, 10)
	}
	return []string{what, v.Kind, v.Type, bytes, v.Host, strconv.FormatUint(uint64(v.PID), 10), token, v.Session, v.Mountpoint}
}

// lockRun is what `dfs lock run` was told.
type lockRun struct {
	shared, noWait bool
	wait           time.Duration
}

func newLockRun(g *global) *cobra.Command {
	var o lockRun
	cmd := &cobra.Command{
		Use:   "run NAME -- COMMAND [ARGUMENT...]",
		Short: "Run a command while holding a lock on a name",
		Long: `Runs COMMAND while no other "dfs lock run" of the same NAME runs one, on any machine.
The lock ends with the command, and some time after this machine is lost.

The command finds DFS_LOCK_NAME and DFS_LOCK_TOKEN in its environment. The token is
a number that grows with each lock given: what keeps the greatest one that it has
seen can refuse a command that was held up for so long that another one has the
lock now. When the lock is lost the command is asked to end (SIGTERM).

Exits as the command does; 4 when the lock cannot be had in time.`,
		Example: `  dfs lock run nightly-backup -- /usr/local/bin/backup
  dfs lock run --no-wait reindex -- make index
  dfs lock run --shared schema -- ./reader`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("want a name, then -- and a command")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch name := args[0]; {
			case name == "" || len(name) > dfs.NameMax || strings.ContainsRune(name, 0):
				return cli.Usagef("name of %d bytes: want 1 to %d", len(name), dfs.NameMax)
			case o.wait < 0 || o.wait > 0 && o.noWait:
				return cli.Usagef("--wait=%v: want a time, and not with --no-wait", o.wait)
			}
			return o.run(cmd, g, args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.shared, "shared", false, "share the lock with others that share it")
	f.BoolVar(&o.noWait, "no-wait", false, "fail at once when somebody else has the lock")
	f.DurationVar(&o.wait, "wait", 0, "fail when the lock is not to be had within that time; 0 waits for ever")
	return cmd
}

// lockEndGrace is how long a command may go on after it was asked to end.
const lockEndGrace = 10 * time.Second

func (o *lockRun) run(cmd *cobra.Command, g *global, name string, command []string) (err error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	addrs, err := g.addresses("")
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	fs, err := client.Dial(cmd.Context(), client.Config{Masters: addrs, Host: host, Version: cli.Version(), OpTimeout: g.timeout})
	if err != nil {
		return err
	}
	defer fs.Close() // the lock goes with the session, also when Unlock fails
	lock, err := o.take(cmd.Context(), fs, name)
	if err != nil {
		return err
	}
	c := exec.CommandContext(cmd.Context(), path, command[1:]...)
	c.Args[0] = command[0]
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), "DFS_LOCK_NAME="+name, "DFS_LOCK_TOKEN="+strconv.FormatUint(lock.Token, 10))
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = lockEndGrace
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	lost := make(chan bool, 1)
	go func() {
		select {
		case <-ended:
			lost <- false
		case <-lock.Lost():
			lost <- true
			fmt.Fprintf(cmd.ErrOrStderr(), "dfs: the lock on %q is lost: the cluster has not heard of this machine for too long; the command is asked to end\n", name)
			_ = c.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(lockEndGrace):
				_ = c.Process.Kill()
			}
		}
	}()
	err = c.Wait()
	close(ended)
	if <-lost {
		return fmt.Errorf("the lock on %q was lost while the command ran", name)
	}
	if uerr := lock.Unlock(context.WithoutCancel(cmd.Context())); uerr != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "dfs: the lock on %q ends with this session: %v\n", name, uerr)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code := exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		return &cli.ExitCode{Code: code}
	}
	return err
}

// take waits for the lock as long as it may.
func (o *lockRun) take(ctx context.Context, fs *client.FS, name string) (*client.NameLock, error) {
	typ := dfs.LockAlone
	if o.shared {
		typ = dfs.LockShared
	}
	if o.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.wait)
		defer cancel()
	}
	lock, err := fs.LockName(ctx, name, typ, !o.noWait)
	if errors.Is(err, dfs.EAGAIN) || o.wait > 0 && errors.Is(err, context.DeadlineExceeded) {
		return nil, &cli.ExitCode{Code: cli.ExitTimeout, Err: fmt.Errorf("somebody else has the lock on %q: see dfs lock list", name)}
	}
	return lock, err
}
