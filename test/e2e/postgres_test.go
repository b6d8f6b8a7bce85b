package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPostgres runs PostgreSQL with its data on a mount, kills the leading master and a
// chunk server while it works, and looks at the data from another mount.
func TestPostgres(t *testing.T) {
	tool(t, "pg_ctlcluster", "postgresql")
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_amcheck")
	must(t, err)
	if len(found) == 0 {
		t.Fatal("no pg_amcheck in /usr/lib/postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	seconds := 12
	if *full {
		seconds = 60
	}
	c := newCluster(t, options{})
	a, b := c.mount(t, "allow-other"), c.mount(t, "allow-other")
	sockets, err := os.MkdirTemp("", "dfs-pg-") // their paths have to be short
	must(t, err)
	defer os.RemoveAll(sockets)
	must(t, os.Chmod(sockets, 0o777))
	for dir := c.dir; len(dir) > 1 && strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // another user has to get there
	}
	data := "pg"
	mkdir(t, filepath.Join(a.dir, data))
	command(t, "/", "chown", "postgres", filepath.Join(a.dir, data))
	must(t, os.Chmod(filepath.Join(a.dir, data), 0o700))
	pg := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command("runuser", append([]string{"-u", "postgres", "--", filepath.Join(bin, name)}, args...)...)
		cmd.Dir = "/"
		return cmd
	}
	run := func(name string, args ...string) string {
		t.Helper()
		var out bytes.Buffer // pg_ctl leaves the server with its output
		log, err := os.CreateTemp(sockets, "out-")
		must(t, err)
		defer log.Close()
		cmd := pg(name, args...)
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Run()
		text, _ := os.ReadFile(log.Name())
		out.Write(text)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out.String())
		}
		return out.String()
	}
	local := []string{"-h", sockets, "-p", "5499"}
	ctl := func(dir, verb string) {
		t.Helper()
		run("pg_ctl", "-D", filepath.Join(dir, data), "-w", "-l", filepath.Join(sockets, "log"),
			"-o", fmt.Sprintf("-k %s -p 5499 -c listen_addresses=", sockets), verb)
	}
	run("initdb", "-D", filepath.Join(a.dir, data), "-A", "trust")
	ctl(a.dir, "start")
	defer func() { _ = pg("pg_ctl", "-D", filepath.Join(a.dir, data), "-m", "immediate", "stop").Run() }()
	run("createdb", append(local, "bench")...)
	run("pgbench", append(local, "-i", "-q", "-s", "1", "bench")...)

	bench := make(chan error, 1)
	go func() {
		out, err := pg("pgbench", append(local, "-c", "4", "-T", fmt.Sprint(seconds), "bench")...).CombinedOutput()
		if err == nil && !bytes.Contains(out, []byte("number of failed transactions: 0 ")) {
			err = fmt.Errorf("transactions have failed")
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		} else {
			t.Logf("%s", lastText(out, 200))
		}
		bench <- err
	}()
	part := time.Duration(seconds) * time.Second / 4
	time.Sleep(part)
	c.leader(t).kill()
	time.Sleep(part)
	c.chunks[1].kill()
	must(t, <-bench)

	run("psql", append(local, "bench", "-c", "CREATE EXTENSION amcheck")...)
	run("pg_amcheck", append(local, "bench")...)
	sums := func() string {
		return run("psql", append(local, "bench", "-At", "-c",
			"SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)")...)
	}
	before := sums()
	if f := strings.Split(strings.TrimSpace(before), "|"); len(f) != 3 || f[0] != f[1] || f[1] != f[2] {
		t.Errorf("sums that must be the same: %s", before)
	}
	ctl(a.dir, "stop")
	ctl(b.dir, "start")
	defer func() { _ = pg("pg_ctl", "-D", filepath.Join(b.dir, data), "-m", "immediate", "stop").Run() }()
	if after := sums(); after != before {
		t.Errorf("from the other mount: %s, was %s", after, before)
	}
	ctl(b.dir, "stop")
}
