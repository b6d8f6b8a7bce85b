package chunk

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"dfs"
	"dfs/chunk/record"
	"dfs/internal/disk"
)

// Sizes that decide how a fragment file grows, in bytes; BenchmarkAppend compares
// them.
const (
	smallBytes = 64 << 10  // records up to this are small: copied into one write
	zeroBytes  = 256 << 10 // zeros written ahead of small records, at once
	zeroMin    = 64 << 10  // more zeros are written when fewer are left
	zeroFor    = 32 << 10  // records up to this are worth it
)

// zeros is what is written ahead.
var zeros [zeroBytes]byte

// Record is one append.
type Record struct {
	Chunk     dfs.ChunkID
	Fragment  uint32 // which fragment of the chunk this server has
	Session   dfs.SessionID
	Epoch     dfs.Epoch // of the writer's cluster map
	Offset    uint32    // in the fragment file, bytes: the end of the record before
	RecordLen uint32    // bytes of payload over all data fragments
	CRCs      []uint32  // of each page of Data
	Data      []byte    // the payload in this fragment
	Intents   []byte    // what the payload is part of, see dfs.Intent; at most dfs.IntentRoom
}

// Append writes a record and waits until it is on disk. It answers where the next
// one begins. Errors wrap a dfs.Errno: ESTALE when the chunk is sealed, deleted or
// another session's, EINVAL when the record is malformed or does not begin at the
// chunk's end, ENOSPC, and EIO.
func (s *Store) Append(r Record) (end uint32, err error) {
	type result struct {
		end uint32
		err error
	}
	c := make(chan result, 1)
	s.Submit(r, func(end uint32, err error) { c <- result{end, err} })
	got := <-c
	return got.end, got.err
}

// Submit writes a record, and calls done when it is on disk or has failed: before
// Submit returns or later on another goroutine, where done holds up the chunk's
// next sync. The records of a chunk are submitted in order; the record's memory
// is not used after Submit has returned. Submitting the same record again is
// acknowledged when it is on disk.
func (s *Store) Submit(r Record, done func(end uint32, err error)) {
	if loop := s.submit(r, done); loop != nil {
		// A goroutine that is started just before the caller waits for its next
		// message runs on the same processor at once: no thread has to be woken.
		go loop()
	}
}

// Carry is Submit for a caller who has nothing else to do meanwhile: it syncs itself
// when nobody does, so that no other goroutine has to be woken.
func (s *Store) Carry(r Record, done func(end uint32, err error)) {
	if loop := s.submit(r, done); loop != nil {
		loop()
	}
}

// submit writes a record. When somebody has to sync, the answer is what he has to run.
func (s *Store) submit(r Record, done func(end uint32, err error)) (loop func()) {
	if err := check(r); err != nil {
		done(0, err)
		return nil
	}
	c, err := s.obtain(r)
	if err == nil {
		err = c.volume.answers()
	}
	if err != nil {
		done(0, err)
		return nil
	}
	c.writeMu.Lock()
	end, pending, err := s.put(c, r)
	if pending {
		loop = s.enqueue(c, waiter{end: end, done: done})
	}
	c.writeMu.Unlock()
	if !pending {
		done(end, err)
	}
	return loop
}

// check refuses what no state of the chunk could make right.
func check(r Record) error {
	l := r.Chunk.Layout()
	switch {
	case !l.Valid():
		return fmt.Errorf("chunk %s has an unknown layout: %w", r.Chunk, dfs.EINVAL)
	case int64(r.Fragment) >= int64(l.Width()):
		return fmt.Errorf("fragment %d of %s: %w", r.Fragment, l, dfs.EINVAL)
	case r.RecordLen == 0 || r.RecordLen > dfs.RecordBytes || len(r.Data) != l.FragmentLen(int(r.RecordLen)):
		return fmt.Errorf("%d bytes for a record of %d bytes in %s: %w", len(r.Data), r.RecordLen, l, dfs.EINVAL)
	case r.Offset < dfs.FirstRecord || r.Offset%dfs.PageBytes != 0:
		return fmt.Errorf("no record begins at %d: %w", r.Offset, dfs.EINVAL)
	case int64(r.Offset)+int64(dfs.RecordSpace(len(r.Data))) > dfs.ChunkBytes:
		return fmt.Errorf("record of %d bytes at %d is over the end of a chunk: %w", len(r.Data), r.Offset, dfs.EINVAL)
	case len(r.Intents) > dfs.IntentRoom(len(r.Data)):
		return fmt.Errorf("%d bytes of intents in a record of %d bytes: %w", len(r.Intents), r.RecordLen, dfs.EINVAL)
	case len(r.CRCs) != dfs.Pages(len(r.Data)):
		return fmt.Errorf("%d checksums for %d bytes: %w", len(r.CRCs), len(r.Data), dfs.EINVAL)
	}
	if err := dfs.CheckPages(0, r.Data, r.CRCs); err != nil {
		return fmt.Errorf("record arrived damaged: %w", err)
	}
	return nil
}

