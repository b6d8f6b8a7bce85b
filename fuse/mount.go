package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"dfs"
	"dfs/client"
	"dfs/internal/mountinfo"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// How the kernel is to talk to us; the figures behind them stand in the design,
// section 9.
const (
	writeBytes     = 1 << 20 // largest WRITE and READ request
	backgroundMax  = 256     // read-ahead and O_DIRECT requests in flight
	readAheadKiB   = 1024    // of the mount's backing device
	unmountTimeout = 10 * time.Second
)

// ErrBusy says that a program still uses the mount.
var ErrBusy = errors.New("busy: a program has a file or its working folder there")

// Config says what to mount where.
type Config struct {
	FS         *client.FS
	Root       dfs.Ino // what the mount's root shows; 0 is the root of the file system
	Mountpoint string  // an existing folder
	Source     string  // first column of df, by convention the masters
	ReadOnly   bool
	Restrict   dfs.Restrictions // of the client's session; with SquashRoot the masters check what root may do
	AllowOther bool             // other users than the one who mounts
	Options    []string         // of the kernel: dev, suid, noexec and their opposites
	Debug      bool             // log each request
	Logger     *slog.Logger
	Registerer prometheus.Registerer // for the counters of requests; may be nil

	// A mount that outlives its process has both.
	Device *os.File // of Connect; the mountpoint is as Connect was given it, without symlinks
	Ledger *Ledger
}

// Server is one mount. It serves until it is unmounted, by Unmount or by
// anybody else.
type Server struct {
	fs         *fileSystem
	fuse       *gofuse.Server
	mountpoint string
	done       chan struct{} // closed when the kernel has let go
	unmounting sync.Mutex
}

// Mount mounts and serves until somebody unmounts. When it returns without an
// error the root has answered.
func Mount(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Root == 0 {
		cfg.Root = dfs.RootIno
	}
	mountpoint, err := cfg.where()
	if err != nil {
		return nil, fmt.Errorf("mount on %s: %w", cfg.Mountpoint, err)
	}
	again := cfg.Ledger != nil && cfg.Ledger.Mounted()
	var attr dfs.Attr
	if !again { // else to ask would be to wait for the leases of the process before
		if attr, err = cfg.FS.GetAttr(ctx, cfg.Root); err != nil {
			return nil, fmt.Errorf("mount on %s: the root does not answer: %w", mountpoint, err)
		}
		if !attr.IsDir() {
			return nil, fmt.Errorf("mount on %s: inode %d is not a folder", mountpoint, cfg.Root)
		}
	}
	fs := newFileSystem(ctx, cfg, attr)
	srv, err := begin(ctx, fs, mountpoint, cfg)
	if err != nil {
		fs.close()
		return nil, err
	}
	s := &Server{fs: fs, fuse: srv, mountpoint: mountpoint, done: make(chan struct{})}
	if cfg.Ledger != nil {
		warm()
	}
	go func() { // owned by the mount: it ends with it, and Wait waits for it
		defer close(s.done)
		srv.Serve()
		fs.detached()
		fs.close()
	}()
	if err := srv.WaitMount(); err != nil {
		_ = s.Detach()
		return nil, fmt.Errorf("mount on %s: the first request failed: %w", mountpoint, err)
	}
	fs.speaks(srv.KernelSettings())
	if err := setReadAhead(mountpoint); err != nil {
		// Not permitted to ordinary users and in containers; only speed is at stake.
		cfg.Logger.Debug("read-ahead stays at the kernel's default", "mountpoint", mountpoint, "err", err)
	}
	return s, nil
}

// where is the mountpoint as the mount table has it, without symlinks: an unmount wants
// that one. Of a mount that is there already it is given, since to look is to ask the mount.
func (cfg *Config) where() (string, error) {
	if cfg.Device != nil {
		return cfg.Mountpoint, nil
	}
	mountpoint, err := filepath.Abs(cfg.Mountpoint)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(mountpoint)
}

