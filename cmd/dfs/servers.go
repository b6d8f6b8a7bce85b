package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	return cli.Group(&cobra.Command{Use: "servers", Short: "The chunk servers"}, list, newServersDrain(g), newServersResume(g),
		newServersRemove(g), newServersReplace(g), newServersMaintenance(g), newServersWeight(g))
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
			if err := g.setServer(cmd.Context(), &adminpb.SetServerRequest{Name: args[0], Change: adminpb.SetServerRequest_DRAIN}); err != nil {
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
			err := g.setServer(cmd.Context(), &adminpb.SetServerRequest{Name: args[0], Change: adminpb.SetServerRequest_RESUME})
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
			err := g.setServer(cmd.Context(), &adminpb.SetServerRequest{Name: args[0], Change: adminpb.SetServerRequest_REMOVE, Force: force})
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

func newServersReplace(g *global) *cobra.Command {
	var wait, yes bool
	cmd := &cobra.Command{
		Use:   "replace OLD NEW",
		Short: "Move all data off a chunk server, with another one that takes its part",
		Long: `Gives NEW, which must have joined and be in the same zone, the weight of OLD, and drains
OLD. When that is done OLD is safe to remove.`,
		Example: `  dfs servers replace chunk-3 chunk-7 --wait && dfs servers remove chunk-3 --yes`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			fmt.Fprintf(cmd.ErrOrStderr(), "plan: %s gets the weight of %s, and the data of %s moves off it\n", args[1], args[0], args[0])
			if err := confirm(cmd, yes); err != nil {
				return err
			}
			err := g.setServer(cmd.Context(), &adminpb.SetServerRequest{Name: args[0], Change: adminpb.SetServerRequest_REPLACE, Successor: args[1]})
			if err != nil {
				return err
			}
			if !wait {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is being replaced by %s; dfs status shows how far it is\n", args[0], args[1])
				return nil
			}
			return g.awaitDrained(cmd, args[0])
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until OLD is safe to remove")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func newServersMaintenance(g *global) *cobra.Command {
	var d time.Duration
	var end bool
	cmd := &cobra.Command{
		Use:   "maintenance NAME",
		Short: "Take a chunk server down on purpose for a while",
		Long: `Says that a chunk server will be down for a stated time, for example while its machine is
upgraded: until that is over nobody takes over what it has. Refused when data or writes depend on
it. Then stop it, and start it again in time; what it missed it fetches by itself.`,
		Example: `  dfs servers maintenance chunk-3 --for 1h
  dfs servers maintenance chunk-3 --end`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if end {
				d = 0
			} else if d <= 0 {
				return cli.Usagef("--for=%v: want more than nothing, for example 1h", d)
			}
			err := g.setServer(cmd.Context(), &adminpb.SetServerRequest{Name: args[0], Change: adminpb.SetServerRequest_MAINTENANCE, ForNanos: int64(d)})
			if err != nil {
				return err
			}
			if end {
				fmt.Fprintf(cmd.OutOrStdout(), "the maintenance of %s is over\n", args[0])
			} else {
				fmt.Fprintf(cmd.OutOrStdout(), "%s may be down until %s: stop it now\n", args[0], time.Now().Add(d).Format(time.RFC3339))
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&d, "for", time.Hour, "for how long, at most 168h")
	cmd.Flags().BoolVar(&end, "end", false, "it is over")
	return cmd
}

func newServersWeight(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "weight NAME WEIGHT",
		Short: "Set how much of the data a chunk server gets",
		Long: `Sets a chunk server's share of the data, in relation to the others'. By itself a server has
the weight of its capacity in GiB; 0 goes back to that when the server starts the next time. What the new
shares move is moved at once.`,
		Example: "  dfs servers weight chunk-3 500",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			weight, err := strconv.ParseUint(args[1], 10, 20)
			if err != nil {
				return cli.Usagef("weight %s: want a number from 0 to 1048575", args[1])
			}
			err = g.setServer(cmd.Context(), &adminpb.SetServerRequest{Name: args[0], Change: adminpb.SetServerRequest_WEIGHT, Weight: uint32(weight)})
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%s has weight %d\n", args[0], weight)
			}
			return err
		},
	}
}

// setServer changes a server. What is refused for safety ends with the code for that.
func (g *global) setServer(ctx context.Context, req *adminpb.SetServerRequest) error {
	err := g.admin(ctx, "", func(ctx context.Context, c adminpb.AdminClient) error {
		_, err := c.SetServer(ctx, req)
		return err
	})
	if status.Code(err) == codes.FailedPrecondition {
		return cli.Refusedf("%s", status.Convert(err).Message())
	}
	return err
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
