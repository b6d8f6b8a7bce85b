// Command dfs is the tool of those who run a dfs cluster: it shows health and
// where data lies, sets policies, changes the set of masters, and with `dfs dev`
// runs a whole cluster in one process.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
)

func main() { os.Exit(cli.Run(context.Background(), newCommand(), os.Args[1:])) }

const long = `dfs shows and changes a dfs cluster.

Commands that talk to a cluster find its masters with --masters, with DFS_MASTERS,
or, where a path on a mount is given, from that mount. What they print for people
is a table; -o json and -o yaml print the same facts with a "schema" that keeps
its meaning within a version.

Exit codes: 0 fine, 1 error, 2 usage, 3 unhealthy, 4 timed out, 5 refused for safety.`

const example = `  dfs dev --dir /tmp/dfs --mount /mnt/dfs     # a whole cluster to try
  dfs status --masters 10.0.0.1:7400
  dfs where /mnt/dfs/some/file
  dfs policy set /mnt/dfs/scratch copies=2`

func newCommand() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:     "dfs",
		Short:   "Show and change a dfs cluster",
		Long:    long,
		Example: example,
		Version: cli.Version(),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.BindEnv(cmd.Flags()); err != nil {
				return err
			}
			return g.check()
		},
	}
	root.SetVersionTemplate("dfs {{.Version}}\n")
	g.register(root.PersistentFlags())
	cli.Group(root,
		newDev(g),
		newStatus(g),
		newHealth(g),
		newServers(g),
		newWhere(g),
		newCheck(g),
		newDrill(g),
		newJobs(g),
		newPolicy(g),
		newMaster(g),
		newConfig(g),
		newMeta(g),
		newClients(g),
		newLock(g),
		newBench(g),
		newVersion(g),
		newMan(),
	)
	return root
}
