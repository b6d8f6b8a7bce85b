package record

import (
	"container/list"
	"fmt"
	"io"
	"sync"

	"dfs"
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

var blocks = sync.Pool{New: func() any { b := make([]byte, dfs.PageBytes); return &b }}

// Read returns the pages of a fragment file that hold a piece, read to buf when it is
// long enough, and checked. It may be shorter than asked for, when the payload is.
// Errors wrap a dfs.Errno: EIO when something is not as it was written, ENOENT when there is
// a hole instead, EINVAL.
func Read(file io.ReaderAt, cache *Cache, p Piece, buf []byte) (Pages, error) {
	if p.Record < dfs.FirstRecord || p.Record%dfs.PageBytes != 0 || p.Len == 0 {
		return Pages{}, fmt.Errorf("%d bytes of a record at %d: %w", p.Len, p.Record, dfs.EINVAL)
	}
	h, ok := cache.get(p.Chunk, p.Record)
	if !ok {
		block := blocks.Get().(*[]byte)
		defer blocks.Put(block)
		var err error
		if h, err = ReadHeader(file, p.Record, *block); err != nil {
			if _, hole := DecodeHole(*block, p.Record); hole {
				return Pages{}, fmt.Errorf("record at %d is gone: %w", p.Record, dfs.ENOENT)
			}
			return Pages{}, fmt.Errorf("%w: %w", dfs.EIO, err)
		}
		if h.Chunk != p.Chunk || h.Fragment != p.Fragment {
			return Pages{}, fmt.Errorf("record at %d is of fragment %d of chunk %s: %w", p.Record, h.Fragment, h.Chunk, dfs.EIO)
		}
		h.Intents = nil
		cache.put(p.Chunk, h)
	}
	if p.Off >= h.Len {
		return Pages{}, fmt.Errorf("record at %d has %d bytes, not %d: %w", p.Record, h.Len, p.Off, dfs.EINVAL)
	}
	return readPages(file, h, p, buf)
}

// readPages reads and checks the pages around a piece.
func readPages(file io.ReaderAt, h Header, p Piece, buf []byte) (Pages, error) {
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
	if n, err := file.ReadAt(buf, int64(p.Record+h.Head()+from)); n < len(buf) {
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

// ReadHeader reads the header and checksums of a record. block is a page to work
// with; the intents stay in it.
func ReadHeader(file io.ReaderAt, off uint32, block []byte) (Header, error) {
	n, err := file.ReadAt(block, int64(off))
	if err != nil && err != io.EOF {
		return Header{}, err
	}
	return Decode(block[:n], off)
}

// headBytesMax bounds the memory of the cache of record headers.
const headBytesMax = 8 << 20

// Cache keeps the headers of records that were read lately, so that a read in
// the middle of a large record costs one access to the disk. Records do not change.
type Cache struct {
	mu    sync.Mutex
	lru   list.List                                // +checklocks:mu — of *Header, the front is the newest
	index map[dfs.ChunkID]map[uint32]*list.Element // +checklocks:mu
	bytes int                                      // +checklocks:mu
}

// headCost is about what a header takes in memory.
func headCost(h *Header) int { return 256 + dfs.PageCRCBytes*len(h.CRCs) }

func (c *Cache) get(id dfs.ChunkID, record uint32) (Header, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.index[id][record]
	if e == nil {
		return Header{}, false
	}
	c.lru.MoveToFront(e)
	return *e.Value.(*Header), true
}

func (c *Cache) put(id dfs.ChunkID, h Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	records := c.index[id]
	if c.index == nil {
		c.index = map[dfs.ChunkID]map[uint32]*list.Element{}
	}
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

// Drop forgets the records of a chunk.
func (c *Cache) Drop(id dfs.ChunkID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.index[id] {
		c.removeLocked(e)
	}
}

// +checklocks:c.mu
func (c *Cache) removeLocked(e *list.Element) {
	h := c.lru.Remove(e).(*Header)
	c.bytes -= headCost(h)
	records := c.index[h.Chunk]
	delete(records, h.Offset)
	if len(records) == 0 {
		delete(c.index, h.Chunk)
	}
}
