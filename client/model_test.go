package client_test

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"dfs"
	"dfs/client"
)

// TestFileAgreesWithAByteSlice does random operations on a few files through two
// clients, and compares what is read with slices of bytes. Meanwhile sessions expire,
// replies get lost, maps are stale and chunk servers come and go.
func TestFileAgreesWithAByteSlice(t *testing.T) {
	c := newCluster(t, clusterOptions{servers: 4, buckets: 4})
	writer, reader := c.dial(), c.dial()
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		for _, s := range c.chunks {
			if s.down.Load() {
				s.start()
			}
			c.master.setState(s, dfs.ServerUp)
		}
		const files = 3
		var open [files]*client.File
		var model [files][]byte
		var dirty [files]bool
		for i := range open {
			open[i] = create(t, writer, fmt.Sprintf("%d-%d", round, i))
		}
		defer func() {
			for _, f := range open {
				f.Release()
			}
		}()
		fill := byte(0)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			i := rapid.IntRange(0, files-1).Draw(rt, "file")
			f := open[i]
			switch rapid.SampledFrom([]string{
				"write", "write", "write", "write", "append", "read", "read", "read", "truncate", "fsync", "sync", "reader",
				"expire", "lose", "stale", "kill", "start", "reopen",
			}).Draw(rt, "op") {
			case "write":
				off := drawOffset(rt, len(model[i]))
				n := drawLength(rt)
				fill++
				p := bytes.Repeat([]byte{fill, byte(n), byte(off)}, n/3+1)[:n]
				if k, err := f.Write(bg, p, int64(off)); err != nil || k != n {
					rt.Fatalf("write: %d %v", k, err)
				}
				if end := off + n; end > len(model[i]) {
					model[i] = append(model[i], make([]byte, end-len(model[i]))...)
				}
				copy(model[i][off:], p)
				dirty[i] = true
			case "append":
				p := bytes.Repeat([]byte{fill}, rapid.IntRange(1, 9000).Draw(rt, "len"))
				if _, err := f.Write(bg, p, int64(len(model[i]))); err != nil {
					rt.Fatal(err)
				}
				model[i] = append(model[i], p...)
				dirty[i] = true
			case "read":
				off := drawOffset(rt, len(model[i]))
				compare(rt, f, model[i], off, drawLength(rt))
			case "truncate":
				size := drawOffset(rt, len(model[i]))
				n := uint64(size)
				attr, err := writer.SetAttr(bg, root, f.Ino(), client.SetAttr{Size: &n})
				if err != nil || attr.Size != n {
					rt.Fatalf("truncate to %d: %d %v", n, attr.Size, err)
				}
				if size <= len(model[i]) {
					model[i] = model[i][:size]
				} else {
					model[i] = append(model[i], make([]byte, size-len(model[i]))...)
				}
			case "fsync":
				if err := f.Fsync(bg, true); err != nil {
					rt.Fatal(err)
				}
				dirty[i] = false
			case "sync":
				if err := writer.Sync(bg); err != nil {
					rt.Fatal(err)
				}
				dirty = [files]bool{}
			case "reader":
				if dirty[i] {
					continue
				}
				g, err := reader.Open(bg, root, f.Ino(), oRead)
				if err != nil {
					rt.Fatal(err)
				}
				compare(rt, g, model[i], 0, len(model[i])+1)
				g.Release()
			case "expire":
				c.master.expire()
			case "lose":
				c.master.loseReply.Store(1)
			case "stale":
				c.master.staleNext.Store(1)
			case "kill": // the policy bears one server less
				for _, s := range c.chunks {
					if s.down.Load() {
						s.start()
						c.master.setState(s, dfs.ServerUp)
					}
				}
				c.chunks[rapid.IntRange(0, 3).Draw(rt, "server")].kill()
			case "start":
				for _, s := range c.chunks {
					if s.down.Load() {
						s.start()
						c.master.setState(s, dfs.ServerUp)
					}
				}
			case "reopen":
				g, err := writer.Open(bg, root, f.Ino(), oRDWR)
				if err != nil {
					rt.Fatal(err)
				}
				f.Release()
				open[i] = g
			}
			attr, err := writer.GetAttr(bg, f.Ino())
			if err != nil || attr.Size != uint64(len(model[i])) {
				rt.Fatalf("size %d, want %d: %v", attr.Size, len(model[i]), err)
			}
		}
		c.master.loseReply.Store(0)
		c.master.staleNext.Store(0)
		for i, f := range open {
			compare(rt, f, model[i], 0, len(model[i])+1)
			if err := f.Flush(bg); err != nil {
				rt.Fatal(err)
			}
			g, err := reader.Open(bg, root, f.Ino(), oRead)
			if err != nil {
				rt.Fatal(err)
			}
			compare(rt, g, model[i], 0, len(model[i])+1)
			g.Release()
		}
	})
}

func drawOffset(rt *rapid.T, size int) int {
	return rapid.OneOf(rapid.IntRange(0, size), rapid.Just(size), rapid.Just(size/4096*4096), rapid.IntRange(0, size+100_000), rapid.IntRange(0, 3<<20)).Draw(rt, "off")
}

func drawLength(rt *rapid.T) int {
	return rapid.OneOf(rapid.IntRange(1, 300), rapid.Just(4096), rapid.IntRange(1, 200_000), rapid.Just(1<<20), rapid.IntRange(1, 2_500_000)).Draw(rt, "len")
}

func compare(rt *rapid.T, f *client.File, model []byte, off, n int) {
	rt.Helper()
	p := make([]byte, n)
	for i := range p {
		p[i] = 0xee
	}
	k, err := f.Read(bg, p, int64(off))
	if err != nil {
		rt.Fatalf("read of %d at %d: %v", n, off, err)
	}
	var want []byte
	if off < len(model) {
		want = model[off:min(len(model), off+n)]
	}
	if !bytes.Equal(p[:k], want) {
		i := 0
		for i < min(k, len(want)) && p[i] == want[i] {
			i++
		}
		rt.Fatalf("read of %d at %d: %d bytes, want %d, first difference at %d", n, off, k, len(want), off+i)
	}
}
