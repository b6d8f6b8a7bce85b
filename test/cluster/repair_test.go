package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/adminpb"
	"dfs/proto/metapb"
)

// sizes of the files that the tests of repair write: a record for many, one, and several.
var repairSizes = []int{1, 5000, 100_000, 3 << 20, 9_000_000}

// writeSome writes files by a client of their own, whose chunks are sealed when it ends.
func (c *Cluster) writeSome(prefix string) map[string][]byte {
	c.t.Helper()
	fs := c.dialNow()
	files := map[string][]byte{}
	for i, n := range repairSizes {
		name := fmt.Sprintf("/%s-%d", prefix, i)
		files[name] = content(uint64(len(prefix)*100+i), n)
		if err := fs.WriteFile(context.Background(), root, name, files[name], 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := fs.Close(); err != nil {
		c.t.Fatal(err)
	}
	return files
}

// readAll reads files by a client that has nothing in memory.
func (c *Cluster) readAll(files map[string][]byte) {
	c.t.Helper()
	fs := c.dialNow()
	defer fs.Close()
	for name, want := range files {
		got, err := fs.ReadFile(context.Background(), root, name)
		if err != nil || !bytes.Equal(got, want) {
			c.t.Errorf("%s: %d of %d bytes are right, %v", name, common(got, want), len(want), err)
		}
	}
}

func common(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// whole waits until no chunk lacks anything by the masters' account, and checks that account.
func (c *Cluster) whole() {
	c.t.Helper()
	c.Eventually("whole chunks", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		if r := st.Repair; r.Chunks > 0 || r.Epoch != st.Epoch {
			return fmt.Errorf("%v", r)
		}
		return c.verify()
	})
}

// verify reads all fragments that should be there.
func (c *Cluster) verify() error {
	n := 0
	for _, s := range c.chunks {
		if s.server == nil {
			continue
		}
		id := s.server.ID()
		var list []*metapb.Fragment
		err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
			reply, err := metapb.NewClusterClient(conn).Expect(ctx, &metapb.ExpectRequest{Server: uint64(id)})
			list = reply.GetFragments()
			return err
		})
		if err != nil {
			return err
		}
		for _, f := range list {
			n++
			if err := s.server.Store().Verify(dfs.ChunkID(f.Chunk), f.End, func(int) error { return nil }); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	if n == 0 {
		return fmt.Errorf("nothing is anywhere")
	}
	return nil
}

// TestWhatAServerMissedIsMadeGood: what was written while a server was away it has soon
// after it is back, so that it can be the only one left.
func TestWhatAServerMissedIsMadeGood(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	files := c.writeSome("before")
	c.Kill("chunk-2")
	for name, data := range c.writeSome("during") {
		files[name] = data
	}
	c.Restart("chunk-2")
	c.whole()
	c.Kill("chunk-1")
	c.Kill("chunk-3")
	c.readAll(files)
}

// TestEmptiedServerIsFilledAgain: a server whose data is gone, but not who it is, and one
// whose files are damaged, get all from the others.
func TestEmptiedServerIsFilledAgain(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	files := c.writeSome("some")
	c.whole()
	c.Kill("chunk-1")
	_, s := c.find("chunk-1")
	names, err := filepath.Glob(filepath.Join(s.dir, "chunks", "*", "*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("files of chunk-1: %v, %v", names, err)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	c.Restart("chunk-1")
	c.Eventually("files of chunk-1", func() error {
		if n := len(s.server.Store().Chunks()); n == 0 {
			return fmt.Errorf("it has %d chunks", n)
		}
		return nil
	})
	c.whole()
	c.Kill("chunk-2")
	c.Kill("chunk-3")
	c.readAll(files)
}

// TestScrubFindsAndRepairsWhatIsDamaged: a bit that flips in a file that nobody reads.
func TestScrubFindsAndRepairsWhatIsDamaged(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, ScrubEvery: time.Second})
	files := c.writeSome("some")
	c.whole()
	_, s := c.find("chunk-3")
	names, err := filepath.Glob(filepath.Join(s.dir, "chunks", "*", "*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("files of chunk-3: %v, %v", names, err)
	}
	for _, name := range names {
		flipAt(t, name, dfs.FirstRecord+20) // in a header
	}
	if c.verify() == nil {
		t.Fatal("the flipped bits do not show")
	}
	c.Eventually("repair", c.verify)
	c.whole()
	c.Kill("chunk-1")
	c.Kill("chunk-2")
	c.readAll(files)
}

// flipAt changes a byte of a file.
func flipAt(t *testing.T, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestServerThatIsAwayForLongIsReplaced: others take over what it had; when it is back it
// may delete that, and when all the first servers are gone the data is there.
func TestServerThatIsAwayForLongIsReplaced(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 4, RepairAfter: 2 * time.Second, ReportInterval: 500 * time.Millisecond})
	files := map[string][]byte{}
	for i := range 6 {
		for name, data := range c.writeSome(fmt.Sprintf("some%d", i)) {
			files[name] = data
		}
	}
	c.whole()
	c.Kill("chunk-4")
	c.Eventually("positions of others", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		for _, s := range st.Servers {
			if s.Name == "chunk-4" && s.State != "down" {
				return fmt.Errorf("chunk-4 is %s", s.State)
			}
		}
		for _, g := range st.Groups {
			if g.Clean != g.Total {
				return fmt.Errorf("%d of %d groups are whole", g.Clean, g.Total)
			}
		}
		return nil
	})
	c.whole()
	c.readAll(files)
	// Any two of the three can go.
	c.Kill("chunk-1")
	c.Kill("chunk-2")
	c.readAll(files)
	c.Restart("chunk-1")
	c.Restart("chunk-2")
	c.Restart("chunk-4")
	c.Eventually("chunk-4 without what others have", func() error {
		_, s := c.find("chunk-4")
		if n := len(s.server.Store().Chunks()); n > 0 {
			return fmt.Errorf("it has %d chunks", n)
		}
		return nil
	})
	c.readAll(files)
}

// inPlace waits until all placement groups are where the ring wants them, and whole.
func (c *Cluster) inPlace() {
	c.t.Helper()
	c.Eventually("placement groups in their places", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		for _, g := range st.Groups {
			if g.Misplaced > 0 || g.Clean < g.Total {
				return fmt.Errorf("%d of %d groups are misplaced, %d whole: %s", g.Misplaced, g.Total, g.Clean, reasons(st))
			}
		}
		return nil
	})
	c.whole()
}

