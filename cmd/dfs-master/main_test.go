package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"dfs/internal/cli"
)

func TestMistakesOnTheCommandLineAreUsageErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	for _, tc := range []struct {
		args string
		want string
	}{
		{"--name m", "--dir is missing"},
		{"--name m --dir DIR --bootstrap --join 127.0.0.1:1", "choose"},
		{"--name m --dir DIR --bootstrap --peers m", "NAME=ADDR"},
		{"--name m --dir DIR --bootstrap --peers a=127.0.0.1:1", "m, is not among them"},
		{"--name m --dir DIR --bootstrap --expected 16", "0 to 15"},
		{"--name m --dir DIR --bootstrap --session-ttl 1ms", "at least 1s"},
		{"--name m --dir DIR --log-level loud", "debug, info"},
		{"--no-such-flag", "unknown flag"},
		{"word", "unknown command"},
	} {
		var out bytes.Buffer
		cmd := newCommand()
		cmd.SetErr(&out)
		cmd.SetOut(&out)
		code := cli.Run(context.Background(), cmd, strings.Fields(strings.ReplaceAll(tc.args, "DIR", dir)))
		if code != cli.ExitUsage || !strings.Contains(out.String(), tc.want) {
			t.Errorf("dfs-master %s: code %d, want %d; output %q, want %q in it", tc.args, code, cli.ExitUsage, out.String(), tc.want)
		}
	}
}

func TestBootstrapTwiceIsRefused(t *testing.T) {
	args := []string{"--name", "m", "--dir", filepath.Join(t.TempDir(), "m"), "--listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0", "--bootstrap"}
	run := func(ctx context.Context) (int, string) {
		var out bytes.Buffer
		cmd := newCommand()
		cmd.SetErr(&out)
		return cli.Run(ctx, cmd, args), out.String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // it ends as soon as it has begun
	if code, out := run(ctx); code != cli.ExitOK {
		t.Fatalf("code %d: %s", code, out)
	}
	if code, out := run(context.Background()); code != cli.ExitError || !strings.Contains(out, "start without --bootstrap") {
		t.Errorf("code %d: %s", code, out)
	}
}
