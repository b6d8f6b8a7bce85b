package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scriptTimeout bounds a script, which may have to build dfs.
const scriptTimeout = 5 * time.Minute

// script runs one of scripts/ and answers what it printed and its exit code.
func script(t *testing.T, name string, args ...string) (string, int) {
	t.Helper()
	// Not the test's context: what takes a cluster down runs after its end.
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(repository(), "scripts", name), args...)
	cmd.Dir = t.TempDir()
	cmd.WaitDelay = 5 * time.Second // a daemon that kept our pipe is a bug that must be seen
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("scripts/%s: %v", name, err)
	}
	if err != nil && cmd.ProcessState.Success() {
		t.Fatalf("scripts/%s %v: it succeeded, and left a process with its output: %v", name, args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// scriptOK is script, which must succeed.
func scriptOK(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, code := script(t, name, args...)
	if code != 0 {
		t.Fatalf("scripts/%s %s: exit code %d\n%s", name, strings.Join(args, " "), code, out)
	}
	return out
}

func TestScriptsTellTheirUse(t *testing.T) {
	for _, name := range []string{"bench", "cluster", "gen", "install-tools", "quickstart", "test"} {
		if out := scriptOK(t, name, "--help"); !strings.Contains(out, "Usage: ") {
			t.Errorf("scripts/%s --help: %s", name, out)
		}
		if name == "install-tools" {
			continue // its words are programs and packages
		}
		if out, code := script(t, name, "--nonsense"); code != 2 {
			t.Errorf("scripts/%s --nonsense: exit code %d, want 2: %s", name, code, out)
		}
	}
}

func TestScriptsCluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	point, other := filepath.Join(t.TempDir(), "a b"), filepath.Join(t.TempDir(), "m2")
	cluster := func(verb string, args ...string) string {
		t.Helper()
		return scriptOK(t, "cluster", append([]string{verb, "--dir", dir}, args...)...)
	}
	t.Cleanup(func() { script(t, "cluster", "down", "--dir", dir) })
	cluster("up", "--chunk-servers", "3")
	if masters, err := os.ReadFile(filepath.Join(dir, "masters")); err != nil || strings.Count(string(masters), ",") != 2 {
		t.Fatalf("masters: %q, %v", masters, err)
	}
	cluster("mount", point)
	cluster("mount", "--options", "op-timeout=30s", other)
	write := func(name string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(point, name), []byte(name), 0o644))
	}
	check := func(name string) {
		t.Helper()
		if data, err := os.ReadFile(filepath.Join(other, name)); err != nil || string(data) != name {
			t.Fatalf("%s: %q, %v", name, data, err)
		}
	}
	write("one")
	check("one")
	cluster("up") // again: it is there
	cluster("mount", point)

	cluster("kill", "chunk-2")
	if _, code := script(t, "cluster", "pid", "--dir", dir, "chunk-2"); code == 0 {
		t.Error("pid of a killed process")
	}
	write("two")
	check("two")
	cluster("start", "chunk-2")
	cluster("pause", "master-1")
	check("one")
	cluster("resume", "master-1")
	cluster("kill", "all")
	cluster("start", "all")
	check("two")
	cluster("stop", "master-2")
	cluster("up")
	cluster("kill", "mount-2")
	cluster("start", "mount-2")
	check("one")
	if out := cluster("status"); !strings.Contains(out, "chunk-3") || !strings.Contains(out, "health    ok") {
		t.Errorf("status: %s", out)
	}
	if out, code := script(t, "cluster", "kill", "--dir", dir, "chunk-9"); code != 1 || !strings.Contains(out, "chunk-2") {
		t.Errorf("kill of what is not there: %d, %s", code, out)
	}
	cluster("umount", other)
	cluster("umount", other)
	if mounted(other) {
		t.Error("still mounted after umount")
	}
	cluster("down")
	cluster("down")
	if mounted(point) {
		t.Error("still mounted after down")
	}
	for _, name := range []string{"master-1", "chunk-1", "mount-1"} {
		if _, code := script(t, "cluster", "pid", "--dir", dir, name); code == 0 {
			t.Errorf("%s runs after down", name)
		}
	}
	cluster("up") // the same data
	cluster("mount", other)
	check("one")
}

func TestQuickstart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	t.Cleanup(func() {
		if out, code := script(t, "quickstart", "stop", "--dir", dir); code != 0 {
			t.Errorf("stop: %d, %s", code, out)
		}
		if mounted(filepath.Join(dir, "mnt")) {
			t.Error("still mounted after stop")
			_ = unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)
		}
	})
	for range 2 { // the second run goes on with what is there
		out := scriptOK(t, "quickstart", "--dir", dir)
		for _, want := range []string{"files are the same", "health    degraded", "health    ok", "It works."} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in what it printed: %s", want, out)
			}
		}
	}
	if !mounted(filepath.Join(dir, "mnt")) {
		t.Error("not mounted")
	}
}

func TestBenchRunsOnAMount(t *testing.T) {
	result := filepath.Join(t.TempDir(), "out.json")
	scriptOK(t, "bench", "run", folder(t), "--quick", "--only", "stream,sync,durable-8,sqlite", "--json", result)
	data, err := os.ReadFile(result)
	must(t, err)
	var report struct {
		Schema  string
		Results []struct {
			Name  string
			Value float64
			Error string
		}
	}
	must(t, json.Unmarshal(data, &report))
	if len(report.Results) != 8 || report.Schema != "dfs.bench/v1" {
		t.Fatalf("report: %s", data)
	}
	for _, r := range report.Results {
		if r.Error != "" || r.Value <= 0 {
			t.Errorf("%+v", r)
		}
	}
}
