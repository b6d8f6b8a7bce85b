package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// jobsView is the schema of `dfs jobs list -o json`.
type jobsView struct {
	Schema string    `json:"schema"` // dfs.jobs/v1
	Jobs   []jobView `json:"jobs"`
}

type jobView struct {
	ID      string  `json:"id"`     // by which pause, resume and cancel know it
	Kind    string  `json:"kind"`   // repair, drain, rebalance, reclaim, scrub, check, convert
	Target  string  `json:"target"` // name of a server, or a path; empty: the cluster
	State   string  `json:"state"`  // runs, waits, paused, done, failed, cancelled
	Left    uint64  `json:"left"`
	Done    uint64  `json:"done"`
	Unit    string  `json:"unit"` // bytes, groups, chunks
	Rate    uint64  `json:"per_second"`
	Time    float64 `json:"seconds_left"` // 0: not known
	Text    string  `json:"text"`
	Files   uint64  `json:"files"`   // looked at
	Changed uint64  `json:"changed"` // of these: that were not kept as they should be
	Skipped uint64  `json:"skipped"` // of these: that could not be done
	Error   string  `json:"error"`   // the last one
}

func newJobs(g *global) *cobra.Command {
	list := &cobra.Command{
		Use:   "list",
		Short: "List the long work that the cluster does now, and what has ended lately",
		Long: `Lists the long work that the cluster does now: what it does by itself (repair, drain,
rebalance, reclaim, scrub, check), and what somebody has begun (dfs policy apply), which has a number. Of the
latter the last ones that have ended are shown too.`,
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
	return cli.Group(&cobra.Command{Use: "jobs", Short: "The long work that the cluster does"}, list, watch,
		newJobsControl(g, "pause", "is paused", "Let a job rest until it is resumed", adminpb.ControlJobRequest_PAUSE),
		newJobsControl(g, "resume", "goes on", "Let a job go on that was paused", adminpb.ControlJobRequest_RESUME),
		newJobsControl(g, "cancel", "is cancelled", "End a job; what it has done stays", adminpb.ControlJobRequest_CANCEL))
}

// newJobsControl makes a command that changes a job.
func newJobsControl(g *global, verb, done, short string, change adminpb.ControlJobRequest_Change) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " JOB",
		Short: short,
		Long: short + `. JOB is the number that dfs jobs list shows. What the cluster does by itself is
refused (exit code 5), with what rules it instead.`,
		Example: "  dfs jobs " + verb + " 3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := g.admin(cmd.Context(), "", func(ctx context.Context, c adminpb.AdminClient) error {
				_, err := c.ControlJob(ctx, &adminpb.ControlJobRequest{Id: args[0], Change: change})
				return err
			})
			switch {
			case status.Code(err) == codes.FailedPrecondition:
				return cli.Refusedf("%s", status.Convert(err).Message())
			case err != nil:
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "job %s %s\n", args[0], done)
			return nil
		},
	}
}

// fetchJobs asks for the jobs. path may lie on a mount of the cluster.
func (g *global) fetchJobs(ctx context.Context, path string) ([]*adminpb.Job, error) {
	var reply *adminpb.JobsReply
	err := g.admin(ctx, path, func(ctx context.Context, c adminpb.AdminClient) (err error) {
		reply, err = c.Jobs(ctx, &adminpb.JobsRequest{})
		return err
	})
	return reply.GetJobs(), err
}

// jobViewOf shows a job; left and end are for people.
func jobViewOf(j *adminpb.Job) (x jobView, left, end string) {
	x = jobView{
		ID: j.Id, Kind: j.Kind, Target: j.Target, State: j.State, Left: j.Left, Done: j.Done, Unit: j.Unit, Rate: j.PerSecond, Text: j.Text,
		Files: j.Files, Changed: j.Changed, Skipped: j.Skipped, Error: j.Error,
	}
	left, end = fmt.Sprintf("%d %s", j.Left, j.Unit), "-"
	if j.Unit == "bytes" {
		left = bytesText(j.Left)
	}
	if j.PerSecond > 0 {
		x.Time = float64(j.Left) / float64(j.PerSecond)
		end = (time.Duration(x.Time+1) * time.Second).String()
	}
	return x, left, end
}

func (g *global) jobs(cmd *cobra.Command) error {
	list, err := g.fetchJobs(cmd.Context(), "")
	if err != nil {
		return err
	}
	v := jobsView{Schema: "dfs.jobs/v1", Jobs: []jobView{}}
	t := table{columns: []string{"JOB", "KIND", "STATE", "LEFT", "TIME LEFT", "WHAT"}}
	for _, j := range list {
		x, left, end := jobViewOf(j)
		kind := x.Kind
		if x.Target != "" {
			kind += " " + x.Target
		}
		v.Jobs = append(v.Jobs, x)
		t.rows = append(t.rows, []string{x.ID, kind, x.State, left, end, x.Text})
	}
	return g.emit(cmd, v, t, nil)
}
