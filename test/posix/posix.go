// Package posix is a conformance suite that knows nothing but the path of a
// folder. It calls the kernel as a program does, and says what POSIX and Linux
// promise; whatever it asks must hold on the machine's own file system before it
// may accuse ours, so the package's own test runs it there.
//
// Each system call has its file, each property its case.
package posix

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Case is one property. It may use the folder for itself, which is empty and
// belongs to the caller.
type Case struct {
	Name string
	Root bool // needs to be root, to act as other users or to make devices
	Run  func(t *testing.T, dir string)
}

// Cases is the whole suite, in the order of the calls' names.
func Cases() []Case {
	var all []Case
	for _, group := range [][]Case{
		aclCases, appendCases, capabilityCases, chmodCases, chownCases, copyCases, directCases, errorCases, fsyncCases, fsxCases, linkCases, lockCases,
		lseekCases, mkdirCases, mknodCases, mmapCases, nameCases, openCases, permissionCases, readCases, readdirCases,
		renameCases, rmdirCases, statCases, statfsCases, symlinkCases, timeCases, tmpfileCases, truncateCases, unlinkCases, writeCases, xattrCases,
	} {
		all = append(all, group...)
	}
	return all
}

// Run runs every case in a folder of its own under dir. Without root it leaves
// out the cases that need it.
func Run(t *testing.T, dir string) {
	t.Helper()
	// The suite checks modes exactly, so the umask has to be known.
	defer unix.Umask(unix.Umask(0o022))
	for i, c := range Cases() {
		if c.Root && os.Geteuid() != 0 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			sub := filepath.Join(dir, fmt.Sprintf("posix-%03d", i))
			must(t, os.Mkdir(sub, 0o755))
			c.Run(t, sub)
			if !t.Failed() {
				must(t, os.RemoveAll(sub))
			}
		})
	}
}

// must ends the case on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refuse wants one of the errnos.
func refuse(t *testing.T, what string, err error, want ...syscall.Errno) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: got %v, want %v", what, err, want)
}

// equal compares two values.
func equal[V comparable](t *testing.T, what string, got, want V) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// write makes a file with that content.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o644))
}

// same wants a file to hold exactly data.
func same(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	sameBytes(t, path, got, want)
}

func sameBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	n := 0
	for n < len(got) && n < len(want) && got[n] == want[n] {
		n++
	}
	t.Fatalf("%s: %d bytes, want %d; they differ from byte %d on", what, len(got), len(want), n)
}

// open opens a file that is closed at the end of the case.
func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o644)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

func fstat(t *testing.T, fd uintptr) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil {
		t.Fatalf("fstat: %v", err)
	}
	return st
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// pattern is n bytes that tell their place.
func pattern(n int, seed uint64) []byte {
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	p := make([]byte, n)
	_, _ = rng.Read(p)
	return p
}

// Users that own nothing on any machine.
const (
	userA  = 54321
	userB  = 54322
	groupA = 54331
	groupB = 54332
)

// as runs fn as another user: on a thread of its own, which then ends, since in
// Linux each thread has its own credentials. fn must not call t.Fatal.
func as(t *testing.T, uid, gid int, groups []int, fn func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			gids := make([]uint32, len(groups)+1)
			for i, g := range groups {
				gids[i] = uint32(g)
			}
			if err := setGroups(gids[:len(groups)]); err != nil {
				return err
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
				return fmt.Errorf("setresgid: %w", e)
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return fmt.Errorf("setresuid: %w", e)
			}
			return fn()
		}()
	}()
	return <-done
}
