package posix

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lockerEnv makes a test binary a Locker.
const lockerEnv = "DFS_TEST_LOCKER"

// ServeLocker is to be called by TestMain first: a test binary that was started as a
// Locker is one until its end, and answers true then.
func ServeLocker() bool {
	if os.Getenv(lockerEnv) == "" {
		return false
	}
	serveLocker(os.Stdin, os.Stdout)
	return true
}

// Locker is another process that locks files: locks of fcntl(2) belong to processes.
type Locker struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// NewLocker starts a process; it ends with the test. TestMain must call ServeLocker.
func NewLocker(t *testing.T) *Locker {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	l := &Locker{t: t, cmd: exec.Command(exe)}
	l.cmd.Env = append(os.Environ(), lockerEnv+"=1")
	l.cmd.Stderr = os.Stderr
	l.in, err = l.cmd.StdinPipe()
	must(t, err)
	out, err := l.cmd.StdoutPipe()
	must(t, err)
	l.out = bufio.NewReader(out)
	must(t, l.cmd.Start())
	t.Cleanup(l.End)
	return l
}

// End ends the process.
func (l *Locker) End() {
	l.in.Close()
	_ = l.cmd.Wait()
}

// Kill ends it by SIGKILL.
func (l *Locker) Kill() {
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait()
}

// Signal sends it a signal.
func (l *Locker) Signal(s os.Signal) { must(l.t, l.cmd.Process.Signal(s)) }

// PID is its number.
func (l *Locker) PID() int { return l.cmd.Process.Pid }

// Open has it open a file for reading and writing, under a number.
func (l *Locker) Open(n int, path string) {
	l.t.Helper()
	must(l.t, l.ask("open %d %s", n, path))
}

// Close has it close a descriptor.
func (l *Locker) Close(n int) {
	l.t.Helper()
	must(l.t, l.ask("close %d", n))
}

// Dup has it duplicate a descriptor.
func (l *Locker) Dup(n, to int) {
	l.t.Helper()
	must(l.t, l.ask("dup %d %d", n, to))
}

// Ask has it lock: "setlk", "setlkw", "ofd" or "ofdw" with F_RDLCK, F_WRLCK or F_UNLCK
// and bytes, or "flock" with how as its type. The answer is the call's.
func (l *Locker) Ask(call string, n int, typ int, start, length int64) error {
	return l.ask("%s %d %d %d %d", call, n, typ, start, length)
}

// Begin is Ask for a call that waits: the result tells its answer.
func (l *Locker) Begin(call string, n int, typ int, start, length int64) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.Ask(call, n, typ, start, length) }()
	return done
}

// Get is F_GETLK: "1 10 20 4711" for a lock of that type, bytes and process, "2" for none.
func (l *Locker) Get(n int, typ int, start, length int64) string {
	l.t.Helper()
	text, err := l.send("getlk %d %d %d %d", n, typ, start, length)
	must(l.t, err)
	return text
}

func (l *Locker) ask(format string, args ...any) error {
	text, err := l.send(format, args...)
	if err != nil {
		return err
	}
	if n, _ := strconv.Atoi(text); n != 0 {
		return syscall.Errno(n)
	}
	return nil
}

func (l *Locker) send(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(l.in, format+"\n", args...); err != nil {
		return "", err
	}
	text, err := l.out.ReadString('\n')
	return strings.TrimSpace(text), err
}

// Waiting reports, after a moment, whether a call that has begun still waits.
func Waiting(done <-chan error) bool {
	select {
	case err := <-done:
		_ = err
		return false
	case <-time.After(100 * time.Millisecond):
		return true
	}
}

// Done waits for the answer of a call that has begun.
func Done(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the call does not end")
		return nil
	}
}

func serveLocker(in io.Reader, out io.Writer) {
	files := map[int]int{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		num := func(i int) int64 { n, _ := strconv.ParseInt(w[i], 10, 64); return n }
		n := int(num(1))
		var err error
		switch w[0] {
		case "open":
			files[n], err = unix.Open(w[2], unix.O_RDWR|unix.O_CLOEXEC, 0)
		case "close":
			err = unix.Close(files[n])
		case "dup":
			files[int(num(2))], err = unix.Dup(files[n])
		case "flock":
			err = unix.Flock(files[n], int(num(2)))
		case "getlk":
			lk := unix.Flock_t{Type: int16(num(2)), Start: num(3), Len: num(4)}
			if err = unix.FcntlFlock(uintptr(files[n]), unix.F_GETLK, &lk); err == nil {
				if lk.Type == unix.F_UNLCK {
					fmt.Fprintln(out, lk.Type)
				} else {
					fmt.Fprintln(out, lk.Type, lk.Start, lk.Len, lk.Pid)
				}
				continue
			}
		default:
			cmd := map[string]int{"setlk": unix.F_SETLK, "setlkw": unix.F_SETLKW, "ofd": unix.F_OFD_SETLK, "ofdw": unix.F_OFD_SETLKW}[w[0]]
			err = unix.FcntlFlock(uintptr(files[n]), cmd, &unix.Flock_t{Type: int16(num(2)), Start: num(3), Len: num(4)})
		}
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = unix.EIO
		}
		fmt.Fprintln(out, int(errno))
	}
}
