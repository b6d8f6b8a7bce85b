package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// mastersView is the schema of `dfs master list -o json`.
type mastersView struct {
	Schema  string       `json:"schema"` // dfs.masters/v1
	Leader  string       `json:"leader"`
	Masters []masterView `json:"masters"`
}

func newMaster(g *global) *cobra.Command {
	return cli.Group(&cobra.Command{Use: "master", Short: "The masters"},
		newMasterList(g), newMasterAdd(g), newMasterRemove(g), newMasterTransfer(g))
}

func newMasterList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the masters",
		Example: "  dfs master list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := g.fetchStatus(cmd.Context())
			if err != nil {
				return err
			}
			return g.emit(cmd, mastersView{Schema: "dfs.masters/v1", Leader: status.Leader, Masters: status.Masters}, masterTable(status.Masters), nil)
		},
	}
}

func newMasterAdd(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "add ADDRESS",
		Short: "Add an empty master",
		Long: `Adds the master at ADDRESS, which runs with an empty folder and --join. It first
learns the whole state without a vote and gets its vote when it has caught up.`,
		Example: "  dfs master add 10.0.0.4:7400",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.admin(cmd.Context(), "", func(ctx context.Context, c adminpb.AdminClient) error {
				reply, err := c.AddMaster(ctx, &adminpb.AddMasterRequest{Addr: args[0]})
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "added %s\n", reply.Name)
				}
				return err
			})
		},
	}
}

func newMasterRemove(g *global) *cobra.Command {
	var yes, dryRun, force bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a master for good",
		Long: `Takes the master's vote away; its folder can be deleted afterwards. Refused when
the masters that stay could not form a majority.`,
		Example: `  dfs master remove master-3 --dry-run
  dfs master remove master-3 --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := g.fetchStatus(cmd.Context())
			if err != nil {
				return err
			}
			if err := planRemove(&status, args[0], force); err != nil {
				return err
			}
			left := len(status.Masters) - 1
			fmt.Fprintf(cmd.ErrOrStderr(), "plan: remove %s; %s stay, and the loss of %d of them is survived\n", args[0], count(left, "master"), (left-1)/2)
			if dryRun {
				return nil
			}
			if err := confirm(cmd, yes); err != nil {
				return err
			}
			return g.admin(cmd.Context(), "", func(ctx context.Context, c adminpb.AdminClient) error {
				_, err := c.RemoveMaster(ctx, &adminpb.RemoveMasterRequest{Name: args[0], Force: force})
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", args[0])
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan and stop")
	cmd.Flags().BoolVar(&force, "force", false, "even when another master is down")
	return cmd
}

// planRemove refuses what would leave no majority alive.
func planRemove(status *statusView, name string, force bool) error {
	found, aliveAfter := false, 0
	for _, m := range status.Masters {
		if m.Name == name {
			found = true
		} else if m.Alive && m.Role != "learner" {
			aliveAfter++
		}
	}
	if !found {
		return fmt.Errorf("no master is named %s: see dfs master list", name)
	}
	left := len(status.Masters) - 1
	if left == 0 {
		return cli.Refusedf("%s is the only master: its removal would end the cluster", name)
	}
	if aliveAfter < left/2+1 {
		return cli.Refusedf("without %s only %d of %d masters are alive, no majority: bring the others back first", name, aliveAfter, left)
	}
	if aliveAfter < left && !force {
		return cli.Refusedf("another master is down: bring it back first, or say --force")
	}
	return nil
}

func newMasterTransfer(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "transfer [NAME]",
		Short:   "Hand leadership to another master",
		Example: "  dfs master transfer master-2",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &adminpb.TransferLeaderRequest{}
			if len(args) == 1 {
				request.Name = args[0]
			}
			return g.admin(cmd.Context(), "", func(ctx context.Context, c adminpb.AdminClient) error {
				reply, err := c.TransferLeader(ctx, request)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s leads\n", reply.Leader)
				}
				return err
			})
		},
	}
}

// confirm asks on the terminal; elsewhere --yes is needed.
func confirm(cmd *cobra.Command, yes bool) error {
	if yes {
		return nil
	}
	if !isTerminal(os.Stdin) {
		return cli.Refusedf("not confirmed: say --yes")
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Go on? [y/N] ")
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return cli.Refusedf("not confirmed")
	}
	return nil
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
