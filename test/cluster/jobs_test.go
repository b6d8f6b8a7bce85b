package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/adminpb"
)

// gate lets a number of files be moved, and then none before it is opened.
type gate struct {
	mu   sync.Mutex
	left int           // +checklocks:mu
	full chan struct{} // closed when the first one waits
	open chan struct{}
	once sync.Once
}

func newGate(files int) *gate {
	return &gate{left: files, full: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) pass(ctx context.Context, _ dfs.Ino) error {
	g.mu.Lock()
	g.left--
	wait := g.left < 0
	g.mu.Unlock()
	if !wait {
		return nil
	}
	g.once.Do(func() { close(g.full) })
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reached waits until no more files are let through.
func (c *Cluster) reached(g *gate) {
	c.t.Helper()
	c.Eventually("files that wait", func() error {
		select {
		case <-g.full:
			return nil
		default:
			return fmt.Errorf("%v", c.jobs())
		}
	})
}

// makeTree makes files in folders that are to be kept in a layout; the files are not yet.
func (c *Cluster) makeTree(layout dfs.Layout) map[string][]byte {
	c.t.Helper()
	ctx := context.Background()
	fs := c.dialNow()
	files, folders := map[string][]byte{}, []string{"/tree", "/tree/a", "/tree/a/b", "/tree/c"}
	for i, dir := range folders {
		if _, err := fs.MkdirAll(ctx, root, dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
		for j := range 10 {
			name := fmt.Sprintf("%s/%d", dir, j)
			files[name] = content(uint64(i*100+j), 1+j*7000)
			if err := fs.WriteFile(ctx, root, name, files[name], 0o644); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	for _, dir := range folders {
		attr, err := fs.Stat(ctx, dir)
		if err == nil {
			err = fs.SetPolicy(ctx, root, attr.Ino, layout)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	if err := fs.Close(); err != nil {
		c.t.Fatal(err)
	}
	return files
}

// startJob has a folder brought to its policy.
func (c *Cluster) startJob(dir string) (id string) {
	c.t.Helper()
	fs := c.dialNow()
	attr, err := fs.Stat(context.Background(), dir)
	if err == nil {
		err = fs.Close()
	}
	if err == nil {
		err = c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
			r, err := adminpb.NewAdminClient(conn).StartJob(ctx, &adminpb.StartJobRequest{Kind: "convert", Path: dir, Ino: uint64(attr.Ino)})
			id = r.GetId()
			return err
		})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

func (c *Cluster) controlJob(id string, change adminpb.ControlJobRequest_Change) error {
	return c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := adminpb.NewAdminClient(conn).ControlJob(ctx, &adminpb.ControlJobRequest{Id: id, Change: change})
		return err
	})
}

// jobIs waits until a job is in a state.
func (c *Cluster) jobIs(id, state string) (job *adminpb.Job) {
	c.t.Helper()
	c.Eventually("a job that is "+state, func() error {
		for _, j := range c.jobs() {
			if j.Id == id && j.State == state {
				job = j
				return nil
			}
		}
		return fmt.Errorf("%v", c.jobs())
	})
	return job
}

// TestConversionOutlivesItsLeader: a leader dies in the middle of a job, the next one goes on with it;
// who asked for it is gone; somebody writes all the while. Each file is looked at once.
func TestConversionOutlivesItsLeader(t *testing.T) {
	t.Parallel()
	g := newGate(15)
	c := Start(t, Options{ChunkServers: 6, Moving: g.pass})
	ctx := context.Background()
	ec, err := dfs.EC(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	files := c.makeTree(ec)
	fs := c.Client()
	busy := content(5, 1<<20)
	const name = "/tree/c/busy"
	if err := fs.WriteFile(ctx, root, name, busy, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenPath(ctx, root, name, uint32(os.O_RDWR), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 7))
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			piece := content(uint64(i), 1+rnd.IntN(50_000))
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
	id := c.startJob("/tree")
	if again := c.startJob("/tree"); again != id {
		t.Errorf("the same job was begun twice, as %s and %s", id, again)
	}
	c.reached(g)
	old := c.Leader()
	c.Kill(old)
	close(g.open)
	job := c.jobIs(id, "done")
	close(stop)
	wg.Wait()
	if want := uint64(len(files) + 1); job.Files != want || job.Folders != 4 || job.Skipped != 0 {
		t.Errorf("%d files in %d folders were looked at, want %d in 4: %v", job.Files, job.Folders, want, job)
	}
	files[name] = busy
	c.readAll(files)
	for name := range files {
		if so, otherwise := c.keptAs(name, ec); so+otherwise == 0 || path.Base(name) != "busy" && otherwise > 0 {
			t.Errorf("%s: %d extents are kept as %v, %d are not", name, so, ec, otherwise)
		}
	}
	c.Restart(old)
}

// TestJobIsPausedResumedAndCancelled: a job that was cancelled leaves files that are kept in
// two ways, all of them readable.
func TestJobIsPausedResumedAndCancelled(t *testing.T) {
	t.Parallel()
	g := newGate(15)
	c := Start(t, Options{ChunkServers: 6, Moving: g.pass})
	ec, err := dfs.EC(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	files := c.makeTree(ec)
	id := c.startJob("/tree")
	c.reached(g)
	if err := c.controlJob(id, adminpb.ControlJobRequest_PAUSE); err != nil {
		t.Fatal(err)
	}
	c.jobIs(id, "paused")
	second := c.startJob("/tree/c") // it does not wait for one that is paused
	c.Eventually("the second job", func() error {
		for _, j := range c.jobs() {
			if j.Id == second && j.State == "runs" {
				return nil
			}
		}
		return fmt.Errorf("%v", c.jobs())
	})
	if err := c.controlJob(second, adminpb.ControlJobRequest_CANCEL); err != nil {
		t.Fatal(err)
	}
	c.jobIs(second, "cancelled")
	if err := c.controlJob(second, adminpb.ControlJobRequest_RESUME); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a job that has ended is resumed: %v", err)
	}
	if err := c.controlJob(id, adminpb.ControlJobRequest_RESUME); err != nil {
		t.Fatal(err)
	}
	c.jobIs(id, "runs")
	if err := c.controlJob(id, adminpb.ControlJobRequest_CANCEL); err != nil {
		t.Fatal(err)
	}
	c.jobIs(id, "cancelled")
	for id, want := range map[string]codes.Code{"repair": codes.FailedPrecondition, "drain:chunk-1": codes.FailedPrecondition, "99": codes.NotFound, "x": codes.NotFound} {
		if err := c.controlJob(id, adminpb.ControlJobRequest_PAUSE); status.Code(err) != want {
			t.Errorf("pause of %s: %v, want %v", id, err, want)
		}
	}
	c.readAll(files)
	moved, left := 0, 0
	for name := range files {
		if kept := c.layoutsOf(name); kept[ec] {
			moved++
		} else {
			left++
		}
	}
	if moved == 0 || left == 0 {
		t.Errorf("%d files are moved and %d are not", moved, left)
	}
	close(g.open)
	c.jobIs(c.startJob("/tree"), "done")
	c.readAll(files)
	for name := range files {
		if so, otherwise := c.keptAs(name, ec); so == 0 || otherwise > 0 {
			t.Errorf("%s: %d extents are kept as %v, %d are not", name, so, ec, otherwise)
		}
	}
}

// layoutsOf are the layouts in which a file's bytes are kept.
func (c *Cluster) layoutsOf(name string) map[dfs.Layout]bool {
	c.t.Helper()
	kept := map[dfs.Layout]bool{}
	err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := adminpb.NewAdminClient(conn).Where(ctx, &adminpb.WhereRequest{Path: name})
		for _, e := range r.GetExtents() {
			kept[dfs.ChunkID(e.Chunk).Layout()] = true
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return kept
}

// TestScrubIsAJob: a scrub that takes long is seen, with what is left of it.
func TestScrubIsAJob(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3, ScrubEvery: time.Second})
	err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := adminpb.NewAdminClient(conn).SetConfig(ctx, &adminpb.SetConfigRequest{Name: "scrub-rate", Value: "64KiB"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	fs := c.Client()
	const size = 8 << 20 // more than may be read at once, whatever the rate
	if err := fs.WriteFile(context.Background(), root, "/file", content(1, size), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := fs.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.Eventually("scrubs", func() error {
		jobs := c.jobs()
		for _, j := range jobs {
			if j.Kind == "scrub" && j.Left > 0 && j.Left+j.Done >= size && j.Id == "scrub:"+j.Target {
				return nil
			}
		}
		return fmt.Errorf("%v", jobs)
	})
	if err := c.controlJob("scrub:chunk-1", adminpb.ControlJobRequest_CANCEL); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a scrub is cancelled: %v", err)
	}
}
