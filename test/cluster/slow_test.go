package cluster

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"dfs"
	"dfs/internal/disk"
	"dfs/internal/virtualtime"
)

// One server whose disk is many times slower than the others' costs few reads something,
// of copies and of fragments.
func TestSlowServerDoesNotSlowReaders(t *testing.T) {
	t.Run("copies", func(t *testing.T) { slowReads(t, dfs.DefaultLayout, 3) })
	t.Run("ec=4+2", func(t *testing.T) {
		layout, err := dfs.EC(4, 2)
		if err != nil {
			t.Fatal(err)
		}
		slowReads(t, layout, 6)
	})
}

func slowReads(t *testing.T, layout dfs.Layout, servers int) {
	virtualtime.Test(t, func(t *testing.T) {
		c := Start(t, Options{ChunkServers: servers, Mem: true})
		ctx := context.Background()
		fs := c.dialNow()
		c.ok(fs.SetPolicy(ctx, root, dfs.RootIno, layout))
		const files = 300
		want := content(1, 20_000)
		for i := range files {
			c.ok(fs.WriteFile(ctx, root, fmt.Sprint("/f", i), want, 0o644))
		}
		c.ok(fs.Close())
		reader := c.Client()
		for i, s := range c.chunks {
			delay := 2 * time.Millisecond
			if i == 0 {
				delay = 100 * time.Millisecond
			}
			defer s.fs.(*disk.Mem).Fail(disk.Rule{Op: disk.OpRead, Path: "*", Delay: delay})()
		}
		var took []time.Duration
		for i := range files {
			began := time.Now()
			got, err := reader.ReadFile(ctx, root, fmt.Sprint("/f", i))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read %d: %d bytes, %v", i, len(got), err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		t.Logf("median %v, 95 of 100 %v, 99 of 100 %v, most %v", took[files/2], took[files*95/100], took[files*99/100], took[files-1])
		if p := took[files*95/100]; p >= 100*time.Millisecond {
			t.Errorf("95 of 100 reads take up to %v", p)
		}
	})
}
