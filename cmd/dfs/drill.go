package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/client"
	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// drillView is the schema of `dfs drill -o json`.
type drillView struct {
	Schema   string    `json:"schema"` // dfs.drill/v1
	Gone     []string  `json:"gone"`
	Away     float64   `json:"away_seconds"`
	Writes   probeView `json:"writes"` // each a small file that is made and synced
	Reads    probeView `json:"reads"`
	Repaired bool      `json:"repaired"` // all was whole again in the time allowed
	Repair   float64   `json:"repair_seconds"`
}

type probeView struct {
	Done   int     `json:"done"`
	Failed int     `json:"failed"`
	Pause  float64 `json:"longest_seconds"` // that one of them took
	Error  string  `json:"error,omitempty"` // the first one
}

func newDrill(g *global) *cobra.Command {
	group := &cobra.Command{
		Use:   "drill",
		Short: "Take a server, zone or master away for a while, and measure",
		Long: `Takes a part of the cluster away for a while, as if it had failed, on a cluster that is in
use: to know beforehand what happens. Meanwhile a probe writes, syncs and reads small files in a
folder of its own, and tells the longest pause; then it is measured how long it takes until nothing
is missing any more. What was taken away comes back by itself, even when this command dies.

Refused (exit code 5) when data or writes depend on it. Ends with 3 when the probe failed, or not all
was whole again in time.`,
	}
	for _, kind := range []struct {
		name, what string
		set        func(*adminpb.DrillRequest, string)
	}{
		{"server", "a chunk server", func(r *adminpb.DrillRequest, name string) { r.Server = name }},
		{"zone", "all chunk servers of a zone", func(r *adminpb.DrillRequest, name string) { r.Zone = name }},
		{"master", "a master", func(r *adminpb.DrillRequest, name string) { r.Master = name }},
	} {
		var d, wait time.Duration
		var yes, dryRun bool
		cmd := &cobra.Command{
			Use:     kind.name + " NAME",
			Short:   "Take " + kind.what + " away for a while",
			Example: "  dfs drill " + kind.name + " NAME --for 30s --dry-run",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				req := &adminpb.DrillRequest{Nanos: int64(d), DryRun: true}
				kind.set(req, args[0])
				gone, err := g.callDrill(cmd.Context(), req)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "plan: take away for %v: %v\n", d, gone)
				if dryRun {
					return nil
				}
				if err := confirm(cmd, yes); err != nil {
					return err
				}
				req.DryRun = false
				return g.drill(cmd, req, wait)
			},
		}
		cmd.Flags().DurationVar(&d, "for", 30*time.Second, fmt.Sprintf("for how long, at most %v", dfs.DrillMax))
		cmd.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait until nothing is missing any more")
		cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
		cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say whether it would be refused")
		group.AddCommand(cmd)
	}
	return cli.Group(group)
}

func (g *global) callDrill(ctx context.Context, req *adminpb.DrillRequest) ([]string, error) {
	var reply *adminpb.DrillReply
	err := g.admin(ctx, "", func(ctx context.Context, c adminpb.AdminClient) (err error) {
		reply, err = c.Drill(ctx, req)
		return err
	})
	if status.Code(err) == codes.FailedPrecondition {
		return nil, cli.Refusedf("%s", status.Convert(err).Message())
	}
	return reply.GetGone(), err
}

