package meta

import (
	"fmt"
	"slices"

	"dfs"
	"dfs/internal/invariant"
)

// Reader is an ordered table of keys and values, as seen at one moment.
//
// Slices that it hands out belong to it: the caller neither changes them nor
// keeps them beyond its next call. An error means that the store is broken.
type Reader interface {
	// Get returns the value of key; nil, nil when the key is absent. No value is
	// empty: each begins with the version of its format.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for each key in [lo, hi) in ascending order, until fn answers
	// false or an error. fn must not write to the table, and may read from it.
	Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error
	// Last returns the greatest key in [lo, hi) and its value; nil, nil, nil when
	// there is none.
	Last(lo, hi []byte) (k, v []byte, err error)
}

// Table is a Reader that can be written to, and that reads its own writes. It
// copies what it is given.
type Table interface {
	Reader
	Set(k, v []byte) error
	Delete(k []byte) error // of an absent key: nothing
}

// tx is one command being carried out. Inodes and chunks are changed in memory
// and written by flush when the command was not refused; an operation writes
// other rows only after its last reason to refuse.
type tx struct {
	t      Table
	v      View // of t
	c      *Command
	tally  *tally // of the command's session; nil for the masters' own commands
	counts counts // what the command adds to the counters

	inodes  []*inode // read so far, in order
	byIno   map[dfs.Ino]*inode
	chunks  map[dfs.ChunkID]*chunk
	orphans []dfs.Ino // inodes that lost their last link

	key   [32]byte
	value [512]byte
}

// inodesLinear is how many inodes are looked through one by one before a map
// is made of them: all operations but large commits stay below.
const inodesLinear = 8

// inode reads an inode, nil when there is none. The same number answers the same
// inode again, so that an operation on, say, one folder as both parents sees its
// own changes.
func (tx *tx) inode(ino dfs.Ino) (*inode, error) {
	if tx.byIno != nil {
		if in := tx.byIno[ino]; in != nil {
			return in, nil
		}
	} else {
		for _, in := range tx.inodes {
			if in.Ino == ino {
				return in, nil
			}
		}
	}
	in, err := tx.v.inode(ino)
	if in != nil {
		tx.keep(in)
	}
	return in, err
}

// keep adds an inode to those that flush writes when they are dirty.
func (tx *tx) keep(in *inode) {
	tx.inodes = append(tx.inodes, in)
	if tx.byIno == nil && len(tx.inodes) > inodesLinear {
		tx.byIno = make(map[dfs.Ino]*inode, 2*len(tx.inodes))
		for _, in := range tx.inodes {
			tx.byIno[in.Ino] = in
		}
	} else if tx.byIno != nil {
		tx.byIno[in.Ino] = in
	}
}

// stale reads an inode that the caller knows by number: ESTALE when it is gone,
// which makes Linux look the path up again.
func (tx *tx) stale(ino dfs.Ino) (*inode, error) {
	in, err := tx.inode(ino)
	if err == nil && in == nil {
		err = dfs.ESTALE
	}
	return in, err
}

// dir reads a folder in which a name is to be changed.
func (tx *tx) dir(ino dfs.Ino) (*inode, error) {
	in, err := tx.inode(ino)
	if err != nil {
		return nil, err
	}
	return in, checkDir(in)
}

// change marks an inode as changed now.
func (tx *tx) change(in *inode) {
	in.Changed(tx.c.Time)
	in.dirty = true
}

// changeDir marks a folder whose entries became more or fewer by entries, and
// whose subfolders by dirs.
func (tx *tx) changeDir(in *inode, entries, dirs int) {
	in.EntriesChanged(tx.c.Time, entries, dirs)
	in.dirty = true
	if invariant.On {
		invariant.Check(int64(in.Size) >= 0 && in.Nlink >= 2, "meta: folder %d with %d entries and nlink %d", in.Ino, in.Size, in.Nlink)
	}
}

