package fuse

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"dfs"
	"dfs/client"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

const (
	setuid    = 0o4000
	setgid    = 0o2000
	groupExec = 0o010
)

// killSuid clears setuid and setgid before a write by somebody who may not keep
// them (FUSE_HANDLE_KILLPRIV_V2: the kernel leaves it to us, and saves a GETXATTR
// before each write). The client does so for files that an ordinary user opened, but for
// what killSetgid does; the rest is for a descriptor that root opened and handed on. Once per
// handle: who sets the bits later through this mount makes SetAttr forget that it was done.
func (fs *fileSystem) killSuid(ctx context.Context, who *gofuse.InHeader, h *fileHandle) error {
	if h.harmless.Load() {
		return nil
	}
	attr, err := h.Attr(ctx)
	if err != nil {
		return err
	}
	if h.byRoot && (attr.Mode&setuid != 0 || attr.Mode&(setgid|groupExec) == setgid|groupExec) {
		if attr, err = fs.client.SetAttr(ctx, fs.cred(who), h.Ino(), client.SetAttr{KillSuid: true}); err != nil {
			return err
		}
		fs.Invalidate([]dfs.Ino{h.Ino()}) // the kernel does not know that a write changes the mode
	}
	if err := fs.killSetgid(ctx, who, &attr); err != nil {
		return err
	}
	h.harmless.Store(attr.Mode&setgid == 0)
	return nil
}

// killSetgid takes setgid from a file that its group may not execute, when its bytes are
// changed by somebody who is not in that group and lacks CAP_FSETID, as Linux does. Which
// groups he is in only this machine knows.
func (fs *fileSystem) killSetgid(ctx context.Context, who *gofuse.InHeader, attr *dfs.Attr) error {
	if !fs.mayNotKeep(who, attr) {
		return nil
	}
	mode := attr.Mode & 0o7777 &^ setgid
	now, err := fs.client.SetAttr(ctx, fs.cred(who), attr.Ino, client.SetAttr{Mode: &mode})
	if err != nil {
		return err
	}
	*attr = now
	fs.Invalidate([]dfs.Ino{attr.Ino})
	return nil
}

// killSetgidOf is killSetgid for an open file.
func (fs *fileSystem) killSetgidOf(ctx context.Context, who *gofuse.InHeader, h *fileHandle) error {
	attr, err := h.Attr(ctx)
	if err != nil {
		return err
	}
	return fs.killSetgid(ctx, who, &attr)
}

// mayNotKeep reports whether a file has a setgid that goes when who changes its bytes, and
// that the masters would leave.
func (fs *fileSystem) mayNotKeep(who *gofuse.InHeader, attr *dfs.Attr) bool {
	if !attr.IsFile() || attr.Mode&(setgid|groupExec) != setgid || who.Gid == attr.GID || who.Pid == 0 {
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", who.Pid))
	return err == nil && isStranger(text, attr.GID)
}

// isStranger reads in /proc/PID/status that a thread is not in a group and has no
// CAP_FSETID.
func isStranger(status []byte, gid uint32) bool {
	field := func(name string) []byte {
		_, rest, _ := bytes.Cut(status, []byte("\n"+name+":"))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		return line
	}
	const fsetid = 1 << 4
	caps, err := strconv.ParseUint(string(bytes.TrimSpace(field("CapEff"))), 16, 64)
	if err != nil || caps&fsetid != 0 {
		return false
	}
	return !slices.ContainsFunc(bytes.Fields(field("Groups")), func(b []byte) bool { return string(b) == fmt.Sprint(gid) })
}