// begin makes the connection, or takes one over.
func begin(ctx context.Context, fs *fileSystem, mountpoint string, cfg Config) (*gofuse.Server, error) {
	if cfg.Ledger == nil {
		attaching.Lock()
		defer attaching.Unlock()
		before := devices()
		srv, err := attach(fs, mountpoint, cfg)
		if err == nil {
			fs.attached(srv, newDevice(before))
		}
		return srv, err
	}
	again := cfg.Ledger.Mounted()
	var adopted []client.Adopted
	var files []*client.File
	var err error
	if again {
		if adopted, files, err = fs.adopt(ctx); err != nil {
			return nil, err
		}
	}
	srv, err := attachTo(fs, cfg.Device, cfg.Ledger, mountOptions(cfg))
	if err != nil {
		return nil, fmt.Errorf("mount on %s: %w", mountpoint, err)
	}
	fs.attached(srv, cfg.Device)
	fs.speaks(srv.KernelSettings())
	if again {
		if err := fs.takeOver(ctx, adopted, files); err != nil {
			return nil, fmt.Errorf("mount on %s: %w", mountpoint, err)
		}
		attr, err := cfg.FS.GetAttr(ctx, cfg.Root)
		if err != nil {
			return nil, fmt.Errorf("mount on %s: the root does not answer: %w", mountpoint, err)
		}
		fs.known.mu.Lock()
		fs.known.root = attr
		fs.known.mu.Unlock()
	}
	return srv, nil
}

// attach calls mount(2): by ourselves as root, through the helper fusermount3
// as anybody else.
func attach(fs *fileSystem, mountpoint string, cfg Config) (*gofuse.Server, error) {
	opts := mountOptions(cfg)
	if os.Geteuid() == 0 {
		direct := *opts
		direct.DirectMountStrict = true
		direct.DirectMountFlags = syscall.MS_NOSUID | syscall.MS_NODEV
		if cfg.ReadOnly {
			direct.DirectMountFlags |= syscall.MS_RDONLY
		}
		srv, err := gofuse.NewServer(fs, mountpoint, &direct)
		if err == nil || !errors.Is(err, syscall.EPERM) {
			return srv, explain(mountpoint, err)
		}
		// Root without CAP_SYS_ADMIN, as in a container: the helper may be allowed more.
	}
	if cfg.ReadOnly {
		opts.Options = append(opts.Options, "ro")
	}
	srv, err := gofuse.NewServer(fs, mountpoint, opts)
	return srv, explain(mountpoint, err)
}

// mountOptions is what go-fuse is told of a mount.
func mountOptions(cfg Config) *gofuse.MountOptions {
	opts := &gofuse.MountOptions{
		AllowOther:    cfg.AllowOther,
		Options:       append([]string{"default_permissions"}, cfg.Options...),
		MaxBackground: backgroundMax,
		MaxWrite:      writeBytes,
		MaxReadAhead:  writeBytes,
		FsName:        cfg.Source,
		Name:          "dfs",
		// With splice on, go-fuse cannot send replies of a full MaxWrite through its
		// pipe: it fails each of them and falls back to what this flag does at once.
		DisableSplice: true,
		EnableLocks:   true,
		Debug:         cfg.Debug,
		Logger:        slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
		ExtraCapabilities: gofuse.CAP_READDIRPLUS_AUTO | gofuse.CAP_ASYNC_DIO | gofuse.CAP_ATOMIC_O_TRUNC |
			gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_DIRECT_IO_ALLOW_MMAP |
			gofuse.CAP_DONT_MASK | gofuse.CAP_SETXATTR_EXT | gofuse.CAP_EXPORT_SUPPORT | gofuse.CAP_NO_OPENDIR_SUPPORT,
		// The kernel asks for the access ACL and carries it out; setting and inheriting
		// them is ours (FUSE_POSIX_ACL).
		EnableAcl: true,
	}
	if opts.FsName == "" {
		opts.FsName = "dfs"
	}
	return opts
}

