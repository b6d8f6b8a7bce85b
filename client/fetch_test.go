package client

import (
	"context"
	"errors"
	"testing"

	"dfs"
	"dfs/client/cache"
	"dfs/rpc"
)

// TestReadThatIsGivenUpAnswersNothing: one whose caller has gone before a server was asked
// is an error, and not bytes that nobody has read.
func TestReadThatIsGivenUpAnswersNothing(t *testing.T) {
	fs := &FS{cfg: Config{Masters: []string{"127.0.0.1:1"}}, pool: rpc.NewPool(0, nil), health: newHealth(), cache: cache.New(1<<20, rpc.Free)}
	defer fs.pool.Close()
	if err := fs.cfg.complete(); err != nil {
		t.Fatal(err)
	}
	fs.direct = newDirect(fs)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ec, err := dfs.EC(2, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, layout := range []dfs.Layout{dfs.DefaultLayout, ec} {
		chunk := dfs.MakeChunkID(layout, 7)
		fs.cluster.Store(&dfs.ClusterMap{
			Epoch: 1, Buckets: 1, Servers: []dfs.Server{{ID: 3, Addr: "127.0.0.1:1", State: dfs.ServerUp}},
			Home: map[dfs.PG][]dfs.NodeID{chunk.PG(1): {3, 3, 3}},
		})
		e := dfs.Extent{Len: 100, Chunk: chunk, Record: 4096, RecordLen: 100}
		if err := fs.fetch(ctx, []part{{extent: e, dst: make([]byte, 100)}}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v: %v", layout, err)
		}
	}
}
