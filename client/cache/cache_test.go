package cache

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"dfs"
)

// content is what record k holds at off.
func content(k Key, off, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(uint64(k.Chunk)*31 + uint64(k.Record)*7 + uint64(off+i))
	}
	return p
}

// fetch reads through the cache as a client does.
func fetch(t *testing.T, c *Cache, k Key, off, n int, fetches *atomic.Int64) {
	dst := make([]byte, n)
	for done := 0; done < n; {
		if m := c.Copy(dst[done:], k, off+done); m > 0 {
			done += m
			continue
		}
		f, mine := c.Begin(k, off+done, off+n)
		if mine {
			fetches.Add(1)
			from := (off + done) &^ 4095
			data := content(k, from, off+n-from)
			copy(dst[done:], data[off+done-from:])
			c.End(f, from, data)
			break
		}
		if f != nil {
			<-f.Done()
		}
	}
	if !bytes.Equal(dst, content(k, off, n)) {
		t.Errorf("%v at %d: other bytes", k, off)
	}
}

func TestConcurrentReadersGetTheRightBytesWithinTheLimit(t *testing.T) {
	const limit = 1 << 20
	var freed atomic.Int64
	c := New(limit, func(b []byte) {
		freed.Add(1)
		clear(b) // who still reads it sees zeros
	})
	var fetches atomic.Int64
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 2))
			for range 3000 {
				k := Key{Chunk: dfs.ChunkID(r.IntN(20)), Record: uint32(r.IntN(3)) << 12}
				off := r.IntN(100_000)
				fetch(t, c, k, off, 1+r.IntN(20_000), &fetches)
			}
		})
	}
	wg.Wait()
	st := c.Stats()
	if st.Bytes > limit || st.Hits == 0 || freed.Load() == 0 {
		t.Errorf("%+v, %d freed", st, freed.Load())
	}
}

func TestReadersOfTheSameBytesFetchThemOnce(t *testing.T) {
	c := New(16<<20, nil)
	k := Key{Chunk: 1, Record: 4096}
	f, mine := c.Begin(k, 0, 8192)
	if !mine {
		t.Fatal("the first is not to fetch")
	}
	if g, mine := c.Begin(k, 4096, 8192); mine || g != f {
		t.Fatal("the second is to fetch the same")
	}
	if _, mine := c.Begin(k, 8192, 9000); !mine {
		t.Fatal("other bytes are not under way")
	}
	c.End(f, 0, content(k, 0, 8192))
	<-f.Done()
	if g, mine := c.Begin(k, 4096, 8192); mine || g != nil {
		t.Fatal("it is here")
	}
	dst := make([]byte, 10_000)
	if n := c.Copy(dst, k, 100); n != 8092 || !bytes.Equal(dst[:n], content(k, 100, n)) {
		t.Errorf("copied %d", n)
	}
}

func TestFailedFetchLetsTheNextTry(t *testing.T) {
	c := New(1<<20, nil)
	k := Key{Chunk: 1}
	f, _ := c.Begin(k, 0, 10)
	c.End(f, 0, nil)
	if _, mine := c.Begin(k, 0, 10); !mine {
		t.Error("nobody fetches any more")
	}
	if len(c.shard(k).records) != 1 {
		t.Error("records are left")
	}
}

func TestFetchAroundLeavesOutWhatIsThere(t *testing.T) {
	c := New(1<<20, nil)
	k := Key{Chunk: 1}
	put := func(off, end int) {
		f, _ := c.Begin(k, off, end)
		c.End(f, off, content(k, off, end-off))
	}
	put(0, 4096)
	put(40960, 45056)
	other, _ := c.Begin(k, 20480, 24576) // under way
	f, mine := c.BeginAround(k, 8192, 12288, 0, 100000)
	if off, end := f.Range(); !mine || off != 4096 || end != 20480 {
		t.Errorf("mine %v, from %d to %d; want all between what is there and what is under way", mine, off, end)
	}
	g, mine := c.BeginAround(k, 24576, 28672, 0, 100000)
	if off, end := g.Range(); !mine || off != 24576 || end != 40960 {
		t.Errorf("mine %v, from %d to %d", mine, off, end)
	}
	if h, mine := c.BeginAround(k, 9000, 10000, 0, 100000); mine || h != f {
		t.Error("what is under way is fetched again")
	}
	if h, mine := c.BeginAround(k, 100, 200, 0, 100000); mine || h != nil {
		t.Error("what is there is fetched again")
	}
	for _, f := range []*Flight{other, f, g} {
		c.End(f, 0, nil)
	}
}
