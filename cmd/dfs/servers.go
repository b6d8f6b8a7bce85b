package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
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
	return cli.Group(&cobra.Command{Use: "servers", Short: "The chunk servers"}, list)
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
