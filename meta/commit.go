package meta

import (
	"fmt"
	"math/bits"

	"dfs"
)

// firstRecord is where the first record of a fragment file begins: after the
// file's own header.
const firstRecord = dfs.PageBytes

func (o *Commit) apply(tx *tx) (Reply, error) {
	if err := tx.needSession(); err != nil {
		return Reply{}, err
	}
	for i := range o.Chunks {
		if stale, err := tx.commitChunk(&o.Chunks[i], tx.c.Session); err != nil || stale {
			return Reply{StaleMap: stale}, err
		}
	}
	var rep Reply
	files := make([]*inode, len(o.Files))
	for i := range o.Files {
		f := &o.Files[i]
		in, err := tx.inode(f.Ino)
		if err != nil {
			return Reply{}, err
		}
		if in == nil {
			rep.Skipped = append(rep.Skipped, f.Ino)
			continue
		}
		files[i] = in
		tx.tally.intents = tx.tally.intents || f.Seq != 0
		if stale, err := tx.checkFile(f, in, tx.c.Session); err != nil || stale {
			return Reply{StaleMap: stale}, err
		}
	}
	for i := range o.Files {
		if files[i] == nil {
			continue
		}
		if err := tx.commitFile(&o.Files[i], files[i], tx.c.Session); err != nil {
			return Reply{}, err
		}
	}
	if len(files) == 1 && files[0] != nil {
		rep.Attr = tx.attr(files[0]).Attr
	}
	return rep, nil
}

// commitChunk notes what is on disk of a chunk. It answers stale when too few
// servers have it by what the map says now, or when the chunk is gone.
func (tx *tx) commitChunk(cc *ChunkCommit, owner dfs.SessionID) (stale bool, err error) {
	l := cc.Chunk.Layout()
	if !l.Valid() || len(cc.Servers) != l.Width() || cc.Committed > dfs.ChunkBytes || cc.Committed%dfs.PageBytes != 0 {
		return false, dfs.EINVAL
	}
	c, err := tx.chunk(cc.Chunk)
	if err != nil {
		return false, err
	}
	if c == nil {
		// A number is taken from the granted ones when its chunk gets a record, so
		// a record that was dropped does not come back: stale.
		if !tx.takeChunk(cc.Chunk.Seq()) {
			return true, nil
		}
		c = &chunk{owner: owner, isNew: true}
		tx.keepChunk(cc.Chunk, c)
	}
	if c.owner != owner {
		return false, dfs.EINVAL
	}
	if cc.Committed > c.committed {
		if c.sealed {
			return false, dfs.EINVAL
		}
		if stale, err := tx.present(cc, c); err != nil || stale {
			return stale, err
		}
		c.committed = cc.Committed
	}
	c.sealed = c.sealed || cc.Sealed
	c.dirty = true
	return false, nil
}

// present works out which fragments are there: those that were before, that the
// client found on disk, and whose server has the position now.
func (tx *tx) present(cc *ChunkCommit, c *chunk) (stale bool, err error) {
	cl, err := tx.v.cluster()
	if err != nil {
		return false, err
	}
	var mask uint32
	if c.committed > 0 && c.epoch == cl.epoch {
		// Most commits: by the same map as the one before, whose servers were compared.
		for i, id := range cc.Servers {
			if id != 0 {
				mask |= 1 << i
			}
		}
		mask &= c.present
	} else {
		home, acting, err := tx.v.acting(cc.Chunk.PG(cl.buckets))
		if err != nil {
			return false, err
		}
		for i, id := range cc.Servers {
			if id != 0 && i < len(acting) && acting[i] == id {
				mask |= 1 << i
			}
		}
		if c.committed > 0 {
			mask &= c.presentNow(home)
		}
	}
	if bits.OnesCount32(mask) < cc.Chunk.Layout().MinWrite() {
		return true, nil
	}
	c.present, c.epoch = mask, cl.epoch
	return false, nil
}

// presentNow is which fragments are there by the home as it is now: a position
// that got another server since lacks the chunk.
func (c *chunk) presentNow(home []position) uint32 {
	mask := c.present
	for i, p := range home {
		if p.since > c.epoch {
			mask &^= 1 << i
		}
	}
	return mask
}

// checkFile refuses what cannot be part of a file. It answers stale when a chunk
// is gone.
func (tx *tx) checkFile(f *FileCommit, in *inode, owner dfs.SessionID) (stale bool, err error) {
	if !in.IsFile() {
		return false, dfs.EINVAL
	}
	if f.SizeMin > dfs.FileMax {
		return false, dfs.EFBIG
	}
	if f.Mtime.Nsec >= 1e9 || f.Ctime.Nsec >= 1e9 {
		return false, dfs.EINVAL
	}
	for i := range f.Extents {
		e := &f.Extents[i]
		c, err := tx.chunk(e.Chunk)
		if err != nil {
			return false, err
		}
		if c == nil {
			return true, nil
		}
		if c.owner != owner {
			return false, dfs.EINVAL
		}
		if err := checkExtent(e, c.committed); err != nil {
			return false, err
		}
	}
	return false, nil
}

// checkExtent refuses an extent whose bytes cannot lie in what is committed.
func checkExtent(e *dfs.Extent, committed uint32) error {
	if e.Off > dfs.FileMax || e.End() > dfs.FileMax {
		return dfs.EFBIG
	}
	k := uint64(e.Chunk.Layout().Data())
	fragment := (uint64(e.RecordLen) + k - 1) / k
	if e.Len == 0 || uint64(e.Start)+uint64(e.Len) > uint64(e.RecordLen) || fragment > dfs.FragmentBytes ||
		e.Record < firstRecord || e.Record%dfs.PageBytes != 0 || uint64(e.Record)+fragment > uint64(committed) {
		return dfs.EINVAL
	}
	return nil
}

// commitFile puts the extents in the file.
func (tx *tx) commitFile(f *FileCommit, in *inode, owner dfs.SessionID) error {
	if f.Move {
		return tx.moveFile(f, in)
	}
	for i := 0; i < len(f.Extents); {
		e := f.Extents[i]
		for i++; i < len(f.Extents) && joins(e, f.Extents[i]); i++ {
			e.Len += f.Extents[i].Len
		}
		if err := tx.write(in, e); err != nil {
			return fmt.Errorf("inode %d: %w", in.Ino, err)
		}
	}
	// As any write: who changes a program must not hand on what it may do.
	if err := tx.dropXattr(in, dfs.XattrCapability); err != nil {
		return err
	}
	in.writer = writer{}
	if f.Seq != 0 {
		in.writer = writer{owner, f.Seq}
	}
	in.Size = max(in.Size, f.SizeMin)
	if f.Mtime != (dfs.Time{}) {
		in.Mtime = f.Mtime
	}
	if f.KillSuid {
		in.KillSuid()
	}
	ctime := in.Ctime
	tx.change(in)
	if f.Ctime != (dfs.Time{}) {
		// The client has shown the time of the write: writing back is no change.
		in.Ctime = ctime
		if ctime.Compare(f.Ctime) < 0 {
			in.Ctime = f.Ctime
		}
	}
	return nil
}
