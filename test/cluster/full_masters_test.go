package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/client"
	"dfs/internal/disk"
	"dfs/internal/virtualtime"
	"dfs/proto/adminpb"
)

// When the masters' disks are full up to their reserve, what would make the metadata grow is
// refused, and all else goes on: no master ends, nothing that was synced is lost, and deletes,
// truncations and settings are carried out.
func TestMastersWithFullDisksRefuseWhatGrows(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		c := Start(t, Options{ChunkServers: 3, Mem: true})
		ctx := context.Background()
		fs := c.Client()
		files := map[string][]byte{}
		for i := range 20 {
			name := fmt.Sprint("/before-", i)
			files[name] = content(uint64(i), 20_000)
			c.ok(fs.WriteFile(ctx, root, name, files[name], 0o644))
		}
		_, err := fs.Mkdir(ctx, root, dfs.RootIno, "folder", 0o755)
		c.ok(err)
		c.ok(fs.Sync(ctx))
		room := func(more uint64, masters ...*master) {
			for _, m := range masters {
				mem := m.fs.(*disk.Mem)
				total, free, err := mem.Usage(m.dir)
				if err != nil {
					t.Fatal(err)
				}
				mem.SetCapacity(total - free + more)
			}
			time.Sleep(5 * time.Second)
		}
		health := func(want string) {
			t.Helper()
			c.Eventually("health "+want, func() error {
				st, err := c.Status()
				if err == nil && !strings.Contains(reasons(st)+st.Health, want) {
					err = fmt.Errorf("%s, %s", st.Health, reasons(st))
				}
				return err
			})
		}
		var follower *master
		for _, m := range c.masters {
			if m.name != c.Leader() {
				follower = m
			}
		}
		room(400<<20, follower)
		health("MASTER_FULL")
		c.ok(fs.WriteFile(ctx, root, "/one-of-three-is-full", files["/before-0"], 0o644))
		c.ok(fs.Sync(ctx))

		// The log of a file that is synced again and again: what is acknowledged stays.
		attr, err := fs.Lookup(ctx, root, dfs.RootIno, "before-1")
		c.ok(err)
		f, err := fs.Open(ctx, root, attr.Ino, uint32(os.O_RDWR))
		c.ok(err)
		entry := content(99, 1000)
		synced := len(files["/before-1"])
		sync := func() error {
			if _, err := f.Write(ctx, entry, int64(synced)); err != nil {
				return err
			}
			if err := f.Fsync(ctx, false); err != nil {
				return err
			}
			synced += len(entry)
			files["/before-1"] = append(files["/before-1"], entry...)
			return nil
		}
		for range 30 {
			c.ok(sync())
		}
		room(400<<20, c.masters...)
		health("nothing can be created or written")
		for range 30 {
			if err := sync(); err != nil {
				t.Logf("sync of more: %v", err)
				break
			}
		}
		f.Release()

		other := c.dialNow()
		if _, err := other.Link(ctx, root, attr.Ino, dfs.RootIno, "linked"); !errors.Is(err, dfs.ENOSPC) {
			t.Errorf("link: %v", err)
		}
		refused := 0
		for i := range 30 {
			err := other.WriteFile(ctx, root, fmt.Sprint("/more-", i), entry, 0o644)
			if err == nil {
				err = other.Sync(ctx)
			}
			if errors.Is(err, dfs.ENOSPC) {
				refused++
			} else {
				t.Fatalf("a new file: %v", err)
			}
		}
		t.Logf("%d new files were refused", refused)
		c.ok(fs.Unlink(ctx, root, dfs.RootIno, "before-3"))
		c.ok(fs.Rmdir(ctx, root, dfs.RootIno, "folder"))
		delete(files, "/before-3")
		small := uint64(100)
		attr, err = fs.Lookup(ctx, root, dfs.RootIno, "before-4")
		c.ok(err)
		_, err = fs.SetAttr(ctx, root, attr.Ino, client.SetAttr{Size: &small})
		c.ok(err)
		files["/before-4"] = files["/before-4"][:small]
		c.ok(fs.Sync(ctx))
		c.ok(c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := adminpb.NewAdminClient(conn).SetConfig(ctx, &adminpb.SetConfigRequest{Name: "backup-keep", Value: "4"})
			return err
		}))
		c.readAll(files)
		_ = other.Close() // it may have something to say about what was refused

		room(8<<30, c.masters...)
		c.WaitHealthy()
		c.ok(fs.WriteFile(ctx, root, "/after", entry, 0o644))
		c.ok(fs.Sync(ctx))
		got, err := c.Client().ReadFile(ctx, root, "/after")
		if err != nil || !bytes.Equal(got, entry) {
			t.Errorf("after: %d bytes, %v", len(got), err)
		}
		c.readAll(files)
	})
}
