package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/internal/mountinfo"

	"golang.org/x/sys/unix"
)

const (
	healthyTimeout = 60 * time.Second // for a new cluster to be healthy
	stopTimeout    = 20 * time.Second // for a daemon to end after SIGTERM
)

// process is one daemon that can be killed, paused and started again with the
// same arguments and data.
type process struct {
	name  string
	args  []string // the program's path first
	first []string // arguments more for the first start
	log   string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.args[0], slices.Concat(p.args[1:], p.first)...)
	p.first = nil
	cmd.Stdout, cmd.Stderr = log, log
	// A test that is killed must not leave daemons behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := onStarter(cmd.Start); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	p.cmd, p.done = cmd, done
	return nil
}

// onStarter runs fn on one thread that never ends. The kernel sends the signal of
// Pdeathsig when the thread that started the child ends, and those of Go do.
func onStarter(fn func() error) error {
	starter.once.Do(func() {
		go func() {
			runtime.LockOSThread()
			for fn := range starter.work {
				fn()
			}
		}()
	})
	done := make(chan error)
	starter.work <- func() { done <- fn() }
	return <-done
}

var starter = struct {
	once sync.Once
	work chan func()
}{work: make(chan func())}

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// kill is kill -9, and waits until the process is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	if p.done != nil {
		<-p.done
	}
}

// stop asks it to end, and kills it when it does not.
func (p *process) stop() error {
	if p.done == nil {
		return nil
	}
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		p.signal(syscall.SIGQUIT) // its goroutines, in the log
		time.Sleep(500 * time.Millisecond)
		p.kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.name, stopTimeout)
	}
}

func (p *process) alive() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// cluster is masters and chunk servers as processes of their own.
type cluster struct {
	dir     string
	masters []*process
	chunks  []*process
	addrs   []string // of the masters
	mounts  []*mount
	hosts   *hosts // nil: all is on this one

	masterDir func(i int) string // where master i keeps its data
}

// options of a cluster.
type options struct {
	masters, chunks int
	hosts           *hosts // each daemon and mount is on one of its own; nil: all on this one
	chunkArgs       []string
	masterDir       func(i int) string // where master i keeps its data; nil: in the cluster's folder
	chunkDir        func(i int) string // where chunk server i keeps its data; nil: in the cluster's folder
}

// newCluster starts a cluster that ends with the test, and waits until it is
// healthy.
func newCluster(t *testing.T, o options) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "dfs-e2e-")
	must(t, err)
	c, err := startCluster(dir, o)
	if c != nil {
		t.Cleanup(func() {
			if t.Failed() {
				c.printLogs(t)
			}
			for _, err := range c.stop() {
				t.Error(err)
			}
			if !*keep {
				os.RemoveAll(dir)
			}
		})
	}
	must(t, err)
	return c
}

func startCluster(dir string, o options) (*cluster, error) {
	if o.masters == 0 {
		o.masters = 3
	}
	if o.chunks == 0 {
		o.chunks = 3
	}
	// Other users have to get to the mounts below.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, hosts: o.hosts, masterDir: o.masterDir}
	if c.masterDir == nil {
		c.masterDir = func(i int) string { return filepath.Join(dir, fmt.Sprintf("master-%d", i+1)) }
	}
	addrs, err := c.place(o)
	if err != nil {
		return nil, err
	}
	c.addrs = addrs[:o.masters]
	for i, addr := range c.addrs {
		args, first := masterArgs(c, i, addr)
		p := c.process(fmt.Sprintf("master-%d", i+1), args...)
		p.first = first
		c.masters = append(c.masters, p)
	}
	for i, addr := range addrs[o.masters:] {
		data := filepath.Join(dir, fmt.Sprintf("chunk-%d", i+1))
		if o.chunkDir != nil {
			data = o.chunkDir(i)
		}
		c.chunks = append(c.chunks, c.process(fmt.Sprintf("chunk-%d", i+1), chunkArgs(c, i, addr, data, o.chunkArgs)...))
	}
	if err := c.startAll(); err != nil {
		return c, err
	}
	return c, c.waitHealthy(healthyTimeout)
}

