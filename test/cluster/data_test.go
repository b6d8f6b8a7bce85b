package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dfs"
)

var root = dfs.Cred{Checked: true}

// content is bytes that differ from file to file.
func content(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func TestWrittenBytesAreReadByAnotherClient(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	ctx := context.Background()
	writer, reader := c.Client(), c.Client()
	for _, size := range []int{1, 4096, 100_001, 5 << 20} {
		path, want := fmt.Sprintf("/f%d", size), content(uint64(size), size)
		f, err := writer.OpenPath(ctx, root, path, 0o101, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := f.Write(ctx, want, 0); err != nil || n != size {
			t.Fatalf("wrote %d of %d bytes: %v", n, size, err)
		}
		if err := f.Fsync(ctx, false); err != nil {
			t.Fatal(err)
		}
		got, err := reader.ReadFile(ctx, root, path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes are read that are not the %d written", path, len(got), len(want))
		}
		f.Release()
	}
}

func TestServerThatIsDownIsAHoleUntilItIsBack(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	ctx := context.Background()
	fs := c.Client()
	if err := fs.WriteFile(ctx, root, "/before", content(1, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Kill("chunk-2")
	// No write waits for gossip: the client's report makes the masters look.
	if err := fs.WriteFile(ctx, root, "/during", content(2, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Eventually("hole in the map", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		for _, s := range st.Servers {
			if s.Name == "chunk-2" && s.State != "down" {
				return fmt.Errorf("chunk-2 is %s", s.State)
			}
		}
		codes := map[string]bool{}
		for _, r := range st.Reasons {
			codes[r.Code] = true
		}
		if st.Health != "degraded" || !codes["SERVER_DOWN"] || !codes["PG_DEGRADED"] || codes["PG_UNWRITABLE"] {
			return fmt.Errorf("health is %s: %s", st.Health, reasons(st))
		}
		return nil
	})
	if err := fs.WriteFile(ctx, root, "/after", content(3, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Restart("chunk-2")
	c.WaitHealthy()
	for seed, path := range map[uint64]string{1: "/before", 2: "/during", 3: "/after"} {
		got, err := c.Client().ReadFile(ctx, root, path)
		if err != nil || !bytes.Equal(got, content(seed, 100_000)) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
}

// What fsync acknowledged is there, whatever was killed meanwhile.
func TestAcknowledgedBytesSurviveKills(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	ctx, cancel := context.WithCancel(context.Background())
	fs := c.Client()
	type result struct {
		files int
		err   error
	}
	done := make(chan result, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if err := fs.WriteFile(context.Background(), root, fmt.Sprintf("/f%d", n), content(uint64(n), 20_000), 0o644); err != nil {
				done <- result{n, err}
				return
			}
			n++
		}
		done <- result{n, nil}
	}()
	for _, name := range []string{"chunk-1", "chunk-3", c.Leader()} {
		time.Sleep(300 * time.Millisecond) // let it write: what is killed must be in use
		c.Kill(name)
		time.Sleep(300 * time.Millisecond)
		c.Restart(name)
		c.WaitHealthy()
	}
	cancel()
	r := <-done
	if r.err != nil {
		t.Fatalf("after %d files: %v", r.files, r.err)
	}
	if r.files == 0 {
		t.Fatal("nothing was written")
	}
	reader := c.Client()
	for i := range r.files {
		got, err := reader.ReadFile(context.Background(), root, fmt.Sprintf("/f%d", i))
		if err != nil || !bytes.Equal(got, content(uint64(i), 20_000)) {
			t.Fatalf("file %d of %d: %d bytes, %v", i, r.files, len(got), err)
		}
	}
}

// fragments is how many fragment files all chunk servers hold.
func (c *Cluster) fragments() (n uint64) {
	for _, s := range c.chunks {
		if s.server != nil {
			n += s.server.Store().Stats().Fragments
		}
	}
	return n
}

func TestUnlinkedFilesGiveTheirChunksBack(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, DropWait: 200 * time.Millisecond, ReportInterval: 200 * time.Millisecond, SessionTTL: 3 * time.Second})
	ctx := context.Background()
	fs := c.Client()
	if err := fs.WriteFile(ctx, root, "/f", content(1, 300_000), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := c.fragments(); n < 3 {
		t.Fatalf("%d fragment files after a write", n)
	}
	if err := fs.Unlink(ctx, root, dfs.RootIno, "f"); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil { // its chunks are sealed with it
		t.Fatal(err)
	}
	c.Eventually("free space", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		if n := c.fragments(); n > 0 || st.Chunks > 0 || st.Orphans > 0 || st.Inodes != 1 {
			return fmt.Errorf("%d fragment files, %d chunks, %d orphans, %d inodes", n, st.Chunks, st.Orphans, st.Inodes)
		}
		return nil
	})
}

// POSIX unlink: the file is freed when the last descriptor is closed, not before,
// also when another master leads by then.
func TestUnlinkedOpenFileLivesUntilItIsClosed(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, SessionTTL: 4 * time.Second})
	ctx := context.Background()
	fs := c.Client()
	want := content(7, 50_000)
	if err := fs.WriteFile(ctx, root, "/f", want, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenPath(ctx, root, "/f", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Unlink(ctx, root, dfs.RootIno, "f"); err != nil {
		t.Fatal(err)
	}
	leader := c.Leader()
	c.Kill(leader)
	c.Restart(leader)
	c.WaitHealthy()
	// The reaper of the new leader has had the time to go wrong.
	time.Sleep(time.Second)
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		m, err := f.Read(ctx, got[n:], int64(n))
		if err != nil || m == 0 {
			t.Fatalf("read %d bytes at %d: %v", m, n, err)
		}
		n += m
	}
	if !bytes.Equal(got, want) {
		t.Error("other bytes are read than were written")
	}
	if attr, err := f.Attr(ctx); err != nil || attr.Nlink != 0 {
		t.Errorf("%d links, %v", attr.Nlink, err)
	}
	f.Release()
	c.Eventually("end of the orphan", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		if st.Orphans != 0 {
			return errors.New("the orphan is still there")
		}
		return nil
	})
}
