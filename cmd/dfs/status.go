package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dfs"
	"dfs/internal/cli"
	"dfs/proto/adminpb"
)

// statusView is the schema of `dfs status -o json`. Within a version of the
// schema names are only added.
type statusView struct {
	Schema   string        `json:"schema"` // dfs.status/v1
	Cluster  string        `json:"cluster"`
	Health   string        `json:"health"` // ok, degraded, critical
	Reasons  []reasonView  `json:"reasons"`
	Leader   string        `json:"leader"`
	Term     uint64        `json:"term"`
	Commit   uint64        `json:"commit"`
	Quorum   bool          `json:"quorum"`
	Epoch    uint64        `json:"epoch"`
	Version  string        `json:"version"`
	Level    uint32        `json:"level"` // format level of the metadata
	Capacity capacityView  `json:"capacity"`
	Inodes   uint64        `json:"inodes"`
	Orphans  uint64        `json:"orphans"`
	Chunks   uint64        `json:"chunks"`
	Masters  []masterView  `json:"masters"`
	Servers  []serverView  `json:"servers"`
	Groups   []groupView   `json:"placement_groups"`
	Repair   repairView    `json:"repair"`
	Backlog  backlogView   `json:"backlog"`
	Sessions []sessionView `json:"sessions"`
}

// backlogView is what is about to be freed, in raw bytes.
type backlogView struct {
	Files     uint64 `json:"removed_files"` // their bytes are dead when they are gone
	Chunks    uint64 `json:"dead_chunks"`
	Bytes     uint64 `json:"dead_chunk_bytes"`
	DeadBytes uint64 `json:"dead_bytes"` // in chunks of which a good part is dead
}

type reasonView struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Next     string `json:"next"`
}

// capacityView is raw bytes over all servers.
type capacityView struct {
	Total uint64 `json:"total_bytes"`
	Used  uint64 `json:"used_bytes"`
	Free  uint64 `json:"free_bytes"`
}

type masterView struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Addr    string `json:"addr"`
	Role    string `json:"role"`
	Alive   bool   `json:"alive"`
	Applied uint64 `json:"applied"`
	Version string `json:"version"`
}

type serverView struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Addr    string `json:"addr"`
	Host    string `json:"host"`
	Zone    string `json:"zone"`
	Weight  uint32 `json:"weight"`
	State   string `json:"state"`
	Alive   bool   `json:"alive"`
	Total   uint64 `json:"total_bytes"`
	Used    uint64 `json:"used_bytes"`
	Free    uint64 `json:"free_bytes"`
	Groups  uint32 `json:"placement_groups"`
	Version string `json:"version"`

	Weighted bool   `json:"weight_is_set"`               // by dfs servers weight
	Until    string `json:"maintenance_until,omitempty"` // RFC 3339
}

type groupView struct {
	Policy     string `json:"policy"`
	Total      uint32 `json:"total"`
	Clean      uint32 `json:"clean"`
	Degraded   uint32 `json:"degraded"`
	Unwritable uint32 `json:"unwritable"`
	Misplaced  uint32 `json:"misplaced"`
}

// repairView is what of the chunks is missing somewhere.
type repairView struct {
	Chunks   uint64 `json:"chunks"`
	Critical uint64 `json:"critical"`
	Lost     uint64 `json:"unreadable"`
	Waiting  uint64 `json:"waiting_fragments"`
	Bytes    uint64 `json:"bytes"`
	Rate     uint64 `json:"bytes_per_second"`
	Epoch    uint64 `json:"epoch"` // of the map that this is by
}

type sessionView struct {
	ID         string  `json:"id"`
	Host       string  `json:"host"`
	Mountpoint string  `json:"mountpoint"`
	Version    string  `json:"version"`
	Idle       float64 `json:"idle_seconds"`
	Open       uint32  `json:"open_files"`
}