// place finds the addresses of the masters, then of the chunk servers. The port above each
// is free for gossip.
func (c *cluster) place(o options) (addrs []string, err error) {
	if c.hosts == nil {
		ports, err := freePorts(2 * (o.masters + o.chunks))
		for i := 0; i < len(ports); i += 2 {
			addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", ports[i]))
		}
		return addrs, err
	}
	if _, err := c.hosts.add("admin"); err != nil {
		return nil, err
	}
	for i := range o.masters + o.chunks {
		name := fmt.Sprintf("master-%d", i+1)
		if i >= o.masters {
			name = fmt.Sprintf("chunk-%d", i-o.masters+1)
		}
		h, err := c.hosts.add(name)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, h.ip+":7400")
	}
	return addrs, nil
}

// process is a daemon or a mount, on its host.
func (c *cluster) process(name string, args ...string) *process {
	return &process{name: name, args: c.line(name, args), log: filepath.Join(c.dir, name+".log")}
}

// line is a command line that runs one of our programs on a host.
func (c *cluster) line(host string, args []string) []string {
	args = slices.Concat([]string{filepath.Join(binaries, args[0])}, args[1:])
	if c.hosts == nil {
		return args
	}
	return inside(c.hosts.all[host].holder, args...)
}

func (c *cluster) all() []*process { return slices.Concat(c.masters, c.chunks) }

