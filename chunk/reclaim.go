package chunk

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"dfs"
	"dfs/chunk/record"
	"dfs/internal/disk"
)

// Span is a part of a fragment's file, in bytes.
type Span struct{ From, To uint32 }

// holeMin is the least that is worth a hole: its first page stays.
const holeMin = 4 * dfs.PageBytes

// Reclaim gives back the space of a sealed chunk's records that nothing needs: of all
// between the first record and end that is not in live, which is whole records in order. Where it finds
// anything but whole records and holes, it leaves all as it is. It answers how many bytes were given
// back. Errors wrap a dfs.Errno.
//
// A block that says how far the hole goes is on disk before the rest is given back. If a crash
// tears it, that fragment is damaged, and is restored from others: so whoever calls this never has two
// servers do it for one chunk at once.
func (s *Store) Reclaim(id dfs.ChunkID, end uint32, live []Span) (freed int64, err error) {
	if _, err := s.Seal(id); err != nil { // nobody may look for records from the beginning after a crash
		return 0, err
	}
	c := s.find(id)
	if c == nil {
		return 0, fmt.Errorf("chunk %s: %w", id, dfs.ENOENT)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.closed {
		return 0, verdict(ErrClosed)
	}
	c.mu.Lock()
	synced, deleted := c.synced, c.deleted
	c.mu.Unlock()
	if deleted || end > synced {
		return 0, fmt.Errorf("chunk %s ends at %d here, not at %d: %w", id, synced, end, dfs.EINVAL)
	}
	file, err := s.files.acquire(c)
	if err != nil {
		return 0, fmt.Errorf("chunk %s: %w", id, verdict(err))
	}
	defer s.files.release(c)
	var dead []Span
	at := uint32(dfs.FirstRecord)
	for _, l := range slices.Concat(live, []Span{{end, end}}) {
		if l.From < at || l.To < l.From || l.To > end {
			return 0, fmt.Errorf("chunk %s: live bytes from %d to %d after %d: %w", id, l.From, l.To, at, dfs.EINVAL)
		}
		if l.From-at >= holeMin {
			dead = append(dead, Span{at, l.From})
		}
		at = l.To
	}
	c.holed.Add(1)
	defer c.holed.Add(1)
	for _, d := range dead {
		n, err := c.hole(file, d)
		if err != nil {
			return freed, fmt.Errorf("chunk %s: hole from %d to %d: %w", id, d.From, d.To, verdict(err))
		}
		freed += n
	}
	s.heads.Drop(id)
	return freed, nil
}

// hole makes one of a span of whole records and holes.
func (c *fragment) hole(file disk.File, d Span) (freed int64, err error) {
	block := make([]byte, dfs.PageBytes)
	for off := d.From; off < d.To; {
		if _, err := file.ReadAt(block, int64(off)); err != nil && err != io.EOF {
			return 0, err
		}
		h, is := record.DecodeHole(block, off)
		if !is {
			if h, err = record.Decode(block, off); err != nil {
				return 0, err
			}
			freed += int64(h.Space())
		}
		if h.Chunk != c.id || h.Fragment != c.fragment || h.Space() > d.To-off {
			return 0, fmt.Errorf("what begins at %d ends at %d: %w", off, off+h.Space(), dfs.EINVAL)
		}
		if is && off == d.From && h.Hole == d.To-d.From {
			return 0, nil // it is there
		}
		off += h.Space()
	}
	if _, err := file.WriteAt(record.EncodeHole(record.Header{Chunk: c.id, Fragment: c.fragment, Offset: d.From, Hole: d.To - d.From}), int64(d.From)); err != nil {
		return 0, err
	}
	if err := file.Sync(); err != nil {
		return 0, err
	}
	err = file.Punch(int64(d.From)+dfs.PageBytes, int64(d.To-d.From)-dfs.PageBytes)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return 0, nil // no space, but no harm
	}
	return freed, err
}
