package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stranger owns nothing on any machine.
const stranger = 54321

// asStranger runs fn on a thread that is another user's, which ends with it.
func asStranger(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, e := unix.RawSyscall(call, stranger, stranger, stranger); e != 0 {
				done <- fmt.Errorf("system call %d: %w", call, e)
				return
			}
		}
		done <- fn()
	}()
	return <-done
}

// allow is a list by which a stranger may do something.
func allow(perm uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [...]struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 7, 1<<32 - 1}, {0x02, perm, stranger}, {0x04, 0, 1<<32 - 1}, {0x10, 7, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadAll(f)
	return err
}

// TestACLOfAnotherMountCountsAtOnce changes what a stranger may do through one mount, while
// the other is asked all the time, and asks the other as soon as the change is made.
func TestACLOfAnotherMountCountsAtOnce(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	const access = "system.posix_acl_access"
	here, there := filepath.Join(a.dir, "acl"), filepath.Join(b.dir, "acl")
	mkdir(t, here)
	must(t, os.Chmod(here, 0o755))
	must(t, os.WriteFile(filepath.Join(here, "file"), []byte("x"), 0o600))
	must(t, os.Mkdir(filepath.Join(here, "folder"), 0o700))
	must(t, os.WriteFile(filepath.Join(here, "folder", "inside"), []byte("x"), 0o644))

	var stop atomic.Bool
	var askers sync.WaitGroup
	defer askers.Wait()
	defer stop.Store(true)
	for _, name := range []string{"file", "folder/inside"} {
		askers.Go(func() {
			_ = asStranger(func() error {
				for !stop.Load() {
					if err := readable(filepath.Join(there, name)); err != nil && !errors.Is(err, unix.EACCES) {
						t.Errorf("%s: %v", name, err)
						return nil
					}
				}
				return nil
			})
		})
	}
	rounds := 60
	if *full {
		rounds = 1000
	}
	for i := range rounds {
		// Some of the changes come from the mount that is asked.
		root := here
		if i%5 == 4 {
			root = there
		}
		file, folder := filepath.Join(root, "file"), filepath.Join(root, "folder")
		for _, step := range []struct {
			what    string
			change  func() error
			allowed bool
		}{
			{"allowed", func() error {
				return errors.Join(unix.Setxattr(file, access, allow(4), 0), unix.Setxattr(folder, access, allow(1), 0))
			}, true},
			{"masked by chmod", func() error { return errors.Join(os.Chmod(file, 0o700), os.Chmod(folder, 0o700)) }, false},
			{"unmasked by chmod", func() error { return errors.Join(os.Chmod(file, 0o770), os.Chmod(folder, 0o770)) }, true},
			{"forbidden", func() error {
				return errors.Join(unix.Setxattr(file, access, allow(0), 0), unix.Setxattr(folder, access, allow(0), 0))
			}, false},
			{"allowed again", func() error {
				return errors.Join(unix.Setxattr(file, access, allow(7), 0), unix.Setxattr(folder, access, allow(7), 0))
			}, true},
			{"removed", func() error {
				return errors.Join(unix.Removexattr(file, access), unix.Removexattr(folder, access))
			}, false},
		} {
			must(t, step.change())
			for _, name := range []string{"file", "folder/inside"} {
				err := asStranger(func() error { return readable(filepath.Join(there, name)) })
				if step.allowed && err != nil || !step.allowed && !errors.Is(err, unix.EACCES) {
					t.Fatalf("round %d, %s: reading %s through the other mount: %v", i, step.what, name, err)
				}
			}
		}
	}
}

func TestSetfaclAndGetfacl(t *testing.T) {
	tool(t, "setfacl", "acl")
	dir := folder(t)
	command(t, dir, "setfacl", "-m", "u:54321:rwx,g:54331:r-x,d:u:54321:rw-", ".")
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o666))
	got := command(t, dir, "getfacl", "-n", "-c", "-E", "f")
	want := "user::rw-\nuser:54321:rw-\ngroup::r-x\nmask::rw-\nother::r--"
	if strings.TrimSpace(got) != want {
		t.Errorf("getfacl says\n%s\nwant\n%s", got, want)
	}
	command(t, dir, "setfacl", "-b", "-k", ".")
	if got := strings.TrimSpace(command(t, dir, "getfacl", "-n", "-c", ".")); got != "user::rwx\ngroup::r-x\nother::r-x" {
		t.Errorf("after all lists were removed, getfacl says\n%s", got)
	}
	if out := command(t, dir, "ls", "-l"); !strings.Contains(out, "+") {
		t.Errorf("ls shows no list:\n%s", out)
	}
}

