package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dfs/internal/cli"
)

// execute runs the command until the log says want, or it ends by itself.
func execute(t *testing.T, want string, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w := &watcher{want: want, found: cancel}
	cmd := newCommand()
	cmd.SetOut(w)
	cmd.SetErr(w)
	code = cli.Run(ctx, cmd, args)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatalf("waited in vain for %q: %s", want, w.text.String())
	}
	return code, w.text.String()
}

// watcher calls found when want was written. slog writes one line at a time.
type watcher struct {
	want  string
	found func()
	text  bytes.Buffer
}

func (w *watcher) Write(p []byte) (int, error) {
	w.text.Write(p)
	if w.want != "" && strings.Contains(w.text.String(), w.want) {
		w.found()
	}
	return len(p), nil
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	good := []string{"--name", "chunk-1", "--masters", "127.0.0.1:1", "--dir", dir}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--name (or DFS_NAME) must be set", []string{"--masters", "a", "--dir", dir}},
		{"--dir (or DFS_DIR) must be set", []string{"--name", "a", "--masters", "a"}},
		{"--masters (or DFS_MASTERS) must be set", []string{"--name", "a", "--dir", dir}},
		{"unknown flag", []string{"--fast"}},
		{"unknown command", []string{"start"}},
		{"--reserve=many", append(good, "--reserve", "many")},
		{"--log-level", append(good, "--log-level", "loud")},
	} {
		if code, out := execute(t, "", c.args...); code != cli.ExitUsage || !strings.Contains(out, c.want) {
			t.Errorf("%v: code %d, want %d and %q: %s", c.args, code, cli.ExitUsage, c.want, out)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("the data folder was touched: %v, %v", list, err)
	}
}

func TestServerRunsUntilItIsTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	t.Setenv("DFS_MASTERS", "127.0.0.1:1")
	t.Setenv("DFS_RESERVE", "1MiB")
	args := []string{"--name", "chunk-1", "--dir", dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--gossip-listen", ""}
	for range 2 {
		if code, out := execute(t, "chunk server runs", args...); code != 0 || !strings.Contains(out, "chunk server ended") {
			t.Fatalf("code %d: %s", code, out)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "dfs.json"), []byte(`{"format": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := execute(t, "", args...); code != cli.ExitError || !strings.Contains(out, "newer version") || strings.Count(out, "\n") != 1 {
		t.Fatalf("code %d: %s", code, out)
	}
}

func TestHelpHasAnExample(t *testing.T) {
	if code, out := execute(t, "", "--help"); code != 0 || !strings.Contains(out, "dfs-chunk --name chunk-1 --dir") {
		t.Fatalf("code %d: %s", code, out)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"": 0, "0": 0, "4096": 4096, "4k": 4096, "10GiB": 10 << 30, "10GB": 10 << 30, "1T": 1 << 40, "512 MiB": 512 << 20,
	} {
		if got, err := cli.ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "-1", "1.5G", "B", "99999999T", "10P"} {
		if got, err := cli.ParseSize(text); err == nil {
			t.Errorf("%q was taken as %d", text, got)
		}
	}
}
