package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// jobsView is the schema of `dfs jobs list -o json`.
type jobsView struct {
	Schema string    `json:"schema"` // dfs.jobs/v1
	Jobs   []jobView `json:"jobs"`
}

type jobView struct {
	Kind   string  `json:"kind"`   // repair, drain, rebalance, reclaim, check
	Target string  `json:"target"` // name of a server; empty: the cluster
	State  string  `json:"state"`  // runs, waits
	Left   uint64  `json:"left"`
	Unit   string  `json:"unit"` // bytes, groups, chunks
	Rate   uint64  `json:"per_second"`
	Time   float64 `json:"seconds_left"` // 0: not known
	Text   string  `json:"text"`
}

func newJobs(g *global) *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the long work that the cluster does now",
		Example: "  dfs jobs list -o json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return g.jobs(cmd) },
	}
	watch := &cobra.Command{
		Use:     "watch",
		Short:   "Show the list again every 2 s until interrupted",
		Example: "  dfs jobs watch",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for {
				fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[2J")
				if err := g.jobs(cmd); err != nil {
					fmt.Fprintln(cmd.OutOrStdout(), err)
				}
				if sleep(cmd.Context(), 2*time.Second) != nil {
					return nil
				}
			}
		},
	}
	return cli.Group(&cobra.Command{Use: "jobs", Short: "The long work that the cluster does by itself"}, list, watch)
}

func (g *global) jobs(cmd *cobra.Command) error {
	var reply *adminpb.JobsReply
	err := g.admin(cmd.Context(), "", func(ctx context.Context, c adminpb.AdminClient) (err error) {
		reply, err = c.Jobs(ctx, &adminpb.JobsRequest{})
		return err
	})
	if err != nil {
		return err
	}
	v := jobsView{Schema: "dfs.jobs/v1", Jobs: []jobView{}}
	t := table{columns: []string{"JOB", "STATE", "LEFT", "TIME LEFT", "WHAT"}}
	for _, j := range reply.Jobs {
		x := jobView{Kind: j.Kind, Target: j.Target, State: j.State, Left: j.Left, Unit: j.Unit, Rate: j.PerSecond, Text: j.Text}
		left, name, end := fmt.Sprintf("%d %s", j.Left, j.Unit), j.Kind, "-"
		if j.Unit == "bytes" {
			left = bytesText(j.Left)
		}
		if j.Target != "" {
			name += " " + j.Target
		}
		if j.PerSecond > 0 {
			x.Time = float64(j.Left) / float64(j.PerSecond)
			end = (time.Duration(x.Time+1) * time.Second).String()
		}
		v.Jobs = append(v.Jobs, x)
		t.rows = append(t.rows, []string{name, j.State, left, end, j.Text})
	}
	return g.emit(cmd, v, t, nil)
}
