package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"dfs"
	"dfs/client"
	"dfs/internal/cli"
	"dfs/placement"
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
	Folders uint64 `json:"folders"`
	Files   uint64 `json:"files"`   // looked at
	Changed uint64 `json:"changed"` // of them: that were not kept so
	Bytes   uint64 `json:"bytes"`   // moved
	Left    uint64 `json:"left"`    // bytes that are written again and again, and not moved
}

func newPolicyApply(g *global) *cobra.Command {
	var fromRoot, yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "apply PATH",
		Short: "Bring existing files to their folder's policy",
		Long: `Keeps what is stored of each file below a folder, or of one file, as the folder that it is in
says: copies become erasure coded, or the other way round. Programs go on with the files
meanwhile, and nothing that they write is lost; times of files do not change. The space of what was
moved comes back some minutes later.

It can be stopped at any time. Run again, it goes on with what is left.`,
		Example: `  dfs policy set /mnt/dfs/archive ec=4+2
  dfs policy apply /mnt/dfs/archive --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			where, err := g.fetchWhere(cmd.Context(), args[0], fromRoot, 0, 1)
			if err != nil {
				return err
			}
			if !dryRun {
				fmt.Fprintf(cmd.ErrOrStderr(), "plan: move what is stored of the files in %s to the policies of their folders\n", args[0])
				if err := confirm(cmd, yes); err != nil {
					return err
				}
			}
			view, err := g.policyApply(cmd, args[0], fromRoot, where, dryRun)
			if err != nil {
				return err
			}
			t := table{
				columns: []string{"PATH", "FILES", "CHANGED", "MOVED", "LEFT"},
				rows:    [][]string{{view.Path, fmt.Sprint(view.Files), fmt.Sprint(view.Changed), bytesText(view.Bytes), bytesText(view.Left)}},
			}
			return g.emit(cmd, view, t, nil)
		},
	}
	cmd.Flags().BoolVar(&fromRoot, "root", false, "PATH is from the root of the file system, not of this machine")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count the files that are not kept as their folders say")
	return cmd
}

func (g *global) policyApply(cmd *cobra.Command, path string, fromRoot bool, where *whereView, dryRun bool) (*applyView, error) {
	addrs, err := g.addresses(path)
	if err != nil {
		return nil, err
	}
	if where.Type != "folder" && where.Type != "file" {
		return nil, fmt.Errorf("%s is a %s: only folders and files have a policy", path, where.Type)
	}
	fs, err := client.Dial(cmd.Context(), client.Config{Masters: addrs})
	if err != nil {
		return nil, err
	}
	a := &applying{cmd: cmd, fs: fs, dryRun: dryRun, told: time.Now(), view: &applyView{Schema: "dfs.policy.apply/v1", Path: path}}
	if where.Type == "folder" {
		err = a.folder(cmd.Context(), dfs.Ino(where.Ino))
	} else {
		var parent *whereView
		if parent, err = g.fetchWhere(cmd.Context(), filepath.Dir(filepath.Clean(path)), fromRoot, 0, 1); err == nil {
			var l dfs.Layout
			if l, err = dfs.ParseLayout(parent.Policy); err == nil {
				err = a.file(cmd.Context(), dfs.Ino(where.Ino), l)
			}
		}
	}
	return a.view, errors.Join(err, fs.Close())
}

// applying is one `dfs policy apply`.
type applying struct {
	cmd    *cobra.Command
	fs     *client.FS
	dryRun bool
	told   time.Time
	view   *applyView
}

// folder converts the files below a folder.
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

// file converts one file.
func (a *applying) file(ctx context.Context, ino dfs.Ino, layout dfs.Layout) error {
	a.view.Files++
	if time.Since(a.told) >= progressEvery {
		a.told = time.Now()
		fmt.Fprintf(a.cmd.ErrOrStderr(), "%d files, %d changed, %s moved\n", a.view.Files, a.view.Changed, bytesText(a.view.Bytes))
	}
	attr, err := a.fs.GetAttr(ctx, ino)
	if errors.Is(err, dfs.ESTALE) {
		return nil // removed meanwhile
	} else if err != nil {
		return err
	}
	if a.dryRun {
		if attr.Layout != layout {
			a.view.Changed++
		}
		return nil
	}
	moved, err := a.fs.Convert(ctx, ino, layout)
	if errors.Is(err, dfs.ESTALE) {
		return nil
	}
	if moved.Bytes > 0 || attr.Layout != layout {
		a.view.Changed++
	}
	a.view.Bytes, a.view.Left = a.view.Bytes+moved.Bytes, a.view.Left+moved.Left
	return err
}
