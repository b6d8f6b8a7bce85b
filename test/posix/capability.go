package posix

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var capabilityCases = []Case{
	{Name: "capability/set, get, remove", Root: true, Run: capabilityBasics},
	{Name: "capability/cleared by a write", Root: true, Run: capabilityWrite},
	{Name: "capability/cleared by truncate and chown", Root: true, Run: capabilityChange},
	{Name: "capability/only for those who may", Root: true, Run: capabilityUser},
}

const capability = "security.capability"

// capNetBind is CAP_NET_BIND_SERVICE, permitted and effective, as setcap(8) writes it.
func capNetBind() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	b = binary.LittleEndian.AppendUint32(b, 1<<10)
	return append(b, make([]byte, 12)...)
}

func hasCapability(t *testing.T, what, path string, want bool) {
	t.Helper()
	buf := make([]byte, 64)
	n, err := unix.Getxattr(path, capability, buf)
	if !want {
		refuse(t, "capability "+what, err, unix.ENODATA)
		return
	}
	if err != nil {
		t.Errorf("capability %s: %v", what, err)
		return
	}
	equal(t, "capability "+what, string(buf[:n]), string(capNetBind()))
}

func capabilityBasics(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("program"))
	hasCapability(t, "before", path, false)
	must(t, unix.Setxattr(path, capability, capNetBind(), 0))
	hasCapability(t, "after", path, true)
	must(t, unix.Chmod(path, 0o755))
	must(t, os.Rename(path, path+"2"))
	hasCapability(t, "after chmod and rename", path+"2", true)
	same(t, path+"2", []byte("program"))
	must(t, unix.Removexattr(path+"2", capability))
	hasCapability(t, "when removed", path+"2", false)
}

func capabilityWrite(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	f := open(t, path, os.O_CREATE|os.O_RDWR)
	_, err := f.WriteString("written before")
	must(t, err)
	must(t, unix.Setxattr(path, capability, capNetBind(), 0))
	must(t, f.Sync())
	hasCapability(t, "after a write before it was set", path, true)
	_, err = f.WriteString("x")
	must(t, err)
	hasCapability(t, "after a write", path, false)
	must(t, unix.Setxattr(path, capability, capNetBind(), 0))
	_, err = f.WriteString("y")
	must(t, err)
	hasCapability(t, "after a second one", path, false)
	must(t, f.Close())
	same(t, path, []byte("written beforexy"))
}

func capabilityChange(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, []byte("program"))
	for what, fn := range map[string]func() error{
		"truncate": func() error { return unix.Truncate(path, 3) },
		"chown":    func() error { return os.Chown(path, userA, groupA) },
		"chgrp":    func() error { return os.Chown(path, -1, groupB) },
		"O_TRUNC":  func() error { return os.WriteFile(path, nil, 0o644) },
	} {
		must(t, unix.Setxattr(path, capability, capNetBind(), 0))
		must(t, fn())
		hasCapability(t, "after "+what, path, false)
	}
}

func capabilityUser(t *testing.T, dir string) {
	path := filepath.Join(dir, "f")
	write(t, path, nil)
	must(t, os.Chown(path, userA, groupA))
	refuse(t, "set by its owner", as(t, userA, groupA, nil, func() error {
		return unix.Setxattr(path, capability, capNetBind(), 0)
	}), unix.EPERM)
	must(t, unix.Setxattr(path, capability, capNetBind(), 0))
	must(t, as(t, userA, groupA, nil, func() error { return os.WriteFile(path, []byte("x"), 0o644) }))
	hasCapability(t, "after a write by its owner", path, false)
}
