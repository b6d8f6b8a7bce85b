package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"dfs"
	"dfs/client"
	"dfs/internal/cli"
)

// policyView is the schema of `dfs policy get -o json`.
type policyView struct {
	Schema    string `json:"schema"` // dfs.policy/v1
	Path      string `json:"path"`
	Policy    string `json:"policy"`
	Survives  int    `json:"survives"`  // servers that may be lost without losing data
	WritesAt  int    `json:"writes_at"` // servers that must be up for writes
	Overhead  string `json:"overhead"`  // raw bytes for one byte of data
	Fragments int    `json:"fragments"`
}

func newPolicyView(path string, l dfs.Layout) policyView {
	return policyView{
		Schema: "dfs.policy/v1", Path: path, Policy: l.String(), Survives: l.Parity(), WritesAt: l.MinWrite(),
		Overhead: fmt.Sprintf("%.2f", float64(l.Width())/float64(l.Data())), Fragments: l.Width(),
	}
}

func (v policyView) table() table {
	return table{
		columns: []string{"PATH", "POLICY", "SURVIVES", "WRITES AT", "RAW BYTES PER BYTE"},
		rows:    [][]string{{v.Path, v.Policy, count(v.Survives, "lost server"), count(v.WritesAt, "server") + " up", v.Overhead}},
	}
}

func newPolicy(g *global) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "policy",
		Short: "How data below a folder is kept",
		Long: `A storage policy says in how many copies chunks are kept. A folder's policy is
inherited by what is created in it; what exists keeps its own, until dfs policy apply.`,
	}, newPolicyGet(g), newPolicySet(g), newPolicyTest(g), newPolicyApply(g))
}

func newPolicyGet(g *global) *cobra.Command {
	var fromRoot bool
	cmd := &cobra.Command{
		Use:     "get PATH",
		Short:   "Show the policy of a folder or file",
		Example: "  dfs policy get /mnt/dfs/home",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			where, err := g.fetchWhere(cmd.Context(), args[0], fromRoot, 0, 1)
			if err != nil {
				return err
			}
			l, err := dfs.ParseLayout(where.Policy)
			if err != nil {
				return err
			}
			v := newPolicyView(args[0], l)
			return g.emit(cmd, v, v.table(), nil)
		},
	}
	cmd.Flags().BoolVar(&fromRoot, "root", false, "PATH is from the root of the file system, not of this machine")
	return cmd
}

func newPolicySet(g *global) *cobra.Command {
	var fromRoot, dryRun bool
	cmd := &cobra.Command{
		Use:   "set PATH POLICY",
		Short: "Set the policy of a folder",
		Long: `Sets the policy for what is created below a folder from now on. Refused when the
servers that are there cannot hold it.`,
		Example: `  dfs policy set /mnt/dfs/scratch copies=2
  dfs policy set --root /archive ec=4+2`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := dfs.ParseLayout(args[1])
			if err != nil {
				return cli.Usagef("%w", err)
			}
			where, err := g.fetchWhere(cmd.Context(), args[0], fromRoot, 0, 1)
			if err != nil {
				return err
			}
			if where.Type != "folder" {
				return fmt.Errorf("%s is a %s: a policy is set on a folder", args[0], where.Type)
			}
			status, err := g.fetchStatus(cmd.Context())
			if err != nil {
				return err
			}
			if have := upServers(&status); have < l.Width() {
				return cli.Refusedf("%s needs %s, %d are up: add servers, or choose fewer copies", l, count(l.Width(), "chunk server"), have)
			}
			v := newPolicyView(args[0], l)
			if !dryRun {
				if err := g.setPolicy(cmd, args[0], dfs.Ino(where.Ino), l); err != nil {
					return err
				}
			}
			return g.emit(cmd, v, v.table(), nil)
		},
	}
	cmd.Flags().BoolVar(&fromRoot, "root", false, "PATH is from the root of the file system, not of this machine")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check only")
	return cmd
}

func upServers(status *statusView) int {
	n := 0
	for _, s := range status.Servers {
		if s.State == dfs.ServerUp.String() {
			n++
		}
	}
	return n
}

func (g *global) setPolicy(cmd *cobra.Command, path string, ino dfs.Ino, l dfs.Layout) error {
	addrs, err := g.addresses(path)
	if err != nil {
		return err
	}
	fs, err := client.Dial(cmd.Context(), client.Config{Masters: addrs, OpTimeout: g.timeout})
	if err != nil {
		return err
	}
	err = fs.SetPolicy(cmd.Context(), dfs.Cred{}, ino, l)
	if cerr := fs.Close(); err == nil {
		err = cerr
	}
	return err
}
