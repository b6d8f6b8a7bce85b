package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
)

func main() { os.Exit(cli.Run(context.Background(), newCommand(), os.Args[1:])) }

func newCommand() *cobra.Command {
	root := &cobra.Command{Use: "bench", Short: "Measure a file system through a folder of it"}
	cli.Group(root, newRun(), newTable(), newProbe(), newLoopback(), newFill(), newList())
	return root
}

func newRun() *cobra.Command {
	var o options
	var jsonFile string
	var only []string
	cmd := &cobra.Command{
		Use:   "run FOLDER",
		Short: "Run the workloads in a new folder below FOLDER and remove it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			selected, err := selection(only)
			if err != nil {
				return err
			}
			folder, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			o.progress = cmd.ErrOrStderr()
			report, err := run(cmd.Context(), folder, selected, o)
			if err != nil {
				return err
			}
			if jsonFile != "" {
				if err := report.save(jsonFile); err != nil {
					return err
				}
			}
			report.print(cmd.OutOrStdout())
			return report.failure()
		},
	}
	f := cmd.Flags()
	f.StringVar(&jsonFile, "json", "", "write the results to this file")
	f.BoolVar(&o.quick, "quick", false, "small sizes: a look, not a measurement")
	f.StringSliceVar(&only, "only", nil, "workloads or groups to run (see bench list)")
	f.StringVar(&o.remount, "remount", "", "shell command that mounts FOLDER anew, run where a workload wants cold caches")
	return cmd
}

func newTable() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "table NAME=FILE ...",
		Short: "Medians of runs, as Markdown, and the first NAME's ratio to each other",
		Long: `Prints one line for each workload: the median of each NAME's files, and how many
times as fast the first NAME is as each other. A NAME may come several times: its
rounds.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var systems []system
			for _, arg := range args {
				name, file, ok := strings.Cut(arg, "=")
				if !ok {
					return cli.Usagef("%q: want NAME=FILE", arg)
				}
				r, err := load(file)
				if err != nil {
					return err
				}
				systems = addRound(systems, name, r)
			}
			return printTable(cmd.OutOrStdout(), systems)
		},
	}
	return cmd
}

func newProbe() *cobra.Command {
	return &cobra.Command{
		Use:   "probe FOLDER",
		Short: "Say whether fsync in FOLDER reaches the disk",
		Long: `Writes and fsyncs one file many times and counts the flushes that the block
devices of this machine were asked for meanwhile. When all servers of a file system
are on this machine, a file system whose fsync is durable causes at least one for
each fsync that came alone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := probe(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
}

func newList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the groups and their workloads",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, g := range groups() {
				var names []string
				for _, s := range g.steps {
					names = append(names, s.name)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-8s  %s\n", g.name, strings.Join(names, " "))
			}
			return nil
		},
	}
}

// options of one run.
type options struct {
	quick    bool
	remount  string
	progress interface{ Write([]byte) (int, error) }
}

// size is the full or the quick size of something.
func (o options) size(full, quick int) int {
	if o.quick {
		return quick
	}
	return full
}

// timed is how long fn took.
func timed(fn func() error) (time.Duration, error) {
	start := time.Now()
	err := fn()
	return time.Since(start), err
}
