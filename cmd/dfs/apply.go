package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"dfs"
	"dfs/client"
	"dfs/internal/cli"
	"dfs/meta"
	"dfs/placement"
	"dfs/proto/adminpb"
)

// policyTestView is the schema of `dfs policy test -o json`.
type policyTestView struct {
	Schema   string `json:"schema"` // dfs.policy.test/v1
	Policy   string `json:"policy"`
	Holds    bool   `json:"holds"`
	Reason   string `json:"reason"`  // why not
	Servers  int    `json:"servers"` // that may be lost at the same time without losing data
	Hosts    int    `json:"hosts"`
	Zones    int    `json:"zones"`
	WritesAt int    `json:"writes_at"` // servers of a placement group that must be up for writes
	Overhead string `json:"overhead"`  // raw bytes for one byte of data
}

func newPolicyTest(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "test POLICY",
		Short: "Whether the cluster can hold a policy, and what loss it would survive",
		Long: `Computes whether the chunk servers that are there can hold a policy, and how many of them,
of their hosts and of their zones may be lost at the same time with no byte lost. Changes nothing.

Ends with 0 when it can, 5 when it cannot.`,
		Example: "  dfs policy test ec=4+2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := dfs.ParseLayout(args[0])
			if err != nil {
				return cli.Usagef("%w", err)
			}
			status, err := g.fetchStatus(cmd.Context())
			if err != nil {
				return err
			}
			v := policyTest(&status, l)
			t := table{
				columns: []string{"POLICY", "HOLDS", "SURVIVES", "WRITES AT", "RAW BYTES PER BYTE"},
				rows:    [][]string{{v.Policy, fmt.Sprint(v.Holds), placement.Tolerance{Servers: v.Servers, Hosts: v.Hosts, Zones: v.Zones}.String(), count(v.WritesAt, "server") + " up", v.Overhead}},
			}
			if err := g.emit(cmd, v, t, nil); err != nil || v.Holds {
				return err
			}
			return cli.Refusedf("%s", v.Reason)
		},
	}
}

// policyTest computes what a policy would be worth on the servers of a cluster. Those that are
// down count: they are part of the cluster until they are removed.
func policyTest(status *statusView, l dfs.Layout) policyTestView {
	var servers []dfs.Server
	for i, s := range status.Servers {
		x := dfs.Server{ID: dfs.NodeID(i + 1), Name: s.Name, Host: s.Host, Zone: s.Zone, Weight: s.Weight, State: dfs.ServerUp}
		if s.State == dfs.ServerDrain.String() || s.State == dfs.ServerGone.String() {
			x.State = dfs.ServerDrain
		}
		servers = append(servers, x)
	}
	v := policyTestView{
		Schema: "dfs.policy.test/v1", Policy: l.String(), WritesAt: l.MinWrite(),
		Overhead: fmt.Sprintf("%.2f", float64(l.Width())/float64(l.Data())),
	}
	if err := placement.Holds(servers, l); err != nil {
		v.Reason = err.Error()
		return v
	}
	tolerance := placement.Survives(servers, l)
	v.Holds, v.Servers, v.Hosts, v.Zones = true, tolerance.Servers, tolerance.Hosts, tolerance.Zones
	return v
}

// applyView is the schema of `dfs policy apply -o json`.
type applyView struct {
	Schema  string `json:"schema"` // dfs.policy.apply/v1
	Path    string `json:"path"`
	Job     string `json:"job"`   // its number; empty with --dry-run
	State   string `json:"state"` // as in dfs.jobs/v1; empty with --dry-run
	Folders uint64 `json:"folders"`
	Files   uint64 `json:"files"`   // looked at
	Changed uint64 `json:"changed"` // of them: that were not kept so
	Bytes   uint64 `json:"bytes"`   // moved
	Left    uint64 `json:"left"`    // bytes that are written again and again, and not moved
	Skipped uint64 `json:"skipped"` // files that could not be moved
	Error   string `json:"error"`   // why not the last of them
}