// held is how many fragments a server has.
func (c *Cluster) held(name string) int {
	_, s := c.find(name)
	return len(s.server.Store().Chunks())
}

// setServer is change without more to say.
func (c *Cluster) setServer(name string, change adminpb.SetServerRequest_Change) error {
	return c.change(&adminpb.SetServerRequest{Name: name, Change: change})
}

// TestServersJoinAndAreDrained: a server that joins gets its share of what is there, one
// that is drained gives up all, while files are written and read; no byte is lost, and nobody keeps
// what he need not have.
func TestServersJoinAndAreDrained(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, ReportInterval: 300 * time.Millisecond, DropWait: 300 * time.Millisecond})
	files := map[string][]byte{}
	more := func(prefix string) {
		t.Helper()
		for name, data := range c.writeSome(prefix) {
			files[name] = data
		}
	}
	for i := range 12 {
		more(fmt.Sprintf("first%d", i))
	}
	chunks := c.held("chunk-1")
	if err := c.setServer("chunk-1", adminpb.SetServerRequest_DRAIN); err == nil {
		t.Error("one of three servers could be drained of three copies")
	}
	name := c.AddChunkServer()
	more("while-it-joins")
	c.inPlace()
	if n := c.held(name); n == 0 {
		t.Errorf("the new server has none of %d chunks", chunks)
	}
	c.readAll(files)
	if err := c.setServer("chunk-1", adminpb.SetServerRequest_REMOVE); err == nil {
		t.Error("a server with data could be removed")
	}
	if err := c.setServer("chunk-1", adminpb.SetServerRequest_DRAIN); err != nil {
		t.Fatal(err)
	}
	more("while-it-drains")
	c.Eventually("chunk-1 drained", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		for _, r := range st.Reasons {
			if r.Code == "SERVER_DRAINED" {
				return nil
			}
		}
		return errors.New(reasons(st))
	})
	c.whole()
	c.Eventually("an empty chunk-1", func() error {
		if n := c.held("chunk-1"); n > 0 {
			return fmt.Errorf("it has %d chunks", n)
		}
		return nil
	})
	if err := c.setServer("chunk-1", adminpb.SetServerRequest_REMOVE); err != nil {
		t.Fatal(err)
	}
	c.Kill("chunk-1")
	c.Kill("chunk-2")
	c.readAll(files)
}

