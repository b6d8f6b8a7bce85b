package sim

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"math/bits"

	"dfs"
	"dfs/chunk/record"
	"dfs/meta"
)

// whole says what is not as it must be when all faults are over and no client is left: the
// rows of all masters are the same and sound, each chunk has all its fragments, whole and
// equal, and there is nothing that nobody needs.
func (c *cluster) whole() error {
	var first uint64
	var sums []uint64
	var indexes []uint64
	for _, m := range c.masters {
		h := fnv.New64a()
		var problems []meta.Problem
		index, err := m.master.Inspect(func(v meta.View) error {
			problems = v.Check()
			return v.EachRow(func(k, row []byte) error {
				fmt.Fprintf(h, "%d %d ", len(k), len(row))
				_, _ = h.Write(k)
				_, err := h.Write(row)
				return err
			})
		})
		if err != nil {
			return fmt.Errorf("rows of %s: %w", m.name, err)
		}
		if len(problems) > 0 {
			c.failf("rows of %s at %d: %v", m.name, index, problems)
			return nil
		}
		first = max(first, index)
		sums, indexes = append(sums, h.Sum64()), append(indexes, index)
	}
	for i, index := range indexes {
		if index != first {
			return fmt.Errorf("%s is at %d, another master at %d", c.masters[i].name, index, first)
		}
		if sums[i] != sums[0] {
			c.failf("the rows of %s at %d are not those of %s", c.masters[i].name, index, c.masters[0].name)
			return nil
		}
	}
	var errs []error
	_, err := c.masters[0].master.Inspect(func(v meta.View) error {
		errs = append(errs, c.left(v))
		return c.chunksWhole(v)
	})
	return errors.Join(append(errs, err)...)
}

// left says what is left over.
func (c *cluster) left(v meta.View) error {
	n, err := v.Counters()
	if err != nil {
		return err
	}
	if n.Sessions > 0 || n.Orphans > 0 {
		return fmt.Errorf("%d sessions and %d orphans are left", n.Sessions, n.Orphans)
	}
	for _, d := range c.chunks {
		var lost error
		for _, id := range d.chunk.Store().Chunks() {
			if _, there, err := v.Chunk(id); err != nil || !there {
				lost = errors.Join(err, fmt.Errorf("%s has chunk %v, which nobody knows", d.name, id))
			}
		}
		if lost != nil {
			return lost
		}
	}
	return nil
}

// chunksWhole says which chunks lack something.
func (c *cluster) chunksWhole(v meta.View) error {
	m, err := v.Map()
	if err != nil {
		return err
	}
	servers := map[dfs.NodeID]*daemon{}
	for _, d := range c.chunks {
		servers[d.chunk.ID()] = d
	}
	chunks, err := v.Chunks(0, 1<<20)
	if err != nil {
		return err
	}
	for _, k := range chunks {
		home := m.Home[k.ID.PG(m.Buckets)]
		if k.Live == 0 || !k.Sealed {
			return fmt.Errorf("chunk %v: %d live bytes, sealed %v", k.ID, k.Live, k.Sealed)
		}
		if bits.OnesCount32(k.Present) != len(home) {
			return fmt.Errorf("chunk %v: of %d fragments these are there: %b", k.ID, len(home), k.Present)
		}
		var copies [][]byte
		for _, id := range home {
			d := servers[id]
			if d == nil {
				return fmt.Errorf("chunk %v: no server %v", k.ID, id)
			}
			b, err := payload(d, k)
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			copies = append(copies, b)
		}
		for i := range copies {
			if k.ID.Layout().Data() == 1 && !bytes.Equal(copies[i], copies[0]) {
				return fmt.Errorf("chunk %v is not the same on servers %v and %v", k.ID, home[0], home[i])
			}
		}
	}
	return nil
}

// payload reads the payload of all records of a fragment, holes as such.
func payload(d *daemon, k meta.Chunk) ([]byte, error) {
	store := d.chunk.Store()
	if err := store.Verify(k.ID, k.Committed, func(int) error { return nil }); err != nil {
		return nil, err
	}
	raw, err := store.ReadRaw(k.ID, dfs.FirstRecord, make([]byte, k.Committed-dfs.FirstRecord))
	if err != nil {
		return nil, err
	}
	var out []byte
	in := record.NewStream(bytes.NewReader(raw.Data), dfs.FirstRecord)
	for in.Off() < k.Committed {
		h, data, err := in.Next()
		if err != nil {
			return nil, err
		}
		out = fmt.Appendf(out, "%d %d %d;", h.Offset, h.Hole, h.Len)
		out = append(out, data...)
	}
	return out, nil
}
