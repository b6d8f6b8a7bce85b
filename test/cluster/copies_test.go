package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metaserver "dfs/meta/server"
)

// TestAllMastersDisksAreLost: the copies of the metadata on chunk servers bring the names
// back by one call, and the bytes are where they were. One copy is damaged, and the
// next is taken. A client of before goes on.
func TestAllMastersDisksAreLost(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, BackupEvery: time.Second, SessionTTL: 3 * time.Second})
	ctx := context.Background()
	old := c.Client()
	want := map[string][]byte{}
	for i := range 20 {
		path := fmt.Sprintf("/f%d", i)
		want[path] = content(uint64(i), 1+i*30_000)
		if err := old.WriteFile(ctx, root, path, want[path], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	status, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	newest := func(s *chunk) string {
		files, err := filepath.Glob(filepath.Join(s.dir, "backups", "*.backup"))
		if err != nil || len(files) == 0 {
			return ""
		}
		return files[len(files)-1]
	}
	c.Eventually("copies of the metadata on all chunk servers", func() error {
		for _, s := range c.chunks {
			var cluster, term, index, made uint64
			if _, err := fmt.Sscanf(filepath.Base(newest(s)), "%16x-%16x-%16x-%16x.backup", &cluster, &term, &index, &made); err != nil || index < status.Commit {
				return fmt.Errorf("the one on %s is at %d, the files at %d (%v)", s.name, index, status.Commit, err)
			}
		}
		return nil
	})
	for _, m := range c.masters {
		c.Kill(m.name)
		if err := os.RemoveAll(m.dir); err != nil {
			t.Fatal(err)
		}
	}
	damage(t, newest(c.chunks[0]))

	var addrs []string
	for _, s := range c.chunks {
		addrs = append(addrs, s.addr)
	}
	first := c.masters[0]
	o := metaserver.RestoreOptions{Dir: first.dir, Name: first.name, Keep: time.Hour}
	checked, err := metaserver.RestoreFromServers(ctx, c.Pool, addrs, o, func(s string) { t.Log(s) })
	if err != nil || len(checked.Problems) > 0 {
		t.Fatalf("%v, %v", checked.Problems, err)
	}
	for _, m := range c.masters {
		c.Restart(m.name)
	}
	c.WaitHealthy()
	check := func(who string, read func(path string) ([]byte, error)) {
		for path, data := range want {
			got, err := read(path)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %s: %d bytes of %d, %v", who, path, len(got), len(data), err)
			}
		}
	}
	fresh := c.Client()
	check("a new client", func(path string) ([]byte, error) { return fresh.ReadFile(ctx, root, path) })
	c.Eventually("the old client to go on", func() error {
		if err := old.WriteFile(ctx, root, "/after", []byte("after"), 0o644); err != nil {
			return err
		}
		return old.Sync(ctx)
	})
	check("a client of before", func(path string) ([]byte, error) { return old.ReadFile(ctx, root, path) })
	if got, err := fresh.ReadFile(ctx, root, "/after"); err != nil || string(got) != "after" {
		t.Errorf("/after: %q, %v", got, err)
	}
}

// damage flips a bit in the middle of a file.
func damage(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0}
	if _, err := f.ReadAt(b, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, info.Size()/2); err != nil {
		t.Fatal(err)
	}
}
