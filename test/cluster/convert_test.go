package cluster

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/adminpb"
)

// keptAs counts the extents of a file that are kept in a layout, and in others.
func (c *Cluster) keptAs(path string, layout dfs.Layout) (so, otherwise int) {
	c.t.Helper()
	err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
		so, otherwise = 0, 0
		r, err := adminpb.NewAdminClient(conn).Where(ctx, &adminpb.WhereRequest{Path: path})
		for _, e := range r.GetExtents() {
			if dfs.ChunkID(e.Chunk).Layout() == layout {
				so++
			} else {
				otherwise++
			}
		}
		if err == nil && (r.Errno != 0 || dfs.Layout(r.Layout) != layout) {
			err = fmt.Errorf("errno %d, layout %v", r.Errno, dfs.Layout(r.Layout))
		}
		return err
	})
	if err != nil {
		c.t.Fatalf("%s: %v", path, err)
	}
	return so, otherwise
}

// TestFilesAreConvertedWhileTheyAreWritten: from copies to erasure coding and back, with a
// program that writes over one of them and syncs all the while.
func TestFilesAreConvertedWhileTheyAreWritten(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 6})
	ctx := context.Background()
	files := c.writeSome("plain")
	fs := c.Client()
	busy := content(5, 3<<20)
	if err := fs.WriteFile(ctx, root, "/busy", busy, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenPath(ctx, root, "/busy", uint32(os.O_RDWR), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	ec, err := dfs.EC(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	for round, layout := range []dfs.Layout{ec, dfs.DefaultLayout} {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(round), 7))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				piece := content(uint64(round*1000+i), 1+rnd.IntN(100_000))
				off := rnd.IntN(len(busy) - len(piece))
				copy(busy[off:], piece)
				if _, err := f.Write(ctx, piece, int64(off)); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				if err := f.Fsync(ctx, false); err != nil {
					t.Errorf("fsync: %v", err)
					return
				}
			}
		})
		mover := c.dialNow()
		before := map[string]dfs.Attr{}
		for name := range files {
			attr, err := mover.Stat(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			before[name] = attr
			if moved, err := mover.Convert(ctx, attr.Ino, layout, nil); err != nil || moved.Left > 0 || moved.Bytes != uint64(len(files[name])) {
				t.Fatalf("%s: %+v, %v", name, moved, err)
			}
		}
		if _, err := mover.Convert(ctx, f.Ino(), layout, nil); err != nil {
			t.Fatal(err)
		}
		close(stop)
		wg.Wait()
		if err := f.Fsync(ctx, false); err != nil {
			t.Fatal(err)
		}
		if moved, err := mover.Convert(ctx, f.Ino(), layout, nil); err != nil || moved.Left > 0 {
			t.Fatalf("busy: %+v, %v", moved, err)
		}
		if err := mover.Close(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(busy))
		if n, err := f.Read(ctx, got, 0); err != nil || n != len(got) || !bytes.Equal(got, busy) {
			t.Fatalf("who writes reads %d of %d bytes right, %v", common(got, busy), len(busy), err)
		}
		want := map[string][]byte{"/busy": busy}
		for name, data := range files {
			want[name] = data
		}
		c.readAll(want)
		after := c.dialNow()
		for name, attr := range before {
			now, err := after.Stat(ctx, name)
			if err != nil || now.Mtime != attr.Mtime || now.Ctime != attr.Ctime || now.Size != attr.Size || now.Alloc != attr.Alloc {
				t.Errorf("%s was %+v, is %+v, %v", name, attr, now, err)
			}
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
		for name := range want {
			if so, otherwise := c.keptAs(name, layout); otherwise > 0 || so == 0 {
				t.Errorf("%s: %d extents are kept as %v, %d are not", name, so, layout, otherwise)
			}
		}
		if t.Failed() {
			return
		}
	}
	if found, _ := c.check(&adminpb.CheckRequest{Quick: true}); len(found) > 0 {
		t.Errorf("%v", found)
	}
}
