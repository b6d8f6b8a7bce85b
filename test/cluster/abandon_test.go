package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"dfs"
	"dfs/client"
)

// A call that was interrupted may be carried out, and may not be. The client that made it
// sees which.
func TestAbandonedChangeIsSeenByWhoMadeIt(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Masters: 1, ChunkServers: 1})
	a, b := user{t, "A", c.Client()}, user{t, "B", c.Client()}
	dirs := [2]dfs.Ino{a.mkdir(dfs.RootIno, "x"), a.mkdir(dfs.RootIno, "y")}
	moved := a.mkdir(dirs[0], "d")
	where := func(u user) (out [2]bool) {
		for i, dir := range dirs {
			attr, err := u.fs.Lookup(t.Context(), dfs.Cred{Checked: true}, dir, "d")
			if err != nil && !errors.Is(err, dfs.ENOENT) {
				t.Fatal(err)
			}
			out[i] = err == nil && attr.Ino == moved
		}
		return out
	}
	r := rand.New(rand.NewPCG(5, 5))
	at, abandoned, done := 0, 0, 0
	for round := range 400 {
		where(a)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(1500))*time.Microsecond)
		err := a.fs.Rename(ctx, dfs.Cred{Checked: true}, dirs[at], "d", dirs[1-at], "d", 0) // of a folder to another: by the masters
		cancel()
		where(a)
		if err != nil {
			abandoned++
			// Once a later change of the folder is answered, it is not carried out any more.
			a.set(moved, client.SetAttr{Mode: new(uint32(0o700))})
			a.ok("sync", a.fs.Sync(t.Context()))
		}
		seen, truth := where(a), where(b)
		if seen != truth || truth[0] == truth[1] {
			t.Fatalf("round %d: %v, the folder is seen in %v by who moved it, and is in %v", round, err, seen, truth)
		} else if truth[1-at] {
			at = 1 - at
			if err != nil {
				done++
			}
		}
		if n := len(a.list(dirs[at])); n != 1 {
			t.Fatalf("round %d: %d entries where it is", round, n)
		}
	}
	if abandoned < 20 || done == 0 {
		t.Errorf("%d calls were abandoned, of which %d were carried out: try other times", abandoned, done)
	}
}