func newPolicyApply(g *global) *cobra.Command {
	var fromRoot, yes, dryRun, wait bool
	cmd := &cobra.Command{
		Use:   "apply PATH",
		Short: "Bring existing files to their folder's policy",
		Long: `Keeps what is stored of each file below a folder, or of one file, as the folder that it is in
says: copies become erasure coded, or the other way round. Programs go on with the files
meanwhile, and nothing that they write is lost; times of files do not change. The space of what was
moved comes back some minutes later.

It is a job of the cluster, which goes on when this command or the leading master ends: dfs jobs shows
how far it is, pauses and cancels it. When it is cancelled, each file stays as it is then, readable;
begun again, it goes on with what is left. What is moved from one folder to another meanwhile may be
passed over.

With --wait it ends with 0 when all files are kept so, and with 1 when the job was cancelled or could not
move some of them.`,
		Example: `  dfs policy set /mnt/dfs/archive ec=4+2
  dfs policy apply /mnt/dfs/archive --yes --wait`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			where, err := g.fetchWhere(cmd.Context(), args[0], fromRoot, 0, 1)
			if err != nil {
				return err
			}
			if where.Type != "folder" && where.Type != "file" {
				return fmt.Errorf("%s is a %s: only folders and files have a policy", args[0], where.Type)
			}
			if dryRun {
				return g.applyDry(cmd, args[0], fromRoot, where)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "plan: move what is stored of the files in %s to the policies of their folders\n", args[0])
			if err := confirm(cmd, yes); err != nil {
				return err
			}
			return g.policyApply(cmd, args[0], fromRoot, where, wait)
		},
	}
	cmd.Flags().BoolVar(&fromRoot, "root", false, "PATH is from the root of the file system, not of this machine")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count the files that are not kept as their folders say")
	return cmd
}

// emitApply prints what was done.
func (g *global) emitApply(cmd *cobra.Command, v *applyView) error {
	return g.emit(cmd, v, table{
		columns: []string{"PATH", "JOB", "STATE", "FILES", "CHANGED", "MOVED", "LEFT", "SKIPPED"},
		rows:    [][]string{{v.Path, v.Job, v.State, fmt.Sprint(v.Files), fmt.Sprint(v.Changed), bytesText(v.Bytes), bytesText(v.Left), fmt.Sprint(v.Skipped)}},
	}, nil)
}

