package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadOnlyMountIsRefusedByTheMasters takes the kernel's refusal away, and sees that of
// the masters.
func TestReadOnlyMountIsRefusedByTheMasters(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t, "ro")
	name := "read-only"
	must(t, os.WriteFile(filepath.Join(a.dir, name), []byte("text"), 0o666))
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte("other"), 0o666); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v, want EROFS", err)
	}
	must(t, unix.Mount("", b.dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""))
	for what, try := range map[string]func(dir string) error{
		"create": func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) },
		"mkdir":  func(dir string) error { return os.Mkdir(filepath.Join(dir, "new"), 0o755) },
		"unlink": func(dir string) error { return os.Remove(filepath.Join(dir, name)) },
		"rename": func(dir string) error { return os.Rename(filepath.Join(dir, name), filepath.Join(dir, "new")) },
		"chmod":  func(dir string) error { return os.Chmod(filepath.Join(dir, name), 0o600) },
		"xattr":  func(dir string) error { return unix.Setxattr(filepath.Join(dir, name), "user.x", []byte("y"), 0) },
		"write": func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := f.WriteString("other"); err != nil {
				return err
			}
			return f.Sync()
		},
	} {
		if err := try(b.dir); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s past the kernel: %v, want EROFS", what, err)
		}
	}
	for _, m := range []*mount{a, b} {
		if got, err := os.ReadFile(filepath.Join(m.dir, name)); err != nil || string(got) != "text" {
			t.Errorf("%s: %q, %v", m.name, got, err)
		}
	}
}

func TestRootIsSquashed(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t, "root-squash")
	mkdir(t, filepath.Join(a.dir, "squash"))
	mkdir(t, filepath.Join(a.dir, "squash", "open"))
	must(t, os.Chmod(filepath.Join(a.dir, "squash", "open"), 0o1777))
	here, there := filepath.Join(a.dir, "squash"), filepath.Join(b.dir, "squash")
	must(t, os.WriteFile(filepath.Join(here, "secret"), []byte("s"), 0o600))
	must(t, os.WriteFile(filepath.Join(here, "public"), []byte("p"), 0o644))
	for what, err := range map[string]error{
		"create in root's folder": os.WriteFile(filepath.Join(there, "new"), nil, 0o644),
		"remove root's file":      os.Remove(filepath.Join(there, "public")),
		"truncate root's file":    os.Truncate(filepath.Join(there, "public"), 0),
		"chmod root's file":       os.Chmod(filepath.Join(there, "public"), 0o666),
		"chown root's file":       os.Chown(filepath.Join(there, "public"), 1000, 1000),
	} {
		if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, want EACCES or EPERM", what, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(there, "secret")); !errors.Is(err, unix.EACCES) {
		t.Errorf("root's secret: %q, %v, want EACCES", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(there, "public")); err != nil || string(got) != "p" {
		t.Errorf("root's public file: %q, %v", got, err)
	}
	mine := filepath.Join(there, "open", "mine")
	must(t, os.WriteFile(mine, []byte("m"), 0o600))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(here, "open", "mine"), &st))
	if st.Uid != 65534 || st.Gid != 65534 {
		t.Errorf("made by %d:%d, want nobody", st.Uid, st.Gid)
	}
	if got, err := os.ReadFile(mine); err != nil || string(got) != "m" {
		t.Errorf("what it has made: %q, %v", got, err)
	}
	must(t, os.Remove(mine))
}