func explain(mountpoint string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("mount on %s: fusermount3 not found: install the package fuse3, or mount as root", mountpoint)
	}
	if derr := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); derr != nil {
		return fmt.Errorf("mount on %s: /dev/fuse: %w: load the kernel module fuse, make the device's mode 0666, or give it to the container", mountpoint, derr)
	}
	return fmt.Errorf("mount on %s: %w", mountpoint, err)
}

// Wait returns when the mount is gone and its last request has been answered.
func (s *Server) Wait() { <-s.done }

// Done is closed when the mount is gone.
func (s *Server) Done() <-chan struct{} { return s.done }

// Unmount takes the mount away and waits for its last request. ErrBusy when a
// program still uses it.
func (s *Server) Unmount() error {
	s.unmounting.Lock()
	defer s.unmounting.Unlock()
	return s.umount(0)
}

// Detach takes the mount out of the tree although programs use it: they keep
// what they have open, and Wait returns when the last of them has closed it.
func (s *Server) Detach() error {
	s.unmounting.Lock()
	defer s.unmounting.Unlock()
	return s.umount(unix.MNT_DETACH)
}

func (s *Server) umount(flags int) error {
	select {
	case <-s.done:
		return nil // somebody else was first
	default:
	}
	err := umount(s.mountpoint, flags)
	if err == nil && flags == 0 {
		select {
		case <-s.done:
		case <-time.After(unmountTimeout):
			return fmt.Errorf("umount %s: requests are still being served after %v", s.mountpoint, unmountTimeout)
		}
	}
	return err
}

// umount calls umount2(2), or the helper for those who may not.
func umount(mountpoint string, flags int) error {
	err := unix.Unmount(mountpoint, flags|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EPERM) {
		arg := "-u"
		if flags&unix.MNT_DETACH != 0 {
			arg = "-uz"
		}
		bin, lerr := exec.LookPath("fusermount3")
		if lerr != nil {
			return fmt.Errorf("umount %s: fusermount3 not found: install the package fuse3", mountpoint)
		}
		out, rerr := exec.Command(bin, arg, mountpoint).CombinedOutput()
		switch {
		case rerr == nil:
			return nil
		case strings.Contains(string(out), "busy"):
			err = unix.EBUSY
		default:
			return fmt.Errorf("umount %s: %s", mountpoint, strings.TrimSpace(string(out)))
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("umount %s: %w", mountpoint, ErrBusy)
	}
	return fmt.Errorf("umount %s: %w", mountpoint, err)
}

// Detach takes a mount that nobody serves out of the tree.
func Detach(mountpoint string) error { return umount(mountpoint, unix.MNT_DETACH) }

// replaceTimeout is how long requests under way may take when another process is to
// serve the mount; those that take longer are sent to it again.
const replaceTimeout = 5 * time.Second

// Yield stops answering, for another process to take the mount over: it returns when what
// was answered is on its way and everything is written back. Requests that come meanwhile
// are left to the other.
func (s *Server) Yield(ctx context.Context) error {
	still := make(chan struct{})
	go func() { // ends with the process, or when the requests under way have ended
		s.fs.gate.Lock()
		close(still)
	}()
	select {
	case <-still:
	case <-time.After(replaceTimeout):
	}
	err := s.fs.client.Sync(ctx)
	s.fs.mu.RLock()
	defer s.fs.mu.RUnlock()
	for _, h := range s.fs.files {
		s.fs.settled(h)
	}
	return err
}

// setReadAhead raises the read-ahead of the mount's backing device: the 128 KiB
// that FUSE starts with would cut each large read in eight requests. The device
// number comes from the mount table, since a stat of our own mount would ask us.
func setReadAhead(mountpoint string) error {
	m, err := mountinfo.At(mountpoint)
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%s is not in the mount table", mountpoint)
	}
	return os.WriteFile(filepath.Join("/sys/class/bdi", m.Device, "read_ahead_kb"), []byte(strconv.Itoa(readAheadKiB)), 0)
}
