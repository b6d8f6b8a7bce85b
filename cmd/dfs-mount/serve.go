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
	"time"

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
	if err == nil {
		// The kernel answers a stat from its cache even when the mount is dead; it
		// keeps nothing of a statfs.
		var ignored unix.Statfs_t
		if serr := unix.Statfs(path, &ignored); dead(serr) {
			err = serr
		}
	}
	switch {
	case dead(err):
		return fmt.Errorf("%s is a dead mount: the process that served it has ended. Remove it first: fusermount3 -uz %s (or as root: umount -l %s)",
			path, path, path)
	case err != nil:
		return fmt.Errorf("mountpoint: %w", err)
	case !st.IsDir():
		return fmt.Errorf("mountpoint %s is not a folder", path)
	}
	return nil
}

// dead reports whether nobody serves a mount any more, or has ended while he was asked.
func dead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// serve mounts, calls ready, and serves until the mount is gone or a signal asks
// it to end.
func serve(ctx context.Context, opts *options, w *worker, stderr io.Writer, ready func()) error {
	logger, closeLog, err := openLog(opts, stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	limitMemory(opts)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	fs, err := dial(ctx, opts, w, logger, signals)
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			_ = fs.Close()
		}
	}()
	root, err := resolve(ctx, fs, opts, w)
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
	cfg := fuse.Config{
		FS:         fs,
		Root:       root,
		Mountpoint: opts.mountpoint,
		Source:     opts.source,
		ReadOnly:   opts.readOnly,
		Restrict:   opts.restrictions(),
		AllowOther: opts.allowOther,
		Options:    opts.kernel,
		Debug:      opts.debug,
		Logger:     logger,
		Registerer: registry,
		Ledger:     w.ledger,
		Device:     w.device,
	}
	if cfg.Device == nil {
		if cfg.Device, err = fuse.Connect(cfg); err != nil {
			return err
		}
		if err := w.say(sayMounted, cfg.Device); err != nil {
			return err
		}
	}
	mount, err := fuse.Mount(ctx, cfg)
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
	if err := w.say(sayReady, nil); err != nil {
		logger.Warn("the mount ends when this process does", "err", err)
	}
	alone := make(chan struct{})
	go func() { // ends with the supervisor
		w.abandoned()
		close(alone)
	}()
	for ending := false; !ending; {
		select {
		case <-mount.Done():
			logger.Info("unmounted", "mountpoint", opts.mountpoint)
			ending = true
		case s := <-signals:
			if s == syscall.SIGHUP && alone != nil {
				closed = true
				return replace(ctx, mount, logger)
			}
			logger.Info("ending", "signal", s.String())
			unmount(mount, fs, opts, logger, signals)
			ending = true
		case <-alone:
			if opts.foreground {
				logger.Error("the supervisor has ended: so does the mount")
				unmount(mount, fs, opts, logger, signals)
				ending = true
				break
			}
			logger.Error("the supervisor has ended: the mount ends when this process does")
			alone = nil
		}
	}
	closed = true
	if err := fs.Close(); err != nil {
		return fmt.Errorf("not everything could be written back: %w", err)
	}
	return nil
}

// replace makes room for another process.
func replace(ctx context.Context, mount *fuse.Server, logger *slog.Logger) error {
	if err := mount.Yield(ctx); err != nil {
		logger.Error("not everything could be written back; programs that have the files open are told", "err", err)
	}
	return errReplace
}

// noWait bounds the search for the masters with --no-wait.
const noWait = 3 * time.Second

// dial connects to the cluster, and waits until it is there; a signal ends the wait.
func dial(ctx context.Context, opts *options, w *worker, logger *slog.Logger, signals <-chan os.Signal) (*client.FS, error) {
	ctx, cancel := context.WithCancel(ctx)
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
	cfg := client.Config{
		Masters:    opts.masters,
		Host:       host,
		Mountpoint: opts.mountpoint,
		Restrict:   opts.restrictions(),
		OpTimeout:  opts.opTimeout,
		DirtyBytes: int64(opts.dirty),
		CacheBytes: int64(opts.cache),
		Logger:     logger,
		OnSession:  w.ledger.Session,
		OnPending:  w.ledger.Pending,
		Atime:      opts.atime,
		NoDirAtime: opts.noDirAtime,
	}
	for told := false; ; told = true {
		bound := opts.opTimeout
		if opts.noWait {
			bound = min(bound, noWait)
		} else if !told {
			bound = min(bound, noWait) // then it is said what is waited for
		}
		try, stop := context.WithTimeout(ctx, bound)
		fs, err := client.Dial(try, cfg)
		stop()
		switch {
		case err == nil:
			return fs, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("masters %s: interrupted while waiting for them", opts.source)
		case opts.noWait && w.device == nil || !errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("masters %s: %w", opts.source, err)
		}
		if !told {
			const text = "waiting for the masters; Ctrl-C ends it, --no-wait does not wait"
			logger.Warn(text, "masters", opts.source, "err", err)
			if !opts.foreground && w.device == nil {
				fmt.Fprintf(os.Stderr, "dfs-mount: %s (%s)\n", text, opts.source)
			}
		}
	}
}

// resolve finds the folder that is to be the mount's root.
func resolve(ctx context.Context, fs *client.FS, opts *options, w *worker) (dfs.Ino, error) {
	if w.ledger.Mounted() {
		return w.ledger.Root(), nil
	}
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
