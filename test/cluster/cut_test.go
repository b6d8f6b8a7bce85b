package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"dfs"
	"dfs/client"
)

// dial makes a client; w may be nil.
func (c *Cluster) dial(w *Wire, timeout time.Duration) (*client.FS, error) {
	ctx, cancel := context.WithTimeout(context.Background(), healthyTimeout)
	defer cancel()
	cfg := c.clientConfig(timeout)
	if w != nil {
		w.under = cfg.Dialer
		if w.name != "" {
			cfg.Logger = c.logger.With("node", w.name)
		}
		cfg.Dialer = w.dial
	}
	return client.Dial(ctx, cfg)
}

// cuttable makes a user whose client may be cut off, or crash: it is never asked
// whether it could write everything back.
func (c *Cluster) cuttable(t *testing.T, name string) (user, *Wire) {
	t.Helper()
	w := &Wire{}
	fs, err := c.dial(w, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.mend()
		_ = fs.Close()
	})
	return user{t, name, fs}, w
}

// briefly makes a call that has little time, and reports whether it was answered: with
// success or with a verdict.
func (u user) briefly(fn func(ctx context.Context) error) (answered bool, err error) {
	ctx, cancel := context.WithTimeout(u.t.Context(), 200*time.Millisecond)
	defer cancel()
	err = fn(ctx)
	var verdict dfs.Errno
	return err == nil || errors.As(err, &verdict), err
}

// A client that hears nothing must not answer from what it knew, as soon as others may
// have changed it; and they must not wait for it forever.
func TestClientThatIsCutOffAnswersNothingOld(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name      string
		silent    bool
		ttl, wait time.Duration
	}{
		{"broken", false, 20 * time.Second, 0},
		{"silent", true, 20 * time.Second, 0},
		{"expired", false, 3 * time.Second, 5 * time.Second}, // the session, before or after its leases
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			c := Start(t, Options{Masters: 1, ChunkServers: 3, SessionTTL: x.ttl})
			a, w := c.cuttable(t, "A")
			b := user{t, "B", c.Client()}
			// What A knows.
			dir := a.mkdir(dfs.RootIno, "dir")
			a.create(dir, "gone")
			moved := a.create(dir, "moved")
			f, held := a.file(dir, "f"), a.file(dir, "held")
			old := content(1, 5000)
			a.put(f, old, 0)
			a.ok("setxattr", a.fs.SetXattr(t.Context(), root, f.Ino(), "user.a", []byte("old"), 0))
			b.unlink(dir, "held")
			a.holds(held, nil)
			a.ok("sync", a.fs.Sync(t.Context()))
			a.ok("fsync of the folder", a.fs.FsyncDir(t.Context(), dir))
			a.missing(dir, "new", "target")
			a.lists(dir, "f", "gone", "moved")
			a.holds(f, old)

			w.cut(x.silent)
			// What B does, and what A must not say then.
			must := func(what string, answered, stale bool) {
				t.Helper()
				if answered && stale {
					t.Fatalf("A: %s is answered as it was before", what)
				}
			}
			b.unlink(dir, "gone")
			answered, err := a.briefly(func(ctx context.Context) error {
				_, err := a.fs.Lookup(ctx, root, dir, "gone")
				return err
			})
			must("lookup of a name that was removed", answered, !errors.Is(err, dfs.ENOENT))
			made := b.create(dir, "new")
			answered, err = a.briefly(func(ctx context.Context) error {
				_, err := a.fs.Lookup(ctx, root, dir, "new")
				return err
			})
			must("lookup of a name that was made", answered, err != nil)
			b.rename(dir, "moved", dir, "target", 0)
			var l client.Listing
			answered, _ = a.briefly(func(ctx context.Context) (err error) {
				l, err = a.fs.ReadDir(ctx, root, dir, 0, 100, false)
				return err
			})
			must("listing", answered, !slices.ContainsFunc(l.Entries, func(e dfs.Entry) bool { return e.Name == "target" }))
			is(b, "inode", b.find(dir, "f"), f.Ino())
			b.set(f.Ino(), client.SetAttr{Mode: new(uint32(0o611))})
			var attr dfs.Attr
			answered, _ = a.briefly(func(ctx context.Context) (err error) {
				attr, err = a.fs.GetAttr(ctx, f.Ino())
				return err
			})
			must("mode", answered, attr.Mode != dfs.TypeFile|0o611)
			b.ok("setxattr", b.fs.SetXattr(t.Context(), root, f.Ino(), "user.a", []byte("new"), 0))
			var value []byte
			answered, _ = a.briefly(func(ctx context.Context) (err error) {
				value, err = a.fs.GetXattr(ctx, root, f.Ino(), "user.a")
				return err
			})
			must("xattr", answered, string(value) != "new")
			g := b.open(f.Ino(), oRDWR)
			b.holds(g, old)
			want := slices.Concat([]byte("new"), old[3:])
			b.put(g, []byte("new"), 0)
			p := make([]byte, 3)
			answered, _ = a.briefly(func(ctx context.Context) error {
				_, err := f.Read(ctx, p, 0)
				return err
			})
			must("read", answered, string(p) != "new")
			if time.Sleep(x.wait); x.wait > 0 {
				c.Eventually("end of what only A has open", func() error {
					st, err := c.Status()
					if err == nil && st.Orphans > 0 {
						err = fmt.Errorf("%d orphans", st.Orphans)
					}
					return err
				})
			}

			w.mend()
			c.Eventually("answer to A", func() error {
				answered, err := a.briefly(func(ctx context.Context) error {
					_, err := a.fs.GetAttr(ctx, dir)
					return err
				})
				if answered {
					return nil
				}
				return err
			})
			for _, u := range []user{a, b} {
				u.lists(dir, "f", "new", "target")
				is(u, "new file", u.find(dir, "new"), made)
				is(u, "renamed file", u.find(dir, "target"), moved)
				u.missing(dir, "gone", "moved")
				u.contents(f.Ino(), want)
			}
			a.holds(f, want)
			a.put(f, []byte("A is back"), 4)
			copy(want[4:], "A is back")
			b.holds(g, want)
			a.create(dir, "gone")
			b.lists(dir, "f", "gone", "new", "target")
		})
	}
}