// policyApply begins the job, and waits for its end if that is wanted.
func (g *global) policyApply(cmd *cobra.Command, path string, fromRoot bool, where *whereView, wait bool) error {
	req := &adminpb.StartJobRequest{Kind: "convert", Path: path, Ino: where.Ino}
	if where.Type == "file" {
		l, err := g.policyOver(cmd.Context(), path, fromRoot)
		if err != nil {
			return err
		}
		req.Layout = uint32(l)
	}
	var reply *adminpb.StartJobReply
	err := g.admin(cmd.Context(), path, func(ctx context.Context, c adminpb.AdminClient) (err error) {
		reply, err = c.StartJob(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	v := &applyView{Schema: "dfs.policy.apply/v1", Path: path, Job: reply.Id, State: meta.JobRuns.String()}
	if !wait {
		fmt.Fprintf(cmd.ErrOrStderr(), "job %s has begun; dfs jobs list shows how far it is\n", reply.Id)
		return g.emitApply(cmd, v)
	}
	if err := g.awaitJob(cmd, path, v); err != nil {
		return err
	}
	if err := g.emitApply(cmd, v); err != nil || v.State == meta.JobDone.String() {
		return err
	}
	return fmt.Errorf("job %s: %s %s", v.Job, v.State, v.Error)
}

// policyOver is the policy of the folder that a file is in.
func (g *global) policyOver(ctx context.Context, path string, fromRoot bool) (dfs.Layout, error) {
	parent, err := g.fetchWhere(ctx, filepath.Dir(filepath.Clean(path)), fromRoot, 0, 1)
	if err != nil {
		return 0, err
	}
	return dfs.ParseLayout(parent.Policy)
}

// awaitJob waits until a job has ended, and says now and then how far it is.
func (g *global) awaitJob(cmd *cobra.Command, path string, v *applyView) error {
	ctx := cmd.Context()
	for told := time.Now(); ; {
		list, err := g.fetchJobs(ctx, path)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("job %s goes on; dfs jobs list shows how far it is: %w", v.Job, ctx.Err())
		case err != nil && !retriable(err):
			return err
		case err == nil:
			i := slices.IndexFunc(list, func(j *adminpb.Job) bool { return j.Id == v.Job })
			if i < 0 {
				return fmt.Errorf("job %s has ended so long ago that nothing is known of it", v.Job)
			}
			j := list[i]
			v.State, v.Folders, v.Files, v.Changed, v.Bytes, v.Left, v.Skipped, v.Error = j.State, j.Folders, j.Files, j.Changed, j.Done, j.Unmoved, j.Skipped, j.Error
			if slices.ContainsFunc([]meta.JobState{meta.JobDone, meta.JobFailed, meta.JobCancelled}, func(s meta.JobState) bool { return s.String() == j.State }) {
				return nil
			}
			if time.Since(told) >= progressEvery {
				told = time.Now()
				x, left, end := jobViewOf(j)
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s to go, time left %s: %s\n", x.State, left, end, x.Text)
			}
		}
		_ = sleep(ctx, jobPoll) // looked at above
	}
}

// jobPoll is how often a job is looked at that somebody waits for.
const jobPoll = 500 * time.Millisecond

// retriable says that masters did not answer in time: the job goes on without them.
func retriable(err error) bool { return cli.Code(err) == cli.ExitTimeout }

// applyDry counts the files that a job would change.
func (g *global) applyDry(cmd *cobra.Command, path string, fromRoot bool, where *whereView) error {
	addrs, err := g.addresses(path)
	if err != nil {
		return err
	}
	fs, err := client.Dial(cmd.Context(), client.Config{Masters: addrs})
	if err != nil {
		return err
	}
	a := &applying{cmd: cmd, fs: fs, told: time.Now(), view: &applyView{Schema: "dfs.policy.apply/v1", Path: path}}
	if where.Type == "folder" {
		err = a.folder(cmd.Context(), dfs.Ino(where.Ino))
	} else {
		var l dfs.Layout
		if l, err = g.policyOver(cmd.Context(), path, fromRoot); err == nil {
			err = a.file(cmd.Context(), dfs.Ino(where.Ino), l)
		}
	}
	if err = errors.Join(err, fs.Close()); err != nil {
		return err
	}
	return g.emitApply(cmd, a.view)
}

// applying is one `dfs policy apply --dry-run`.
type applying struct {
	cmd  *cobra.Command
	fs   *client.FS
	told time.Time
	view *applyView
}

// folder looks at the files below a folder.
func (a *applying) folder(ctx context.Context, top dfs.Ino) error {
	const page = 512
	for todo := []dfs.Ino{top}; len(todo) > 0; {
		ino := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		attr, err := a.fs.GetAttr(ctx, ino)
		if errors.Is(err, dfs.ESTALE) {
			continue // removed meanwhile
		} else if err != nil {
			return err
		}
		a.view.Folders++
		for cookie, end := uint64(0), false; !end; {
			list, err := a.fs.ReadDir(ctx, dfs.Cred{Checked: true}, ino, cookie, page, false)
			if errors.Is(err, dfs.ESTALE) {
				break
			} else if err != nil {
				return err
			}
			for _, e := range list.Entries {
				cookie = e.Cookie
				switch e.Type {
				case dfs.TypeDir:
					todo = append(todo, e.Ino)
				case dfs.TypeFile:
					if err := a.file(ctx, e.Ino, attr.Layout); err != nil {
						return fmt.Errorf("%s (inode %d): %w", e.Name, e.Ino, err)
					}
				}
			}
			end = list.End
		}
	}
	return nil
}

// file looks at one file.
func (a *applying) file(ctx context.Context, ino dfs.Ino, layout dfs.Layout) error {
	a.view.Files++
	if time.Since(a.told) >= progressEvery {
		a.told = time.Now()
		fmt.Fprintf(a.cmd.ErrOrStderr(), "%d files, %d to change\n", a.view.Files, a.view.Changed)
	}
	attr, err := a.fs.GetAttr(ctx, ino)
	if errors.Is(err, dfs.ESTALE) {
		return nil // removed meanwhile
	} else if err != nil {
		return err
	}
	if attr.Layout != layout {
		a.view.Changed++
	}
	return nil
}
