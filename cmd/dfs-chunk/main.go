// Command dfs-chunk is a chunk server: it keeps the bytes of files in one or more
// data folders and serves them to clients.
package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"dfs/chunk/server"
	"dfs/internal/cli"
	"dfs/rpc"
)

func main() { os.Exit(cli.Run(context.Background(), newCommand(), os.Args[1:])) }

const masterPort = 7400

const long = `Run a chunk server of a dfs cluster.

Each --dir is a data folder, best on a disk of its own. An empty one is formatted;
one that belongs to another cluster or server, or holds anything else, is refused
and left as it is. The server joins the cluster of the masters by itself, and keeps
trying while none answers. SIGTERM ends it cleanly.

Each flag is also a variable of the environment: --admin-listen is
DFS_ADMIN_LISTEN; several data folders are separated by commas.`

const example = `  dfs-chunk --name chunk-1 --dir /srv/dfs --masters 10.0.0.1:7400,10.0.0.2:7400

  # two disks, in zone b
  dfs-chunk --name chunk-2 --dir /disk1/dfs --dir /disk2/dfs --zone b \
      --masters 10.0.0.1:7400 --listen 10.0.0.12:7500 --gossip-listen 10.0.0.12:7501`

func newCommand() *cobra.Command {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	var cfg server.Config
	var masters, reserve, level, repairRate, scrubRate string
	cmd := &cobra.Command{
		Use:     "dfs-chunk --name NAME --dir DIR --masters ADDR,...",
		Short:   "Run a chunk server",
		Long:    long,
		Example: example,
		Version: cli.Version(),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.BindEnv(cmd.Flags()); err != nil {
				return err
			}
			logger, err := cli.Logger(cmd.ErrOrStderr(), level)
			if err != nil {
				return err
			}
			cfg.Logger, cfg.Version = logger, cli.Version()
			cfg.Masters = rpc.ParseMasters(masters, masterPort)
			if cfg.ReserveBytes, err = cli.ParseSize(reserve); err != nil {
				return cli.Usagef("--reserve=%s: %w", reserve, err)
			}
			for _, rate := range []struct {
				name, text string
				to         *int64
			}{{"repair-rate", repairRate, &cfg.RepairRate}, {"scrub-rate", scrubRate, &cfg.ScrubRate}} {
				n, err := cli.ParseSize(rate.text)
				if err != nil {
					return cli.Usagef("--%s=%s: %w", rate.name, rate.text, err)
				}
				*rate.to = int64(n)
			}
			if cfg.ScrubEvery < 0 {
				return cli.Usagef("--scrub-every=%v: must be more than nothing", cfg.ScrubEvery)
			}
			for _, f := range []struct {
				name    string
				missing bool
			}{{"name", cfg.Name == ""}, {"dir", len(cfg.Dirs) == 0}, {"masters", len(cfg.Masters) == 0}} {
				if f.missing {
					return cli.Usagef("--%s (or %s) must be set", f.name, cli.EnvName(f.name))
				}
			}
			return run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", "", "name of this server, unique in the cluster")
	f.StringVar(&cfg.Listen, "listen", ":7500", "address to serve on, HOST:PORT")
	f.StringVar(&cfg.Advertise, "advertise", "", "address that others reach this server by (default: from --listen)")
	f.StringVar(&masters, "masters", "", "addresses of the masters, separated by commas; one that answers is enough")
	f.StringSliceVar(&cfg.Dirs, "dir", nil, "data folder; can be given several times")
	f.StringVar(&cfg.Zone, "zone", "", "failure domain: room, rack or data centre")
	f.StringVar(&cfg.Host, "host", host, "failure domain: machine")
	f.Uint32Var(&cfg.Weight, "weight", 0, "share of the data (default: capacity in GiB)")
	f.StringVar(&reserve, "reserve", "", "space of each disk to leave free, such as 10GiB (default: a twentieth, at most 1GiB)")
	f.StringVar(&repairRate, "repair-rate", "128MiB", "most bytes a second that are restored")
	f.DurationVar(&cfg.ScrubEvery, "scrub-every", 7*24*time.Hour, "all data is read and checked so often")
	f.StringVar(&scrubRate, "scrub-rate", "32MiB", "most bytes a second that are read for that")
	f.StringVar(&cfg.AdminListen, "admin-listen", "127.0.0.1:7580", "address of /metrics, /healthz and /debug/pprof; empty: none")
	f.StringVar(&cfg.GossipListen, "gossip-listen", ":7501", "address of the gossip, TCP and UDP; empty: none")
	f.StringVar(&cfg.GossipAdvertise, "gossip-advertise", "", "address that others reach this server's gossip by (default: from --gossip-listen)")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// run serves until ctx ends or the server finds that it must not run.
func run(ctx context.Context, cfg server.Config) error {
	s, err := server.Start(ctx, cfg)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-s.Done():
		err = s.Err()
	}
	if e := s.Close(); err == nil {
		err = e
	}
	if err == nil {
		cfg.Logger.Info("chunk server ended")
	}
	return err
}
