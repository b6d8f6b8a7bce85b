package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dfs"
	"dfs/client"
)

// TestChangesInMemoryAreWhatTheMastersDo does random changes through two clients. Both
// make theirs in memory where they have the leases; each then asks the other's, which
// makes it tell the masters. What one answered and what the other sees must be the same
// to the last bit of the attributes, and the masters must agree with every change.
func TestChangesInMemoryAreWhatTheMastersDo(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	ctx := context.Background()
	clients := []*client.FS{c.Client(), c.Client()}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		attr, err := clients[0].Mkdir(ctx, root, dfs.RootIno, fmt.Sprintf("r%d", round), 0o755)
		if err != nil {
			rt.Fatal(err)
		}
		if err := clients[0].Sync(ctx); err != nil {
			rt.Fatal(err)
		}
		top := attr.Ino
		dirs, inos := []dfs.Ino{top}, []dfs.Ino{top}
		open := map[*client.File]bool{}
		defer func() {
			for f := range open {
				f.Release()
			}
		}()
		name := func(label string) string { return rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, label) }
		for range rapid.IntRange(1, 50).Draw(rt, "steps") {
			who := rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(rt, "who")
			fs, known := clients[who], len(inos)
			dir := rapid.SampledFrom(dirs).Draw(rt, "dir")
			ino := rapid.SampledFrom(inos).Draw(rt, "ino")
			var got dfs.Attr
			var err error
			switch op := rapid.SampledFrom([]string{
				"create", "create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "rename", "chmod", "utimes", "chown", "write", "truncate", "sync",
			}).Draw(rt, "op"); op {
			case "create":
				var f *client.File
				if f, got, err = fs.Create(ctx, root, dir, name("name"), 0o644, 0o302); err == nil {
					open[f] = true
					inos = append(inos, got.Ino)
				}
			case "mkdir":
				if got, err = fs.Mkdir(ctx, root, dir, name("name"), 0o2755); err == nil {
					dirs, inos = append(dirs, got.Ino), append(inos, got.Ino)
				}
			case "symlink":
				if got, err = fs.Symlink(ctx, root, dir, name("name"), "target"); err == nil {
					inos = append(inos, got.Ino)
				}
			case "link":
				got, err = fs.Link(ctx, root, ino, dir, name("name"))
			case "unlink":
				err = fs.Unlink(ctx, root, dir, name("name"))
			case "rmdir":
				err = fs.Rmdir(ctx, root, dir, name("name"))
			case "rename":
				to := rapid.SampledFrom(dirs).Draw(rt, "to")
				err = fs.Rename(ctx, root, dir, name("name"), to, name("new"), rapid.SampledFrom([]uint32{0, 0, 1, 2}).Draw(rt, "flags"))
			case "chmod":
				mode := uint32(rapid.SampledFrom([]int{0o644, 0o4755, 0o2755, 0o1777}).Draw(rt, "mode"))
				got, err = fs.SetAttr(ctx, root, ino, client.SetAttr{Mode: &mode})
			case "utimes":
				got, err = fs.SetAttr(ctx, root, ino, client.SetAttr{Mtime: &dfs.Time{Sec: 77, Nsec: 5}, AtimeNow: true})
			case "chown":
				gid := uint32(42)
				got, err = fs.SetAttr(ctx, root, ino, client.SetAttr{GID: &gid, KillSuid: true})
			case "write":
				for f := range open {
					if _, err := f.Write(ctx, []byte("some bytes"), int64(rapid.IntRange(0, 9000).Draw(rt, "off"))); err != nil && !errors.Is(err, dfs.ESTALE) {
						rt.Fatalf("write: %v", err)
					}
					break
				}
			case "truncate":
				size := uint64(rapid.IntRange(0, 10000).Draw(rt, "size"))
				got, err = fs.SetAttr(ctx, root, ino, client.SetAttr{Size: &size})
			case "sync":
				err = fs.Sync(ctx)
			}
			var verdict dfs.Errno
			if err != nil && !errors.As(err, &verdict) {
				rt.Fatalf("client %d: %v", who, err)
			}
			if err == nil && got.Ino != 0 && !slices.Contains(inos[:known], got.Ino) {
				// Others learn of an inode by a name, and asking for that makes its maker
				// tell. Here they take its number from thin air.
				if err := fs.Sync(ctx); err != nil {
					rt.Fatal(err)
				}
			}
			if err == nil && got.Ino != 0 {
				inos = append(inos, got.Ino)
				if rapid.Bool().Draw(rt, "look") {
					same(rt, ctx, clients, got.Ino)
				}
			}
			if rapid.IntRange(0, 3).Draw(rt, "list") == 0 {
				sameNames(rt, ctx, clients, dir)
			}
		}
		for _, ino := range inos {
			same(rt, ctx, clients, ino)
		}
		for _, dir := range dirs {
			sameNames(rt, ctx, clients, dir)
		}
		for i, fs := range clients {
			if n := fs.Stats().Surprises; n > 0 {
				rt.Fatalf("the masters did not agree with %d changes of client %d", n, i)
			}
		}
	})
}

// same compares what the clients say of an inode; the first answers first.
func same(rt *rapid.T, ctx context.Context, clients []*client.FS, ino dfs.Ino) {
	rt.Helper()
	a, aerr := clients[0].GetAttr(ctx, ino)
	b, berr := clients[1].GetAttr(ctx, ino)
	// One that has no name any more is freed some time.
	if aGone, bGone := aerr != nil || a.Nlink == 0, berr != nil || b.Nlink == 0; aGone || bGone {
		if aGone != bGone {
			rt.Fatalf("inode %d: one says %+v %v, the other %+v %v", ino, a, aerr, b, berr)
		}
		return
	}
	// Until bytes are committed it is not known how much room they take.
	a.Alloc, a.Change = b.Alloc, b.Change
	if a != b {
		rt.Fatalf("inode %d: one says %+v, the other %+v", ino, a, b)
	}
}

func sameNames(rt *rapid.T, ctx context.Context, clients []*client.FS, dir dfs.Ino) {
	rt.Helper()
	for _, name := range []string{"a", "b", "c", "d"} {
		a, aerr := clients[0].Lookup(ctx, root, dir, name)
		b, berr := clients[1].Lookup(ctx, root, dir, name)
		var av, bv dfs.Errno
		errors.As(aerr, &av)
		errors.As(berr, &bv)
		if a.Ino != b.Ino || av != bv {
			rt.Fatalf("%s in %d: one says %d %v, the other %d %v", name, dir, a.Ino, aerr, b.Ino, berr)
		}
	}
}