// obtain finds the fragment of a record, or makes it for the first one.
func (s *Store) obtain(r Record) (*fragment, error) {
	if c := s.find(r.Chunk); c != nil {
		return c, nil
	}
	if r.Offset != dfs.FirstRecord {
		return nil, fmt.Errorf("chunk %s is not here, so no record begins at %d: %w", r.Chunk, r.Offset, dfs.EINVAL)
	}
	v, err := s.choose()
	if err != nil {
		return nil, err
	}
	if err := v.take(dfs.PageBytes); err != nil {
		return nil, err
	}
	c := &fragment{
		id: r.Chunk, fragment: r.Fragment, session: r.Session, volume: v,
		end: dfs.FirstRecord, synced: dfs.FirstRecord, zeroed: dfs.FirstRecord,
	}
	// Others find it in the map at once, and wait for writeMu until it has a file.
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	s.mu.Lock()
	if other := s.fragments[r.Chunk]; other != nil || s.closed {
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return nil, verdict(ErrClosed)
		}
		return other, nil
	}
	s.fragments[r.Chunk] = c
	s.mu.Unlock()
	if err := s.create(c); err != nil {
		c.closed = true
		s.mu.Lock()
		delete(s.fragments, r.Chunk)
		s.mu.Unlock()
		return nil, fmt.Errorf("make chunk %s: %w", r.Chunk, verdict(err))
	}
	return c, nil
}

// put carries out a record on its fragment. When it is pending, a sync has to
// follow; else the answer is there.
//
// +checklocks:c.writeMu
func (s *Store) put(c *fragment, r Record) (end uint32, pending bool, err error) {
	at, err := s.admit(c, r)
	if err != nil {
		return 0, false, err
	}
	h := record.Header{
		Chunk: r.Chunk, Session: r.Session, Offset: r.Offset, Fragment: r.Fragment,
		RecordLen: r.RecordLen, Len: uint32(len(r.Data)), Epoch: r.Epoch, CRCs: r.CRCs, Intents: r.Intents,
	}
	end = r.Offset + h.Space()
	file, err := s.files.acquire(c)
	if err != nil {
		return 0, false, fmt.Errorf("chunk %s: %w", c.id, verdict(err))
	}
	defer s.files.release(c)
	if r.Offset < at {
		pending, err := c.duplicate(file, h, r.Data)
		return end, pending, err
	}
	if err := c.volume.take(int64(h.Space())); err != nil {
		return 0, false, err
	}
	c.small = h.Space() <= zeroFor
	if err := c.write(file, h, r.Data); err != nil {
		// The end stays where it is: whatever was written is not part of the chunk.
		return 0, false, fmt.Errorf("write chunk %s: %w", c.id, verdict(err))
	}
	s.stats.appends.Add(1)
	s.stats.appendedBytes.Add(uint64(len(r.Data)))
	c.zeroed = max(c.zeroed, end)
	c.mu.Lock()
	c.end = end
	c.mu.Unlock()
	return end, true, nil
}

