package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"dfs"
	"dfs/internal/cli"
	"dfs/internal/mountinfo"
	"dfs/proto/adminpb"
	"dfs/rpc"
)

// masterPort is what an address without a port means.
const masterPort = 7400

// global is what every command takes.
type global struct {
	masters string
	output  string
	timeout time.Duration
}

func (g *global) register(f *pflag.FlagSet) {
	f.StringVar(&g.masters, "masters", "", "addresses of the masters, separated by commas (DFS_MASTERS)")
	f.StringVarP(&g.output, "output", "o", "table", "table, wide, json, yaml or name")
	f.DurationVar(&g.timeout, "timeout", 10*time.Second, "how long to wait for the cluster")
}

func (g *global) check() error {
	switch g.output {
	case "table", "wide", "json", "yaml", "name":
	default:
		return cli.Usagef("--output=%s: want table, wide, json, yaml or name", g.output)
	}
	if g.timeout <= 0 {
		return cli.Usagef("--timeout=%v: want more than nothing, for example 10s", g.timeout)
	}
	return nil
}

// addresses lists the masters: those given, or those of the mount that path lies
// on (path may be empty).
func (g *global) addresses(path string) ([]string, error) {
	list := g.masters
	if list == "" && path != "" {
		if m, err := mountOf(path); err == nil {
			list = m.Source
		}
	}
	addrs := rpc.ParseMasters(list, masterPort)
	if len(addrs) == 0 {
		return nil, cli.Usagef("no master given: use --masters HOST:PORT,... or set DFS_MASTERS")
	}
	return addrs, nil
}

// admin calls the leading master's admin service, within the time allowed.
func (g *global) admin(ctx context.Context, path string, fn func(context.Context, adminpb.AdminClient) error) error {
	addrs, err := g.addresses(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	pool := rpc.NewPool(0, nil)
	defer pool.Close()
	masters := rpc.NewMasters(pool, addrs, slog.New(slog.DiscardHandler))
	defer masters.Close()
	err = masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		return fn(ctx, adminpb.NewAdminClient(conn))
	})
	if err != nil && ctx.Err() != nil && !rpc.IsVerdict(err) {
		return &cli.ExitCode{Code: cli.ExitTimeout, Err: fmt.Errorf("no answer from the cluster within %v: %w", g.timeout, err)}
	}
	return err
}

// adminStream is admin for an answer that comes as a stream and takes as long as it takes.
func (g *global) adminStream(ctx context.Context, path string, fn func(context.Context, adminpb.AdminClient) error) error {
	addrs, err := g.addresses(path)
	if err != nil {
		return err
	}
	pool := rpc.NewPool(0, nil)
	defer pool.Close()
	masters := rpc.NewMasters(pool, addrs, slog.New(slog.DiscardHandler))
	defer masters.Close()
	find, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	if _, err := masters.Leader(find); err != nil {
		return &cli.ExitCode{Code: cli.ExitTimeout, Err: fmt.Errorf("no answer from the cluster within %v: %w", g.timeout, err)}
	}
	return masters.CallStream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		return fn(ctx, adminpb.NewAdminClient(conn))
	})
}

// target is what a command was pointed at: an inode on a mount of this machine,
// or a path from the root of the file system.
type target struct {
	ino  dfs.Ino
	path string
}

// resolve finds what path means. A path on a mount becomes its inode number, which
// the mount shows as st_ino; another is taken from the root of the file system.
func (g *global) resolve(path string, fromRoot bool) (target, error) {
	if fromRoot {
		return target{path: filepath.Join("/", path)}, nil
	}
	if _, err := mountOf(path); err != nil {
		return target{}, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return target{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return target{}, fmt.Errorf("%s: this system tells no inode number", path)
	}
	return target{ino: dfs.Ino(st.Ino)}, nil
}

// errNotMounted is the reason why a path has no cluster.
var errNotMounted = errors.New("not on a dfs mount (with --root it is taken as a path from the root of the file system)")

// mountOf finds the dfs mount that path lies on.
func mountOf(path string) (mountinfo.Mount, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return mountinfo.Mount{}, err
	}
	// The last name may be a symlink that is meant itself; the folders before it
	// are followed.
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(dir, filepath.Base(abs))
	}
	table, err := mountinfo.Read()
	if err != nil {
		return mountinfo.Mount{}, fmt.Errorf("%s: cannot tell which mount it is on: %w", path, err)
	}
	var best mountinfo.Mount
	for _, m := range table {
		if within(abs, m.Point) && len(m.Point) >= len(best.Point) {
			best = m
		}
	}
	if best.Type != "fuse.dfs" {
		return mountinfo.Mount{}, &fs.PathError{Op: "resolve", Path: path, Err: errNotMounted}
	}
	return best, nil
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}
