package meta

import (
	"slices"

	"dfs"
)

// moveFile has bytes of a file kept elsewhere: an extent takes the place of those that the same
// bytes were read from, if these are still what is there. What was written meanwhile
// stays, so who moves needs no lease and keeps nobody from writing; and since no byte of the file is
// another one after it, neither its times nor Change are. What did not take its place is dead
// in its chunk, and is given back as other dead bytes are.
func (tx *tx) moveFile(f *FileCommit, in *inode) error {
	for i := range f.Extents {
		e := f.Extents[i]
		now, err := tx.overlapping(in, e.Off, e.End())
		if err != nil {
			return err
		}
		var was []dfs.Extent
		for _, w := range f.Was {
			if w.Off < e.End() && e.Off < w.End() {
				was = append(was, w)
			}
		}
		if old := partsOf(now, e.Off, e.End()); len(old) == 0 || !slices.Equal(old, partsOf(was, e.Off, e.End())) {
			continue
		}
		if err := tx.write(in, e); err != nil {
			return err
		}
		in.dirty = true
	}
	return nil
}

// partsOf are extents as far as they lie in [off, end), with those that are parts of the same
// record made one; nil when they leave something of it out.
func partsOf(list []dfs.Extent, off, end uint64) (out []dfs.Extent) {
	at := off
	for _, e := range list {
		if e.Off < off && e.End() > off {
			e = tail(e, off)
		}
		if e.End() > end && e.Off < end {
			e = head(e, end)
		}
		if e.Off != at {
			return nil
		}
		at = e.End()
		if n := len(out); n > 0 && joins(out[n-1], e) {
			out[n-1].Len += e.Len
		} else {
			out = append(out, e)
		}
	}
	if at != end {
		return nil
	}
	return out
}
