package cluster

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
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

// A server whose disk is slow, or does not answer at all, holds writers for a moment: they go
// on in new chunks on the others. Once it is well again it gets what it missed.
func TestSlowServerDoesNotHoldWriters(t *testing.T) {
	ec, err := dfs.EC(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	slow := disk.Rule{Op: disk.OpSync, Path: "*", Delay: 500 * time.Millisecond}
	hung := disk.Rule{Path: "*", Delay: time.Minute}
	t.Run("slow", func(t *testing.T) { slowWrites(t, dfs.DefaultLayout, 3, slow) })
	t.Run("hung", func(t *testing.T) { slowWrites(t, dfs.DefaultLayout, 3, hung) })
	t.Run("hung of four", func(t *testing.T) { slowWrites(t, dfs.DefaultLayout, 4, hung) })
	t.Run("hung of ec=4+2", func(t *testing.T) { slowWrites(t, ec, 6, hung) })
}

func slowWrites(t *testing.T, layout dfs.Layout, servers int, fault disk.Rule) {
	virtualtime.Test(t, func(t *testing.T) {
		c := Start(t, Options{ChunkServers: servers, Mem: true})
		ctx := context.Background()
		fs := c.Client()
		c.ok(fs.SetPolicy(ctx, root, dfs.RootIno, layout))
		files := map[string][]byte{}
		write := func() time.Duration {
			name := fmt.Sprint("/f", len(files))
			files[name] = content(uint64(len(files)), 20_000)
			began := time.Now()
			c.ok(fs.WriteFile(ctx, root, name, files[name], 0o644))
			c.ok(fs.Sync(ctx))
			return time.Since(began)
		}
		for range 20 {
			write()
		}
		heal := c.chunks[0].fs.(*disk.Mem).Fail(fault)
		var held, most time.Duration
		for began := time.Now(); time.Since(began) < 9*time.Second; {
			d := write()
			most = max(most, d)
			if d > 100*time.Millisecond {
				held += d
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("%d files, the longest took %v, all that took long %v", len(files), most, held)
		if most > 2*time.Second || held > 3*time.Second {
			t.Errorf("one write took %v, and writers were held for %v of 9 s", most, held)
		}
		heal()
		c.readAll(files)
		c.WaitHealthy()
		c.readAll(files)
	})
}

// A server whose disks are slow, or do not answer, is named in the cluster's health.
func TestSlowAndHungDisksAreReported(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		c := Start(t, Options{ChunkServers: 4, Mem: true})
		ctx := context.Background()
		fs := c.Client()
		files := 0
		reported := func(code string) error {
			if files++; files%8 == 0 {
				fs = c.Client() // which leaves no server out yet
			}
			time.Sleep(500 * time.Millisecond)
			c.ok(fs.WriteFile(ctx, root, fmt.Sprint("/f", files), content(uint64(files), 20_000), 0o644))
			c.ok(fs.Sync(ctx))
			st, err := c.Status()
			if err != nil {
				return err
			}
			for _, r := range st.Reasons {
				if r.Code == code && strings.Contains(r.Message, c.chunks[0].name) {
					return nil
				}
			}
			return fmt.Errorf("%s", reasons(st))
		}
		for range 30 {
			_ = reported("")
		}
		mem := c.chunks[0].fs.(*disk.Mem)
		heal := mem.Fail(disk.Rule{Op: disk.OpSync, Path: "*", Delay: 400 * time.Millisecond})
		c.Eventually("slow server in the health", func() error { return reported("SERVER_SLOW") })
		heal()
		heal = mem.Fail(disk.Rule{Path: "*", Delay: 40 * time.Second})
		c.Eventually("hung disk in the health", func() error { return reported("DISK_HUNG") })
		heal()
		time.Sleep(5 * time.Minute) // until what was slow is forgotten
		c.WaitHealthy()
	})
}
