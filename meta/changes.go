package meta

import "dfs"

// Changes is what commands have changed of where chunks are, for those who follow it
// without looking at all rows.
type Changes struct {
	Chunks []dfs.ChunkID // records that were written or deleted; some more than once
	Groups []dfs.PG      // placement groups whose home was written
	Map    bool          // the epoch is another one
}

// Watch is a Table that notes in c what is written to t.
func (c *Changes) Watch(t Table) Table { return watched{t, c} }

// Empty reports whether nothing has changed.
func (c *Changes) Empty() bool { return len(c.Chunks) == 0 && len(c.Groups) == 0 && !c.Map }

type watched struct {
	Table
	c *Changes
}

func (w watched) Set(k, v []byte) error {
	w.c.note(k)
	return w.Table.Set(k, v)
}

func (w watched) Delete(k []byte) error {
	w.c.note(k)
	return w.Table.Delete(k)
}

func (c *Changes) note(k []byte) {
	switch k[0] {
	case kindChunk:
		c.Chunks = append(c.Chunks, dfs.ChunkID(number(k, 0)))
	case kindHome:
		c.Groups = append(c.Groups, dfs.PG(number(k, 0)))
	case kindCluster:
		c.Map = true
	}
}