// admit refuses a record that does not fit the fragment's state, and tells the
// fragment's end.
//
// +checklocks:c.writeMu
func (s *Store) admit(c *fragment, r Record) (end uint32, err error) {
	if c.closed {
		return 0, verdict(ErrClosed)
	}
	if c.damaged {
		return 0, fmt.Errorf("chunk %s is damaged here: %w", c.id, dfs.EIO)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.deleted:
		return 0, fmt.Errorf("chunk %s was deleted: %w", c.id, dfs.ESTALE)
	case c.sealed:
		return 0, fmt.Errorf("chunk %s is sealed: %w", c.id, dfs.ESTALE)
	case c.session != r.Session:
		return 0, fmt.Errorf("chunk %s is of session %s, not of %s: %w", c.id, c.session, r.Session, dfs.ESTALE)
	case c.fragment != r.Fragment:
		return 0, fmt.Errorf("this server has fragment %d of chunk %s, not %d: %w", c.fragment, c.id, r.Fragment, dfs.EINVAL)
	case c.failed != nil:
		return 0, fmt.Errorf("chunk %s has failed: %w", c.id, verdict(c.failed))
	case r.Offset > c.end:
		return 0, fmt.Errorf("chunk %s ends at %d, not at %d: %w", c.id, c.end, r.Offset, dfs.EINVAL)
	}
	return c.end, nil
}

// duplicate handles a record that begins before the end: if it is the one that is
// there, its sender has not heard the answer.
//
// +checklocks:c.writeMu
func (c *fragment) duplicate(file disk.File, h record.Header, data []byte) (pending bool, err error) {
	block := pages.Get().(*[]byte)
	defer pages.Put(block)
	old, err := record.ReadHeader(file, h.Offset, *block)
	if err != nil || old.Session != h.Session || old.RecordLen != h.RecordLen || !slices.Equal(old.CRCs, h.CRCs) {
		return false, fmt.Errorf("chunk %s has another record at %d: %w", c.id, h.Offset, dfs.EINVAL)
	}
	if h.Offset < c.recovered {
		// It was found at open. It can be in the memory of the kernel only, since a
		// sync of it may have failed in an earlier life: write the same bytes again.
		if err := c.write(file, h, data); err != nil {
			return false, fmt.Errorf("write chunk %s: %w", c.id, verdict(err))
		}
		return true, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return h.Offset+h.Space() > c.synced, nil
}

// pages recycles buffers of one page, buffers those of a small record with its head.
var (
	pages   = sync.Pool{New: func() any { b := make([]byte, dfs.PageBytes); return &b }}
	buffers = sync.Pool{New: func() any { b := make([]byte, smallBytes); return &b }}
)

// write writes a record at its offset. A small one is put together first: one
// write of whole pages, which the kernel need not read. The payload of a large
// one is written from where it is; after it, up to the next page, the file keeps
// what it has, which is zeros or a hole.
//
// +checklocks:c.writeMu
func (c *fragment) write(file disk.File, h record.Header, data []byte) error {
	space, head := h.Space(), h.Head()
	if space <= smallBytes {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		b := (*buf)[:space]
		clear(b[:head])
		clear(b[int(head)+copy(b[head:], data):])
		h.Encode(b)
		_, err := file.WriteAt(b, int64(h.Offset))
		return err
	}
	block := pages.Get().(*[]byte)
	defer pages.Put(block)
	clear(*block)
	h.Encode(*block)
	if _, err := file.WriteAt(*block, int64(h.Offset)); err != nil {
		return err
	}
	_, err := file.WriteAt(data, int64(h.Offset+head))
	return err
}

// zeroAhead writes zeros where the next small records will be, when nobody waits.
// Syncing a record then changes no metadata of the file: the file system need not
// commit its journal, which halves the time of a small append. It reports whether
// there is something to sync.
func (s *Store) zeroAhead(c *fragment, file disk.File) bool {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.mu.Lock()
	end, idle := c.end, len(c.waiting) == 0 && !c.sealed && !c.deleted && c.failed == nil
	c.mu.Unlock()
	if !idle || c.closed || !c.small || c.zeroed >= end+zeroMin || c.zeroed >= dfs.ChunkBytes {
		return false
	}
	n := min(zeroBytes, dfs.ChunkBytes-c.zeroed)
	if c.volume.spare() < int64(n) {
		return false
	}
	if _, err := file.WriteAt(zeros[:n], int64(c.zeroed)); err != nil {
		return false // the append that needs the space will tell
	}
	c.zeroed += n
	return true
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
