package client

import (
	"container/list"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/chunk/record"
	"dfs/rpc"
)

// Bounds of reading files of chunk servers on this machine.
const (
	directFiles   = 128              // open at once
	directIdle    = 20 * time.Second // a file that is not read is closed: it may be deleted, and takes space until then
	directRefused = 10 * time.Second // a server that does not hand out files is not asked again before
)

// direct reads fragment files of chunk servers on this machine without going through
// them: most of what a small read costs is to wake the other process and to be woken by
// it. The server hands the file out once. Records that were acknowledged do not change,
// and their checksums are compared here as they are there, so nothing has to be asked;
// whatever is not as it should be is left to the server, which says so and counts it.
// (HDFS calls it short-circuit local reads.)
type direct struct {
	fs    *FS
	heads record.Cache
	some  atomic.Bool // a server is on this machine

	mu      sync.Mutex
	files   map[directKey]*directFile // +checklocks:mu
	order   *list.List                // +checklocks:mu — of *directFile, the least recently used first
	local   map[dfs.NodeID]bool       // +checklocks:mu — has handed out a file
	refused map[dfs.NodeID]time.Time  // +checklocks:mu
	closing *time.Timer               // +checklocks:mu — closes what is idle; nil: nothing is open
	closed  bool                      // +checklocks:mu
	reads   uint64                    // +checklocks:mu
}

type directKey struct {
	server   dfs.NodeID
	chunk    dfs.ChunkID
	fragment uint32
}

type directFile struct {
	key   directKey
	file  *os.File
	refs  int
	gone  bool // closed by the last who reads it
	used  time.Time
	place *list.Element
}

func newDirect(fs *FS) *direct {
	return &direct{fs: fs, files: map[directKey]*directFile{}, order: list.New(), local: map[dfs.NodeID]bool{}, refused: map[dfs.NodeID]time.Time{}}
}

// read reads [from, to) of the payload that a server has of a record, in whole pages, if
// the server is on this machine. ok is false when it has to be asked.
func (d *direct) read(ctx context.Context, src source, e dfs.Extent, from, to int) (off int, data []byte, ok bool) {
	type result struct {
		pages record.Pages
		err   error
	}
	f := d.acquire(ctx, directKey{src.server, e.Chunk, uint32(src.position)})
	if f == nil {
		return 0, nil, false
	}
	p := record.Piece{Chunk: e.Chunk, Fragment: uint32(src.position), Record: e.Record, Off: uint32(from), Len: uint32(to - from)}
	done := make(chan result, 1)
	go func() { // ends when the disk answers; nobody waits for a disk that does not
		buf := rpc.Alloc(p.BufBytes())
		pages, err := record.Read(f.file, &d.heads, p, buf)
		if err == nil && int(pages.Off)+len(pages.Data) < to {
			err = fmt.Errorf("record at %d ends at %d: %w", e.Record, int(pages.Off)+len(pages.Data), dfs.EIO)
		}
		if err != nil {
			rpc.Free(buf)
		}
		if err != nil {
			d.fs.cfg.Logger.Debug("a file of a server on this machine cannot be read here", "server", f.key.server.String(), "chunk", e.Chunk.String(), "err", err)
		}
		d.release(f, err != nil)
		done <- result{pages, err}
	}()
	select {
	case r := <-done:
		return int(r.pages.Off), r.pages.Data, r.err == nil
	case <-ctx.Done():
		return 0, nil, false
	}
}

// acquire opens the file of a fragment, or takes the one that is open; nil when the
// server does not hand it out.
func (d *direct) acquire(ctx context.Context, key directKey) *directFile {
	d.mu.Lock()
	if f := d.useLocked(key); f != nil || d.closed || time.Since(d.refused[key.server]) < directRefused {
		d.mu.Unlock()
		return f
	}
	d.mu.Unlock()
	file, err := rpc.OpenFile(ctx, rpc.FragmentFiles(d.fs.pool.Cluster(), key.server), rpc.FragmentKey(key.chunk, key.fragment))
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			d.fs.cfg.Logger.Debug("a server on this machine does not hand out its file", "server", key.server.String(), "chunk", key.chunk.String(), "err", err)
			d.refused[key.server] = time.Now()
		}
		return nil
	}
	if f := d.useLocked(key); f != nil || d.closed { // somebody else was faster
		file.Close()
		return f
	}
	d.local[key.server] = true
	d.some.Store(true)
	f := &directFile{key: key, file: file}
	f.place = d.order.PushBack(f)
	d.files[key] = f
	if d.closing == nil {
		d.closing = time.AfterFunc(directIdle, d.closeIdle)
	}
	for e := d.order.Front(); e != nil && len(d.files) > directFiles; {
		old := e.Value.(*directFile)
		e = e.Next()
		d.removeLocked(old)
	}
	return d.useLocked(key)
}

// +checklocks:d.mu
func (d *direct) useLocked(key directKey) *directFile {
	f := d.files[key]
	if f == nil {
		return nil
	}
	f.refs++
	f.used = time.Now()
	d.order.MoveToBack(f.place)
	d.reads++
	return f
}

// release ends what acquire began; a file that is bad is not used again.
func (d *direct) release(f *directFile, bad bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f.refs--
	if bad {
		d.refused[f.key.server] = time.Now()
		d.removeLocked(f)
	}
	if f.gone && f.refs == 0 {
		f.file.Close()
	}
}

// removeLocked takes a file out, and closes it when nobody reads it.
//
// +checklocks:d.mu
func (d *direct) removeLocked(f *directFile) {
	if f.gone {
		return
	}
	f.gone = true
	d.order.Remove(f.place)
	delete(d.files, f.key)
	if f.refs == 0 {
		f.file.Close()
	}
}

// closeIdle closes what was not read for a while.
func (d *direct) closeIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closing = nil
	for e := d.order.Front(); e != nil; {
		f := e.Value.(*directFile)
		e = e.Next()
		if time.Since(f.used) >= directIdle {
			d.removeLocked(f)
		}
	}
	if len(d.files) > 0 && !d.closed {
		d.closing = time.AfterFunc(directIdle/2, d.closeIdle)
	}
}

// here reports whether a server is known to be on this machine.
func (d *direct) here(id dfs.NodeID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.local[id]
}

// close closes all files.
func (d *direct) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.closing != nil {
		d.closing.Stop()
	}
	for _, f := range d.files {
		d.removeLocked(f)
	}
}
