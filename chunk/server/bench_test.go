package server_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"google.golang.org/grpc"

	"dfs"
	"dfs/chunk/server"
	"dfs/internal/disk"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// BenchmarkReplicatedAppend writes three copies over loopback to a real disk (set
// DFS_BENCH_DIR to choose it), along a chain and by fanning out.
func BenchmarkReplicatedAppend(b *testing.B) {
	for _, c := range []struct {
		bytes, depth int
		chain        bool
	}{{4 << 10, 1, false}, {4 << 10, 1, true}, {4 << 10, 16, false}, {1 << 20, 8, true}, {1 << 20, 8, false}} {
		b.Run(fmt.Sprintf("%dKiB/depth=%d/chain=%v", c.bytes>>10, c.depth, c.chain), func(b *testing.B) {
			benchAppend(b, c.bytes, c.depth, c.chain)
		})
	}
}

func benchAppend(b *testing.B, size, depth int, chain bool) {
	dir, err := os.MkdirTemp(os.Getenv("DFS_BENCH_DIR"), "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	m := startMaster(b, "127.0.0.1:0")
	var nodes []node
	for i := range 3 {
		nodes = append(nodes, startServer(b, m.addr, i+1, func(c *server.Config) {
			c.FS, c.Dirs, c.GossipListen = disk.OS(), []string{fmt.Sprintf("%s/%d", dir, i)}, ""
		}))
	}
	for _, n := range nodes {
		waitFor(b, "all servers know all", func() bool { return n.Map() != nil && len(n.Map().Servers) == 3 })
	}
	pool := rpc.NewPool(testCluster, nil)
	defer pool.Close()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	targets := nodes
	if chain {
		targets = nodes[:1]
	}
	var streams []grpc.BidiStreamingClient[chunkpb.AppendRequest, chunkpb.AppendReply]
	replies := make(chan *chunkpb.AppendReply, 3*depth)
	for _, n := range targets {
		s, err := client(b, pool, n.Addr()).Append(ctx)
		if err != nil {
			b.Fatal(err)
		}
		streams = append(streams, s)
		go func() {
			for {
				r, err := s.Recv()
				if err != nil {
					if err != io.EOF && ctx.Err() == nil {
						b.Error(err)
					}
					return
				}
				replies <- r
			}
		}()
	}
	template := request(1, 1, dfs.FirstRecord, size)
	space := uint32(dfs.RecordSpace(size))
	seq, off, open := uint64(0), uint32(dfs.ChunkBytes), 0
	take := func() {
		r := <-replies
		if r.Errno != 0 {
			b.Fatal(r.Error)
		}
		open--
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	for i := range b.N {
		for open > (depth-1)*len(streams) {
			take()
		}
		if off+space > dfs.ChunkBytes {
			seq, off = seq+1, dfs.FirstRecord
		}
		for t, s := range streams {
			r := &chunkpb.AppendRequest{
				Id: uint64(i), Cluster: template.Cluster, Chunk: uint64(dfs.MakeChunkID(dfs.DefaultLayout, seq)), Fragment: uint32(t),
				Session: 5, Epoch: 1, Offset: off, RecordLen: uint32(size), Crcs: template.Crcs, Data: template.Data,
			}
			if chain {
				r.Forward = forward(nodes[1:]...)
			}
			if err := s.Send(r); err != nil {
				b.Fatal(err)
			}
			open++
		}
		off += space
	}
	for open > 0 {
		take()
	}
	b.StopTimer()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	b.ReportMetric(float64((ms.Sys-ms.HeapReleased)>>20), "MiB-all")
}