func newStatus(g *global) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Health and the reason for each deviation, leader, capacity, servers",
		Long: `Shows one screen: health with the reason for each deviation from it, who leads,
the masters and chunk servers, capacity, and placement groups.

Ends with 0 when the cluster is healthy, 3 when it is not, 4 when it does not answer.`,
		Example: `  dfs status
  dfs status --watch
  dfs status -o json | jq -r .leader`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !watch {
				return g.status(cmd)
			}
			return g.watchStatus(cmd)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every 2 s until interrupted")
	return cmd
}

func (g *global) status(cmd *cobra.Command) error {
	view, err := g.fetchStatus(cmd.Context())
	if err != nil {
		return err
	}
	if err := g.emit(cmd, view, view.names(), func(w io.Writer) { view.print(w, g.output == "wide") }); err != nil {
		return err
	}
	if view.Health != "ok" {
		return &cli.ExitCode{Code: cli.ExitUnhealthy}
	}
	return nil
}

func (g *global) watchStatus(cmd *cobra.Command) error {
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for {
		fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[2J")
		if err := g.status(cmd); err != nil && err.Error() != "" {
			fmt.Fprintln(cmd.OutOrStdout(), err)
		}
		select {
		case <-ticker.C:
		case <-cmd.Context().Done():
			return nil
		}
	}
}

func (g *global) fetchStatus(ctx context.Context) (statusView, error) {
	var reply *adminpb.StatusReply
	err := g.admin(ctx, "", func(ctx context.Context, c adminpb.AdminClient) (err error) {
		reply, err = c.Status(ctx, &adminpb.StatusRequest{})
		return err
	})
	if err != nil {
		return statusView{}, err
	}
	return viewOf(reply), nil
}

func viewOf(r *adminpb.StatusReply) statusView {
	v := statusView{
		Schema: "dfs.status/v1", Cluster: dfs.ClusterID(r.Cluster).String(), Health: r.Health,
		Leader: r.Leader, Term: r.Term, Commit: r.Commit, Quorum: r.Quorum, Epoch: r.Epoch, Version: r.Version, Level: r.Level,
		Capacity: capacityView{Total: r.TotalBytes, Used: r.UsedBytes, Free: r.FreeBytes},
		Inodes:   r.Inodes, Orphans: r.Orphans, Chunks: r.Chunks,
		Reasons: []reasonView{}, Masters: []masterView{}, Servers: []serverView{}, Groups: []groupView{}, Sessions: []sessionView{},
	}
	for _, x := range r.Reasons {
		v.Reasons = append(v.Reasons, reasonView{Code: x.Code, Severity: x.Severity, Message: x.Message, Next: x.Next})
	}
	for _, x := range r.Masters {
		v.Masters = append(v.Masters, masterView{Name: x.Name, ID: dfs.NodeID(x.Id).String(), Addr: x.Addr, Role: x.Role, Alive: x.Alive, Applied: x.Applied, Version: x.Version})
	}
	for _, x := range r.Servers {
		v.Servers = append(v.Servers, serverView{Name: x.Name, ID: dfs.NodeID(x.Id).String(), Addr: x.Addr, Host: x.Host, Zone: x.Zone, Weight: x.Weight,
			State: x.State, Alive: x.Alive, Total: x.TotalBytes, Used: x.UsedBytes, Free: x.FreeBytes, Groups: x.Groups, Version: x.Version,
			Weighted: x.Weighted, Until: untilText(x.Until)})
	}
	for _, x := range r.Groups {
		v.Groups = append(v.Groups, groupView{Policy: dfs.Layout(x.Layout).String(), Total: x.Total, Clean: x.Clean, Degraded: x.Degraded, Unwritable: x.Unwritable, Misplaced: x.Misplaced})
	}
	if x := r.Repair; x != nil {
		v.Repair = repairView{Chunks: x.Chunks, Critical: x.Critical, Lost: x.Lost, Waiting: x.Waiting, Bytes: x.Bytes, Rate: x.BytesPerSecond, Epoch: x.Epoch}
	}
	v.Backlog = backlogView{Files: r.Orphans, Chunks: r.Backlog.GetChunks(), Bytes: r.Backlog.GetBytes(), DeadBytes: r.Backlog.GetDeadBytes()}
	for _, x := range r.Sessions {
		v.Sessions = append(v.Sessions, sessionView{ID: dfs.SessionID(x.Id).String(), Host: x.Host, Mountpoint: x.Mountpoint, Version: x.Version,
			Idle: time.Duration(x.IdleNanos).Seconds(), Open: x.Open})
	}
	return v
}

// untilText is when a maintenance ends; empty when there is none, or it is over.
func untilText(unix int64) string {
	if unix <= time.Now().Unix() {
		return ""
	}
	return time.Unix(unix, 0).Format(time.RFC3339)
}

func (v *statusView) names() table {
	t := table{columns: []string{"NAME"}}
	for _, m := range v.Masters {
		t.rows = append(t.rows, []string{m.Name})
	}
	for _, s := range v.Servers {
		t.rows = append(t.rows, []string{s.Name})
	}
	return t
}

func (v *statusView) print(w io.Writer, wide bool) {
	fmt.Fprintf(w, "cluster   %s  %s\n", v.Cluster, v.Version)
	fmt.Fprintf(w, "health    %s\n", v.Health)
	for _, r := range v.Reasons {
		fmt.Fprintf(w, "  %-8s  %s: %s\n", r.Severity, r.Code, r.Message)
		if r.Next != "" {
			fmt.Fprintf(w, "            next: %s\n", r.Next)
		}
	}
	used := 0.0
	if v.Capacity.Total > 0 {
		used = 100 * float64(v.Capacity.Used) / float64(v.Capacity.Total)
	}
	fmt.Fprintf(w, "leader    %s, term %d, map epoch %d\n", v.Leader, v.Term, v.Epoch)
	fmt.Fprintf(w, "capacity  %s used of %s raw (%.1f%%), %s free\n", bytesText(v.Capacity.Used), bytesText(v.Capacity.Total), used, bytesText(v.Capacity.Free))
	fmt.Fprintf(w, "objects   %d inodes, %d chunks, %d orphans, %s\n", v.Inodes, v.Chunks, v.Orphans, count(len(v.Sessions), "session"))
	if b := v.Backlog; b != (backlogView{}) {
		fmt.Fprintf(w, "freeing   %s, %s (%s raw), %s raw of dead parts\n", count(int(b.Files), "removed file"), count(int(b.Chunks), "dead chunk"), bytesText(b.Bytes), bytesText(b.DeadBytes))
	}
	for _, g := range v.Groups {
		fmt.Fprintf(w, "groups    %s: %s\n", g.Policy, g.text())
	}
	fmt.Fprintln(w)
	masterTable(v.Masters).print(w, wide)
	fmt.Fprintln(w)
	serverTable(v.Servers).print(w, wide)
}

func (g *groupView) text() string {
	parts := []string{fmt.Sprintf("%d of %d clean", g.Clean, g.Total)}
	for _, p := range []struct {
		n    uint32
		what string
	}{{g.Degraded, "degraded"}, {g.Unwritable, "unwritable"}, {g.Misplaced, "misplaced"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

func aliveText(alive bool) string {
	if alive {
		return "yes"
	}
	return "no"
}

func masterTable(masters []masterView) table {
	t := table{columns: []string{"MASTER", "ROLE", "ALIVE", "ADDRESS", "APPLIED", "ID", "VERSION"}, narrow: 5}
	for _, m := range masters {
		t.rows = append(t.rows, []string{m.Name, m.Role, aliveText(m.Alive), m.Addr, fmt.Sprint(m.Applied), m.ID, m.Version})
	}
	return t
}

func serverTable(servers []serverView) table {
	t := table{columns: []string{"SERVER", "STATE", "ALIVE", "ADDRESS", "USED", "FREE", "GROUPS", "HOST", "ZONE", "WEIGHT", "ID", "VERSION"}, narrow: 7}
	for _, s := range servers {
		t.rows = append(t.rows, []string{s.Name, s.State, aliveText(s.Alive), s.Addr, bytesText(s.Used), bytesText(s.Free), fmt.Sprint(s.Groups),
			s.Host, s.Zone, fmt.Sprint(s.Weight), s.ID, s.Version})
	}
	return t
}
