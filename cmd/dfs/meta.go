package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"dfs/internal/cli"
	"dfs/meta"
	"dfs/meta/backup"
	metaserver "dfs/meta/server"
	"dfs/proto/adminpb"
	"dfs/rpc"
)

// chunkPort is where a chunk server is when its address does not say.
const chunkPort = 7500

// backupView is the schema of `dfs meta backup -o json`, verify and restore.
type backupView struct {
	Schema   string    `json:"schema"` // dfs.backup/v1
	File     string    `json:"file"`
	Cluster  string    `json:"cluster"`
	Level    uint32    `json:"level"`
	Index    uint64    `json:"index"`
	Made     time.Time `json:"made"`
	Program  string    `json:"program"`
	Rows     uint64    `json:"rows"`
	Bytes    uint64    `json:"bytes"`
	Hash     string    `json:"sha256"`
	Problems []string  `json:"problems"`
}

func newBackupView(file string, c metaserver.Checked) backupView {
	v := backupView{Schema: "dfs.backup/v1", File: file, Cluster: c.Cluster.String(), Level: c.Level, Index: c.Index, Made: c.Made, Program: c.Program,
		Rows: c.Rows, Bytes: c.Bytes, Hash: c.Hash, Problems: []string{}}
	for _, p := range c.Problems {
		v.Problems = append(v.Problems, p.String())
	}
	return v
}

func (v backupView) table() table {
	return table{
		columns: []string{"FILE", "CLUSTER", "INDEX", "MADE", "ROWS", "BYTES", "PROBLEMS", "LEVEL", "PROGRAM", "SHA256"}, narrow: 7,
		rows: [][]string{{v.File, v.Cluster, fmt.Sprint(v.Index), v.Made.Format(time.RFC3339), fmt.Sprint(v.Rows), fmt.Sprint(v.Bytes), fmt.Sprint(len(v.Problems)),
			fmt.Sprint(v.Level), v.Program, v.Hash}},
	}
}

// show prints a backup, and fails when its rows contradict each other.
func (v backupView) show(g *global, cmd *cobra.Command) error {
	if err := g.emit(cmd, v, v.table(), nil); err != nil {
		return err
	}
	for _, p := range v.Problems {
		fmt.Fprintln(cmd.ErrOrStderr(), p)
	}
	if len(v.Problems) > 0 {
		return &cli.ExitCode{Code: cli.ExitUnhealthy, Err: fmt.Errorf("the metadata has %s", count(len(v.Problems), "problem"))}
	}
	return nil
}

func newMeta(g *global) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "meta",
		Short: "Back up, verify, restore and read the metadata",
		Long: `A backup has all that the masters know, as it was at one moment: names, attributes,
and where bytes lie. The bytes themselves are on the chunk servers.`,
	}, newMetaBackup(g), newMetaVerify(g), newMetaRestore(g), newMetaDump(g))
}

func newMetaBackup(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all metadata to a file, while the cluster is in use",
		Long: `Writes all metadata as it is at one moment to FILE, which must not exist. Each block is
checked on the way, and the whole at the end; nobody waits for it.`,
		Example: "  dfs meta backup /backup/dfs-$(date +%F)",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.backup(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return newBackupView(args[0], c).show(g, cmd)
		},
	}
}

// backup writes a backup to a file that is there when it is whole.
func (g *global) backup(ctx context.Context, name string) (c metaserver.Checked, err error) {
	if _, err := os.Lstat(name); err == nil {
		return c, cli.Refusedf("%s is there already: give another name", name)
	}
	addrs, err := g.addresses("")
	if err != nil {
		return c, err
	}
	part, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".part-*")
	if err != nil {
		return c, err
	}
	defer func() {
		err = errors.Join(err, part.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	pool := rpc.NewPool(0, nil)
	defer pool.Close()
	masters := rpc.NewMasters(pool, addrs, slog.New(slog.DiscardHandler))
	defer masters.Close()
	find, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	if _, err := masters.Leader(find); err != nil {
		return c, &cli.ExitCode{Code: cli.ExitTimeout, Err: fmt.Errorf("no answer from the cluster within %v: %w", g.timeout, err)}
	}
	err = masters.CallStream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		if err := errors.Join(part.Truncate(0), seekStart(part)); err != nil {
			return err
		}
		in, err := adminpb.NewAdminClient(conn).Backup(ctx, &adminpb.BackupRequest{})
		if err != nil {
			return err
		}
		parts := &metaserver.PartReader{Next: func() ([]byte, error) {
			p, err := in.Recv()
			return p.GetData(), err
		}}
		c.Tail, err = backup.Read(io.TeeReader(parts, part), func(h backup.Head) error { c.Head = h; return nil }, func(_, _ []byte) error { return nil })
		if parts.Err != nil && !errors.Is(parts.Err, io.EOF) {
			return parts.Err // why it was cut short
		}
		return err
	})
	if err != nil {
		return c, err
	}
	if err := part.Sync(); err != nil {
		return c, err
	}
	if err := os.Link(part.Name(), name); err != nil { // never over another
		return c, err
	}
	return c, os.Remove(part.Name())
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

