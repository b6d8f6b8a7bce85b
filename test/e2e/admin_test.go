package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// admin runs the dfs tool, and answers what it printed and its exit code.
func (c *cluster) admin(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	line := c.line("admin", append([]string{"dfs", "--masters", strings.Join(c.addrs, ","), "--timeout", "60s"}, args...))
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return string(b) + stderr.String(), exit.ExitCode()
	case err != nil:
		t.Fatalf("dfs %v: %v", args, err)
	}
	return string(b), 0
}

// says runs the tool and wants its exit code and a part of what it prints.
func (c *cluster) says(t *testing.T, code int, text string, args ...string) {
	t.Helper()
	if out, got := c.admin(t, args...); got != code || !strings.Contains(out, text) {
		t.Fatalf("dfs %s: exit code %d, want %d; it said %q, want %q in it", strings.Join(args, " "), got, code, out, text)
	}
}

// asJSON runs the tool with -o json, and wants a schema.
func (c *cluster) asJSON(t *testing.T, schema string, into any, args ...string) {
	t.Helper()
	out, code := c.admin(t, append(args, "-o", "json")...)
	var has struct {
		Schema string `json:"schema"`
	}
	if err := errors.Join(json.Unmarshal([]byte(out), &has), json.Unmarshal([]byte(out), into)); err != nil || code != 0 || has.Schema != schema {
		t.Fatalf("dfs %s -o json: exit code %d, schema %q, %v: %s", strings.Join(args, " "), code, has.Schema, err, out)
	}
}

// TestAdminCommands: what an admin does with servers, settings, policies and jobs, by the real tool
// on a real cluster, in the forms for people and for programs.
func TestAdminCommands(t *testing.T) {
	c := newCluster(t, options{chunks: 5, chunkArgs: []string{"--zone=z1"}})
	m := c.mount(t)
	t.Run("config", func(t *testing.T) { adminConfig(t, c) })
	t.Run("servers", func(t *testing.T) { adminServers(t, c) })
	t.Run("policy and jobs", func(t *testing.T) { adminPolicy(t, c, m) })
	t.Run("drill", func(t *testing.T) { adminDrill(t, c) })
}

func adminConfig(t *testing.T, c *cluster) {
	var v struct {
		Settings []struct {
			Name, Value, Default string
			Set                  bool
		}
	}
	c.says(t, 0, "", "config", "set", "scrub-every=36h")
	c.says(t, 0, "36h", "config", "get", "scrub-every")
	c.asJSON(t, "dfs.config/v1", &v, "config", "get", "scrub-every")
	if len(v.Settings) != 1 || v.Settings[0].Value != "36h" || !v.Settings[0].Set || v.Settings[0].Default != "168h" {
		t.Errorf("%+v", v)
	}
	c.says(t, 0, "", "config", "set", "scrub-every=")
	c.asJSON(t, "dfs.config/v1", &v, "config", "list")
	if len(v.Settings) < 5 || v.Settings[0].Set {
		t.Errorf("%+v", v)
	}
	c.says(t, 1, "no duration", "config", "set", "scrub-every=soon")
	c.says(t, 1, "no setting is named", "config", "set", "nothing=1")
	c.says(t, 2, "NAME=VALUE", "config", "set", "scrub-every")
}

// adminServer is the part of a server that the tests look at.
type adminServer struct {
	Name, State      string
	Weight           uint32
	PlacementGroups  uint32 `json:"placement_groups"`
	MaintenanceUntil string `json:"maintenance_until"`
}

