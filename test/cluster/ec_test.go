package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"dfs"
)

// TestErasureCodedFiles: everything works on ec=4+2 as on copies, with any two of six servers
// gone; and what two servers have lost is made of the others.
func TestErasureCodedFiles(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 6})
	layout, err := dfs.EC(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	first := c.dialNow()
	if err := first.SetPolicy(ctx, root, dfs.RootIno, layout); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	files := c.writeSome("plain")
	// Small pieces, over what is there, behind it, each synced.
	fs := c.dialNow()
	want := content(77, 700_000)
	if err := fs.WriteFile(ctx, root, "/changed", want, 0o644); err != nil {
		t.Fatal(err)
	}
	attr, err := fs.Lookup(ctx, root, dfs.RootIno, "changed")
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.Open(ctx, root, attr.Ino, uint32(os.O_RDWR))
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{1, 10, 4096, 5000, 100_000, 300_001} {
		piece := content(uint64(i), n)
		off := i * 77_777
		if i == 5 {
			off = len(want)
		}
		if _, err := f.Write(ctx, piece, int64(off)); err != nil {
			t.Fatal(err)
		}
		if err := f.Fsync(ctx, false); err != nil {
			t.Fatal(err)
		}
		want = append(want[:min(off, len(want))], append(bytes.Clone(piece), want[min(off+n, len(want)):]...)...)
	}
	f.Release()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	files["/changed"] = want
	c.whole()
	c.readAll(files)

	for i := range 6 {
		for k := range i {
			a, b := fmt.Sprintf("chunk-%d", i+1), fmt.Sprintf("chunk-%d", k+1)
			c.Kill(a)
			c.Kill(b)
			c.readAll(files)
			if i == 5 && k == 4 {
				break // and these lose all
			}
			c.Restart(a)
			c.Restart(b)
		}
	}
	if t.Failed() {
		return
	}
	for _, name := range []string{"chunk-6", "chunk-5"} {
		_, s := c.find(name)
		list, err := filepath.Glob(filepath.Join(s.dir, "chunks", "*", "*"))
		if err != nil || len(list) == 0 {
			t.Fatalf("files of %s: %v, %v", name, list, err)
		}
		for _, file := range list {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		c.Restart(name)
		c.Eventually("fragments of "+name, func() error {
			if n := c.held(name); n < len(list) {
				return fmt.Errorf("%d of %d", n, len(list))
			}
			return nil
		})
	}
	c.whole()
	c.Kill("chunk-1")
	c.Kill("chunk-3")
	c.readAll(files)
}
