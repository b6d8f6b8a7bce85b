package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"dfs"
	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// checkView is the schema of `dfs check -o json`.
type checkView struct {
	Schema    string        `json:"schema"` // dfs.check/v1
	Whole     bool          `json:"whole"`
	Files     uint64        `json:"files"`
	Chunks    uint64        `json:"chunks"`
	Fragments uint64        `json:"fragments"`
	Bytes     uint64        `json:"bytes_read"`
	Due       uint64        `json:"fragments_due_to_be_freed"`
	Findings  []findingView `json:"findings"`
	More      bool          `json:"more"` // there were more findings
}

type findingView struct {
	Kind     string   `json:"kind"` // metadata, missing, damaged, unreachable, stray
	Chunk    string   `json:"chunk,omitempty"`
	Server   string   `json:"server,omitempty"`
	Inode    uint64   `json:"inode,omitempty"`
	Text     string   `json:"text"`
	Files    []string `json:"files"`
	Repaired bool     `json:"repaired"`
}

func newCheck(g *global) *cobra.Command {
	var fromRoot, quick, repair bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "check [PATH]",
		Short: "Prove that everything stored is whole, or say what is not",
		Long: `Has every chunk server read what it should have and compare checksums, compares the rows
of the metadata with each other, and looks whether all that is stored belongs to something.
With PATH only what a file or folder tree is made of. Changes nothing, unless --repair is given:
then what is damaged is made anew from what is whole, and the command waits for it.

Ends with 0 when all is whole (after --repair), 3 when something is wrong.`,
		Example: `  dfs check
  dfs check /mnt/dfs/home --quick
  dfs check --repair -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminpb.CheckRequest{Quick: quick, Repair: repair, WaitNanos: int64(wait)}
			path := ""
			if len(args) > 0 {
				path = args[0]
				t, err := g.resolve(path, fromRoot)
				if err != nil {
					return err
				}
				req.Path, req.Ino = t.path, uint64(t.ino)
			}
			view, err := g.runCheck(cmd, path, req)
			if err != nil {
				return err
			}
			if err := g.emit(cmd, view, view.table(), func(w io.Writer) { view.print(w) }); err != nil {
				return err
			}
			if !view.Whole {
				return &cli.ExitCode{Code: cli.ExitUnhealthy}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&fromRoot, "root", false, "PATH is from the root of the file system, not of this machine")
	cmd.Flags().BoolVar(&quick, "quick", false, "presence and length only: nothing is read")
	cmd.Flags().BoolVar(&repair, "repair", false, "have what is damaged made anew")
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for --repair")
	return cmd
}

// progressEvery is how often long work says how far it is.
const progressEvery = 10 * time.Second

func (g *global) runCheck(cmd *cobra.Command, path string, req *adminpb.CheckRequest) (*checkView, error) {
	var view *checkView
	var errno dfs.Errno
	told := time.Now()
	err := g.adminStream(cmd.Context(), path, func(ctx context.Context, c adminpb.AdminClient) error {
		view = &checkView{Schema: "dfs.check/v1", Findings: []findingView{}}
		stream, err := c.Check(ctx, req)
		if err != nil {
			return err
		}
		for {
			r, err := stream.Recv()
			if err != nil {
				return err
			}
			view.take(r)
			if time.Since(told) >= progressEvery {
				told = time.Now()
				fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", view.progress())
			}
			if r.Done {
				errno = dfs.Errno(r.Errno)
				return nil
			}
		}
	})
	if err == nil && errno != dfs.OK {
		err = fmt.Errorf("%s: %w", path, errno)
	}
	if err != nil {
		return nil, err
	}
	view.Whole = !view.More
	for _, f := range view.Findings {
		view.Whole = view.Whole && f.Repaired
	}
	return view, nil
}

// take takes over a part of the answer.
func (v *checkView) take(r *adminpb.CheckReply) {
	v.Files, v.Chunks, v.Fragments, v.Bytes, v.Due, v.More = r.Files, r.Chunks, r.Fragments, r.Bytes, r.Due, r.More
	for _, f := range r.Findings {
		x := findingView{Kind: f.Kind, Server: f.Server, Inode: f.Ino, Text: f.Text, Files: f.Files, Repaired: f.Repaired}
		if f.Chunk != 0 {
			x.Chunk = dfs.ChunkID(f.Chunk).String()
		}
		if x.Files == nil {
			x.Files = []string{}
		}
		if int(f.Id) < len(v.Findings) {
			v.Findings[f.Id] = x
		} else {
			v.Findings = append(v.Findings, x)
		}
	}
}

func (v *checkView) progress() string {
	return fmt.Sprintf("%d chunks, %d fragments, %s read, %s", v.Chunks, v.Fragments, bytesText(v.Bytes), count(len(v.Findings), "finding"))
}

func (v *checkView) table() table {
	t := table{columns: []string{"CHUNK", "KIND", "SERVER", "REPAIRED", "FILES"}}
	for _, f := range v.Findings {
		t.rows = append(t.rows, []string{f.Chunk, f.Kind, f.Server, fmt.Sprint(f.Repaired), fmt.Sprint(len(f.Files))})
	}
	return t
}

func (v *checkView) print(w io.Writer) {
	for _, f := range v.Findings {
		what := f.Kind
		if f.Repaired {
			what += ", repaired"
		}
		if f.Chunk != "" {
			what += ": chunk " + f.Chunk
		}
		if f.Server != "" {
			what += " on " + f.Server
		}
		fmt.Fprintf(w, "%s: %s\n", what, f.Text)
		for _, name := range f.Files {
			fmt.Fprintf(w, "    %s\n", name)
		}
	}
	if v.More {
		fmt.Fprintln(w, "there is more than is told: repair this first")
	}
	state := "whole"
	if !v.Whole {
		state = "NOT whole"
	}
	fmt.Fprintf(w, "%s: %d files and folders, %s; %d fragments wait to be freed\n", state, v.Files, v.progress(), v.Due)
}
