package server_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/chunkpb"
)

// TestNobodyLeavesForLongerThanADrillMay: whoever asks.
func TestNobodyLeavesForLongerThanADrillMay(t *testing.T) {
	_, nodes, pool := cluster(t, 1)
	c := client(t, pool, nodes[0].Addr())
	for nanos, want := range map[int64]codes.Code{-1: codes.InvalidArgument, int64(dfs.DrillMax) + 1: codes.InvalidArgument, 0: codes.OK} {
		_, err := c.Leave(t.Context(), &chunkpb.LeaveRequest{Cluster: uint64(testCluster), Nanos: nanos})
		if status.Code(err) != want {
			t.Errorf("away for %d ns: %v, want %v", nanos, err, want)
		}
	}
}
