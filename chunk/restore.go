package chunk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"dfs"
	"dfs/chunk/record"
)

// partSuffix ends the name of a fragment file that is being restored. A start removes it.
const partSuffix = ".part"

// Lost is a fragment of a sealed chunk that is to be made anew.
type Lost struct {
	Chunk    dfs.ChunkID
	Fragment uint32
	Session  dfs.SessionID // whose the chunk is
	End      uint32        // bytes of the file up to which records were committed
}

// Restore makes a fragment of a sealed chunk anew from its records, and puts it in the
// place of what is here of the chunk, if anything. next answers the records in order, of
// whichever fragment, with the payload of the one that is made, and io.EOF after the last;
// what it answers is not used after its next call. When Restore returns nil the fragment
// lasts; otherwise all is as it was. Errors wrap a dfs.Errno.
func (s *Store) Restore(l Lost, next func() (record.Header, []byte, error)) error {
	if layout := l.Chunk.Layout(); !layout.Valid() || int64(l.Fragment) >= int64(layout.Width()) || l.End < dfs.FirstRecord || l.End > dfs.ChunkBytes {
		return fmt.Errorf("fragment %d of chunk %s up to %d: %w", l.Fragment, l.Chunk, l.End, dfs.EINVAL)
	}
	old := s.find(l.Chunk)
	var v *volume
	if old != nil && old.volume.works() {
		v = old.volume
	} else {
		var err error
		if v, err = s.choose(); err != nil {
			return err
		}
	}
	if err := v.take(int64(l.End)); err != nil {
		return err
	}
	part := v.fragmentPath(l.Chunk, l.Fragment) + partSuffix
	err := s.writePart(v, part, l, next)
	if err == nil {
		err = s.replace(old, v, part, l)
	}
	if err != nil {
		_ = v.fs.Remove(part) // if it stays, the next start removes it
		return fmt.Errorf("restore chunk %s: %w", l.Chunk, verdict(err))
	}
	return nil
}

// restoreSync is how many bytes of a new fragment are on their way to the disk at a time: a program
// whose bytes are synced meanwhile would wait for all of them.
const restoreSync = 4 << 20

// writePart writes a whole fragment file, and makes its bytes last.
func (s *Store) writePart(v *volume, part string, l Lost, next func() (record.Header, []byte, error)) error {
	file, err := v.fs.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	defer file.Close()
	block := encodeHeader(header{Chunk: l.Chunk, Fragment: l.Fragment, Session: l.Session, Cluster: s.Cluster()})
	copy(block[sealOff:], encodeMark(sealMagic, l.Chunk, l.End))
	if _, err := file.WriteAt(block, 0); err != nil {
		return err
	}
	c := &fragment{id: l.Chunk}
	synced := uint32(0)
	for off := uint32(dfs.FirstRecord); ; {
		h, data, err := next()
		if err == io.EOF {
			if off != l.End {
				return fmt.Errorf("the records end at %d, not at %d: %w", off, l.End, dfs.EIO)
			}
			break
		}
		if err != nil {
			return err
		}
		if h.Hole > 0 && h.Chunk == l.Chunk && h.Offset == off && int64(off)+int64(h.Hole) <= int64(l.End) {
			h.Fragment = l.Fragment
			if _, err := file.WriteAt(record.EncodeHole(h), int64(off)); err != nil {
				return err
			}
			off += h.Hole
			continue
		}
		r := Record{
			Chunk: h.Chunk, Fragment: l.Fragment, Session: h.Session, Epoch: h.Epoch, Offset: h.Offset, RecordLen: h.RecordLen,
			CRCs: dfs.PageCRCs(nil, data), Data: data, Intents: h.Intents,
		}
		h.Fragment, h.Len, h.CRCs = l.Fragment, uint32(len(data)), r.CRCs
		if err := check(r); err != nil {
			return err
		}
		if h.Chunk != l.Chunk || h.Session != l.Session || h.Offset != off || int64(off)+int64(h.Space()) > int64(l.End) {
			return fmt.Errorf("record of chunk %s and session %s at %d, where the one at %d belongs: %w", h.Chunk, h.Session, h.Offset, off, dfs.EIO)
		}
		if err := c.write(file, h, data); err != nil {
			return err
		}
		off += h.Space()
		if off-synced >= restoreSync {
			if err := file.Sync(); err != nil {
				return err
			}
			synced = off
		}
	}
	if err := file.Truncate(int64(l.End)); err != nil { // the last page of a large record may be short
		return err
	}
	return file.Sync()
}

// replace gives the new file its name, and has it served.
func (s *Store) replace(old *fragment, v *volume, part string, l Lost) error {
	c := &fragment{
		id: l.Chunk, fragment: l.Fragment, session: l.Session, volume: v, recovered: l.End,
		end: l.End, synced: l.End, zeroed: l.End, named: true, sealed: true, sealDurable: true,
	}
	if old != nil {
		old.writeMu.Lock()
		defer old.writeMu.Unlock()
	}
	s.mu.RLock()
	now, closed := s.fragments[l.Chunk], s.closed
	s.mu.RUnlock()
	switch {
	case closed:
		return ErrClosed
	case now != old:
		return fmt.Errorf("it came or went meanwhile: %w", dfs.ESTALE)
	}
	if err := v.fs.Rename(part, c.path()); err != nil {
		return err
	}
	if err := v.fs.SyncDir(v.shardPath(l.Chunk)); err != nil {
		return err
	}
	s.mu.Lock()
	s.fragments[l.Chunk] = c
	s.mu.Unlock()
	s.heads.Drop(l.Chunk)
	if old == nil {
		return nil
	}
	old.mu.Lock()
	old.deleted = true
	old.mu.Unlock()
	if old.damaged {
		s.stats.damaged.Add(^uint64(0))
	}
	s.files.forget(old)
	if old.path() != c.path() {
		if err := old.volume.fs.Remove(old.path()); err != nil && !isNotExist(err) {
			s.logger.Warn("the file of a fragment that was restored elsewhere stays", "file", old.path(), "err", err)
		}
	}
	return nil
}

