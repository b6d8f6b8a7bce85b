package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// benchView is the schema of `dfs bench -o json`.
type benchView struct {
	Schema  string       `json:"schema"` // dfs.bench/v1
	Folder  string       `json:"folder"`
	Results []benchPoint `json:"results"`
}

// benchPoint is one workload: how many operations or bytes a second, and how long
// single operations took.
type benchPoint struct {
	Name   string  `json:"name"`
	Rate   float64 `json:"rate"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median_seconds"`
	P99    float64 `json:"p99_seconds"`
}

func newBench(g *global) *cobra.Command {
	var seconds float64
	cmd := &cobra.Command{
		Use:   "bench FOLDER",
		Short: "Measure a folder: streams, durable small writes, names",
		Long: `Runs one program's worth of simple workloads for a few seconds each in a folder
of its own below FOLDER, which it removes. It is a quick look, one thread; the
full comparison with other systems is scripts/bench.`,
		Example: "  dfs bench /mnt/dfs --seconds 3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			dir, err := os.MkdirTemp(args[0], ".dfs-bench-")
			if err != nil {
				return err
			}
			defer func() {
				if rerr := os.RemoveAll(dir); err == nil {
					err = rerr
				}
			}()
			view := benchView{Schema: "dfs.bench/v1", Folder: args[0]}
			b := bench{dir: dir, limit: time.Duration(seconds * float64(time.Second))}
			for _, w := range b.workloads() {
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				if isTerminal(os.Stderr) {
					fmt.Fprintf(cmd.ErrOrStderr(), "\r\x1b[K%s ...", w.name)
				}
				point, err := b.run(w)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				view.Results = append(view.Results, point)
			}
			if isTerminal(os.Stderr) {
				fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
			}
			return g.emit(cmd, view, view.table(), nil)
		},
	}
	cmd.Flags().Float64Var(&seconds, "seconds", 2, "how long each workload runs")
	return cmd
}

func (v benchView) table() table {
	t := table{columns: []string{"WORKLOAD", "RATE", "MEDIAN", "P99"}}
	for _, r := range v.Results {
		short := func(s float64) string {
			return time.Duration(s * float64(time.Second)).Round(time.Microsecond).String()
		}
		t.rows = append(t.rows, []string{r.Name, fmt.Sprintf("%.0f %s", r.Rate, r.Unit), short(r.Median), short(r.P99)})
	}
	return t
}

// bench measures one folder, operation by operation.
type bench struct {
	dir   string
	limit time.Duration
	made  int // files that create has left for stat, rename and unlink
}

// workload is an operation that is repeated; op gets the count so far and says
// when nothing is left to do.
type workload struct {
	name  string
	unit  string
	scale float64 // of one operation in units
	open  func() (op func(i int) (more bool, err error), end func() error, err error)
}

const (
	streamMax = 4 << 30 // bytes that the stream workloads write at most
	blockMiB  = 1 << 20
)

func (b *bench) workloads() []workload {
	return []workload{
		{"write 1 MiB blocks, fsync at the end", "MiB/s", 1, b.stream},
		{"write 4 KiB + fdatasync", "/s", 1, b.syncWrites},
		{"create", "/s", 1, b.names(func(i int) error {
			f, err := os.OpenFile(b.name(i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			b.made = i + 1
			return f.Close()
		}, false)},
		{"stat", "/s", 1, b.names(func(i int) error { _, err := os.Lstat(b.name(i % b.made)); return err }, false)},
		{"rename", "/s", 1, b.names(func(i int) error { return os.Rename(b.name(i), b.name(i)+"r") }, true)},
		{"unlink", "/s", 1, b.names(func(i int) error {
			err := os.Remove(b.name(i) + "r")
			if os.IsNotExist(err) {
				err = os.Remove(b.name(i))
			}
			return err
		}, true)},
	}
}

func (b *bench) name(i int) string { return filepath.Join(b.dir, fmt.Sprintf("f%08d", i)) }

func (b *bench) run(w workload) (benchPoint, error) {
	op, end, err := w.open()
	if err != nil {
		return benchPoint{}, err
	}
	var took []time.Duration
	begin := time.Now()
	for more := true; more && time.Since(begin) < b.limit; {
		t := time.Now()
		if more, err = op(len(took)); err != nil {
			_ = end() // the operation's own error is what matters
			return benchPoint{}, err
		}
		took = append(took, time.Since(t))
	}
	if err := end(); err != nil {
		return benchPoint{}, err
	}
	total := time.Since(begin)
	slices.Sort(took)
	return benchPoint{
		Name: w.name, Unit: w.unit, Rate: float64(len(took)) * w.scale / total.Seconds(),
		Median: took[len(took)/2].Seconds(), P99: took[len(took)*99/100].Seconds(),
	}, nil
}

func (b *bench) stream() (func(int) (bool, error), func() error, error) {
	f, err := os.Create(filepath.Join(b.dir, "stream"))
	if err != nil {
		return nil, nil, err
	}
	block := make([]byte, blockMiB)
	for i := range block {
		block[i] = byte(i * 7)
	}
	op := func(i int) (bool, error) {
		_, err := f.Write(block)
		return (i+1)*blockMiB < streamMax, err
	}
	end := func() error {
		if err := f.Sync(); err != nil {
			return err
		}
		return f.Close()
	}
	return op, end, nil
}

func (b *bench) syncWrites() (func(int) (bool, error), func() error, error) {
	f, err := os.Create(filepath.Join(b.dir, "sync"))
	if err != nil {
		return nil, nil, err
	}
	block := make([]byte, 4096)
	op := func(i int) (bool, error) {
		if _, err := f.WriteAt(block, int64(i%1024)*4096); err != nil {
			return false, err
		}
		return true, f.Sync()
	}
	return op, f.Close, nil
}

// names makes a workload of an operation on the i-th name; bounded ones end with
// the files that create made.
func (b *bench) names(one func(i int) error, bounded bool) func() (func(int) (bool, error), func() error, error) {
	return func() (func(int) (bool, error), func() error, error) {
		op := func(i int) (bool, error) { return !bounded || i+1 < b.made, one(i) }
		return op, func() error { return nil }, nil
	}
}
