package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// serversView is the schema of `dfs servers list -o json`.
type serversView struct {
	Schema  string       `json:"schema"` // dfs.servers/v1
	Servers []serverView `json:"servers"`
}

func newServers(g *global) *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the chunk servers",
		Example: "  dfs servers list -o wide",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := g.fetchStatus(cmd.Context())
			if err != nil {
				return err
			}
			return g.emit(cmd, serversView{Schema: "dfs.servers/v1", Servers: status.Servers}, serverTable(status.Servers), nil)
		},
	}
	return cli.Group(&cobra.Command{Use: "servers", Short: "The chunk servers"}, list, newServersDrain(g), newServersResume(g), newServersRemove(g))
}

func newServersDrain(g *global) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Move all data off a chunk server",
		Long: `Moves what a chunk server has to the others, and gives it nothing new. Service goes on.
dfs status shows how far it is, and says when the server is safe to remove.`,
		Example: `  dfs servers drain chunk-3 --wait && dfs servers remove chunk-3 --yes`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := g.setServer(cmd.Context(), args[0], adminpb.SetServerRequest_DRAIN, false); err != nil {
				return err
			}
			if !wait {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is being drained; dfs status shows how far it is\n", args[0])
				return nil
			}
			return g.awaitDrained(cmd, args[0])
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is safe to remove")
	return cmd
}

// awaitDrained waits until a server has nothing that is needed.
func (g *global) awaitDrained(cmd *cobra.Command, name string) error {
	for last := ""; ; {
		status, err := g.fetchStatus(cmd.Context())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(status.Servers, func(s serverView) bool { return s.Name == name })
		if i < 0 || status.Servers[i].State != "drain" {
			return fmt.Errorf("%s is not being drained any more", name)
		}
		if status.Servers[i].Groups == 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "%s is safe to remove\n", name)
			return nil
		}
		if text := fmt.Sprintf("%s: %d placement groups to go", name, status.Servers[i].Groups); text != last {
			fmt.Fprintln(cmd.ErrOrStderr(), text)
			last = text
		}
		select {
		case <-time.After(2 * time.Second):
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		}
	}
}

func newServersResume(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "resume NAME",
		Short:   "End the draining of a chunk server",
		Example: "  dfs servers resume chunk-3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := g.setServer(cmd.Context(), args[0], adminpb.SetServerRequest_RESUME, false)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%s takes data\n", args[0])
			}
			return err
		},
	}
}

func newServersRemove(g *global) *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a chunk server for good",
		Long: `Takes a chunk server out of the cluster: one that was drained, or one that is down and
will not come back; what that one had is restored from the others. Refused when it may have the only
copy of something. Its name can be given to another; itself, it can join again with empty folders only.`,
		Example: `  dfs servers remove chunk-3 --yes`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			fmt.Fprintf(cmd.ErrOrStderr(), "plan: remove %s for good\n", args[0])
			if err := confirm(cmd, yes); err != nil {
				return err
			}
			err := g.setServer(cmd.Context(), args[0], adminpb.SetServerRequest_REMOVE, force)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", args[0])
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "even when something that only it has is lost by that")
	return cmd
}

func (g *global) setServer(ctx context.Context, name string, change adminpb.SetServerRequest_Change, force bool) error {
	return g.admin(ctx, "", func(ctx context.Context, c adminpb.AdminClient) error {
		_, err := c.SetServer(ctx, &adminpb.SetServerRequest{Name: name, Change: change, Force: force})
		return err
	})
}

// clientsView is the schema of `dfs clients list -o json`.
type clientsView struct {
	Schema   string        `json:"schema"` // dfs.clients/v1
	Sessions []sessionView `json:"sessions"`
}

func newClients(g *global) *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the sessions of clients",
		Example: "  dfs clients list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := g.fetchStatus(cmd.Context())
			if err != nil {
				return err
			}
			t := table{columns: []string{"SESSION", "HOST", "MOUNTPOINT", "IDLE", "OPEN", "VERSION"}, narrow: 5}
			for _, s := range status.Sessions {
				idle := time.Duration(s.Idle * float64(time.Second)).Round(100 * time.Millisecond)
				t.rows = append(t.rows, []string{s.ID, s.Host, s.Mountpoint, idle.String(), fmt.Sprint(s.Open), s.Version})
			}
			return g.emit(cmd, clientsView{Schema: "dfs.clients/v1", Sessions: status.Sessions}, t, nil)
		},
	}
	return cli.Group(&cobra.Command{Use: "clients", Short: "The sessions of clients"}, list)
}
