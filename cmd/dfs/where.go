package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"dfs"
	"dfs/proto/adminpb"
)

// whereView is the schema of `dfs where -o json`.
type whereView struct {
	Schema  string       `json:"schema"` // dfs.where/v1
	Path    string       `json:"path"`
	Ino     uint64       `json:"inode"`
	Type    string       `json:"type"`
	Size    uint64       `json:"size"`
	Policy  string       `json:"policy"`
	Epoch   uint64       `json:"epoch"`
	Extents []extentView `json:"extents"`
	More    bool         `json:"more"` // there are extents after these
}

type extentView struct {
	Off       uint64         `json:"offset"`
	Len       uint32         `json:"length"`
	Chunk     string         `json:"chunk"`
	Record    uint32         `json:"record"`
	Group     string         `json:"placement_group"`
	Sealed    bool           `json:"sealed"`
	Fragments []fragmentView `json:"fragments"`
}

type fragmentView struct {
	Server string `json:"server"`
	Zone   string `json:"zone"`
	State  string `json:"state"` // ok, missing, down, hole
}

// whereMax is how many extents one request asks for.
const whereMax = 1000

func newWhere(g *global) *cobra.Command {
	var fromRoot bool
	var off uint64
	var limit uint32
	cmd := &cobra.Command{
		Use:   "where PATH",
		Short: "Where a file's bytes lie: extents, chunks, servers",
		Example: `  dfs where /mnt/dfs/big.iso
  dfs where --root /big.iso --masters 10.0.0.1:7400 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := g.fetchWhere(cmd.Context(), args[0], fromRoot, off, limit)
			if err != nil {
				return err
			}
			return g.emit(cmd, view, view.table(), func(w io.Writer) { view.print(w, g.output == "wide") })
		},
	}
	cmd.Flags().BoolVar(&fromRoot, "root", false, "PATH is from the root of the file system, not of this machine")
	cmd.Flags().Uint64Var(&off, "offset", 0, "first byte of the file to look at")
	cmd.Flags().Uint32Var(&limit, "limit", whereMax, "most extents to list")
	return cmd
}

func (g *global) fetchWhere(ctx context.Context, path string, fromRoot bool, off uint64, limit uint32) (*whereView, error) {
	t, err := g.resolve(path, fromRoot)
	if err != nil {
		return nil, err
	}
	var reply *adminpb.WhereReply
	err = g.admin(ctx, path, func(ctx context.Context, c adminpb.AdminClient) (err error) {
		reply, err = c.Where(ctx, &adminpb.WhereRequest{Path: t.path, Ino: uint64(t.ino), Off: off, Limit: min(limit, whereMax)})
		return err
	})
	if err != nil {
		return nil, err
	}
	if reply.Errno != 0 {
		return nil, fmt.Errorf("%s: %w", path, dfs.Errno(reply.Errno))
	}
	v := &whereView{
		Schema: "dfs.where/v1", Path: path, Ino: reply.Ino, Type: typeText(reply.Mode), Size: reply.Size,
		Policy: dfs.Layout(reply.Layout).String(), Epoch: reply.Epoch, Extents: []extentView{}, More: reply.More,
	}
	for _, e := range reply.Extents {
		x := extentView{Off: e.Off, Len: e.Len, Chunk: dfs.ChunkID(e.Chunk).String(), Record: e.Record, Group: dfs.PG(e.Pg).String(), Sealed: e.Sealed}
		for _, f := range e.Fragments {
			x.Fragments = append(x.Fragments, fragmentView{Server: f.Name, Zone: f.Zone, State: f.State})
		}
		v.Extents = append(v.Extents, x)
	}
	return v, nil
}

func typeText(mode uint32) string {
	switch mode & dfs.TypeMask {
	case dfs.TypeDir:
		return "folder"
	case dfs.TypeFile:
		return "file"
	case dfs.TypeLink:
		return "symlink"
	}
	return "special"
}

func (v *whereView) table() table {
	t := table{columns: []string{"CHUNK", "OFFSET", "LENGTH", "SERVERS", "GROUP", "RECORD", "SEALED"}, narrow: 4}
	for _, e := range v.Extents {
		servers := ""
		for i, f := range e.Fragments {
			if i > 0 {
				servers += " "
			}
			name := f.Server
			if name == "" {
				name = "-"
			}
			servers += name
			if f.State != "ok" {
				servers += "(" + f.State + ")"
			}
		}
		t.rows = append(t.rows, []string{e.Chunk, fmt.Sprint(e.Off), fmt.Sprint(e.Len), servers, e.Group, fmt.Sprint(e.Record), fmt.Sprint(e.Sealed)})
	}
	return t
}

func (v *whereView) print(w io.Writer, wide bool) {
	fmt.Fprintf(w, "%s: %s, inode %d, %s, policy %s, map epoch %d\n", v.Path, v.Type, v.Ino, bytesText(v.Size), v.Policy, v.Epoch)
	if len(v.Extents) > 0 {
		v.table().print(w, wide)
	}
	if v.More {
		last := v.Extents[len(v.Extents)-1]
		fmt.Fprintf(w, "more extents follow: --offset %d\n", last.Off+uint64(last.Len))
	}
}