func (c *cluster) server(t *testing.T, name string) adminServer {
	t.Helper()
	var v struct{ Servers []adminServer }
	c.asJSON(t, "dfs.servers/v1", &v, "servers", "list")
	for _, s := range v.Servers {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no server %s: %+v", name, v)
	return adminServer{}
}

func adminServers(t *testing.T, c *cluster) {
	c.says(t, 0, "has weight 7", "servers", "weight", "chunk-5", "7")
	if got := c.server(t, "chunk-5"); got.Weight != 7 {
		t.Errorf("%+v", got)
	}
	c.says(t, 2, "want a number", "servers", "weight", "chunk-5", "much")
	c.says(t, 1, "no chunk server is named", "servers", "weight", "nobody", "7")
	must(t, eventually(healthyTimeout, "maintenance", func() error { // nothing may be missing, nor be unknown
		if out, code := c.admin(t, "servers", "maintenance", "chunk-4", "--for", "1h"); code != 0 || !strings.Contains(out, "may be down until") {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	}))
	if got := c.server(t, "chunk-4"); got.MaintenanceUntil == "" {
		t.Errorf("%+v", got)
	}
	c.says(t, 0, "is over", "servers", "maintenance", "chunk-4", "--end")
	c.says(t, 1, "at most", "servers", "maintenance", "chunk-4", "--for", "1000h")
	c.says(t, 1, "cannot replace itself", "servers", "replace", "chunk-4", "chunk-4", "--yes")
	c.says(t, 0, "safe to remove", "servers", "replace", "chunk-4", "chunk-5", "--yes", "--wait")
	if got := c.server(t, "chunk-4"); got.State != "drain" {
		t.Errorf("%+v", got)
	}
	c.says(t, 0, "takes data", "servers", "resume", "chunk-4")
	must(t, c.waitHealthy(healthyTimeout))
}

func adminPolicy(t *testing.T, c *cluster, m *mount) {
	dir := filepath.Join(m.dir, "policy")
	must(t, os.Mkdir(dir, 0o755))
	want := map[string]string{}
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprint(i))
		want[path] = strings.Repeat(fmt.Sprint(i), 10_000)
		must(t, writeSynced(path, []byte(want[path])))
	}
	file := filepath.Join(dir, "7")
	c.says(t, 0, "", "policy", "set", dir, "ec=2+1")
	type applied struct {
		Job, State     string
		Files, Changed int
		Bytes, Left    uint64
	}
	var v applied
	c.asJSON(t, "dfs.policy.apply/v1", &v, "policy", "apply", dir, "--dry-run")
	if v.Files != 20 || v.Changed != 20 || v.Job != "" {
		t.Errorf("a dry run: %+v", v)
	}
	c.asJSON(t, "dfs.policy.apply/v1", &v, "policy", "apply", file, "--yes", "--wait")
	if v.Files != 1 || v.Changed != 1 || v.State != "done" || v.Bytes != uint64(len(want[file])) {
		t.Errorf("one file: %+v", v)
	}
	c.asJSON(t, "dfs.policy.apply/v1", &v, "policy", "apply", dir, "--yes", "--wait")
	if v.Files != 20 || v.Changed != 19 || v.State != "done" || v.Left != 0 {
		t.Errorf("the folder: %+v", v)
	}
	c.says(t, 0, "done", "policy", "apply", dir, "--yes", "--wait")
	var where struct {
		Policy  string
		Extents []struct{ Fragments []struct{ State string } }
	}
	c.asJSON(t, "dfs.where/v1", &where, "where", file)
	if where.Policy != "ec=2+1" || len(where.Extents) == 0 || len(where.Extents[0].Fragments) != 3 {
		t.Errorf("%+v", where)
	}
	for path, data := range want {
		if got, err := os.ReadFile(path); err != nil || string(got) != data {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	var jobs struct {
		Jobs []struct {
			ID, Kind, Target, State string
			Files                   int
		}
	}
	c.asJSON(t, "dfs.jobs/v1", &jobs, "jobs", "list")
	ended := 0
	for _, j := range jobs.Jobs {
		if j.Kind == "convert" && j.State == "done" {
			ended++
		}
	}
	if ended != 3 {
		t.Errorf("%d jobs are done, want 3: %+v", ended, jobs)
	}
	c.says(t, 0, "20 files looked at", "jobs", "list")
	c.says(t, 5, "has ended", "jobs", "pause", v.Job)
	c.says(t, 5, "repair-rate", "jobs", "cancel", "repair")
	c.says(t, 1, "there is no job", "jobs", "resume", "999")
}

func adminDrill(t *testing.T, c *cluster) {
	must(t, eventually(healthyTimeout, "a drill that is allowed", func() error {
		if out, code := c.admin(t, "drill", "server", "chunk-1", "--for", "3s", "--dry-run"); code != 0 {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	}))
	var v struct {
		Gone          []string
		Writes, Reads struct{ Done, Failed int }
		Repaired      bool
	}
	c.asJSON(t, "dfs.drill/v1", &v, "drill", "server", "chunk-1", "--for", "3s", "--yes")
	if len(v.Gone) != 1 || v.Gone[0] != "chunk-1" || v.Writes.Done == 0 || v.Reads.Done == 0 || v.Writes.Failed+v.Reads.Failed > 0 || !v.Repaired {
		t.Errorf("%+v", v)
	}
	c.says(t, 0, "repaired", "drill", "master", c.leader(t).name, "--for", "2s", "--yes")
	c.says(t, 5, "too few servers for writes", "drill", "zone", "z1", "--for", "2s", "--yes")
	c.says(t, 1, "at most 10m", "drill", "server", "chunk-1", "--for", "11m", "--yes")
	c.says(t, 1, "no chunk server is named", "drill", "server", "nobody", "--yes")
}
