package main

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dfs/internal/cli"
	"dfs/internal/mountinfo"
)

// mountFlags are the kernel's flags for words of -o; what is not said is not set.
var mountFlags = map[string]uintptr{"nodev": unix.MS_NODEV, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC}

// remount is mount -o remount: it changes what the kernel lets programs do on a mount that
// is there. The processes that serve it are not concerned.
func remount(o *options) error {
	at, err := filepath.EvalSymlinks(o.mountpoint)
	if err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	m, err := mountinfo.At(at)
	if err != nil {
		return err
	}
	if m == nil || m.Type != "fuse.dfs" {
		return cli.Usagef("remount: %s is not the mount point of a dfs file system", o.mountpoint)
	}
	flags := uintptr(unix.MS_REMOUNT)
	if o.readOnly {
		flags |= unix.MS_RDONLY
	}
	for _, word := range o.kernel { // the last one says it
		if f, no := mountFlags[word]; no {
			flags |= f
		} else {
			flags &^= mountFlags["no"+word]
		}
	}
	if err := unix.Mount(m.Source, at, m.Type, flags, ""); err != nil {
		return fmt.Errorf("remount %s: %w", o.mountpoint, err)
	}
	return nil
}
