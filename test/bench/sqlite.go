package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Transactions of SQLite, one row each, in both journal modes, durable
// (synchronous=FULL is its default).
func sqliteGroups() []group {
	return []group{{name: "sqlite", steps: []step{
		{name: "sqlite-wal", unit: "txn", doing: transactions("wal")},
		{name: "sqlite-delete", unit: "txn", doing: transactions("delete")},
	}}}
}

// transactions are all made by one process, which lives long enough for its start
// not to count.
func transactions(mode string) func(context.Context, *bench, any) (float64, error) {
	return func(ctx context.Context, b *bench, _ any) (float64, error) {
		n := b.size(1000, 200)
		var script strings.Builder
		fmt.Fprintf(&script, "PRAGMA journal_mode=%s;\nPRAGMA synchronous=FULL;\nCREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);\n", mode)
		for i := range n {
			fmt.Fprintf(&script, "INSERT INTO t(v) VALUES('row %d %s');\n", i, strings.Repeat("x", 100))
		}
		script.WriteString("SELECT count(*) FROM t;\nPRAGMA integrity_check;\n")
		cmd := exec.CommandContext(ctx, "sqlite3", "-batch", "-bail", b.path(mode+".db"))
		cmd.Stdin = strings.NewReader(script.String())
		out, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("sqlite3: %w: %s", err, out)
		}
		if got, want := string(out), fmt.Sprintf("%s\n%d\nok\n", mode, n); got != want {
			return 0, fmt.Errorf("sqlite3 printed %q, want %q", got, want)
		}
		return float64(n), nil
	}
}