// TestSetcapGivesAProgramItsRight runs a copy of cat(1) which may read everything.
func TestSetcapGivesAProgramItsRight(t *testing.T) {
	tool(t, "setcap", "libcap2-bin")
	m := shared.get(t).mount(t, "suid")
	dir := filepath.Join(m.dir, t.Name())
	mkdir(t, dir)
	cat, err := exec.LookPath("cat")
	must(t, err)
	program, err := os.ReadFile(cat)
	must(t, err)
	own := filepath.Join(dir, "cat")
	must(t, os.WriteFile(own, program, 0o755))
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	run := func() (string, error) {
		cmd := exec.Command(own, secret)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(); err == nil {
		t.Fatalf("without a capability: %q", out)
	}
	command(t, dir, "setcap", "cap_dac_read_search+ep", own)
	if got := command(t, dir, "getcap", own); !strings.Contains(got, "cap_dac_read_search=ep") {
		t.Errorf("getcap says %q", got)
	}
	if out, err := run(); err != nil || out != "secret" {
		t.Errorf("with the capability: %q, %v", out, err)
	}
	f, err := os.OpenFile(own, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.Write([]byte{0})
	must(t, err)
	must(t, f.Close())
	if got := command(t, dir, "getcap", own); strings.TrimSpace(got) != "" {
		t.Errorf("after a write getcap says %q", got)
	}
	if out, err := run(); err == nil {
		t.Errorf("after a write: %q", out)
	}
}

// TestTmpfileIsSeenOnceItHasAName makes files without a name through one mount: the other
// sees one from its first name on, with all its bytes.
func TestTmpfileIsSeenOnceItHasAName(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	mkdir(t, filepath.Join(a.dir, "tmpfile"))
	for i := range 20 {
		fd, err := unix.Open(filepath.Join(a.dir, "tmpfile"), unix.O_TMPFILE|unix.O_RDWR, 0o644)
		must(t, err)
		f := os.NewFile(uintptr(fd), "tmpfile")
		data := random(100_000+i, uint64(i))
		_, err = f.Write(data)
		must(t, err)
		name := fmt.Sprintf("tmpfile/%d", i)
		must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, filepath.Join(a.dir, name), unix.AT_SYMLINK_FOLLOW))
		got, err := os.ReadFile(filepath.Join(b.dir, name))
		must(t, err)
		if string(got) != string(data) {
			t.Fatalf("file %d has %d bytes on the other mount, want %d, or they differ", i, len(got), len(data))
		}
		if i%2 == 0 {
			must(t, os.Remove(filepath.Join(b.dir, name))) // and it lives while it is open
			again := make([]byte, len(data))
			_, err = f.ReadAt(again, 0)
			must(t, err)
			if string(again) != string(data) {
				t.Fatalf("file %d has other bytes after it was removed", i)
			}
		}
		must(t, f.Close())
	}
	list, err := os.ReadDir(filepath.Join(b.dir, "tmpfile"))
	must(t, err)
	if len(list) != 10 {
		t.Errorf("%d names, want 10", len(list))
	}
	must(t, eventually(30*time.Second, "files without a name to be freed", func() error {
		s, err := c.status(10 * time.Second)
		if err == nil && s.Orphans > 0 {
			err = fmt.Errorf("%d are left", s.Orphans)
		}
		return err
	}))
}

// TestModeOfAnotherMountIsNotOverwritten: the kernel takes over what it is told after some
// changes of its own although it was told something newer meanwhile.
func TestModeOfAnotherMountIsNotOverwritten(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	for name, change := range map[string]func(path string, worker, i int) error{
		"utimensat": func(path string, _, i int) error {
			return os.Chtimes(path, time.Unix(int64(i), 0), time.Unix(int64(i), 0))
		},
		"link": func(path string, worker, _ int) error {
			to := fmt.Sprint(path, " ", worker)
			if err := os.Link(path, to); !errors.Is(err, unix.ENOENT) {
				return errors.Join(err, os.Remove(to))
			}
			return nil // several unlinks at once can make the kernel think that there is no link left
		},
	} {
		here, there := filepath.Join(a.dir, name), filepath.Join(b.dir, name)
		must(t, os.WriteFile(here, []byte("x"), 0o600))
		var stop atomic.Bool
		var busy sync.WaitGroup
		for worker := range 4 {
			busy.Go(func() {
				for i := 0; !stop.Load(); i++ {
					if err := change(there, worker, i); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
		rounds := 300
		if *full {
			rounds = 10000
		}
		for i := range rounds {
			mode := os.FileMode(0o600 + i%64)
			must(t, os.Chmod(here, mode))
			info, err := os.Stat(there)
			must(t, err)
			if got := info.Mode(); got != mode {
				t.Errorf("%s: round %d: mode %v on the mount that makes other changes, want %v", name, i, got, mode)
				break
			}
		}
		stop.Store(true)
		busy.Wait()
	}
}
