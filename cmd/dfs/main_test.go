package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"dfs/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"dfs": func() { os.Exit(cli.Run(context.Background(), newCommand(), os.Args[1:])) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitcode, "waitcluster": waitCluster},
	})
}

// exitcode runs a command which must end with that code: exitcode 2 dfs status.
func exitcode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// waitCluster waits until the cluster of a `dfs dev` in the folder is healthy, and
// sets MASTERS: waitcluster DIR.
func waitCluster(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitcluster DIR")
	}
	deadline := time.Now().Add(time.Minute)
	for ; time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		masters, err := os.ReadFile(ts.MkAbs(filepath.Join(args[0], "masters")))
		if err != nil {
			continue
		}
		ts.Setenv("MASTERS", strings.TrimSpace(string(masters)))
		err = ts.Exec("dfs", "status", "-o", "json", "--timeout", "5s", "--masters", ts.Getenv("MASTERS"))
		if err == nil && !strings.Contains(ts.ReadFile("stdout"), `"alive": false`) {
			return
		}
	}
	ts.Fatalf("no healthy cluster in %s", args[0])
}
