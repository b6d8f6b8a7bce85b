package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// configView is the schema of `dfs config list -o json`.
type configView struct {
	Schema   string        `json:"schema"` // dfs.config/v1
	Settings []settingView `json:"settings"`
}

type settingView struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Set     bool   `json:"set"` // else daemons go by their own flags
	Default string `json:"default"`
	Kind    string `json:"kind"`
	Text    string `json:"text"`
}

func newConfig(g *global) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "config",
		Short: "Settings of the whole cluster",
		Long: `Settings are kept by the masters and hold for all daemons, which learn of a change
at once. A setting that is not set has its default, or what a daemon's flag says.`,
	}, newConfigList(g), newConfigGet(g), newConfigSet(g))
}

// fetchConfig lists the settings, or the one that is named.
func (g *global) fetchConfig(ctx context.Context, name string) (v configView, err error) {
	v.Schema = "dfs.config/v1"
	var reply *adminpb.ConfigReply
	err = g.admin(ctx, "", func(ctx context.Context, c adminpb.AdminClient) (err error) {
		reply, err = c.Config(ctx, &adminpb.ConfigRequest{})
		return err
	})
	for _, s := range reply.GetSettings() {
		if name == "" || s.Name == name {
			v.Settings = append(v.Settings, settingView{Name: s.Name, Value: s.Value, Set: s.Set, Default: s.Default, Kind: s.Kind, Text: s.Text})
		}
	}
	if err == nil && len(v.Settings) == 0 {
		err = fmt.Errorf("no setting is named %s: see dfs config list", name)
	}
	return v, err
}

func (v configView) table() table {
	t := table{columns: []string{"NAME", "VALUE", "SET", "MEANING", "KIND", "DEFAULT"}, narrow: 4}
	for _, s := range v.Settings {
		set := "no"
		if s.Set {
			set = "yes"
		}
		t.rows = append(t.rows, []string{s.Name, s.Value, set, s.Text, s.Kind, s.Default})
	}
	return t
}

func newConfigList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the settings, what they are and what they mean",
		Example: "  dfs config list\n  dfs config list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := g.fetchConfig(cmd.Context(), "")
			if err != nil {
				return err
			}
			return g.emit(cmd, v, v.table(), nil)
		},
	}
}

func newConfigGet(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "get NAME",
		Short:   "Show one setting",
		Example: "  dfs config get repair-after",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := g.fetchConfig(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return g.emit(cmd, v, v.table(), nil)
		},
	}
}

func newConfigSet(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME=VALUE",
		Short: "Set a setting; NAME= lets it have its default again",
		Example: `  dfs config set repair-after=30m
  dfs config set repair-rate=64MiB
  dfs config set repair-rate=`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, value, ok := strings.Cut(args[0], "=")
			if !ok || name == "" {
				return cli.Usagef("%s: want NAME=VALUE", args[0])
			}
			return g.admin(cmd.Context(), "", func(ctx context.Context, c adminpb.AdminClient) error {
				_, err := c.SetConfig(ctx, &adminpb.SetConfigRequest{Name: name, Value: value})
				return err
			})
		},
	}
}
