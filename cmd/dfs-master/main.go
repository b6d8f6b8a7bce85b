// Command dfs-master runs one metadata master: a member of the Raft group that
// keeps the namespace and the cluster map.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dfs/client"
	"dfs/internal/cli"
	"dfs/meta/server"
	"dfs/rpc"
)

func main() { os.Exit(cli.Run(context.Background(), newCommand(), os.Args[1:])) }

const masterPort = 7400

const long = `Runs a metadata master. One, three or five of them form a group: a majority
must be alive, and what a majority has on disk is never lost.

The first master of a new cluster is started once with --bootstrap, the others with
--join and the address of any master. Later starts need neither: the folder says
which cluster it is of. Each flag is also a variable of the environment: --dir is
DFS_DIR.`

const example = `  dfs-master --name master-1 --dir /var/lib/dfs/master --listen 10.0.0.1:7400 --bootstrap
  dfs-master --name master-2 --dir /var/lib/dfs/master --listen 10.0.0.2:7400 --join 10.0.0.1
  dfs-master --name master-3 --dir /var/lib/dfs/master --listen 10.0.0.3:7400 --join 10.0.0.1`

func newCommand() *cobra.Command {
	var cfg server.Config
	var join []string
	var peers, reserve, logLevel string
	cmd := &cobra.Command{
		Use:     "dfs-master",
		Short:   "Run a metadata master of a dfs cluster",
		Long:    long,
		Example: example,
		Version: cli.Version(),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.BindEnv(cmd.Flags()); err != nil {
				return err
			}
			for _, list := range join {
				cfg.Join = append(cfg.Join, rpc.ParseMasters(list, masterPort)...)
			}
			if err := countPeers(&cfg, peers); err != nil {
				return err
			}
			var err error
			if cfg.Reserve, err = cli.ParseSize(reserve); err != nil {
				return cli.Usagef("--reserve=%s: %w", reserve, err)
			}
			return run(cmd, cfg, logLevel)
		},
	}
	host, _ := os.Hostname() // of no use when it is not known
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", host, "name of this master, unique in the cluster")
	f.StringVar(&cfg.Dir, "dir", "", "folder of its data (needed)")
	f.StringVar(&cfg.Listen, "listen", fmt.Sprintf(":%d", masterPort), "address for clients and other daemons")
	f.StringVar(&cfg.Advertise, "advertise", "", "address that others reach it by, when it is not the one it listens on")
	f.StringVar(&cfg.GossipListen, "gossip-listen", fmt.Sprintf(":%d", masterPort+1), "address for gossip, TCP and UDP")
	f.StringVar(&cfg.GossipAdvertise, "gossip-advertise", "", "address that others reach its gossip by")
	f.StringVar(&cfg.AdminListen, "admin-listen", "127.0.0.1:0", "address of /metrics, /healthz and /debug/pprof; empty: none")
	f.BoolVar(&cfg.Bootstrap, "bootstrap", false, "make a new cluster; once, on one master")
	f.StringSliceVar(&join, "join", nil, "masters to ask for admission while the folder is empty")
	f.StringVar(&peers, "peers", "", "with --bootstrap: all masters that the cluster is made for, NAME=ADDR,...; their number is --expected")
	f.IntVar(&cfg.Expected, "expected", 0, "how many masters the cluster is made for: fewer are a health warning")
	f.DurationVar(&cfg.SessionTTL, "session-ttl", server.DefaultSessionTTL, "a client that is silent for so long is given up")
	f.DurationVar(&cfg.BackupEvery, "backup-every", server.DefaultBackupEvery, "the metadata is copied to chunk servers so often, against the loss of all masters")
	f.DurationVar(&cfg.RepairAfter, "repair-after", server.DefaultRepairAfter, "others take over what a chunk server had that is down for so long")
	f.StringVar(&reserve, "reserve", "", "free space of its disk below which nothing new is made, such as 2GiB (default: a twentieth, at most 1GiB)")
	f.StringVar(&cfg.Zone, "zone", "", "failure domain of the machine")
	f.StringVar(&cfg.Host, "host", host, "name of the machine")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// mastersMax is more masters than any cluster is made for.
const mastersMax = 15

// countPeers takes the number of expected masters from a list of them.
func countPeers(cfg *server.Config, peers string) error {
	n, found := 0, false
	for peer := range strings.SplitSeq(peers, ",") {
		if peer = strings.TrimSpace(peer); peer == "" {
			continue
		}
		name, addr, ok := strings.Cut(peer, "=")
		if !ok || name == "" || addr == "" {
			return cli.Usagef("--peers=%s: want NAME=ADDR,...", peers)
		}
		n++
		found = found || name == cfg.Name
	}
	switch {
	case n > 0 && !found:
		return cli.Usagef("--peers=%s: this master, %s, is not among them", peers, cfg.Name)
	case cfg.Expected == 0:
		cfg.Expected = n
	}
	if cfg.Expected < 0 || cfg.Expected > mastersMax {
		return cli.Usagef("--expected=%d: want 0 to %d", cfg.Expected, mastersMax)
	}
	return nil
}

// sessionTTLMin leaves a client time for some heartbeats.
const sessionTTLMin = time.Second

// moverCache is how many bytes a client that moves bytes keeps: it reads none of them again.
const moverCache = 8 << 20

func run(cmd *cobra.Command, cfg server.Config, logLevel string) error {
	switch {
	case cfg.Dir == "":
		return cli.Usagef("--dir is missing: want a folder for the data")
	case cfg.Bootstrap && len(cfg.Join) > 0:
		return cli.Usagef("--bootstrap makes a new cluster, --join enters one: choose")
	case cfg.BackupEvery <= 0:
		return cli.Usagef("--backup-every=%v: must be more than nothing", cfg.BackupEvery)
	case cfg.RepairAfter <= 0:
		return cli.Usagef("--repair-after=%v: must be more than nothing", cfg.RepairAfter)
	case cfg.SessionTTL < sessionTTLMin:
		return cli.Usagef("--session-ttl=%v: at least %v", cfg.SessionTTL, sessionTTLMin)
	}
	logger, err := cli.Logger(cmd.ErrOrStderr(), logLevel)
	if err != nil {
		return err
	}
	cfg.Logger, cfg.Version = logger, cli.Version()
	cfg.Mover = func(ctx context.Context, masters []string) (server.Mover, error) {
		return client.Dial(ctx, client.Config{Masters: masters, Host: cfg.Host, Mountpoint: "jobs of " + cfg.Name, Version: cfg.Version, CacheBytes: moverCache, Logger: logger})
	}
	s, err := server.Start(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	logger.Info("serving", "name", cfg.Name, "address", s.Addr())
	select {
	case <-cmd.Context().Done():
		logger.Info("ending")
		return s.Close()
	case <-s.Done():
		err := s.Err()
		_ = s.Close() // it has ended already; why is what counts
		return err
	}
}
