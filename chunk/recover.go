package chunk

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"dfs"
	"dfs/chunk/record"
	"dfs/internal/disk"
)

// recover looks at all fragment files.
func (s *Store) recover() error {
	type job struct {
		volume *volume
		shard  string
		name   string
	}
	jobs := make(chan job, 64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range recoverWorkers {
		wg.Go(func() {
			window := make([]byte, scanBytes)
			for j := range jobs {
				err := s.load(j.volume, j.shard, j.name, window)
				if err != nil && !s.goOn(j.volume, err) {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	err := s.walk(func(v *volume, shard, name string) { jobs <- job{v, shard, name} })
	close(jobs)
	wg.Wait()
	return errors.Join(err, failed)
}

// walk calls fn for each file in the folders of fragments. The names that are
// there are made to last first: a process that was killed may have left them in the
// kernel's memory only, and appends to these chunks do not sync their names again.
func (s *Store) walk(fn func(v *volume, shard, name string)) error {
	for _, v := range s.volumes {
		for i := range shards {
			shard := fmt.Sprintf("%02x", i)
			dir := path.Join(v.dir, chunksName, shard)
			list, err := v.fs.ReadDir(dir)
			if err == nil && len(list) > 0 {
				err = v.fs.SyncDir(dir)
			}
			if err != nil && s.goOn(v, err) {
				break
			}
			if err != nil {
				return err
			}
			for _, e := range list {
				fn(v, shard, e.Name)
			}
		}
	}
	return nil
}

// goOn lets the store be opened without the rest of a data folder whose disk fails, if there is
// another one.
func (s *Store) goOn(v *volume, err error) bool {
	others := slices.ContainsFunc(s.volumes, func(o *volume) bool { return o != v && !o.broken.Load() })
	if !unreadable(err) || !others {
		return false
	}
	if !v.broken.Swap(true) {
		s.logger.Error("data folder cannot be read: going on without it", "dir", v.dir, "err", err)
	}
	return true
}

// load takes a fragment file into the store. What is wrong with the file is not an
// error: it is logged, and the file is served as damaged or left alone.
func (s *Store) load(v *volume, shard, name string, window []byte) error {
	file := path.Join(v.dir, chunksName, shard, name)
	if strings.HasSuffix(name, partSuffix) {
		return v.fs.Remove(file) // a restoration that a crash cut off
	}
	id, fragmentIndex, ok := parseName(name)
	if !ok || shardName(id) != shard {
		s.logger.Warn("this is no fragment file; it is left alone", "file", file)
		return nil
	}
	c := &fragment{id: id, fragment: fragmentIndex, volume: v, named: true}
	kept, err := s.restore(c, window)
	switch {
	case err != nil:
		c.damaged = true
		s.stats.damaged.Add(1)
		s.logger.Error("fragment file is damaged; reads of this chunk fail here, others do not", "file", file, "err", err)
	case !kept:
		s.logger.Info("removed a fragment file whose creation a crash cut off", "file", file)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.fragments[id]; other != nil {
		// Nothing makes a second fragment of a chunk here. Whoever copied the file by
		// hand may take it away again.
		s.logger.Error("two files are of one chunk; the second is left alone", "file", file, "other", other.path())
		if c.damaged || !other.damaged && other.end >= c.end {
			return nil
		}
	}
	s.fragments[id] = c
	return nil
}

// restore reads the state of a fragment from its file, cuts off what a crash tore,
// and makes the result last. It reports whether there is a fragment at all: a file
// whose header never reached the disk was never acknowledged, and is removed.
func (s *Store) restore(c *fragment, window []byte) (kept bool, err error) {
	file, err := c.volume.fs.OpenFile(c.path(), os.O_RDWR)
	if err != nil {
		return false, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return false, err
	}
	block := make([]byte, dfs.PageBytes)
	n, err := file.ReadAt(block, 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	block = block[:n]
	lost := isZero(block[:min(n, sealOff)])
	if !lost {
		h, err := decodeHeader(block)
		if err != nil {
			return false, err
		}
		own := c.volume.id.Cluster
		if h.Chunk != c.id || h.Fragment != c.fragment || own != 0 && h.Cluster != 0 && h.Cluster != own {
			return false, fmt.Errorf("header is of fragment %d of chunk %s of cluster %s: %w", h.Fragment, h.Chunk, h.Cluster, record.ErrFormat)
		}
		c.session = h.Session
		end, sealed, err := decodeMark(block, sealOff, sealMagic, c.id)
		if sealed && err == nil {
			// Perhaps only in the kernel's memory: a Seal writes the mark again.
			c.sealed, c.end, c.synced, c.recovered = true, end, end, end
			if size < int64(end) {
				s.logger.Error("fragment file is shorter than it was when it was sealed", "file", c.path(), "bytes", size, "want", end)
			}
			return true, nil
		}
		c.sealed = sealed // with a mark that says nothing: at the last record that is there
	}
	// What an earlier start has checked is not read again: a chunk whose writer never
	// came back would cost all its bytes each time. A mark that is bad says nothing.
	from := uint32(dfs.FirstRecord)
	if end, ok, err := decodeMark(block, scanOff, scanMagic, c.id); ok && err == nil && !lost && int64(end) <= size {
		from = end
	}
	end, last, err := scan(file, c, scanRange{int64(from), min(size, dfs.ChunkBytes)}, window)
	if err != nil {
		return false, err
	}
	if lost && last == nil {
		return false, c.volume.fs.Remove(c.path())
	}
	if lost {
		// All else of the first sync has reached the disk. Records tell all that the
		// header does.
		c.session = last.Session
		h := header{Chunk: c.id, Fragment: c.fragment, Session: c.session, Cluster: c.volume.id.Cluster}
		if _, err := file.WriteAt(encodeHeader(h), 0); err != nil {
			return false, err
		}
	}
	if size > int64(end) {
		if err := cut(file, end); err != nil {
			return false, err
		}
	}
	if end > from {
		if _, err := file.WriteAt(encodeMark(scanMagic, c.id, end), scanOff); err != nil {
			return false, err
		}
	}
	// What was found may be in the kernel's memory only, left by a process that was
	// killed.
	if err := file.Sync(); err != nil {
		return false, err
	}
	c.end, c.synced, c.recovered, c.zeroed = end, end, end, end
	return true, nil
}

// scanBytes is how much of a file is read at once: a whole record at least.
const scanBytes = 2 << 20

// scanRange is a part of a fragment file, in bytes.
type scanRange struct{ from, to int64 }

// scan finds the end of the last whole record. A page where none begins is skipped:
// it is of a record that a crash tore, or that has been damaged since; records
// after it were perhaps acknowledged, so they are kept. Reads of what was skipped
// fail by their checksums.
func scan(file disk.File, c *fragment, r scanRange, window []byte) (end uint32, last *record.Header, err error) {
	end = uint32(r.from)
	var base, have int64 // what of the file is in window
	for off, size := r.from, r.to; off < size; {
		if need := min(off+dfs.PageBytes+dfs.FragmentBytes, size); off < base || need > base+have {
			n, err := file.ReadAt(window[:min(int64(len(window)), size-off)], off)
			if err != nil && err != io.EOF {
				return 0, nil, err
			}
			base, have = off, int64(n)
			if n == 0 {
				break
			}
		}
		b := window[off-base : have]
		h, err := record.Decode(b[:min(len(b), dfs.PageBytes)], uint32(off))
		switch {
		case errors.Is(err, record.ErrTooNew):
			return 0, nil, err // not ours to cut
		case err == nil && h.Chunk == c.id && h.Fragment == c.fragment && cmp.Or(c.session, h.Session) == h.Session && whole(b, h):
			off += int64(h.Space())
			end, last = uint32(off), &h
		default:
			off += dfs.PageBytes
		}
	}
	return end, last, nil
}

// whole reports whether b has the payload of the record that it begins with.
func whole(b []byte, h record.Header) bool {
	from, to := int(h.Head()), int(h.Head()+h.Len)
	return len(b) >= to && dfs.CheckPages(0, b[from:to], h.CRCs) == nil
}
