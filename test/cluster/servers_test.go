package cluster

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs/proto/adminpb"
)

// server is what the masters say of a chunk server.
func (c *Cluster) server(name string) (*adminpb.Server, error) {
	st, err := c.Status()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(st.Servers, func(s *adminpb.Server) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no %s: %v", name, reasons(st))
	}
	return st.Servers[i], nil
}

func (c *Cluster) awaitServer(name, what string, is func(*adminpb.Server) bool) {
	c.t.Helper()
	c.Eventually(name+" "+what, func() error {
		s, err := c.server(name)
		if err == nil && !is(s) {
			err = fmt.Errorf("%v", s)
		}
		return err
	})
}

// change is what `dfs servers` does.
func (c *Cluster) change(req *adminpb.SetServerRequest) error {
	return c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := adminpb.NewAdminClient(conn).SetServer(ctx, req)
		return err
	})
}

// TestServersAreMaintainedAndReplaced: what an admin decides of a server stays when it dies and
// comes back.
func TestServersAreMaintainedAndReplaced(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 4, ReportInterval: 300 * time.Millisecond, DropWait: 300 * time.Millisecond})
	files := c.writeSome("some")
	c.whole()
	maintain := func(name string, d time.Duration) error {
		return c.change(&adminpb.SetServerRequest{Name: name, Change: adminpb.SetServerRequest_MAINTENANCE, ForNanos: int64(d)})
	}
	away := "chunk-1" // the one that has most: it has something
	for _, s := range c.chunks {
		if c.held(s.name) > c.held(away) {
			away = s.name
		}
	}
	// What follows takes masters that all know of it.
	c.Eventually("maintenance of "+away, func() error { return maintain(away, time.Hour) })
	c.Kill(away)
	c.awaitServer(away, "to be down", func(s *adminpb.Server) bool { return s.State == "down" && s.Until > time.Now().Unix() })
	refused := 0 // those that have the other copies of what it has
	for _, s := range c.chunks {
		if s.name == away {
			continue
		}
		if err := maintain(s.name, time.Hour); status.Code(err) == codes.FailedPrecondition {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused < 2 {
		t.Errorf("%d more servers may not be taken away, want at least 2", refused)
	}
	c.Restart(away)
	c.whole()
	for _, s := range c.chunks {
		if err := maintain(s.name, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.change(&adminpb.SetServerRequest{Name: "chunk-2", Change: adminpb.SetServerRequest_WEIGHT, Weight: 77}); err != nil {
		t.Fatal(err)
	}
	c.Kill("chunk-2")
	c.Restart("chunk-2")
	c.awaitServer("chunk-2", "to have its weight", func(s *adminpb.Server) bool { return s.State == "up" && s.Weight == 77 && s.Weighted })

	// A server that dies while it is drained goes on with that when it is back.
	name := c.AddChunkServer()
	c.Eventually("chunk-2 to be replaced", func() error {
		return c.change(&adminpb.SetServerRequest{Name: "chunk-2", Change: adminpb.SetServerRequest_REPLACE, Successor: name})
	})
	c.Kill("chunk-2")
	c.awaitServer("chunk-2", "to be down", func(s *adminpb.Server) bool { return s.State == "down" })
	c.Restart("chunk-2")
	c.awaitServer("chunk-2", "to be drained", func(s *adminpb.Server) bool { return s.State == "drain" && s.Groups == 0 })
	c.awaitServer(name, "to have the weight", func(s *adminpb.Server) bool { return s.Weight == 77 && s.Weighted && s.Groups > 0 })
	c.whole()
	c.Kill("chunk-2")
	c.readAll(files)
}

// jobs is the long work that the masters say is done now.
func (c *Cluster) jobs() []*adminpb.Job {
	c.t.Helper()
	var r *adminpb.JobsReply
	err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		r, err = adminpb.NewAdminClient(conn).Jobs(ctx, &adminpb.JobsRequest{})
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Jobs
}
