package chunk

import (
	"fmt"

	"dfs"
	"dfs/internal/disk"
)

// Seal ends a chunk after the last record that was written to it, for ever, and
// answers where that is. Records that wait for their sync become part of it; of a
// chunk that failed, what was acknowledged. Sealing again answers the same. The
// error is ENOENT when the chunk is not here.
func (s *Store) Seal(id dfs.ChunkID) (end uint32, err error) {
	c := s.find(id)
	if c == nil {
		return 0, fmt.Errorf("chunk %s: %w", id, dfs.ENOENT)
	}
	type result struct {
		end uint32
		err error
	}
	answer := make(chan result, 1)
	c.writeMu.Lock()
	end, pending, err := s.mark(c)
	if pending {
		if loop := s.enqueue(c, waiter{end: end, seal: true, done: func(end uint32, err error) { answer <- result{end, err} }}); loop != nil {
			go loop()
		}
	}
	c.writeMu.Unlock()
	if !pending {
		return end, err
	}
	got := <-answer
	return got.end, got.err
}

// mark writes the seal mark. The file gives back the space that was kept for
// records to come.
//
// +checklocks:c.writeMu
func (s *Store) mark(c *fragment) (end uint32, pending bool, err error) {
	if c.closed {
		return 0, false, verdict(ErrClosed)
	}
	if c.damaged {
		return 0, false, fmt.Errorf("chunk %s is damaged here: %w", c.id, dfs.EIO)
	}
	c.mu.Lock()
	end = c.end
	if c.failed != nil {
		end = c.synced
	}
	durable := c.sealDurable
	c.mu.Unlock()
	if durable {
		return end, false, nil
	}
	file, err := s.files.acquire(c)
	if err != nil {
		return 0, false, fmt.Errorf("seal chunk %s: %w", c.id, verdict(err))
	}
	defer s.files.release(c)
	if err = cut(file, end); err == nil {
		_, err = file.WriteAt(encodeMark(sealMagic, c.id, end), sealOff)
	}
	if err != nil {
		return 0, false, fmt.Errorf("seal chunk %s: %w", c.id, verdict(err))
	}
	c.mu.Lock()
	c.sealed, c.end = true, end
	c.mu.Unlock()
	c.zeroed = end
	return end, true, nil
}

// cut gives back what a file has after its last record: zeros, torn records and
// space.
func cut(file disk.File, end uint32) error { return file.Truncate(int64(end)) }
