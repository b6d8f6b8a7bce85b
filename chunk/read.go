package chunk

import (
	"fmt"

	"dfs"
	"dfs/chunk/record"
)

// Read returns the pages that hold a piece, read to buf when it is long enough. It
// may be shorter than asked for, when the payload is. Errors wrap a dfs.Errno:
// ENOENT when there is no such chunk here, or it has no acknowledged record there;
// EIO when checksums do not match or the disk fails; EINVAL.
func (s *Store) Read(p record.Piece, buf []byte) (record.Pages, error) {
	s.stats.reads.Add(1)
	c := s.find(p.Chunk)
	if c == nil || c.fragment != p.Fragment && p.Chunk.Layout().Data() > 1 {
		return record.Pages{}, fmt.Errorf("fragment %d of chunk %s is not here: %w", p.Fragment, p.Chunk, dfs.ENOENT)
	}
	out, err := s.read(c, p, buf)
	if err == nil {
		s.stats.readBytes.Add(uint64(len(out.Data)))
		return out, nil
	}
	err = fmt.Errorf("chunk %s: %w", p.Chunk, verdict(err))
	if isEIO(err) {
		s.stats.badReads.Add(1)
		s.logger.Warn("bad read", "file", c.path(), "record", p.Record, "err", err)
	}
	return record.Pages{}, err
}

func (s *Store) read(c *fragment, p record.Piece, buf []byte) (record.Pages, error) {
	if c.damaged {
		return record.Pages{}, fmt.Errorf("it is damaged here: %w", dfs.EIO)
	}
	if p.Record < dfs.FirstRecord || p.Record%dfs.PageBytes != 0 || p.Len == 0 {
		return record.Pages{}, fmt.Errorf("%d bytes of a record at %d: %w", p.Len, p.Record, dfs.EINVAL)
	}
	c.mu.Lock()
	synced, deleted := c.synced, c.deleted
	c.mu.Unlock()
	if p.Record >= synced || deleted {
		return record.Pages{}, fmt.Errorf("it ends at %d, before record %d: %w", synced, p.Record, dfs.ENOENT)
	}
	file, err := s.files.acquire(c)
	if err != nil {
		if isNotExist(err) && s.find(p.Chunk) != c {
			err = fmt.Errorf("it was deleted: %w", dfs.ENOENT)
		}
		return record.Pages{}, err
	}
	defer s.files.release(c)
	p.Fragment = c.fragment
	return record.Read(file, &s.heads, p, buf)
}
