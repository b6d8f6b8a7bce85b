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

// drill takes something away.
func (c *Cluster) drill(req *adminpb.DrillRequest) error {
	return c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := adminpb.NewAdminClient(conn).Drill(ctx, req)
		return err
	})
}

// TestDrillTakesAwayWhatCanBeSpared: service goes on meanwhile, and what was taken away is back by
// itself; what something depends on is not taken.
func TestDrillTakesAwayWhatCanBeSpared(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	files := c.writeSome("before")
	c.whole()
	const away = 5 * time.Second
	refused := func(req *adminpb.DrillRequest) {
		t.Helper()
		c.Eventually(fmt.Sprintf("refusal of %v", req), func() error {
			if err := c.drill(req); status.Code(err) != codes.FailedPrecondition {
				return fmt.Errorf("%v", err)
			}
			return nil
		})
	}
	c.Kill("chunk-3")
	c.awaitServer("chunk-3", "to be down", func(s *adminpb.Server) bool { return s.State == "down" })
	repairs := func(is bool) {
		t.Helper()
		c.Eventually(fmt.Sprintf("jobs with repair: %v", is), func() error {
			jobs := c.jobs()
			if slices.ContainsFunc(jobs, func(j *adminpb.Job) bool { return j.Kind == "repair" }) != is {
				return fmt.Errorf("%v", jobs)
			}
			return nil
		})
	}
	repairs(true) // each chunk should have a copy there
	refused(&adminpb.DrillRequest{Server: "chunk-1", Nanos: int64(time.Minute), DryRun: true})
	refused(&adminpb.DrillRequest{Server: "chunk-1", Nanos: int64(time.Minute)})
	refused(&adminpb.DrillRequest{Server: "chunk-3", Nanos: int64(time.Minute)})
	c.Restart("chunk-3")
	c.whole()
	repairs(false)
	if err := c.drill(&adminpb.DrillRequest{Server: "chunk-2", Nanos: int64(away), DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.drill(&adminpb.DrillRequest{Server: "chunk-2", Nanos: int64(away)}); err != nil {
		t.Fatal(err)
	}
	for name, data := range c.writeSome("while-a-server-is-away") {
		files[name] = data
	}
	c.readAll(files)
	c.awaitServer("chunk-2", "to be back", func(s *adminpb.Server) bool { return s.State == "up" })
	c.whole()

	leader := c.Leader()
	if err := c.drill(&adminpb.DrillRequest{Master: leader, Nanos: int64(away)}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("another leader", func() error {
		st, err := c.Status()
		if err == nil && st.Leader == leader {
			err = fmt.Errorf("%s leads", leader)
		}
		return err
	})
	for name, data := range c.writeSome("while-a-master-is-away") {
		files[name] = data
	}
	c.readAll(files)
	c.WaitHealthy()
	c.Kill("chunk-2")
	c.readAll(files)
}