func newMetaVerify(g *global) *cobra.Command {
	var scratch string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check that a backup is whole and can be restored",
		Long: `Reads the backup to its end, makes a scratch folder of it, and checks the rows there
against each other. Ends with 3 when they contradict each other, with 1 when the backup
cannot be used.`,
		Example: "  dfs meta verify /backup/dfs-2026-12-01",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			dir, err := os.MkdirTemp(scratch, "dfs-verify-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			c, err := metaserver.VerifyBackup(in, filepath.Join(dir, "rows"))
			if err != nil {
				return err
			}
			return newBackupView(args[0], c).show(g, cmd)
		},
	}
	cmd.Flags().StringVar(&scratch, "scratch", "", "folder for the scratch folder, with room for the metadata (default: of the system)")
	return cmd
}

func newMetaRestore(g *global) *cobra.Command {
	o := metaserver.RestoreOptions{}
	var from []string
	cmd := &cobra.Command{
		Use:   "restore [FILE] --dir DIR --name NAME",
		Short: "Make the folder of a master from a backup, when all masters are lost",
		Long: `Makes DIR, which must be empty, the folder of the first master of the cluster that was
backed up. Without FILE, --from-chunk-servers takes the newest copy that the chunk servers
have, as the masters made them every hour. Start that master on it, at its old address, with --name NAME and without
--bootstrap; then the others with empty folders and --join. Chunk servers come by
themselves; clients go on, and what they had open is an error once.

No chunk is deleted from the servers for --keep, so that nothing which was written after
the backup is lost by this; numbers of files and chunks go on far above what was in use.`,
		Example: `  dfs meta restore /backup/dfs-2026-12-01 --dir /var/lib/dfs/master --name master-1
  dfs meta restore --from-chunk-servers 10.0.0.1,10.0.0.2,10.0.0.3 --dir /var/lib/dfs/master --name master-1`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Dir == "" || o.Name == "" {
				return cli.Usagef("--dir and --name say which master's folder to make")
			}
			if (len(args) == 1) == (len(from) > 0) {
				return cli.Usagef("give either a FILE or --from-chunk-servers")
			}
			o.Version = cli.Version()
			if len(from) > 0 {
				pool := rpc.NewPool(0, nil)
				defer pool.Close()
				addrs := rpc.ParseMasters(strings.Join(from, ","), chunkPort)
				c, err := metaserver.RestoreFromServers(cmd.Context(), pool, addrs, o, func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) })
				if err != nil {
					return err
				}
				return newBackupView(o.Dir, c).show(g, cmd)
			}
			in, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			c, err := metaserver.RestoreBackup(in, o)
			if err != nil {
				return err
			}
			return newBackupView(args[0], c).show(g, cmd)
		},
	}
	cmd.Flags().StringSliceVar(&from, "from-chunk-servers", nil, "chunk servers to take the newest copy from, HOST[:PORT],...")
	cmd.Flags().StringVar(&o.Dir, "dir", "", "folder of the master, empty")
	cmd.Flags().StringVar(&o.Name, "name", "", "name of the master")
	cmd.Flags().DurationVar(&o.Keep, "keep", 7*24*time.Hour, "delete no chunk from the servers for so long (dfs config set keep-unknown-until=... changes it)")
	return cmd
}

func newMetaDump(*global) *cobra.Command {
	return &cobra.Command{
		Use:   "dump FILE",
		Short: "Print a backup in a readable form",
		Long: `Prints the head of the backup, one JSON object for each row in order of its key, and what
the backup says of itself at its end. docs/formats.md tells the kinds of rows.`,
		Example: `  dfs meta dump /backup/dfs-2026-12-01 | jq 'select(.kind == "inode")'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			w := bufio.NewWriter(cmd.OutOrStdout())
			enc := json.NewEncoder(w)
			enc.SetEscapeHTML(false)
			tail, err := backup.Read(in, func(h backup.Head) error { return enc.Encode(h) }, func(k, v []byte) error {
				row, err := meta.Dump(k, v)
				if err != nil {
					return err
				}
				return enc.Encode(row)
			})
			if err == nil {
				err = enc.Encode(tail)
			}
			return errors.Join(err, w.Flush())
		},
	}
}