// drill does it, with a probe beside it.
func (g *global) drill(cmd *cobra.Command, req *adminpb.DrillRequest, wait time.Duration) error {
	ctx := cmd.Context()
	p, err := g.startProbe(ctx)
	if err != nil {
		return err
	}
	view := drillView{Schema: "dfs.drill/v1"}
	if view.Gone, err = g.callDrill(ctx, req); err == nil {
		began := time.Now()
		fmt.Fprintf(cmd.ErrOrStderr(), "away: %v\n", view.Gone)
		err = sleep(ctx, time.Duration(req.Nanos))
		view.Away = time.Since(began).Seconds()
	}
	if err == nil {
		began := time.Now()
		view.Repaired, err = g.awaitWhole(ctx, wait)
		view.Repair = time.Since(began).Seconds()
	}
	var perr error
	view.Writes, view.Reads, perr = p.end(context.WithoutCancel(ctx))
	if err = errors.Join(err, perr); err != nil {
		return err
	}
	if err := g.emit(cmd, view, view.table(), func(w io.Writer) { view.print(w) }); err != nil {
		return err
	}
	if view.Writes.Failed+view.Reads.Failed > 0 || !view.Repaired {
		return &cli.ExitCode{Code: cli.ExitUnhealthy}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// awaitWhole waits until everybody is back and nothing is missing.
func (g *global) awaitWhole(ctx context.Context, wait time.Duration) (bool, error) {
	for over := time.Now().Add(wait); time.Now().Before(over); {
		st, err := g.fetchStatus(ctx)
		if err == nil && st.Repair.Chunks == 0 && st.Repair.Epoch == st.Epoch && allBack(&st) {
			return true, nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return false, err
		}
	}
	return false, nil
}

func allBack(st *statusView) bool {
	for _, s := range st.Servers {
		if s.State == dfs.ServerDown.String() {
			return false
		}
	}
	for _, m := range st.Masters {
		if !m.Alive {
			return false
		}
	}
	return true
}

func (v *drillView) table() table {
	t := table{columns: []string{"PROBE", "DONE", "FAILED", "LONGEST"}}
	for _, p := range []struct {
		name string
		probeView
	}{{"writes", v.Writes}, {"reads", v.Reads}} {
		t.rows = append(t.rows, []string{p.name, fmt.Sprint(p.Done), fmt.Sprint(p.Failed), fmt.Sprintf("%.3f s", p.Pause)})
	}
	return t
}

func (v *drillView) print(w io.Writer) {
	fmt.Fprintf(w, "away       %v, for %.1f s\n", v.Gone, v.Away)
	for _, p := range []struct {
		name string
		probeView
	}{{"writes", v.Writes}, {"reads", v.Reads}} {
		fmt.Fprintf(w, "%-9s  %d done, %d failed, longest %.3f s %s\n", p.name, p.Done, p.Failed, p.Pause, p.Error)
	}
	if v.Repaired {
		fmt.Fprintf(w, "repaired   %.1f s after it was back\n", v.Repair)
	} else {
		fmt.Fprintf(w, "repaired   NOT in %.1f s: dfs status\n", v.Repair)
	}
}

// Of the probe.
const (
	probeEvery = 20 * time.Millisecond
	probeBytes = 4096
	probeFiles = 64 // written by turns
)

// probe writes and reads small files all the while.
type probe struct {
	writer, reader *client.FS
	dir            string
	stop           context.CancelFunc
	wg             sync.WaitGroup
	writes, reads  probeView // of their goroutines until these have ended
	firstWrite     chan struct{}
}

func (g *global) startProbe(ctx context.Context) (*probe, error) {
	addrs, err := g.addresses("")
	if err != nil {
		return nil, err
	}
	p := &probe{dir: fmt.Sprintf("/.dfs-drill-%d", time.Now().UnixNano()), firstWrite: make(chan struct{})}
	if p.writer, err = client.Dial(ctx, client.Config{Masters: addrs}); err != nil {
		return nil, err
	}
	if p.reader, err = client.Dial(ctx, client.Config{Masters: addrs, CacheBytes: 1}); err != nil {
		return nil, errors.Join(err, p.writer.Close())
	}
	if _, err := p.writer.MkdirAll(ctx, dfs.Cred{Checked: true}, p.dir, 0o700); err != nil {
		return nil, errors.Join(err, p.writer.Close(), p.reader.Close())
	}
	ctx, p.stop = context.WithCancel(ctx)
	p.wg.Go(func() { p.loop(ctx, &p.writes, p.write) })
	p.wg.Go(func() { p.loop(ctx, &p.reads, p.read) })
	select { // it must work before anything is taken away
	case <-p.firstWrite:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// loop does something again and again, and keeps account.
func (p *probe) loop(ctx context.Context, v *probeView, do func(ctx context.Context, i int) error) {
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Now()
		err := do(ctx, i)
		if ctx.Err() != nil {
			return
		}
		v.Pause = max(v.Pause, time.Since(began).Seconds())
		if v.Done++; err != nil {
			v.Done--
			if v.Failed++; v.Error == "" {
				v.Error = err.Error()
			}
		}
		if sleep(ctx, probeEvery) != nil {
			return
		}
	}
}

func (p *probe) name(i int) string { return fmt.Sprintf("%s/%d", p.dir, i%probeFiles) }

func (p *probe) write(ctx context.Context, i int) error {
	if i == 0 {
		defer close(p.firstWrite)
	}
	f, err := p.writer.OpenPath(ctx, dfs.Cred{Checked: true}, p.name(i), uint32(os.O_RDWR|os.O_CREATE), 0o600)
	if err != nil {
		return err
	}
	defer f.Release()
	if _, err := f.Write(ctx, bytes.Repeat([]byte{byte(i)}, probeBytes), 0); err != nil {
		return err
	}
	return f.Fsync(ctx, false)
}

// read reads a file whole: the bytes of one write.
func (p *probe) read(ctx context.Context, i int) error {
	data, err := p.reader.ReadFile(ctx, dfs.Cred{Checked: true}, p.name(i))
	if errors.Is(err, dfs.ENOENT) || err == nil && len(data) == 0 {
		return nil // not written yet
	}
	if err == nil && (len(data) != probeBytes || bytes.Count(data, data[:1]) != len(data)) {
		err = fmt.Errorf("%s: %d bytes, not those of one write", p.name(i), len(data))
	}
	return err
}

// end ends the probe and removes its files.
func (p *probe) end(ctx context.Context) (writes, reads probeView, err error) {
	p.stop()
	p.wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cred := dfs.Cred{Checked: true}
	if attr, err := p.writer.Stat(ctx, p.dir); err == nil {
		for i := range probeFiles {
			if err := p.writer.Unlink(ctx, cred, attr.Ino, fmt.Sprint(i)); err != nil && !errors.Is(err, dfs.ENOENT) {
				return p.writes, p.reads, err
			}
		}
		if err := p.writer.Rmdir(ctx, cred, dfs.RootIno, p.dir[1:]); err != nil {
			return p.writes, p.reads, err
		}
	}
	return p.writes, p.reads, errors.Join(p.reader.Close(), p.writer.Close())
}
