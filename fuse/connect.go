package fuse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Connect mounts without serving: as root by mount(2), else by fusermount3. Whoever has
// the file, which is the connection to the kernel, keeps the mount there.
func Connect(cfg Config) (*os.File, error) {
	f, err := connectSelf(cfg)
	if errors.Is(err, unix.EPERM) {
		f, err = connectHelper(cfg)
	}
	return f, explain(cfg.Mountpoint, err)
}

var mountFlags = map[string]struct {
	set  uintptr
	flag uintptr
}{
	"nodev": {unix.MS_NODEV, unix.MS_NODEV}, "dev": {0, unix.MS_NODEV},
	"nosuid": {unix.MS_NOSUID, unix.MS_NOSUID}, "suid": {0, unix.MS_NOSUID},
	"noexec": {unix.MS_NOEXEC, unix.MS_NOEXEC}, "exec": {0, unix.MS_NOEXEC},
}

func (cfg *Config) source() string {
	if cfg.Source == "" {
		return "dfs"
	}
	return cfg.Source
}

func connectSelf(cfg Config) (*os.File, error) {
	if os.Geteuid() != 0 {
		return nil, unix.EPERM
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	for _, o := range cfg.Options {
		flags = flags&^mountFlags[o].flag | mountFlags[o].set
	}
	if cfg.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d,default_permissions", f.Fd(), os.Geteuid(), os.Getegid(), writeBytes)
	if cfg.AllowOther {
		data += ",allow_other"
	}
	if err := unix.Mount(cfg.source(), cfg.Mountpoint, "fuse.dfs", flags, data); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func connectHelper(cfg Config) (*os.File, error) {
	bin, err := exec.LookPath("fusermount3")
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "fusermount3")
	defer theirs.Close()
	defer unix.Close(pair[0])
	escape := strings.NewReplacer(`\`, `\\`, ",", `\,`)
	opts := append([]string{"default_permissions", "subtype=dfs", "fsname=" + escape.Replace(cfg.source()), fmt.Sprintf("max_read=%d", writeBytes)}, cfg.Options...)
	if cfg.AllowOther {
		opts = append(opts, "allow_other")
	}
	if cfg.ReadOnly {
		opts = append(opts, "ro")
	}
	cmd := exec.Command(bin, "-o", strings.Join(opts, ","), "--", cfg.Mountpoint)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	fd, err := receiveFD(pair[0])
	if err != nil {
		return nil, fmt.Errorf("fusermount3 gave no connection: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// receiveFD reads one message with a descriptor from a socket of this machine.
func receiveFD(socket int) (int, error) {
	var buf [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, buf[:], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	return DescriptorOf(oob[:n])
}

// DescriptorOf is the descriptor that came with a message.
func DescriptorOf(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	if len(msgs) != 1 {
		return -1, errors.New("the message has no descriptor")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		return -1, fmt.Errorf("the message has %d descriptors", len(fds))
	}
	return fds[0], nil
}
