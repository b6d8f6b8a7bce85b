package cluster

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dfs"
	"dfs/client"
)

// small makes files of up to 4 KiB, each with its number in front.
func (u user) small(dir dfs.Ino, n int) {
	u.t.Helper()
	for i := range n {
		f := u.file(dir, fmt.Sprint(i))
		u.write(f, numbered(i, 0, 12+i*7%4000), 0)
		u.ok("flush", f.Flush(u.t.Context()))
		f.Release()
	}
}

func numbered(i, version, n int) []byte {
	p := content(uint64(i)<<20|uint64(version), n)
	binary.LittleEndian.PutUint32(p, uint32(i))
	binary.LittleEndian.PutUint64(p[4:], uint64(version))
	return p
}

// Who goes through the files of a folder does not ask for each of them.
func TestSmallFilesAreAskedForTogether(t *testing.T) {
	t.Parallel()
	const n = 600
	c := Start(t, Options{Masters: 1, ChunkServers: 3})
	a, b := user{t, "A", c.Client()}, user{t, "B", c.Client()}
	dir := a.mkdir(dfs.RootIno, "dir")
	a.small(dir, n)
	a.ok("close", a.fs.Close()) // and with it go its leases
	before := b.fs.Stats()
	for i := range n {
		f := b.open(b.lookup(dir, fmt.Sprint(i)).Ino, 0)
		b.holds(f, numbered(i, 0, 12+i*7%4000))
		f.Release()
	}
	st := b.fs.Stats()
	if asked, fetched := st.Asked-before.Asked, st.Fetched-before.Fetched; asked > n/4 || fetched > n/4 {
		t.Errorf("%d questions to the masters and %d to chunk servers for %d files", asked, fetched, n)
	}
}

// What was told ahead is not old when it is used.
func TestWhatWasToldAheadIsTakenBack(t *testing.T) {
	t.Parallel()
	const n = 200
	c := Start(t, Options{Masters: 1, ChunkServers: 3})
	a, b := user{t, "A", c.Client()}, user{t, "B", c.Client()}
	dir := a.mkdir(dfs.RootIno, "dir")
	a.small(dir, n)
	var versions [n]atomic.Int64 // completed
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() { // changes files in every way that a reader can tell
		r := rand.New(rand.NewPCG(3, 3))
		for v := 1; !stop.Load(); v++ {
			i := r.IntN(n)
			name := fmt.Sprint(i)
			p := numbered(i, v, 12+r.IntN(5000))
			switch r.IntN(4) {
			case 0: // a new file takes its place
				f := a.file(dir, "new")
				a.write(f, p, 0)
				f.Release()
				a.rename(dir, "new", dir, name, 0)
			case 1: // in one write, which is shorter or longer than what is there
				f := a.open(a.find(dir, name), 2)
				a.write(f, p[:12], 0)
				f.Release()
			case 2:
				a.unlink(dir, name)
				f := a.file(dir, name)
				a.write(f, p, 0)
				f.Release()
			default: // it is gone for a moment, which a reader takes for an empty version
				a.rename(dir, name, dir, "away", 0)
				f := a.open(a.find(dir, "away"), 2)
				a.write(f, p[:12], 0)
				f.Release()
				a.rename(dir, "away", dir, name, 0)
			}
			versions[i].Store(int64(v))
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	buf := make([]byte, 12)
	seen, asked := 0, 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		for i := range n {
			asked++
			least := versions[i].Load()
			attr, err := b.fs.Lookup(t.Context(), dfs.Cred{Checked: true}, dir, fmt.Sprint(i))
			if err != nil {
				continue // being replaced
			}
			var f *client.File
			if f, err = b.fs.Open(t.Context(), dfs.Cred{Checked: true}, attr.Ino, 0); err != nil {
				continue
			}
			k, err := f.Read(t.Context(), buf, 0)
			f.Release()
			if err != nil || k < len(buf) {
				continue // it was removed, or is not written yet
			}
			seen++
			if got := binary.LittleEndian.Uint32(buf); got != uint32(i) {
				t.Fatalf("file %d has the bytes of file %d", i, got)
			}
			if v := int64(binary.LittleEndian.Uint64(buf[4:])); v < least {
				t.Fatalf("file %d: version %d, after version %d was written", i, v, least)
			}
		}
	}
	if seen < asked/2 {
		t.Errorf("only %d of %d reads saw a file", seen, asked)
	}
}