// dropLink takes one name from an inode; a folder has only one. An inode without
// names is an orphan: the leader knows who has it open, and reaps it later.
func (tx *tx) dropLink(in *inode) error {
	in.DropLink(tx.c.Time)
	in.dirty = true
	if in.Nlink > 0 {
		return nil
	}
	return tx.orphan(in.Ino)
}

// orphan adds the row that makes an inode an orphan.
func (tx *tx) orphan(ino dfs.Ino) error {
	tx.orphans = append(tx.orphans, ino)
	tx.counts.orphans++
	return tx.t.Set(key1(kindOrphan, uint64(ino)), markerRow)
}

// adopt makes a file that was made without a name an orphan no more.
func (tx *tx) adopt(in *inode) error {
	in.Flags &^= dfs.FlagTmpfile
	tx.counts.orphans--
	return tx.t.Delete(key1(kindOrphan, uint64(in.Ino)))
}

// chunk reads a chunk's record, nil when there is none.
func (tx *tx) chunk(id dfs.ChunkID) (*chunk, error) {
	if c := tx.chunks[id]; c != nil {
		return c, nil
	}
	c, err := tx.v.chunk(id)
	if c == nil || err != nil {
		return nil, err
	}
	tx.keepChunk(id, c)
	return c, nil
}

func (tx *tx) keepChunk(id dfs.ChunkID, c *chunk) {
	if tx.chunks == nil {
		tx.chunks = make(map[dfs.ChunkID]*chunk)
	}
	tx.chunks[id] = c
}

// live adds n bytes to what extents use of a chunk.
func (tx *tx) live(id dfs.ChunkID, n int64) error {
	c, err := tx.chunk(id)
	if err != nil {
		return err
	}
	if c == nil {
		return fmt.Errorf("meta: an extent refers to chunk %s, which has no record", id)
	}
	if n < 0 && c.live < uint64(-n) {
		return fmt.Errorf("meta: chunk %s has %d live bytes, %d are to be taken away", id, c.live, -n)
	}
	c.live += uint64(n)
	c.dirty = true
	return nil
}

// flush writes the inodes and chunks that the operation changed.
func (tx *tx) flush() error {
	for _, in := range tx.inodes {
		if !in.dirty {
			continue
		}
		k := appendKey1(tx.key[:0], kindInode, uint64(in.Ino))
		if err := tx.t.Set(k, in.encode(tx.value[:0])); err != nil {
			return err
		}
	}
	if len(tx.chunks) > 0 {
		return tx.flushChunks()
	}
	return nil
}

// flushChunks writes chunk records and the rows that list the droppable and the
// unsealed ones.
func (tx *tx) flushChunks() error {
	ids := make([]dfs.ChunkID, 0, len(tx.chunks))
	for id, c := range tx.chunks {
		if c.dirty {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		c := tx.chunks[id]
		if err := tx.t.Set(key1(kindChunk, uint64(id)), c.encode(tx.value[:0])); err != nil {
			return err
		}
		if err := tx.mark(key1(kindDroppable, uint64(id)), c.droppable, c.sealed && c.live == 0); err != nil {
			return err
		}
		if err := tx.mark(key2(kindUnsealed, uint64(c.owner), uint64(id)), c.unsealed, !c.sealed); err != nil {
			return err
		}
		if c.isNew {
			tx.counts.records++
			if err := tx.countGroup(id, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark makes a row whose key says all present or absent.
func (tx *tx) mark(k []byte, is, want bool) error {
	switch {
	case want && !is:
		return tx.t.Set(k, markerRow)
	case is && !want:
		return tx.t.Delete(k)
	}
	return nil
}

// countGroup adds n to the number of chunk records in the chunk's placement group.
func (tx *tx) countGroup(id dfs.ChunkID, n int64) error {
	cl, err := tx.v.cluster()
	if err != nil {
		return err
	}
	pg := id.PG(cl.buckets)
	had, err := tx.v.GroupChunks(pg)
	if err != nil {
		return err
	}
	k := key1(kindGroup, uint64(pg))
	if had+uint64(n) == 0 {
		return tx.t.Delete(k)
	}
	return tx.t.Set(k, encodeNumber(nil, had+uint64(n)))
}
