package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	chunkserver "dfs/chunk/server"
	"dfs/client"
	"dfs/fuse"
	"dfs/internal/cli"
	"dfs/internal/loopback"
	metaserver "dfs/meta/server"
	"dfs/proto/adminpb"
	"dfs/rpc"
)

// devOptions is the configuration of `dfs dev`.
type devOptions struct {
	dir       string
	mount     string
	masters   int
	chunks    int
	opTimeout time.Duration
	logLevel  string
}

func newDev(g *global) *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster, and a mount, in this process",
		Long: `Runs masters, chunk servers and, with --mount, a mount in one process: with real
Raft and real replication, over loopback, all data in one folder. It stays in the
foreground until it is interrupted; started again on the same folder, it finds its
data again. The addresses of its masters are in DIR/masters, its log in DIR/log.

SIGUSR1 takes chunk-2 away, as if its machine had failed; the next SIGUSR1 brings
it back.

It is for trying dfs and for developing against it. Copies on one machine protect
from the loss of a process, not of the machine.`,
		Example: `  dfs dev --dir /var/tmp/dfs --mount /mnt/dfs
  DFS_MASTERS=$(cat /var/tmp/dfs/masters) dfs status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDev(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "dfs-dev", "folder of the cluster's data")
	f.StringVar(&o.mount, "mount", "", "folder to mount the file system on; empty: no mount")
	f.IntVar(&o.masters, "masters", 3, "how many masters: 1, 3 or 5")
	f.IntVar(&o.chunks, "chunk-servers", 3, "how many chunk servers")
	f.DurationVar(&o.opTimeout, "op-timeout", time.Minute, "how long the mount's operations wait for the cluster")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// devMax bounds how much one process is asked to be.
const devMax = 16

func (o *devOptions) check() error {
	if o.masters != 1 && o.masters != 3 && o.masters != 5 {
		return cli.Usagef("--masters=%d: want 1, 3 or 5", o.masters)
	}
	if o.chunks < 1 || o.chunks > devMax {
		return cli.Usagef("--chunk-servers=%d: want 1 to %d", o.chunks, devMax)
	}
	if o.dir == "" {
		return cli.Usagef("--dir is empty: want a folder for the data")
	}
	return nil
}

// dev is a running cluster. Its parts end in the reverse order of their start.
type dev struct {
	o       devOptions
	logger  *slog.Logger
	masters []string
	chunks  []*chunkserver.Server // nil: taken away
	ends    []func() error
}

func (d *dev) onEnd(fn func() error) { d.ends = append(d.ends, fn) }

func (d *dev) end() error {
	var all error
	for i := len(d.ends) - 1; i >= 0; i-- {
		all = errors.Join(all, d.ends[i]())
	}
	return all
}

func runDev(cmd *cobra.Command, o devOptions) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(o.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	logger, err := cli.Logger(log, o.logLevel)
	if err != nil {
		return err
	}
	d := &dev{o: o, logger: logger}
	defer func() { err = errors.Join(err, d.end()) }()
	ctx := cmd.Context()
	if err := d.startServers(ctx); err != nil {
		return err
	}
	if err := d.waitHealthy(ctx); err != nil {
		if ctx.Err() != nil { // a signal: nothing has gone wrong
			fmt.Fprintln(cmd.ErrOrStderr(), "ending ...")
			return nil
		}
		return err
	}
	done, err := d.startMount(ctx)
	if err != nil {
		return err
	}
	d.tell(cmd)
	toggle := make(chan os.Signal, 1)
	signal.Notify(toggle, syscall.SIGUSR1)
	defer signal.Stop(toggle)
	for {
		select {
		case <-toggle:
			if err := d.toggle(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			fmt.Fprintln(cmd.ErrOrStderr(), "ending ...")
			return nil
		case <-done:
			fmt.Fprintln(cmd.ErrOrStderr(), "unmounted, ending ...")
			return nil
		}
	}
}

// startServers starts masters, then chunk servers.
func (d *dev) startServers(ctx context.Context) error {
	file := filepath.Join(d.o.dir, "masters")
	addrs, fresh, err := d.addresses(file)
	if err != nil {
		return err
	}
	for i, addr := range addrs {
		name := fmt.Sprintf("master-%d", i+1)
		cfg := metaserver.Config{
			Name: name, Dir: filepath.Join(d.o.dir, name), Listen: addr, GossipListen: "127.0.0.1:0",
			Expected: len(addrs), Version: cli.Version(), Logger: d.logger.With("node", name),
		}
		cfg.Mover = func(ctx context.Context, masters []string) (metaserver.Mover, error) {
			return client.Dial(ctx, client.Config{Masters: masters, Mountpoint: "jobs of " + name, Version: cfg.Version, Logger: cfg.Logger})
		}
		if i > 0 {
			cfg.Join = addrs[:1]
		} else {
			cfg.Bootstrap = fresh
		}
		s, err := metaserver.Start(ctx, cfg)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d.onEnd(s.Close)
	}
	d.masters = addrs
	if err := os.WriteFile(file, []byte(strings.Join(addrs, ",")+"\n"), 0o644); err != nil {
		return err
	}
	d.chunks = make([]*chunkserver.Server, d.o.chunks)
	d.onEnd(func() (all error) {
		for _, s := range d.chunks {
			if s != nil {
				all = errors.Join(all, s.Close())
			}
		}
		return all
	})
	for i := range d.chunks {
		if err := d.startChunk(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (d *dev) startChunk(ctx context.Context, i int) (err error) {
	name := fmt.Sprintf("chunk-%d", i+1)
	d.chunks[i], err = chunkserver.Start(ctx, chunkserver.Config{
		Name: name, Dirs: []string{filepath.Join(d.o.dir, name)}, Listen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
		Masters: d.masters, Host: name, Version: cli.Version(), Logger: d.logger.With("node", name),
	})
	if err != nil {
		d.chunks[i] = nil
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// toggled is the chunk server that SIGUSR1 takes away and brings back.
const toggled = 1

func (d *dev) toggle(ctx context.Context) error {
	if toggled >= len(d.chunks) {
		return nil
	}
	s := d.chunks[toggled]
	if s == nil {
		return d.startChunk(ctx, toggled)
	}
	d.chunks[toggled] = nil
	return s.Close()
}

// addresses are those of an earlier run, since masters know each other by them, or
// free ones; fresh says that there was no earlier run.
func (d *dev) addresses(file string) (addrs []string, fresh bool, err error) {
	b, err := os.ReadFile(file)
	if err == nil {
		if addrs = rpc.ParseMasters(string(b), masterPort); len(addrs) == 0 {
			return nil, false, fmt.Errorf("%s names no master: restore it, or remove the folder %s to begin anew", file, d.o.dir)
		}
		return addrs, false, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	addrs, err = loopback.Free(d.o.masters)
	return addrs, true, err
}

// healthyTimeout is how long a cluster on one machine may take to be whole.
const healthyTimeout = 60 * time.Second

func (d *dev) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthyTimeout)
	defer cancel()
	pool := rpc.NewPool(0, nil)
	defer pool.Close()
	masters := rpc.NewMasters(pool, d.masters, d.logger)
	defer masters.Close()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var reply *adminpb.StatusReply
	for {
		err := masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			reply, err = adminpb.NewAdminClient(conn).Status(ctx, &adminpb.StatusRequest{})
			return err
		})
		if err == nil && d.healthy(reply) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if err == nil && len(reply.Reasons) > 0 {
				err = fmt.Errorf("%s: %s", reply.Reasons[0].Code, reply.Reasons[0].Message)
			}
			return fmt.Errorf("the cluster is not healthy: %w (log: %s)", errors.Join(err, context.Cause(ctx)), filepath.Join(d.o.dir, "log"))
		}
	}
}

// healthy accepts a cluster with fewer servers than the default policy wants: who
// asks for one chunk server gets it.
func (d *dev) healthy(r *adminpb.StatusReply) bool {
	up := 0
	for _, s := range r.Servers {
		if s.State == "up" && s.Alive {
			up++
		}
	}
	return up >= d.o.chunks && len(r.Masters) >= len(d.masters) && (r.Health == "ok" || d.o.chunks < 3)
}

// startMount mounts; the channel is closed when somebody else unmounts.
func (d *dev) startMount(ctx context.Context) (<-chan struct{}, error) {
	if d.o.mount == "" {
		return nil, nil
	}
	if err := os.MkdirAll(d.o.mount, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	fs, err := client.Dial(ctx, client.Config{Masters: d.masters, Host: host, Mountpoint: d.o.mount, OpTimeout: d.o.opTimeout, Logger: d.logger.With("node", "mount")})
	if err != nil {
		return nil, err
	}
	d.onEnd(fs.Close)
	m, err := fuse.Mount(ctx, fuse.Config{
		FS: fs, Mountpoint: d.o.mount, Source: strings.Join(d.masters, ","), AllowOther: os.Geteuid() == 0, Logger: d.logger.With("node", "mount"),
	})
	if err != nil {
		return nil, err
	}
	d.onEnd(func() error {
		select {
		case <-m.Done():
			return nil
		default:
		}
		if err := m.Unmount(); err != nil {
			return errors.Join(err, m.Detach())
		}
		return nil
	})
	return m.Done(), nil
}

func (d *dev) tell(cmd *cobra.Command) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "dfs is up: %s, %s, data in %s\n", count(len(d.masters), "master"), count(d.o.chunks, "chunk server"), d.o.dir)
	if d.o.mount != "" {
		fmt.Fprintf(out, "mounted on %s\n", d.o.mount)
	} else {
		fmt.Fprintf(out, "mount it: dfs-mount %s MOUNTPOINT\n", strings.Join(d.masters, ","))
	}
	fmt.Fprintf(out, "status:   dfs status --masters %s\n", strings.Join(d.masters, ","))
	fmt.Fprintln(out, "end it with Ctrl-C or SIGTERM; the data stays")
}