// What a client did just before it was cut off is there or not, and stays so: nothing
// of it comes later, when others have seen that it is not there.
func TestWhatOthersSawOfAClientThatIsCutOffStays(t *testing.T) {
	t.Parallel()
	const n, ttl = 12, 3 * time.Second
	c := Start(t, Options{Masters: 1, ChunkServers: 3, SessionTTL: ttl})
	a, w := c.cuttable(t, "A")
	b := user{t, "B", c.Client()}
	dir := a.mkdir(dfs.RootIno, "dir")
	name := func(kind string, i int) string { return fmt.Sprint(kind, i) }
	inos := map[string]dfs.Ino{}
	for i := range n {
		for _, kind := range []string{"unlinked", "from"} {
			inos[name(kind, i)] = a.create(dir, name(kind, i))
		}
	}
	a.ok("fsync of the folder", a.fs.FsyncDir(t.Context(), dir))
	for i := range n {
		a.create(dir, name("made", i))
		a.unlink(dir, name("unlinked", i))
		a.rename(dir, name("from", i), dir, name("to", i), 0)
	}
	w.cut(false)
	saw := b.list(dir)
	for i := range n {
		_, from := saw[name("from", i)]
		if _, to := saw[name("to", i)]; from == to {
			t.Errorf("B sees a file under two names, or none: from%d is there: %v, to%d is there: %v", i, from, i, to)
		}
		made := name("made", i)
		f, attr, err := b.fs.Create(t.Context(), root, dir, made, 0o644, oRDWR|oCreate|oExcl)
		switch _, there := saw[made]; {
		case err == nil && !there:
			f.Release()
			saw[made] = dfs.Entry{Name: made, Ino: attr.Ino}
		case !there || !errors.Is(err, dfs.EEXIST):
			t.Errorf("%s is listed: %v, is made: %v", made, there, err)
		}
	}
	for name, e := range saw {
		if ino, known := inos[name]; known && ino != e.Ino {
			t.Errorf("%s is inode %d, was %d", name, e.Ino, ino)
		}
	}
	time.Sleep(ttl + time.Second) // what A still wants has the time to be given up
	w.mend()
	_ = a.fs.Sync(t.Context()) // it may well have lost something
	for _, u := range []user{b, a, b} {
		now := u.list(dir)
		for name, e := range saw {
			if now[name].Ino != e.Ino {
				t.Errorf("%s: %s was inode %d, is %d", u.name, name, e.Ino, now[name].Ino)
			}
		}
		is(u, "number of names", len(now), len(saw))
	}
	a.create(dir, "after")
	b.lookup(dir, "after")
}
