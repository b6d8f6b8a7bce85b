package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"

	"dfs"
	"dfs/client"
	"dfs/fuse"
	"dfs/internal/admin"

	"golang.org/x/sys/unix"
)

// What a mount needs besides its buffers: code, stacks, requests in flight.
const baseMemory = 192 << 20

// checkMountpoint says in one line what is wrong with a folder before anything
// is started for it.
func checkMountpoint(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return fmt.Errorf("%s is a dead mount: the process that served it has ended. Remove it first: fusermount3 -uz %s (or as root: umount -l %s)",
			path, path, path)
	case err != nil:
		return fmt.Errorf("mountpoint: %w", err)
	case !st.IsDir():
		return fmt.Errorf("mountpoint %s is not a folder", path)
	}
	return nil
}

// serve mounts, calls ready, and serves until the mount is gone or a signal asks
// it to end.
func serve(ctx context.Context, opts *options, stderr io.Writer, ready func()) error {
	logger, closeLog, err := openLog(opts, stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	limitMemory(opts)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)

	fs, err := dial(ctx, opts, logger, signals)
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			_ = fs.Close()
		}
	}()
	root, err := resolve(ctx, fs, opts)
	if err != nil {
		return err
	}
	registry := admin.NewRegistry()
	if opts.adminListen != "" {
		// A mount that serves is healthy; whether the cluster is says dfs status.
		srv, err := admin.Serve(opts.adminListen, registry, func() error { return nil })
		if err != nil {
			return err
		}
		defer srv.Close()
		logger.Info("admin", "address", srv.Addr())
	}
	mount, err := fuse.Mount(ctx, fuse.Config{
		FS:         fs,
		Root:       root,
		Mountpoint: opts.mountpoint,
		Source:     opts.source,
		ReadOnly:   opts.readOnly,
		AllowOther: opts.allowOther,
		Options:    opts.kernel,
		Debug:      opts.debug,
		Logger:     logger,
		Registerer: registry,
	})
	if err != nil {
		return err
	}
	if opts.pidFile != "" {
		if err := os.WriteFile(opts.pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			_ = mount.Detach()
			return fmt.Errorf("pid file: %w", err)
		}
		defer os.Remove(opts.pidFile)
	}
	logger.Info("mounted", "mountpoint", opts.mountpoint, "path", opts.path)
	ready()
	select {
	case <-mount.Done():
		logger.Info("unmounted", "mountpoint", opts.mountpoint)
	case s := <-signals:
		logger.Info("ending", "signal", s.String())
		unmount(mount, fs, opts, logger, signals)
	}
	closed = true
	if err := fs.Close(); err != nil {
		return fmt.Errorf("not everything could be written back: %w", err)
	}
	return nil
}

// dial connects to the cluster; a signal ends the wait for it.
func dial(ctx context.Context, opts *options, logger *slog.Logger, signals <-chan os.Signal) (*client.FS, error) {
	ctx, cancel := context.WithTimeout(ctx, opts.opTimeout)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() { // ends with dial
		select {
		case <-signals:
			cancel()
		case <-done:
		}
	}()
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	fs, err := client.Dial(ctx, client.Config{
		Masters:    opts.masters,
		Host:       host,
		Mountpoint: opts.mountpoint,
		OpTimeout:  opts.opTimeout,
		DirtyBytes: int64(opts.dirty),
		CacheBytes: int64(opts.cache),
		Logger:     logger,
	})
	if err != nil {
		return nil, fmt.Errorf("masters %s: %w", opts.source, err)
	}
	return fs, nil
}

// resolve finds the folder that is to be the mount's root.
func resolve(ctx context.Context, fs *client.FS, opts *options) (dfs.Ino, error) {
	if opts.path == "/" {
		return dfs.RootIno, nil
	}
	attr, err := fs.Stat(ctx, opts.path)
	if err != nil {
		return 0, fmt.Errorf("path=%s: %w", opts.path, err)
	}
	if !attr.IsDir() {
		return 0, fmt.Errorf("path=%s: is not a folder", opts.path)
	}
	return attr.Ino, nil
}

// unmount flushes and takes the mount away. It takes as long as one operation
// may, and a second signal ends it at once.
func unmount(mount *fuse.Server, fs *client.FS, opts *options, logger *slog.Logger, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), opts.opTimeout)
	defer cancel()
	go func() { // ends with unmount
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := fs.Sync(ctx); err != nil {
		logger.Error("not everything could be written back", "err", err)
	}
	err := mount.Unmount()
	if err == nil {
		return
	}
	if errors.Is(err, fuse.ErrBusy) {
		logger.Warn("busy: taken out of the tree now; programs have until the bound to close their files, a second signal ends at once",
			"mountpoint", opts.mountpoint, "bound", opts.opTimeout)
	} else {
		logger.Error("unmount failed, detaching", "err", err)
	}
	if err := mount.Detach(); err != nil {
		logger.Error("detach failed: remove the mount by hand", "err", err, "command", "fusermount3 -uz "+opts.mountpoint)
		return
	}
	select {
	case <-mount.Done():
	case <-ctx.Done():
		logger.Warn("files were still open", "mountpoint", opts.mountpoint)
	}
}

// openLog makes the logger; closeLog closes its file.
func openLog(opts *options, stderr io.Writer) (logger *slog.Logger, closeLog func(), err error) {
	out, closeLog := stderr, func() {}
	if opts.logFile != "" {
		f, err := os.OpenFile(filepath.Clean(opts.logFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, nil, fmt.Errorf("log file: %w", err)
		}
		out, closeLog = f, func() { _ = f.Close() }
	}
	level := opts.logLevel
	if opts.debug {
		level = min(level, slog.LevelDebug)
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})), closeLog, nil
}

// limitMemory makes the garbage collector work harder before the process grows
// past its buffers; GOMEMLIMIT in the environment goes first.
func limitMemory(opts *options) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(opts.dirty) + int64(opts.cache) + baseMemory)
	}
}