func (c *cluster) startAll() error {
	for _, p := range c.all() {
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// stop unmounts and ends everything; the errors are what did not end in time.
func (c *cluster) stop() (errs []error) {
	for _, m := range c.mounts {
		if err := m.remove(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, p := range slices.Concat(c.chunks, c.masters) {
		if err := p.stop(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// status is the part of `dfs status -o json` that the tests look at.
type status struct {
	Health  string `json:"health"`
	Leader  string `json:"leader"`
	Orphans uint64 `json:"orphans"`
	Level   uint32 `json:"level"`
	Reasons []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reasons"`
	Servers []struct {
		Name  string `json:"name"`
		State string `json:"state"`
		Alive bool   `json:"alive"`
	} `json:"servers"`
}

func (c *cluster) status(timeout time.Duration) (status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	line := c.line("admin", []string{"dfs", "--masters", strings.Join(c.addrs, ","), "status", "-o", "json"})
	out, err := exec.CommandContext(ctx, line[0], line[1:]...).Output()
	var s status
	// An unhealthy cluster is told by the exit code too; the figures are there.
	if jerr := json.Unmarshal(out, &s); jerr != nil {
		stderr := ""
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			stderr = strings.TrimSpace(string(exit.Stderr))
		}
		return s, fmt.Errorf("dfs status: %w: %s", errors.Join(err, jerr), stderr)
	}
	return s, nil
}

func (c *cluster) waitHealthy(timeout time.Duration) error {
	return eventually(timeout, "a healthy cluster", func() error {
		for _, p := range c.all() {
			if !p.alive() {
				return fmt.Errorf("%s has ended; its log: %s", p.name, lastLines(p.log, 5))
			}
		}
		s, err := c.status(5 * time.Second)
		if err != nil {
			return err
		}
		up := 0
		for _, server := range s.Servers {
			if server.State == "up" && server.Alive {
				up++
			}
		}
		if s.Health != "ok" || s.Leader == "" || up != len(c.chunks) {
			return fmt.Errorf("health %q, leader %q, %d of %d chunk servers up: %v", s.Health, s.Leader, up, len(c.chunks), s.Reasons)
		}
		return nil
	})
}

// leader is the master that leads now.
func (c *cluster) leader(t *testing.T) *process {
	t.Helper()
	s, err := c.status(10 * time.Second)
	must(t, err)
	for _, p := range c.masters {
		if p.name == s.Leader {
			return p
		}
	}
	t.Fatalf("the leader %q is none of ours", s.Leader)
	return nil
}

func (c *cluster) printLogs(t *testing.T) {
	paths, _ := filepath.Glob(filepath.Join(c.dir, "*.log"))
	for _, path := range paths {
		t.Logf("%s:\n%s", filepath.Base(path), lastLines(path, 25))
	}
}

// mount is one mount of a cluster by a process of its own.
type mount struct {
	*process
	dir string
}

// mount mounts in the foreground, so that the process is ours to kill.
func (c *cluster) mount(t *testing.T, opts ...string) *mount {
	t.Helper()
	m, err := c.tryMount(opts...)
	must(t, err)
	t.Cleanup(func() {
		if err := m.remove(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (c *cluster) tryMount(opts ...string) (*mount, error) {
	name := fmt.Sprintf("mount-%d", len(c.mounts)+1)
	dir := filepath.Join(c.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if c.hosts != nil {
		if _, err := c.hosts.add(name); err != nil {
			return nil, err
		}
	}
	args := []string{"dfs-mount", "-f", "--log-level=info"}
	for _, o := range opts {
		args = append(args, "-o", o)
	}
	m := &mount{process: c.process(name, append(args, strings.Join(c.addrs, ","), dir)...), dir: dir}
	c.mounts = append(c.mounts, m)
	return m, m.start()
}

// start starts the process and waits until the mount is there.
func (m *mount) start() error {
	if err := m.process.start(); err != nil {
		return err
	}
	return eventually(30*time.Second, "the mount", func() error {
		if !m.alive() {
			return fmt.Errorf("dfs-mount has ended: %s", lastLines(m.log, 3))
		}
		if !mounted(m.dir) {
			return errors.New("not in the mount table")
		}
		return nil
	})
}

// umount is umount(8), which must work whatever the cluster does.
func (m *mount) umount(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "umount", m.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("umount %s: %w: %s", m.dir, err, out)
	}
	select {
	case <-m.done:
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("%s: dfs-mount did not end within %v of the unmount", m.name, timeout)
	}
}

// remove takes the mount away, by force when it must.
func (m *mount) remove() error {
	err := m.stop()
	if mounted(m.dir) {
		_ = unix.Unmount(m.dir, unix.MNT_DETACH)
	}
	return err
}

// mounted says whether a mount is there, without asking the mount.
func mounted(dir string) bool {
	m, err := mountinfo.At(dir)
	return err == nil && m != nil
}

// shared is a healthy cluster for the tests that break nothing.
var shared sharedCluster

type sharedCluster struct {
	once sync.Once
	c    *cluster
	err  error
}

func (s *sharedCluster) get(t *testing.T) *cluster {
	t.Helper()
	s.once.Do(func() {
		var dir string
		if dir, s.err = os.MkdirTemp("", "dfs-e2e-shared-"); s.err == nil {
			s.c, s.err = startCluster(dir, options{})
		}
	})
	must(t, s.err)
	t.Cleanup(func() {
		if t.Failed() {
			s.c.printLogs(t)
		}
	})
	return s.c
}

func (s *sharedCluster) stop() {
	if s.c == nil {
		return
	}
	for _, err := range s.c.stop() {
		fmt.Fprintln(os.Stderr, "e2e: shared cluster:", err)
	}
	if !*keep {
		os.RemoveAll(s.c.dir)
	}
}

// folder mounts the shared cluster and makes a folder for the test there.
func folder(t *testing.T) string {
	t.Helper()
	m := shared.get(t).mount(t)
	dir := filepath.Join(m.dir, strings.ReplaceAll(t.Name(), "/", "_"))
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

// freePorts finds pairs of ports that nobody listens on. They are outside of the range
// that outgoing connections get theirs from, which could take one in between.
func freePorts(n int) ([]int, error) {
	var ports []int
	for port := 20000 + os.Getpid()%500*20; len(ports) < n; port += 2 {
		if port > 32000 {
			return nil, errors.New("no free ports between 20000 and 32000")
		}
		used.Lock()
		taken := used.ports[port]
		used.ports[port] = true
		used.Unlock()
		if !taken && free(port) && free(port+1) {
			ports = append(ports, port, port+1)
		}
	}
	return ports, nil
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

var used = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// eventually waits until a condition holds; its last error says why it does not.
func eventually(timeout time.Duration, what string, check func() error) error {
	deadline := time.Now().Add(timeout)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %v: %w", what, timeout, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func lastLines(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// writeSynced is os.WriteFile with an fsync: what it wrote outlives the mount.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tool wants a program, and names the package that has it.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: install the package %s (scripts/test does)", name, pkg)
	}
	return path
}

// command runs a program within a bound and answers what it printed.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, lastText(out, 3000))
	}
	return string(out)
}

func lastText(b []byte, n int) string { return string(b[max(0, len(b)-n):]) }