// Verify reads all records of a fragment up to an offset, and checks them. pace is called
// with the bytes of each, and ends the reading by an error. Errors wrap a dfs.Errno: ENOENT when there is no
// such chunk here, EIO when it is not whole.
func (s *Store) Verify(id dfs.ChunkID, end uint32, pace func(bytes int) error) error {
	c := s.find(id)
	switch {
	case c == nil:
		return fmt.Errorf("chunk %s: %w", id, dfs.ENOENT)
	case c.damaged:
		return fmt.Errorf("chunk %s is damaged here: %w", id, dfs.EIO)
	}
	c.mu.Lock()
	synced := c.synced
	c.mu.Unlock()
	if synced < end {
		return fmt.Errorf("chunk %s ends at %d here, before %d: %w", id, synced, end, dfs.EIO)
	}
	file, err := s.files.acquire(c)
	if err != nil {
		if isNotExist(err) {
			err = fmt.Errorf("its file is gone: %w", dfs.EIO)
		}
		return fmt.Errorf("chunk %s: %w", id, verdict(err))
	}
	defer s.files.release(c)
	block := make([]byte, dfs.PageBytes)
	if _, err := file.ReadAt(block, 0); err != nil && err != io.EOF {
		return fmt.Errorf("chunk %s: %w", id, verdict(err))
	}
	if h, err := decodeHeader(block); err != nil || h.Chunk != id {
		return fmt.Errorf("chunk %s: header of its file: %w", id, errors.Join(dfs.EIO, err))
	}
	for {
		holed := c.holed.Load()
		err := c.verify(file, end, pace)
		if err == nil || holed == c.holed.Load() && holed%2 == 0 {
			return err
		}
		// Holes were made meanwhile: what was read may be neither of before nor of after.
		if err := pace(dfs.PageBytes); err != nil {
			return err
		}
	}
}

// Look reports what is wrong with a fragment as far as the header and the length of its file tell. Errors
// are those of Verify.
func (s *Store) Look(id dfs.ChunkID, end uint32) error {
	if err := s.Verify(id, dfs.FirstRecord, func(int) error { return nil }); err != nil {
		return err
	}
	c := s.find(id)
	if c == nil {
		return fmt.Errorf("chunk %s: %w", id, dfs.ENOENT)
	}
	file, err := s.files.acquire(c)
	if err != nil {
		return fmt.Errorf("chunk %s: %w", id, verdict(err))
	}
	defer s.files.release(c)
	// The payload of the last record need not fill its last page.
	if size, err := file.Size(); err != nil || size+dfs.PageBytes <= int64(end) {
		return fmt.Errorf("chunk %s: its file has %d bytes of %d: %w", id, size, end, errors.Join(dfs.EIO, err))
	}
	return nil
}

// verify is Verify once.
func (c *fragment) verify(file io.ReaderAt, end uint32, pace func(bytes int) error) error {
	in := record.NewStream(io.NewSectionReader(file, dfs.FirstRecord, int64(end)-dfs.FirstRecord), dfs.FirstRecord)
	for in.Off() < end {
		h, _, err := in.Next()
		if err == nil && (h.Chunk != c.id || h.Fragment != c.fragment) {
			err = fmt.Errorf("record at %d is of fragment %d of chunk %s: %w", h.Offset, h.Fragment, h.Chunk, dfs.EIO)
		}
		if err != nil {
			return fmt.Errorf("chunk %s: %w", c.id, verdict(err))
		}
		n := int(h.Len)
		if err := pace(max(n, dfs.PageBytes)); err != nil {
			return err
		}
	}
	return nil
}

// Raw is a part of a fragment's file.
type Raw struct {
	Fragment uint32
	Session  dfs.SessionID
	Data     []byte
}

// ReadRaw reads a part of a fragment's file as it lies there, of what is acknowledged:
// whoever takes it over checks its records. It is shorter than p at the end. Errors wrap a
// dfs.Errno: ENOENT, EIO.
func (s *Store) ReadRaw(id dfs.ChunkID, off uint32, p []byte) (Raw, error) {
	c := s.find(id)
	switch {
	case c == nil:
		return Raw{}, fmt.Errorf("chunk %s: %w", id, dfs.ENOENT)
	case c.damaged:
		return Raw{}, fmt.Errorf("chunk %s is damaged here: %w", id, dfs.EIO)
	}
	c.mu.Lock()
	synced := c.synced
	c.mu.Unlock()
	out := Raw{Fragment: c.fragment, Session: c.session}
	if off >= synced {
		return out, nil
	}
	file, err := s.files.acquire(c)
	if err != nil {
		return Raw{}, fmt.Errorf("chunk %s: %w", id, verdict(err))
	}
	defer s.files.release(c)
	p = p[:min(len(p), int(synced-off))]
	n, err := file.ReadAt(p, int64(off))
	if err == io.EOF {
		clear(p[n:]) // the file ends within the last page
		err = nil
	}
	if err != nil {
		return Raw{}, fmt.Errorf("chunk %s: %w", id, verdict(err))
	}
	out.Data = p
	return out, nil
}
