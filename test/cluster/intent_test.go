package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dfs/client"
)

// syncer writes pages of one file and syncs each, until the client is cut off.
type syncer struct {
	user
	w    *Wire
	f    *client.File
	want []byte
}

// round writes a page somewhere, or behind the end, and syncs it. It reports whether the
// masters were not waited for.
func (s *syncer) round(r *rand.Rand) (early bool) {
	page := content(r.Uint64(), 1+r.IntN(5000))
	off := r.IntN(len(s.want) + 4096)
	before := s.fs.Stats().Append.Early
	s.write(s.f, page, int64(off))
	s.ok("fsync", s.f.Fsync(s.t.Context(), true))
	if n := off + len(page); n > len(s.want) {
		s.want = append(s.want, make([]byte, n-len(s.want))...)
	}
	copy(s.want[off:], page)
	return s.fs.Stats().Append.Early > before
}

// cut lets the client die just after an fsync that the masters have not heard of.
func (s *syncer) cut(r *rand.Rand) {
	s.t.Helper()
	early := 0
	for range 20 {
		if s.round(r) {
			early++
		}
	}
	if early < 10 {
		s.t.Fatalf("of 20 fsyncs, %d did not wait for the masters", early)
	}
	for range 100 {
		if s.round(r) {
			s.w.cut(false)
			return
		}
	}
	s.t.Fatal("all fsyncs wait for the masters")
}

func TestWhatWasSyncedOutlivesItsClient(t *testing.T) {
	const ttl = 3 * time.Second
	for _, x := range []struct {
		name   string
		before func(c *Cluster)
		after  func(c *Cluster)
	}{
		{"client", nil, func(*Cluster) {}},
		{"client and leader", nil, func(c *Cluster) { c.Kill(c.Leader()) }},
		{"client and chunk server", nil, func(c *Cluster) { c.Kill("chunk-1") }},
		{"client, after a chunk server", func(c *Cluster) { c.Kill("chunk-1") }, func(c *Cluster) { c.Restart("chunk-1") }},
		{"everything", nil, func(c *Cluster) {
			var all []string
			for i := range 3 {
				all = append(all, fmt.Sprintf("master-%d", i+1), fmt.Sprintf("chunk-%d", i+1))
			}
			for _, name := range all {
				c.Kill(name)
			}
			for _, name := range all {
				c.Restart(name)
			}
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			c := Start(t, Options{Masters: 3, ChunkServers: 3, SessionTTL: ttl})
			a, w := c.cuttable(t, "A")
			s := &syncer{user: a, w: w, f: a.file(1, "f")}
			r := rand.New(rand.NewPCG(7, uint64(len(x.name))))
			for range 5 {
				s.round(r)
			}
			if x.before != nil {
				x.before(c)
				for range 5 {
					s.round(r)
				}
			}
			s.cut(r)
			x.after(c)
			b := user{t, "B", c.Client()}
			b.contents(s.f.Ino(), s.want)
			// And nothing of it comes a second time, when the client is back.
			late := b.open(s.f.Ino(), 2)
			b.put(late, content(99, len(s.want)), 0)
			w.mend()
			for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(ttl / 10) {
				b.holds(late, content(99, len(s.want)))
			}
			if err := s.f.Fsync(t.Context(), false); err != nil {
				t.Errorf("what was synced, and was there, is reported as lost: %v", err)
			}
			b.holds(late, content(99, len(s.want)))
		})
	}
}
