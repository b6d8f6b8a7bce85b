package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"dfs"
	"dfs/client"
	"dfs/meta"
	"dfs/proto/metapb"
)

const (
	oRead   = 0
	oWrite  = 1
	oRDWR   = 2
	oCreate = 0o100
	oExcl   = 0o200
	oTrunc  = 0o1000
	oAppend = 0o2000
	oSync   = 0o4010000
	oDirect = 0o40000
)

var (
	root = dfs.Cred{Checked: true}
	bg   = context.Background()
)

func random(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func must[T any](t testing.TB) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func create(t testing.TB, fs *client.FS, name string) *client.File {
	t.Helper()
	f, _, err := fs.Create(bg, root, dfs.RootIno, name, 0o644, oRDWR|oCreate)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func writeAt(t testing.TB, f *client.File, p []byte, off int64) {
	t.Helper()
	for len(p) > 0 {
		n, err := f.Write(bg, p[:min(len(p), 1<<20)], off)
		if err != nil {
			t.Fatalf("write of %d at %d: %v", len(p), off, err)
		}
		p, off = p[n:], off+int64(n)
	}
}

func readAll(t testing.TB, f *client.File, n int) []byte {
	t.Helper()
	var out []byte
	buf := make([]byte, 1<<20)
	for {
		k, err := f.Read(bg, buf, int64(len(out)))
		if err != nil {
			t.Fatalf("read at %d: %v", len(out), err)
		}
		if k == 0 {
			break
		}
		out = append(out, buf[:k]...)
	}
	if len(out) != n {
		t.Fatalf("read %d bytes, want %d", len(out), n)
	}
	return out
}

func check(t testing.TB, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		t.Fatalf("bytes differ: %d against %d, first at %d", len(got), len(want), i)
	}
}

func TestWrittenBytesAreReadByThisClientAtOnceAndByOthersAfterClose(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	a, b := c.dial(), c.dial()
	f := create(t, a, "x")
	want := random(3<<20+12345, 1)
	writeAt(t, f, want, 0)
	check(t, readAll(t, f, len(want)), want)
	if attr := must[dfs.Attr](t)(a.GetAttr(bg, f.Ino())); attr.Size != uint64(len(want)) || attr.Alloc == 0 {
		t.Fatalf("size %d, alloc %d", attr.Size, attr.Alloc)
	}
	if err := f.Flush(bg); err != nil {
		t.Fatal(err)
	}
	check(t, must[[]byte](t)(b.ReadFile(bg, root, "/x")), want)
	check(t, readAll(t, f, len(want)), want)
	f.Release()
	g := must[*client.File](t)(a.Open(bg, root, f.Ino(), oRead))
	check(t, readAll(t, g, len(want)), want)
	g.Release()
}

func TestOneFsyncIsOneCommit(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	for i := range 10 {
		writeAt(t, f, random(4096, uint64(i)), int64(i)*4096)
		before := c.master.commits.Load()
		if err := f.Fsync(bg, false); err != nil {
			t.Fatal(err)
		}
		if n := c.master.commits.Load() - before; n != 1 {
			t.Fatalf("%d commits for one fsync", n)
		}
	}
}

func TestManyFsyncsShareCommits(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	const threads, rounds = 16, 20
	var wg sync.WaitGroup
	for i := range threads {
		f := create(t, fs, fmt.Sprint(i))
		wg.Go(func() {
			defer f.Release()
			for r := range rounds {
				writeAt(t, f, random(4096, uint64(i*1000+r)), int64(r)*4096)
				if err := f.Fsync(bg, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	st := fs.Stats().Append
	if st.Commits >= threads*rounds/2 || st.Records >= threads*rounds/2+threads {
		t.Errorf("%d fsyncs took %d commits and %d records", threads*rounds, st.Commits, st.Records)
	}
	for i := range threads {
		got := must[[]byte](t)(c.dial().ReadFile(bg, root, fmt.Sprintf("/%d", i)))
		for r := range rounds {
			check(t, got[r*4096:(r+1)*4096], random(4096, uint64(i*1000+r)))
		}
		if i == 2 {
			break
		}
	}
}

func TestSmallFilesShareRecords(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	const files = 200
	var open []*client.File
	for i := range files {
		f := create(t, fs, fmt.Sprint(i))
		open = append(open, f)
	}
	for i, f := range open {
		writeAt(t, f, random(100+i*7, uint64(i)), 0)
	}
	if err := fs.Sync(bg); err != nil {
		t.Fatal(err)
	}
	for _, f := range open {
		f.Release()
	}
	if st := fs.Stats(); st.Append.Records > files/20 || st.Append.Commits > files/20 || st.Inodes != 0 {
		t.Errorf("%+v", st)
	}
	eventually(t, 5*time.Second, func() bool { return fs.Stats().DirtyBytes == 0 })
	other := c.dial()
	for i := range files {
		check(t, must[[]byte](t)(other.ReadFile(bg, root, fmt.Sprintf("/%d", i))), random(100+i*7, uint64(i)))
	}
}

func TestBackgroundWritesBackInASecond(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs, other := c.dial(), c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	writeAt(t, f, []byte("hello"), 0)
	eventually(t, 5*time.Second, func() bool {
		attr, err := other.GetAttr(bg, f.Ino())
		return err == nil && attr.Size == 5
	})
}

func eventually(t testing.TB, d time.Duration, cond func() bool) {
	t.Helper()
	end := time.Now().Add(d)
	for !cond() {
		if time.Now().After(end) {
			t.Fatal("it never came true")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestTruncate(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs, other := c.dial(), c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	data := random(2<<20, 3)
	writeAt(t, f, data, 0)
	set := func(n uint64) {
		t.Helper()
		if attr := must[dfs.Attr](t)(fs.SetAttr(bg, root, f.Ino(), client.SetAttr{Size: &n, Handle: true})); attr.Size != n {
			t.Fatalf("size %d, want %d", attr.Size, n)
		}
	}
	set(100_000)
	check(t, readAll(t, f, 100_000), data[:100_000])
	set(300_000)
	want := append(bytes.Clone(data[:100_000]), make([]byte, 200_000)...)
	check(t, readAll(t, f, 300_000), want)
	check(t, must[[]byte](t)(other.ReadFile(bg, root, "/x")), want)
	set(0)
	readAll(t, f, 0)
	writeAt(t, f, []byte("new"), 0)
	check(t, readAll(t, f, 3), []byte("new"))
	g := must[*client.File](t)(fs.Open(bg, root, f.Ino(), oWrite|oTrunc))
	g.Release()
	readAll(t, f, 0)
}

// What is dirty may be submitted at any time, but not while a truncation is about to drop it.
func TestTruncationIsNotUndoneByWhatWasDirty(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs, other := c.dial(), c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	for _, fail := range []bool{false, true} {
		writeAt(t, f, []byte("written"), 0)
		synced, applied := make(chan error, 1), make(chan struct{})
		hook := func(req *metapb.MutateRequest) {
			switch m := req.Mutations[0]; {
			case m.GetSetAttr() != nil:
				go func() { synced <- f.Fsync(bg, false) }()
				time.Sleep(100 * time.Millisecond) // for it to get on
				if fail {
					m.GetSetAttr().Ino = 12345
				}
			case m.GetCommit() != nil:
				<-applied
			}
		}
		c.master.mutateHook.Store(&hook)
		zero, want := uint64(0), []byte(nil)
		_, err := fs.SetAttr(bg, root, f.Ino(), client.SetAttr{Size: &zero, Handle: true})
		if fail {
			want = []byte("written")
		}
		if (err != nil) != fail {
			t.Errorf("truncation: %v", err)
		}
		close(applied)
		if err := <-synced; err != nil {
			t.Error(err)
		}
		c.master.mutateHook.Store(nil)
		check(t, must[[]byte](t)(other.ReadFile(bg, root, "/x")), want)
		check(t, readAll(t, f, len(want)), want)
	}
}

func TestTimesSetAfterAWriteStay(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	writeAt(t, f, []byte("hello"), 0)
	old := dfs.Time{Sec: 1000, Nsec: 5}
	must[dfs.Attr](t)(fs.SetAttr(bg, root, f.Ino(), client.SetAttr{Mtime: &old}))
	if err := f.Flush(bg); err != nil {
		t.Fatal(err)
	}
	f.Release()
	if attr := must[dfs.Attr](t)(fs.Stat(bg, "/x")); attr.Mtime != old || attr.Size != 5 {
		t.Errorf("mtime %v size %d", attr.Mtime, attr.Size)
	}
}

func TestAppendFlag(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	writeAt(t, f, []byte("0123456789"), 0)
	a := must[*client.File](t)(fs.Open(bg, root, f.Ino(), oWrite|oAppend))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := a.Write(bg, []byte("abcd"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := readAll(t, f, 10+8*50*4)
	check(t, got[10:], bytes.Repeat([]byte("abcd"), 400))
	if _, err := a.Read(bg, make([]byte, 1), 0); !errors.Is(err, dfs.EBADF) {
		t.Errorf("read of a file open for writing: %v", err)
	}
	a.Release()
	f.Release()
}

func TestSyncFlagIsDurableWhenWriteReturns(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs, other := c.dial(), c.dial()
	f, _, err := fs.Create(bg, root, dfs.RootIno, "x", 0o644, oWrite|oSync)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	writeAt(t, f, []byte("now"), 0)
	check(t, must[[]byte](t)(other.ReadFile(bg, root, "/x")), []byte("now"))
}

func TestDirectReadSeesOtherClients(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	a, b := c.dial(), c.dial()
	f := create(t, a, "x")
	defer f.Release()
	writeAt(t, f, []byte("one"), 0)
	if err := f.Flush(bg); err != nil {
		t.Fatal(err)
	}
	g := must[*client.File](t)(b.Open(bg, root, f.Ino(), oDirect))
	defer g.Release()
	check(t, readAll(t, g, 3), []byte("one"))
	writeAt(t, f, []byte("three"), 0)
	if err := f.Flush(bg); err != nil {
		t.Fatal(err)
	}
	check(t, readAll(t, g, 5), []byte("three"))
}

func TestNamespace(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	d := must[dfs.Attr](t)(fs.MkdirAll(bg, root, "/a/b/c", 0o755))
	for i := range 300 {
		must[dfs.Attr](t)(fs.Mknod(bg, root, d.Ino, fmt.Sprintf("f%03d", i), 0o600, 0))
	}
	names := map[string]bool{}
	for cookie := uint64(0); ; {
		l := must[client.Listing](t)(fs.ReadDir(bg, root, d.Ino, cookie, 64, true))
		for _, e := range l.Entries {
			names[e.Name] = true
			cookie = e.Cookie
			if e.Attr.Ino != e.Ino {
				t.Fatalf("%+v", e)
			}
		}
		if l.End {
			break
		}
	}
	if len(names) != 300 {
		t.Errorf("%d names", len(names))
	}
	must[dfs.Attr](t)(fs.Symlink(bg, root, dfs.RootIno, "s", "a/b/../b/c"))
	if a := must[dfs.Attr](t)(fs.Stat(bg, "/s/f007")); a.Type() != dfs.TypeFile {
		t.Errorf("%o", a.Mode)
	}
	if err := fs.Rename(bg, root, d.Ino, "f001", dfs.RootIno, "moved", dfs.RenameNoReplace); err != nil {
		t.Error(err)
	}
	moved := must[dfs.Attr](t)(fs.Stat(bg, "/moved"))
	if a := must[dfs.Attr](t)(fs.Link(bg, root, moved.Ino, d.Ino, "again")); a.Nlink != 2 {
		t.Errorf("nlink %d", a.Nlink)
	}
	if err := fs.Unlink(bg, root, dfs.RootIno, "moved"); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(bg, "/moved"); !errors.Is(err, dfs.ENOENT) {
		t.Error(err)
	}
	if err := fs.Rmdir(bg, root, dfs.RootIno, "a"); !errors.Is(err, dfs.ENOTEMPTY) {
		t.Error(err)
	}
	if err := fs.SetXattr(bg, root, moved.Ino, "user.k", []byte("v"), 0); err != nil {
		t.Error(err)
	}
	if v := must[[]byte](t)(fs.GetXattr(bg, root, moved.Ino, "user.k")); string(v) != "v" {
		t.Errorf("%q", v)
	}
	if l := must[[]string](t)(fs.ListXattr(bg, root, moved.Ino)); len(l) != 1 {
		t.Error(l)
	}
	if err := fs.RemoveXattr(bg, root, moved.Ino, "user.k"); err != nil {
		t.Error(err)
	}
	must[dfs.StatFS](t)(fs.StatFS(bg))
	if _, _, err := fs.Create(bg, root, d.Ino, "f002", 0o600, oExcl|oCreate); !errors.Is(err, dfs.EEXIST) {
		t.Error(err)
	}
	if _, _, err := fs.Create(bg, root, dfs.RootIno, "a", 0o600, oCreate); !errors.Is(err, dfs.EISDIR) {
		t.Error(err)
	}
	if err := fs.WriteFile(bg, root, "/a/file", random(100, 1), 0o600); err != nil {
		t.Error(err)
	}
	if err := fs.WriteFile(bg, root, "/a/file", []byte("less"), 0o600); err != nil {
		t.Error(err)
	}
	check(t, must[[]byte](t)(fs.ReadFile(bg, root, "/a/file")), []byte("less"))
}

func TestRenameWritesBackFirst(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs, other := c.dial(), c.dial()
	f := create(t, fs, "new")
	defer f.Release()
	writeAt(t, f, []byte("content"), 0)
	hook := func(req *metapb.MutateRequest) {
		if req.Mutations[0].GetRename() != nil {
			if attr, err := other.GetAttr(bg, f.Ino()); err != nil || attr.Size != 7 {
				t.Errorf("renamed before the bytes were committed: %d %v", attr.Size, err)
			}
		}
	}
	c.master.mutateHook.Store(&hook)
	if err := fs.Rename(bg, root, dfs.RootIno, "new", dfs.RootIno, "old", 0); err != nil {
		t.Fatal(err)
	}
	c.master.mutateHook.Store(nil)
	check(t, must[[]byte](t)(other.ReadFile(bg, root, "/old")), []byte("content"))
}

func TestErasureCoding(t *testing.T) {
	layout := must[dfs.Layout](t)(dfs.EC(2, 1))
	c := newCluster(t, clusterOptions{servers: 3, layout: layout})
	fs := c.dial()
	want := random(5<<20+999, 5)
	if err := fs.WriteFile(bg, root, "/x", want, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range c.chunks {
		other := c.dial()
		check(t, must[[]byte](t)(other.ReadFile(bg, root, "/x")), want)
		c.chunks[i].kill()
		check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
		c.chunks[i].start()
	}
}

func TestChunkServerDiesInTheMiddleOfAStream(t *testing.T) {
	for _, at := range []int64{1, 7, 30} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			c := newCluster(t, clusterOptions{})
			fs := c.dial(func(cfg *client.Config) { cfg.OpTimeout = 2 * time.Minute }) // of a busy machine
			c.chunks[1].dieAt.Store(at)
			f := create(t, fs, "x")
			want := random(48<<20, uint64(at))
			start := time.Now()
			writeAt(t, f, want, 0)
			if err := f.Fsync(bg, false); err != nil {
				t.Fatal(err)
			}
			t.Logf("took %v", time.Since(start))
			if !c.chunks[1].down.Load() {
				t.Fatal("it was not killed")
			}
			f.Release()
			check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
			// When it is back, it is used again.
			c.chunks[1].dieAt.Store(0)
			c.chunks[1].start()
			c.master.setState(c.chunks[1], dfs.ServerUp)
			before := c.chunks[1].appends.Load()
			eventually(t, 10*time.Second, func() bool {
				if err := fs.WriteFile(bg, root, "/y", want[:100], 0o600); err != nil {
					t.Fatal(err)
				}
				return c.chunks[1].appends.Load() > before
			})
		})
	}
}

func TestHangingChunkServerIsADelayOnly(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	writeAt(t, f, []byte("one"), 0)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	c.chunks[2].hang.Store(true)
	writeAt(t, f, []byte("two"), 3)
	start := time.Now()
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), []byte("onetwo"))
}

func TestTooFewServersWaitsThenTimesOutThenSucceeds(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial(func(cfg *client.Config) { cfg.OpTimeout = time.Second })
	f := create(t, fs, "x")
	defer f.Release()
	writeAt(t, f, []byte("one"), 0)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.chunks[1:] {
		s.kill()
		c.master.setState(s, dfs.ServerDown)
	}
	writeAt(t, f, []byte("two"), 3)
	if err := f.Fsync(bg, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("fsync with one server: %v", err)
	}
	ctx, cancel := context.WithCancel(bg)
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := f.Fsync(ctx, false); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted fsync: %v", err)
	}
	check(t, readAll(t, f, 6), []byte("onetwo"))
	for _, s := range c.chunks[1:] {
		s.start()
		c.master.setState(s, dfs.ServerUp)
	}
	eventually(t, 10*time.Second, func() bool { return f.Fsync(bg, false) == nil })
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), []byte("onetwo"))
}

func TestStaleMapIsWrittenAgain(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	c.master.staleNext.Store(2)
	want := random(3<<20, 9)
	writeAt(t, f, want, 0)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	if fs.Stats().Append.Rewritten == 0 {
		t.Error("nothing was written again")
	}
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
}

func TestNoSpace(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	writeAt(t, f, []byte("one"), 0)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.chunks {
		s.noSpace.Store(true)
	}
	writeAt(t, f, []byte("two"), 3)
	if err := f.Fsync(bg, false); !errors.Is(err, dfs.ENOSPC) {
		t.Fatalf("fsync: %v", err)
	}
	if _, err := f.Write(bg, []byte("x"), 0); !errors.Is(err, dfs.ENOSPC) {
		t.Fatalf("write: %v", err)
	}
	// Reads, deletions and emptying files go on.
	check(t, readAll(t, f, 6), []byte("onetwo"))
	g := create(t, fs, "gone")
	g.Release()
	if err := fs.Unlink(bg, root, dfs.RootIno, "gone"); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.chunks {
		s.noSpace.Store(false)
	}
	eventually(t, 10*time.Second, func() bool { return f.Fsync(bg, false) == nil })
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), []byte("onetwo"))

	for _, s := range c.chunks {
		s.noSpace.Store(true)
	}
	writeAt(t, f, []byte("six"), 6)
	if err := f.Flush(bg); !errors.Is(err, dfs.ENOSPC) {
		t.Fatalf("close: %v", err)
	}
	zero := uint64(0)
	if attr := must[dfs.Attr](t)(fs.SetAttr(bg, root, f.Ino(), client.SetAttr{Size: &zero})); attr.Size != 0 {
		t.Errorf("size %d", attr.Size)
	}
	f.Release()
	eventually(t, 5*time.Second, func() bool { st := fs.Stats(); return st.Inodes == 0 && st.DirtyBytes == 0 })
}

func TestOneFullServerIsAvoided(t *testing.T) {
	c := newCluster(t, clusterOptions{servers: 5})
	fs := c.dial()
	c.chunks[0].noSpace.Store(true)
	want := random(4<<20, 2)
	if err := fs.WriteFile(bg, root, "/x", want, 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
}

func TestLostRepliesTakeEffectOnce(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	c.master.loseReply.Store(1)
	d, err := fs.Mkdir(bg, root, dfs.RootIno, "d", 0o755)
	if err != nil {
		t.Fatalf("mkdir whose reply was lost: %v", err)
	}
	c.master.loseReply.Store(1)
	f, _, err := fs.Create(bg, root, d.Ino, "x", 0o600, oCreate|oExcl|oRDWR)
	if err != nil {
		t.Fatalf("create whose reply was lost: %v", err)
	}
	writeAt(t, f, []byte("abc"), 0)
	c.master.loseReply.Store(2)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	f.Release()
	c.master.loseReply.Store(1)
	if err := fs.Rename(bg, root, d.Ino, "x", d.Ino, "y", 0); err != nil {
		t.Fatal(err)
	}
	c.master.loseReply.Store(1)
	if err := fs.Unlink(bg, root, d.Ino, "y"); err != nil {
		t.Fatal(err)
	}
}

func TestExpiredSessionDoesNotLoseAnything(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	want := random(2<<20+17, 4)
	writeAt(t, f, want[:1<<20], 0)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	writeAt(t, f, want[1<<20:], 1<<20)
	old := fs.Stats().Session
	c.master.expire()
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	if fs.Stats().Session == old {
		t.Error("the session is still the old one")
	}
	if hb := c.master.lastOpen.Load(); hb == nil || len(hb.Open) != 1 || hb.Open[0] != uint64(f.Ino()) {
		t.Errorf("the open file was not told: %v", hb)
	}
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
	c.master.expire()
	must[dfs.Attr](t)(fs.Mkdir(bg, root, dfs.RootIno, "d", 0o755))
	c.master.expire()
	eventually(t, 10*time.Second, func() bool {
		c.master.mu.Lock()
		defer c.master.mu.Unlock()
		return len(c.master.sessions) > 0 // the heartbeat has noticed
	})
}

// A commit of two files is carried out, and its answer is lost with the session. So it is made
// again: the client must know that the files have changed twice since, or it takes that for a
// change by others when the session expires once more.
func TestCommitThatIsMadeAgainCountsTwice(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	files := []*client.File{create(t, fs, "a"), create(t, fs, "b")}
	c.master.loseMany.Store(true)
	want := []byte("0")
	for round := 0; c.master.loseMany.Load(); round++ {
		if round == 100 {
			t.Fatal("two files are never committed together")
		}
		want = fmt.Append(nil, round)
		for _, f := range files {
			writeAt(t, f, want, 0)
		}
		if err := fs.Sync(bg); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		writeAt(t, f, []byte("late"), 10)
	}
	c.master.expire()
	for _, f := range files {
		if err := f.Fsync(bg, true); err != nil {
			t.Errorf("fsync after two expiries: %v", err)
		}
		check(t, readAll(t, f, 14), append(append(want, make([]byte, 10-len(want))...), "late"...))
		f.Release()
	}
}

func TestNewLeaderIsToldAllOpenFiles(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f, g := create(t, fs, "x"), create(t, fs, "y")
	defer f.Release()
	g.Release()
	c.master.wantOpen.Store(true)
	eventually(t, 10*time.Second, func() bool {
		hb := c.master.lastOpen.Load()
		return hb != nil && len(hb.Open) > 0
	})
	if hb := c.master.lastOpen.Load(); len(hb.Open) != 1 || hb.Open[0] != uint64(f.Ino()) {
		t.Errorf("told %v, want only %d", hb.Open, f.Ino())
	}
}

func TestMasterAwayIsADelay(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	// Without a map it would not know where to append to.
	eventually(t, 20*time.Second, func() bool { m := fs.ClusterMap(); return m != nil && len(m.Acting) > 0 })
	writeAt(t, f, []byte("one"), 0)
	c.master.stop()
	done := make(chan error, 1)
	go func() { done <- f.Fsync(bg, false) }()
	eventually(t, 20*time.Second, func() bool { return fs.Stats().Append.Records > 0 })
	c.master.start()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), []byte("one"))
}

func TestReadIsServedFromAnotherReplica(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	want := random(3<<20, 8)
	if err := c.dial().WriteFile(bg, root, "/x", want, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, s := range c.chunks {
		s.corrupt.Store(true)
		check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
		if i == 2 {
			break
		}
		s.corrupt.Store(false)
	}
	c.chunks[2].corrupt.Store(false)
	c.chunks[0].kill()
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
	c.chunks[1].corrupt.Store(true)
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), want)
	c.chunks[2].corrupt.Store(true)
	fs := c.dial(func(cfg *client.Config) { cfg.OpTimeout = time.Second })
	if _, err := fs.ReadFile(bg, root, "/x"); err == nil {
		t.Error("a read of bytes that no server has whole succeeded")
	}
}

