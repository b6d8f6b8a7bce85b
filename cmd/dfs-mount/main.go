// Command dfs-mount mounts a dfs cluster, or a folder of it, on a folder of this
// machine. It is its own mount helper: a link named mount.fuse.dfs in /sbin lets
// mount(8) and /etc/fstab use it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"dfs/fuse"
	"dfs/internal/cli"

	"github.com/spf13/cobra"
)

func main() {
	err := run(context.Background(), os.Args)
	if errors.Is(err, errReplace) {
		os.Exit(replaceCode) // the supervisor starts another
	}
	if errors.Is(err, fuse.ErrTakeover) {
		os.Exit(remountCode)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		os.Exit(exit.ExitCode()) // a worker has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dfs-mount:", err)
		os.Exit(cli.Code(err))
	}
}

// run is main without its ends: the arguments with the program's name first.
func run(ctx context.Context, args []string) error {
	cmd := newCommand()
	if strings.HasPrefix(filepath.Base(args[0]), "mount.") {
		helper, err := helperArgs(args[1:])
		if err != nil {
			return err
		}
		args = args[:1:1]
		if os.Geteuid() == 0 {
			// mount(8) leaves these two words out: for it they are what is so anyway. What it
			// does say comes after.
			args = append(args, "-o", "suid,dev")
		}
		args = append(args, helper...)
	}
	cmd.SetArgs(args[1:])
	return cmd.ExecuteContext(ctx)
}

const long = `Mount the file system of a dfs cluster, or a folder of it.

MASTERS are the addresses of the masters, separated by commas; one that answers
is enough, it knows the others. Without the argument they are read from
DFS_MASTERS. The command returns as soon as the mount can be used, and serves it
in the background until it is unmounted (umount, fusermount3 -u) or gets SIGTERM.
SIGHUP makes the program that is now at its path go on with the mount. A mount whose
process is killed comes back by itself.

Each long flag is also an option of -o and a variable of the environment:
--op-timeout=10s is -o op-timeout=10s is DFS_OP_TIMEOUT=10s. Of mount(8)'s own
options, -o takes ro, rw, dev, suid, exec and their opposites, relatime (which it
does by itself), noatime, strictatime, nodiratime and, as a mount helper, remount with
ro, rw, dev, suid, exec. It ignores those that say nothing to a file system (defaults,
_netdev, x-..., and so on).`

const example = `  dfs-mount 10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400 /mnt/dfs
  dfs-mount -f --log-level=debug 10.0.0.1:7400 /mnt/dfs
  dfs-mount -o path=/home,ro,op-timeout=10s 10.0.0.1:7400 /mnt/home
  umount /mnt/dfs                  # or: fusermount3 -u /mnt/dfs

  # As a mount helper, once: ln -s "$(command -v dfs-mount)" /sbin/mount.fuse.dfs
  mount -t fuse.dfs 10.0.0.1:7400,10.0.0.2:7400 /mnt/dfs -o op-timeout=30s

  # /etc/fstab
  10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400  /mnt/dfs  fuse.dfs  _netdev,nofail,op-timeout=60s  0  0`

func newCommand() *cobra.Command {
	opts := defaultOptions()
	var words []string
	cmd := &cobra.Command{
		Use:           "dfs-mount [flags] [MASTERS] MOUNTPOINT",
		Short:         "Mount a dfs cluster",
		Long:          long,
		Example:       example,
		Version:       cli.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if opts.completion != "" {
				return nil
			}
			if len(args) < 1 || len(args) > 2 {
				return cli.Usagef("want MASTERS and MOUNTPOINT, got %d arguments; see dfs-mount --help", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.completion != "" {
				return completion(cmd, opts.completion)
			}
			if err := opts.complete(cmd.Flags(), words, args); err != nil {
				return err
			}
			if opts.fake {
				return nil
			}
			if opts.remount {
				return remount(opts)
			}
			w, err := asWorker()
			if err != nil {
				return err
			}
			ready := readyPipe()
			if w != nil {
				return work(cmd.Context(), opts, w, ready)
			}
			if err := checkMountpoint(opts.mountpoint); err != nil {
				return err
			}
			if ready != nil {
				log, keepStderr := backgroundLog()
				return supervise(cmd.Context(), opts, log, ready, func() { detachStdio(keepStderr) })
			}
			if opts.foreground {
				return supervise(cmd.Context(), opts, os.Stderr, nil, func() {})
			}
			return startBackground(cmd.Context())
		},
	}
	opts.register(cmd.Flags())
	cmd.Flags().StringArrayVarP(&words, "options", "o", nil, "mount options, separated by commas")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.Usagef("%w", err) })
	return cmd
}

// completion prints a shell's completion script. It is a flag, not a command as
// elsewhere, since a mountpoint may have any name.
func completion(cmd *cobra.Command, shell string) error {
	switch shell {
	case "bash":
		return cmd.GenBashCompletionV2(cmd.OutOrStdout(), true)
	case "zsh":
		return cmd.GenZshCompletion(cmd.OutOrStdout())
	case "fish":
		return cmd.GenFishCompletion(cmd.OutOrStdout(), true)
	}
	return cli.Usagef("--completion=%s: want bash, zsh or fish", shell)
}
