package chunk

import (
	"container/list"
	"fmt"
	"io"
	"sync"

	"dfs"
	"dfs/internal/disk"
)

// Piece is where some bytes of a record are.
type Piece struct {
	Chunk    dfs.ChunkID
	Fragment uint32
	Record   uint32 // where the record begins in the fragment file, bytes
	Off      uint32 // in the record's payload in this fragment, bytes
	Len      uint32 // bytes
}

// Pages is a run of whole pages of a record's payload, checked.
type Pages struct {
	Off  uint32   // of Data in the payload: a multiple of the page size
	CRCs []uint32 // of each page
	Data []byte   // only the payload's last page may be short
}

// BufBytes is how long a buffer has to be so that Read need not make one.
func (p Piece) BufBytes() int {
	return min(int(p.Len), dfs.FragmentBytes)/dfs.PageBytes*dfs.PageBytes + 3*dfs.PageBytes
}

// Read returns the pages that hold a piece, read to buf when it is long enough. It
// may be shorter than asked for, when the payload is. Errors wrap a dfs.Errno:
// ENOENT when there is no such chunk here, or it has no acknowledged record there;
// EIO when checksums do not match or the disk fails; EINVAL.
func (s *Store) Read(p Piece, buf []byte) (Pages, error) {
	s.stats.reads.Add(1)
	c := s.find(p.Chunk)
	if c == nil || c.fragment != p.Fragment && p.Chunk.Layout().Data() > 1 {
		return Pages{}, fmt.Errorf("fragment %d of chunk %s is not here: %w", p.Fragment, p.Chunk, dfs.ENOENT)
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
	return Pages{}, err
}

func (s *Store) read(c *fragment, p Piece, buf []byte) (Pages, error) {
	if c.damaged {
		return Pages{}, fmt.Errorf("it is damaged here: %w", dfs.EIO)
	}
	if p.Record < dfs.FirstRecord || p.Record%dfs.PageBytes != 0 || p.Len == 0 {
		return Pages{}, fmt.Errorf("%d bytes of a record at %d: %w", p.Len, p.Record, dfs.EINVAL)
	}
	c.mu.Lock()
	synced, deleted := c.synced, c.deleted
	c.mu.Unlock()
	if p.Record >= synced || deleted {
		return Pages{}, fmt.Errorf("it ends at %d, before record %d: %w", synced, p.Record, dfs.ENOENT)
	}
	file, err := s.files.acquire(c)
	if err != nil {
		if isNotExist(err) && s.find(p.Chunk) != c {
			err = fmt.Errorf("it was deleted: %w", dfs.ENOENT)
		}
		return Pages{}, err
	}
	defer s.files.release(c)
	h, ok := s.heads.get(c.id, p.Record)
	if !ok {
		block := pages.Get().(*[]byte)
		defer pages.Put(block)
		if h, err = readRecord(file, p.Record, *block); err != nil {
			return Pages{}, fmt.Errorf("%w: %w", dfs.EIO, err)
		}
		if h.Chunk != c.id || h.Fragment != c.fragment {
			return Pages{}, fmt.Errorf("record at %d is of fragment %d of chunk %s: %w", p.Record, h.Fragment, h.Chunk, dfs.EIO)
		}
		s.heads.put(c.id, h)
	}
	if p.Off >= h.Len {
		return Pages{}, fmt.Errorf("record at %d has %d bytes, not %d: %w", p.Record, h.Len, p.Off, dfs.EINVAL)
	}
	return readPages(file, h, p, buf)
}

// readPages reads and checks the pages around a piece.
func readPages(file disk.File, h recordHeader, p Piece, buf []byte) (Pages, error) {
	first := p.Off / dfs.PageBytes
	from := first * dfs.PageBytes
	to := h.Len
	if end := uint64(p.Off) + uint64(p.Len); end < uint64(to) {
		to = uint32(min((end+dfs.PageBytes-1)/dfs.PageBytes*dfs.PageBytes, uint64(to)))
	}
	if n := int(to - from); cap(buf) < n {
		buf = make([]byte, n)
	} else {
		buf = buf[:n]
	}
	if n, err := file.ReadAt(buf, int64(p.Record+h.head()+from)); n < len(buf) {
		if err == io.EOF {
			err = fmt.Errorf("file is cut off in the record at %d: %w", p.Record, dfs.EIO)
		}
		return Pages{}, err
	}
	out := Pages{Off: from, CRCs: h.CRCs[first : int(first)+dfs.Pages(len(buf))], Data: buf}
	if err := dfs.CheckPages(from, buf, out.CRCs); err != nil {
		return Pages{}, fmt.Errorf("record at %d: %w", p.Record, err)
	}
	return out, nil
}

// readRecord reads the header and checksums of a record. block is a page to work
// with.
func readRecord(file disk.File, off uint32, block []byte) (recordHeader, error) {
	n, err := file.ReadAt(block, int64(off))
	if err != nil && err != io.EOF {
		return recordHeader{}, err
	}
	return decodeRecord(block[:n], off)
}

// headBytesMax bounds the memory of the cache of record headers.
const headBytesMax = 8 << 20

// headCache keeps the headers of records that were read lately, so that a read in
// the middle of a large record costs one access to the disk. Records do not change.
type headCache struct {
	mu    sync.Mutex
	lru   list.List                                // +checklocks:mu — of *recordHeader, the front is the newest
	index map[dfs.ChunkID]map[uint32]*list.Element // +checklocks:mu
	bytes int                                      // +checklocks:mu
}

func (c *headCache) init() { c.index = map[dfs.ChunkID]map[uint32]*list.Element{} }

// headCost is about what a header takes in memory.
func headCost(h *recordHeader) int { return 256 + dfs.PageCRCBytes*len(h.CRCs) }

func (c *headCache) get(id dfs.ChunkID, record uint32) (recordHeader, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.index[id][record]
	if e == nil {
		return recordHeader{}, false
	}
	c.lru.MoveToFront(e)
	return *e.Value.(*recordHeader), true
}

func (c *headCache) put(id dfs.ChunkID, h recordHeader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	records := c.index[id]
	if records == nil {
		records = map[uint32]*list.Element{}
		c.index[id] = records
	}
	if records[h.Offset] != nil {
		return
	}
	records[h.Offset] = c.lru.PushFront(&h)
	c.bytes += headCost(&h)
	for c.bytes > headBytesMax {
		c.removeLocked(c.lru.Back())
	}
}

// drop forgets the records of a chunk.
func (c *headCache) drop(id dfs.ChunkID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.index[id] {
		c.removeLocked(e)
	}
}

// +checklocks:c.mu
func (c *headCache) removeLocked(e *list.Element) {
	h := c.lru.Remove(e).(*recordHeader)
	c.bytes -= headCost(h)
	records := c.index[h.Chunk]
	delete(records, h.Offset)
	if len(records) == 0 {
		delete(c.index, h.Chunk)
	}
}
