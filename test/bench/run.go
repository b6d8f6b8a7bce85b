package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dfs/internal/cli"
)

// A group is workloads that build on each other, in order, in a folder of their own.
type group struct {
	name  string
	start func(ctx context.Context, b *bench) (any, error) // what the steps share; nil: nothing
	steps []step
}

// A step is one workload. Its fn does the work and answers how much it did.
type step struct {
	name  string
	unit  string // what is counted, per second; "s" is the time itself, where less is better
	cold  bool   // wants empty caches
	doing func(ctx context.Context, b *bench, shared any) (float64, error)
}

// bench is what a step may use.
type bench struct {
	options
	dir     string // of the group, on the system that is measured
	scratch string // on the local disk
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func groups() []group {
	return slices.Concat(streamGroups(), fileGroups(), treeGroups(), sqliteGroups())
}

// selection checks --only: names of groups and of workloads.
func selection(only []string) (map[string]bool, error) {
	selected := map[string]bool{}
	for _, g := range groups() {
		for _, s := range g.steps {
			if len(only) == 0 || slices.Contains(only, g.name) || slices.Contains(only, s.name) {
				selected[s.name] = true
			}
		}
	}
	for _, name := range only {
		if !slices.ContainsFunc(groups(), func(g group) bool {
			return g.name == name || slices.ContainsFunc(g.steps, func(s step) bool { return s.name == name })
		}) {
			return nil, cli.Usagef("--only: no workload %q; bench list lists them", name)
		}
	}
	return selected, nil
}

// run runs what is selected. A workload that fails is told in the report and
// ends its group, not the others.
func run(ctx context.Context, folder string, selected map[string]bool, o options) (*report, error) {
	dir, err := os.MkdirTemp(folder, "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	scratch, err := os.MkdirTemp("", "dfs-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	r := newReport(folder, o)
	for _, g := range groups() {
		last := -1
		for i, s := range g.steps {
			if selected[s.name] {
				last = i
			}
		}
		if last < 0 {
			continue
		}
		b := &bench{options: o, dir: filepath.Join(dir, g.name), scratch: scratch}
		if err := b.runGroup(ctx, g, last, selected, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// runGroup runs the steps up to the last one that is wanted; the wanted ones are
// reported. The error is that it was interrupted.
func (b *bench) runGroup(ctx context.Context, g group, last int, selected map[string]bool, r *report) error {
	err := os.Mkdir(b.dir, 0o755)
	var shared any
	if err == nil && g.start != nil {
		shared, err = g.start(ctx, b)
	}
	for _, s := range g.steps[:last+1] {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.fail(s, fmt.Errorf("not run: %w", err))
			continue
		}
		fmt.Fprintf(b.progress, "%-20s ", s.name)
		var work float64
		var took time.Duration
		if err = b.settle(ctx, s.cold); err == nil {
			took, err = timed(func() error {
				var err error
				work, err = s.doing(ctx, b, shared)
				return err
			})
		}
		if err != nil {
			fmt.Fprintln(b.progress, "failed:", err)
			r.fail(s, err)
			continue
		}
		value := r.add(s, work, took, selected[s.name])
		fmt.Fprintf(b.progress, "%10s %s\n", number(value), unitText(s.unit))
	}
	return os.RemoveAll(b.dir)
}

// settle lets writing back of earlier work end, and where cold is wanted empties
// the caches of the kernel and, by mounting anew, those of the file system's
// client.
func (b *bench) settle(ctx context.Context, cold bool) error {
	unix.Sync()
	if !cold {
		return nil
	}
	if b.remount != "" {
		cmd := exec.CommandContext(ctx, "sh", "-c", b.remount)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("remount: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return errors.New("needs root, to empty the kernel's caches")
		}
		return err
	}
	return nil
}
