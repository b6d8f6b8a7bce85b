package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"dfs"
	"dfs/internal/disk"
	"dfs/internal/virtualtime"
)

// A server that is full is left out as long as enough others have room; when all are
// full the program is told, what was written stays, and deletes go on.
func TestFullServersAreLeftOutAndAllFullIsENOSPC(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		c := Start(t, Options{ChunkServers: 3, Mem: true})
		ctx := context.Background()
		fs := c.Client()
		room := func(s *chunk, more uint64) {
			total, free, err := s.fs.Usage(s.dir)
			if err != nil {
				t.Fatal(err)
			}
			s.fs.(*disk.Mem).SetCapacity(total - free + more)
		}
		files := map[string][]byte{}
		write := func(name string, n int) error {
			b := content(uint64(len(files)), n)
			err := fs.WriteFile(ctx, root, name, b, 0o644)
			if err == nil {
				files[name] = b
			}
			return err
		}
		c.ok(write("/before", 100_000))
		room(c.chunks[0], 0)
		for i := range 5 {
			if err := write(fmt.Sprint("/one-full-", i), 300_000); err != nil {
				t.Fatalf("one of three servers is full: %v", err)
			}
		}
		c.readAll(files)
		for _, s := range c.chunks {
			room(s, 0)
		}
		if err := write("/all-full", 300_000); !errors.Is(err, dfs.ENOSPC) {
			t.Fatalf("all servers are full: %v", err)
		}
		if err := fs.Unlink(ctx, root, dfs.RootIno, "before"); err != nil {
			t.Errorf("delete while all servers are full: %v", err)
		}
		delete(files, "/before")
		c.readAll(files)
		for _, s := range c.chunks {
			room(s, 8<<30)
		}
		c.Eventually("room", func() error { return write("/after", 300_000) })
		got, err := fs.ReadFile(ctx, root, "/after")
		if err != nil || !bytes.Equal(got, files["/after"]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		c.WaitHealthy() // what the full server lacks was made good
		c.readAll(files)
	})
}