// TestMoveOutlivesKills: whoever dies while placement groups move, and whoever leads then,
// nothing is lost and all is in place in the end.
func TestMoveOutlivesKills(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, ReportInterval: 300 * time.Millisecond})
	files := map[string][]byte{}
	for i := range 10 {
		for name, data := range c.writeSome(fmt.Sprintf("first%d", i)) {
			files[name] = data
		}
	}
	for i, victim := range []string{c.AddChunkServer(), "chunk-1", "leader", "chunk-2"} {
		time.Sleep(time.Duration(1+i) * 700 * time.Millisecond)
		if victim == "leader" {
			victim = c.Leader()
		}
		c.Kill(victim)
		c.readAll(files)
		c.Restart(victim)
	}
	c.inPlace()
	c.readAll(files)
}

// bytesOnDisk is the space that the files of all chunk servers take.
func (c *Cluster) bytesOnDisk() (sum int64) {
	for _, s := range c.chunks {
		names, err := filepath.Glob(filepath.Join(s.dir, "chunks", "*", "*"))
		if err != nil {
			c.t.Fatal(err)
		}
		for _, name := range names {
			var st unix.Stat_t
			if unix.Stat(name, &st) == nil {
				sum += st.Blocks * 512
			}
		}
	}
	return sum
}

// TestDeadRecordsAreGivenBack: a file that is overwritten again and again in small pieces
// takes about its own space in the end; what is left of the chunks is read, checked, and restored.
func TestDeadRecordsAreGivenBack(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, ReclaimEvery: 500 * time.Millisecond, DropWait: 300 * time.Millisecond, ReportInterval: 300 * time.Millisecond})
	ctx := context.Background()
	fs := c.dialNow()
	const size, piece = 4 << 20, 64 << 10
	want := content(1, size)
	if err := fs.WriteFile(ctx, root, "/stays", content(2, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := fs.WriteFile(ctx, root, "/f", want, 0o644); err != nil {
		t.Fatal(err)
	}
	attr, err := fs.Lookup(ctx, root, dfs.RootIno, "f")
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.Open(ctx, root, attr.Ino, uint32(os.O_RDWR))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 600 {
		off := rng.IntN(size/piece*9/10) * piece
		data := content(uint64(i), piece)
		copy(want[off:], data)
		if _, err := f.Write(ctx, data, int64(off)); err != nil {
			t.Fatal(err)
		}
		if err := f.Fsync(ctx, false); err != nil {
			t.Fatal(err)
		}
	}
	f.Release()
	before := c.bytesOnDisk()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"/f": want, "/stays": content(2, 100_000)}
	most := int64(3 * (size + 4<<20))
	c.Eventually("space to be given back", func() error {
		if now := c.bytesOnDisk(); now > most {
			return fmt.Errorf("%d MiB of %d are still taken, want at most %d", now>>20, before>>20, most>>20)
		}
		return nil
	})
	c.whole()
	c.readAll(files)
	c.Kill("chunk-1")
	_, s := c.find("chunk-1")
	if err := os.RemoveAll(filepath.Join(s.dir, "chunks")); err != nil {
		t.Fatal(err)
	}
	c.Restart("chunk-1")
	c.Eventually("chunks of chunk-1", func() error {
		if n := c.held("chunk-1"); n == 0 {
			return errors.New("it has none")
		}
		return nil
	})
	c.whole()
	c.Kill("chunk-2")
	c.Kill("chunk-3")
	c.readAll(files)
}
