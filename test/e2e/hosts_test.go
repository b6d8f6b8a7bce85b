package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// hosts are machines for the network: namespaces of it, joined by a bridge in one more. A
// namespace is there as long as the process that waits in it, so that nothing stays when a
// test is killed.
type hosts struct {
	bridge *exec.Cmd
	all    map[string]*host
	shell  *shell
}

// shell runs commands for a test whose programs have files open on mounts: a child of the
// test itself would close those when it begins, and wait for the very servers that the command
// is to bring back.
type shell struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func newShell(args []string) (*shell, error) {
	s := &shell{cmd: exec.Command(args[0], args[1:]...)}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.in, s.out = in, bufio.NewReader(out)
	return s, onStarter(s.cmd.Start)
}

// run runs one line.
func (s *shell) run(line string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintf(s.in, "%s 2>/dev/null >&2; echo $?\n", line); err != nil {
		return err
	}
	answer, err := s.out.ReadString('\n')
	if err == nil && answer != "0\n" {
		err = fmt.Errorf("exit code %s", strings.TrimSpace(answer))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

type host struct {
	ip     string
	holder *exec.Cmd
	port   string // of the bridge
}

// newHosts makes the network; it ends with the test.
func newHosts(t *testing.T) *hosts {
	t.Helper()
	h := &hosts{all: map[string]*host{}}
	t.Cleanup(func() {
		for _, o := range h.all {
			end(o.holder)
		}
		if h.shell != nil {
			end(h.shell.cmd)
		}
		if h.bridge != nil {
			end(h.bridge)
		}
	})
	var err error
	h.bridge, err = namespace()
	must(t, err)
	if err := runLine(inside(h.bridge, "ip", "link", "add", "br0", "type", "bridge")); err != nil {
		t.Skipf("the kernel of this machine joins no namespaces by a bridge: %v", err)
	}
	must(t, runLine(inside(h.bridge, "ip", "link", "set", "br0", "up")))
	h.shell, err = newShell(inside(h.bridge, "sh"))
	must(t, err)
	return h
}

func end(c *exec.Cmd) {
	_ = c.Process.Kill()
	_ = c.Wait()
}

// namespace starts a process that waits in a namespace of its own.
func namespace() (*exec.Cmd, error) {
	c := exec.Command("sleep", "infinity")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	if err := onStarter(c.Start); err != nil {
		return nil, fmt.Errorf("a network namespace: %w", err)
	}
	return c, nil
}

// inside is a command line that runs in the namespace of a process.
func inside(holder *exec.Cmd, args ...string) []string {
	return append([]string{"nsenter", "-t", strconv.Itoa(holder.Process.Pid), "-n"}, args...)
}

func runLine(args []string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// add makes a host, or finds it.
func (h *hosts) add(name string) (*host, error) {
	if o := h.all[name]; o != nil {
		return o, nil
	}
	holder, err := namespace()
	if err != nil {
		return nil, err
	}
	n := len(h.all) + 1
	o := &host{ip: fmt.Sprintf("10.99.0.%d", n), holder: holder, port: fmt.Sprint("port", n)}
	h.all[name] = o
	for _, line := range [][]string{
		{"ip", "link", "add", o.port, "netns", strconv.Itoa(h.bridge.Process.Pid), "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(holder.Process.Pid)},
		inside(h.bridge, "ip", "link", "set", o.port, "master", "br0", "up"),
		inside(holder, "ip", "addr", "add", o.ip+"/24", "dev", "eth0"),
		inside(holder, "ip", "link", "set", "eth0", "up"),
		inside(holder, "ip", "link", "set", "lo", "up"),
	} {
		if err := runLine(line); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// cut parts a host from all others, as a cable that is pulled, or joins it again.
func (h *hosts) cut(name string, cut bool) error {
	state := "up"
	if cut {
		state = "down"
	}
	return h.shell.run("ip link set " + h.all[name].port + " " + state)
}

// part lets nothing that one host sends get to another; both hear nothing of that. It
// holds until join.
func (h *hosts) part(from, to string) error {
	rules := "add table ip parted; add chain ip parted in { type filter hook input priority 0; }; add rule ip parted in ip saddr " + h.all[from].ip + " drop"
	return h.shell.run(strings.Join(inside(h.all[to].holder, "nft"), " ") + " '" + rules + "'")
}

// join undoes all partings of what a host hears.
func (h *hosts) join(to string) error {
	return h.shell.run(strings.Join(inside(h.all[to].holder, "nft", "flush", "ruleset"), " "))
}