func TestLostEverywhereIsEIO(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	if err := c.dial().WriteFile(bg, root, "/x", random(1000, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.chunks {
		s.corrupt.Store(true)
	}
	if _, err := c.dial().ReadFile(bg, root, "/x"); !errors.Is(err, dfs.EIO) {
		t.Errorf("%v", err)
	}
}

func TestUnlinkedOpenFileWorks(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	writeAt(t, f, []byte("one"), 0)
	if err := fs.Unlink(bg, root, dfs.RootIno, "x"); err != nil {
		t.Fatal(err)
	}
	writeAt(t, f, []byte("two"), 3)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	check(t, readAll(t, f, 6), []byte("onetwo"))
	f.Release()
}

func TestDirtyMemoryIsBounded(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	const bound = 8 << 20
	fs := c.dial(func(cfg *client.Config) { cfg.DirtyBytes = bound })
	f := create(t, fs, "x")
	data := random(1<<20, 1)
	for i := range 40 {
		writeAt(t, f, data, int64(i)<<20)
		if n := fs.Stats().DirtyBytes; n > bound {
			t.Fatalf("%d dirty bytes", n)
		}
	}
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	f.Release()
	// With nobody to take the bytes, a write waits until the bound.
	fs = c.dial(func(cfg *client.Config) { cfg.DirtyBytes = bound; cfg.OpTimeout = 500 * time.Millisecond })
	f = create(t, fs, "y")
	defer f.Release()
	for _, s := range c.chunks {
		c.master.setState(s, dfs.ServerDown)
	}
	var err error
	for i := 0; i < 40 && err == nil; i++ {
		_, err = f.Write(bg, data, int64(i)<<20)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("write without memory: %v", err)
	}
	for _, s := range c.chunks {
		c.master.setState(s, dfs.ServerUp)
	}
	eventually(t, 10*time.Second, func() bool { return f.Fsync(bg, false) == nil })
	// gRPC may hold the memory of a message a little longer than the servers take to answer.
	eventually(t, 10*time.Second, func() bool { return fs.Stats().DirtyBytes == 0 })
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	before := runtime.NumGoroutine()
	fs := c.dial()
	f := create(t, fs, "x")
	writeAt(t, f, random(3<<20, 1), 0)
	f.Release()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	// Those of the servers' ends of the connections end a little later.
	eventually(t, 5*time.Second, func() bool { return runtime.NumGoroutine() <= before+2 })
	check(t, must[[]byte](t)(c.dial().ReadFile(bg, root, "/x")), random(3<<20, 1))
	if _, err := fs.GetAttr(bg, dfs.RootIno); err == nil {
		t.Error("a call after Close succeeded")
	}
}

func TestBadConfig(t *testing.T) {
	for _, cfg := range []client.Config{
		{}, {Masters: []string{"x:1"}, DirtyBytes: 1}, {Masters: []string{"x:1"}, OpTimeout: -1}, {Masters: []string{"x:1"}, CacheBytes: -1},
	} {
		if fs, err := client.Dial(bg, cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
			_ = fs.Close()
		}
	}
	c := newCluster(t, clusterOptions{})
	_, err := client.Dial(bg, client.Config{Masters: []string{"nobody:1"}, OpTimeout: 200 * time.Millisecond, Dialer: c.net.Dialer("client")})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial to nobody: %v", err)
	}
}

func TestBytesOfAFileThatIsGoneAreReportedOnce(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	writeAt(t, f, []byte("one"), 0)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	if err := fs.Unlink(bg, root, dfs.RootIno, "x"); err != nil {
		t.Fatal(err)
	}
	writeAt(t, f, []byte("two"), 3)
	c.master.mu.Lock()
	c.master.own(&meta.Reap{Inodes: []dfs.Ino{f.Ino()}}) // as when the session had been away for too long
	c.master.mu.Unlock()
	if err := f.Fsync(bg, false); !errors.Is(err, dfs.EIO) {
		t.Fatalf("fsync of lost bytes: %v", err)
	}
	if err := f.Flush(bg); err != nil {
		t.Fatalf("told twice: %v", err)
	}
}

// A process that ends closes the descriptors that it has inherited, and heeds no error: what
// it is told must not be kept from the one that calls fsync.
func TestErrorThatACloseWasToldIsToldByFsync(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	fs := c.dial()
	f := create(t, fs, "x")
	defer f.Release()
	writeAt(t, f, []byte("one"), 0)
	if err := fs.Unlink(bg, root, dfs.RootIno, "x"); err != nil {
		t.Fatal(err)
	}
	c.master.mu.Lock()
	c.master.own(&meta.Reap{Inodes: []dfs.Ino{f.Ino()}})
	c.master.mu.Unlock()
	for _, step := range []struct {
		name string
		call func() error
		want error
	}{
		{"close", func() error { return f.Flush(bg) }, dfs.EIO},
		{"close of another descriptor", func() error { return f.Flush(bg) }, nil},
		{"fsync", func() error { return f.Fsync(bg, false) }, dfs.EIO},
		{"fsync again", func() error { return f.Fsync(bg, false) }, nil},
		{"the last close", func() error { return f.Flush(bg) }, nil},
	} {
		if err := step.call(); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.name, err, step.want)
		}
	}
}
