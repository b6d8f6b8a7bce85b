package main

import (
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"dfs/internal/cli"
)

// versionView is the schema of `dfs version -o json`.
type versionView struct {
	Schema  string `json:"schema"` // dfs.version/v1
	Version string `json:"version"`
	Go      string `json:"go"`
}

func newVersion(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version of this program",
		Example: "  dfs version -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionView{Schema: "dfs.version/v1", Version: cli.Version(), Go: runtime.Version()}
			return g.emit(cmd, v, table{columns: []string{"VERSION", "GO"}, rows: [][]string{{v.Version, v.Go}}}, nil)
		},
	}
}

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:     "man FOLDER",
		Short:   "Write the manual pages into a folder",
		Example: "  dfs man /usr/local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.Root().DisableAutoGenTag = true
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Title: "DFS", Section: "1", Source: "dfs " + cli.Version()}, args[0])
		},
	}
}
