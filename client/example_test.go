package client_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"dfs"
	"dfs/client"
	"dfs/rpc"
)

// A program that keeps a file in a cluster, without a mount.
func Example() {
	ctx := context.Background()
	fs, err := client.Dial(ctx, client.Config{
		Masters: rpc.ParseMasters(os.Getenv("DFS_MASTERS"), 7400),
		Host:    "worker-7",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer fs.Close()

	me := dfs.Cred{UID: 1000, GID: 1000}
	if _, err := fs.MkdirAll(ctx, me, "/reports", 0o755); err != nil {
		log.Fatal(err)
	}
	f, err := fs.OpenPath(ctx, me, "/reports/today", uint32(os.O_RDWR|os.O_CREATE), 0o644)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Release()
	if _, err := f.Write(ctx, []byte("all is well\n"), 0); err != nil {
		log.Fatal(err)
	}
	// On the disks of all servers of the file's policy, and of most masters.
	if err := f.Fsync(ctx, true); err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 100)
	n, err := f.Read(ctx, p, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", p[:n])
}
