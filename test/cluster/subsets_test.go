package cluster

import (
	"bytes"
	"context"
	"fmt"
	"math/bits"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/adminpb"
)

// TestEverySubsetOfLossesIsRebuilt: for each layout, and each set of at most as many fragments as it
// has parity, one chunk loses just these, one half by files that are gone, the other by bits that flip.
// All is read while it is so, and is made anew byte for byte.
func TestEverySubsetOfLossesIsRebuilt(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 6})
	ctx := context.Background()
	type lost struct {
		id       dfs.ChunkID
		server   string
		position uint32
		was      []byte
	}
	files := map[string][]byte{}
	var all []lost
	for _, shape := range [][2]int{{2, 1}, {4, 2}, {3, 3}} {
		layout, err := dfs.EC(shape[0], shape[1])
		if err != nil {
			t.Fatal(err)
		}
		dir := fmt.Sprintf("/%d+%d", shape[0], shape[1])
		fs := c.dialNow()
		attr, err := fs.MkdirAll(ctx, root, dir, 0o755)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.SetPolicy(ctx, root, attr.Ino, layout); err != nil {
			t.Fatal(err)
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		for set := uint32(1); set < 1<<layout.Width(); set++ {
			if bits.OnesCount32(set) > layout.Parity() {
				continue
			}
			name := fmt.Sprintf("%s/%b", dir, set)
			files[name] = content(uint64(set), 10_000+int(set)*1000)
			one := c.dialNow() // whose chunk nobody else writes to
			if err := one.WriteFile(ctx, root, name, files[name], 0o644); err != nil {
				t.Fatal(err)
			}
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
			for _, e := range c.where(name) {
				for i, f := range e.Fragments {
					if set>>i&1 == 1 {
						all = append(all, lost{id: dfs.ChunkID(e.Chunk), server: f.Name, position: uint32(i)})
					}
				}
			}
		}
	}
	c.whole()
	raw := func(l *lost) []byte {
		t.Helper()
		store := c.ChunkServer(l.server).Store()
		info, ok := store.Stat(l.id)
		if !ok || info.Fragment != l.position {
			t.Fatalf("chunk %v is not on %s: %+v", l.id, l.server, info)
		}
		r, err := store.ReadRaw(l.id, 0, make([]byte, info.End))
		if err != nil || len(r.Data) != int(info.End) {
			t.Fatalf("chunk %v on %s: %d of %d bytes, %v", l.id, l.server, len(r.Data), info.End, err)
		}
		return bytes.Clone(r.Data[dfs.FirstRecord:])
	}
	for i := range all {
		all[i].was = raw(&all[i])
	}
	for i := range all {
		l, store := &all[i], c.ChunkServer(all[i].server).Store()
		if i%2 == 0 {
			if err := store.Delete(l.id); err != nil {
				t.Fatal(err)
			}
			continue
		}
		path, err := store.Path(l.id, l.position)
		if err != nil {
			t.Fatal(err)
		}
		flipAt(t, path, dfs.FirstRecord+20)
	}
	c.readAll(files)
	found, last := c.check(&adminpb.CheckRequest{Repair: true, WaitNanos: int64(30 * time.Second)})
	for _, f := range found {
		if !f.Repaired {
			t.Errorf("%v", f)
		}
	}
	if last.Chunks < uint64(len(files)) {
		t.Errorf("%v", last)
	}
	c.whole()
	for i := range all {
		if l := &all[i]; !bytes.Equal(raw(l), l.was) {
			t.Errorf("fragment %d of chunk %v was made otherwise than it was", l.position, l.id)
		}
	}
	c.readAll(files)
	t.Logf("%d chunks lost %d fragments", len(files), len(all))
}

// where lists the extents of a file.
func (c *Cluster) where(path string) []*adminpb.WhereExtent {
	c.t.Helper()
	var r *adminpb.WhereReply
	err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		r, err = adminpb.NewAdminClient(conn).Where(ctx, &adminpb.WhereRequest{Path: path})
		return err
	})
	if err != nil || r.Errno != 0 || len(r.Extents) == 0 {
		c.t.Fatalf("where is %s: %v, %v", path, r, err)
	}
	return r.Extents
}
