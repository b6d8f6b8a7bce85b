package chunk

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"dfs"
	"dfs/internal/disk"
	"dfs/internal/invariant"
	"dfs/internal/turn"
)

// fragment is one fragment file and what is known of it.
//
//	open --append--> open --seal--> sealed
//	open --failed sync--> failed --seal--> sealed at the last acknowledged record
//	damaged: found so when the store was opened; nothing but Delete changes it
type fragment struct {
	id        dfs.ChunkID
	fragment  uint32
	session   dfs.SessionID
	volume    *volume
	damaged   bool
	recovered uint32 // records below were found at open; see duplicate

	handle handle        // guarded by files.mu
	holed  atomic.Uint64 // odd while holes are being made; counts how often that began and ended

	// writeMu orders the writes to the file. It is held over each of them, for the
	// next record begins where the one before ended.
	writeMu turn.Mutex
	closed  bool   // +checklocks:writeMu
	zeroed  uint32 // +checklocks:writeMu — the file holds written zeros from end to here
	small   bool   // +checklocks:writeMu — the last append was a small one

	mu          sync.Mutex
	end         uint32   // +checklocks:mu — where the next record begins: what was written ends
	synced      uint32   // +checklocks:mu — what is on disk ends
	named       bool     // +checklocks:mu — the file's name is on disk
	sealed      bool     // +checklocks:mu
	sealDurable bool     // +checklocks:mu — the mark is on disk
	deleted     bool     // +checklocks:mu
	failed      error    // +checklocks:mu — a sync failed
	waiting     []waiter // +checklocks:mu — written, not synced
	spare       []waiter // +checklocks:mu — an empty list to be waiting next
	syncing     bool     // +checklocks:mu — a sync loop runs, or is about to
}

// waiter is told when what was written before it is on disk.
type waiter struct {
	end  uint32
	done func(end uint32, err error)
	seal bool // it is a seal's mark, which may follow a failed sync
}

func (c *fragment) path() string { return c.volume.fragmentPath(c.id, c.fragment) }

func (c *fragment) info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Info{Chunk: c.id, Fragment: c.fragment, End: c.synced, Sealed: c.sealed, Damaged: c.damaged, Dir: c.volume.dir}
}

// close lets no more appends begin. Those that wait go on.
func (c *fragment) close() {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.closed = true
}

// enqueue lets done be called after the next sync that covers what was written so
// far. The caller holds writeMu, and the store is not closed. When nobody syncs, the
// answer is what has to run next, without writeMu; Close waits for it.
func (s *Store) enqueue(c *fragment, w waiter) (loop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, w)
	if c.syncing {
		return nil
	}
	c.syncing = true
	s.wg.Add(1)
	return func() {
		defer s.wg.Done()
		s.syncLoop(c)
	}
}

// syncLoop syncs until nobody waits.
func (s *Store) syncLoop(c *fragment) {
	file, err := s.files.acquire(c)
	if err != nil {
		file = nil
		s.fail(c, err)
	} else {
		defer s.files.release(c)
	}
	zeroed := false
	for {
		c.mu.Lock()
		batch := c.waiting
		if len(batch) == 0 && !zeroed {
			c.syncing = false
			c.mu.Unlock()
			return
		}
		c.waiting, c.spare = c.spare[:0], nil
		end, named, failed := c.end, c.named, c.failed
		c.mu.Unlock()
		zeroed = false
		batch, err = s.settle(c, batch, failed)
		if file != nil && (failed == nil || len(batch) > 0) {
			if err = s.sync(c, file, named); err != nil {
				s.fail(c, err)
			}
		}
		if failed == nil && err == nil {
			c.mu.Lock()
			invariant.Check(end >= c.synced, "chunk %s: synced to %d, then to %d", c.id, c.synced, end)
			c.synced, c.named = end, true
			c.mu.Unlock()
		}
		if err == nil && slices.ContainsFunc(batch, func(w waiter) bool { return w.seal }) {
			c.mu.Lock()
			c.sealDurable = true
			c.mu.Unlock()
		}
		s.answer(c, batch, err)
		c.mu.Lock()
		c.spare = batch[:0]
		c.mu.Unlock()
		zeroed = file != nil && err == nil && s.zeroAhead(c, file)
	}
}

// settle answers the records that wait on a chunk which has failed, and marks that
// count such records: no later sync can prove that they are on disk. What is left
// needs a sync.
func (s *Store) settle(c *fragment, batch []waiter, failed error) ([]waiter, error) {
	if failed == nil {
		return batch, nil
	}
	c.mu.Lock()
	synced := c.synced
	c.mu.Unlock()
	lost := func(w waiter) bool { return !w.seal || w.end > synced }
	marks := slices.DeleteFunc(slices.Clone(batch), lost)
	s.answer(c, slices.DeleteFunc(batch, func(w waiter) bool { return !lost(w) }), failed)
	return marks, failed
}

// answer calls back all of a batch. It clears the batch.
func (s *Store) answer(c *fragment, batch []waiter, err error) {
	c.mu.Lock()
	if err == nil && c.deleted {
		err = fmt.Errorf("it was deleted: %w", dfs.ESTALE)
	}
	c.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("chunk %s is not on disk: %w", c.id, verdict(err))
	}
	for i, w := range batch {
		batch[i] = waiter{}
		if err != nil {
			w.end = 0
		}
		w.done(w.end, err)
	}
}

// fail ends a chunk whose file could not be synced.
func (s *Store) fail(c *fragment, err error) {
	c.mu.Lock()
	first := c.failed == nil
	if first {
		c.failed = err
	}
	c.mu.Unlock()
	if first {
		s.stats.failed.Add(1)
		s.logger.Error("chunk failed: it could not be synced", "chunk", c.id, "file", c.path(), "err", err)
	}
}

// sync makes the file last, and its name when it is new.
func (s *Store) sync(c *fragment, file disk.File, named bool) error {
	s.stats.syncs.Add(1)
	if err := file.Sync(); err != nil {
		return err
	}
	if named {
		return nil
	}
	return c.volume.fs.SyncDir(c.volume.shardPath(c.id))
}

// create makes the file of a new chunk. Its name and header last with the first
// sync; the caller holds the new fragment's writeMu.
func (s *Store) create(c *fragment) error {
	file, err := c.volume.fs.OpenFile(c.path(), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	h := header{Chunk: c.id, Fragment: c.fragment, Session: c.session, Cluster: s.Cluster()}
	if _, err := file.WriteAt(encodeHeader(h), 0); err != nil {
		file.Close()
		// It was never acknowledged; if it stays, the next start removes it.
		_ = c.volume.fs.Remove(c.path())
		return err
	}
	s.files.use(c, file)
	s.files.release(c)
	return nil
}

// verdict finds the errno of an error; what has none is EIO.
func verdict(err error) error {
	var e dfs.Errno
	if errors.As(err, &e) {
		return err
	}
	if isNoSpace(err) {
		return fmt.Errorf("%w: %w", dfs.ENOSPC, err)
	}
	return fmt.Errorf("%w: %w", dfs.EIO, err)
}

func isEIO(err error) bool {
	var e dfs.Errno
	return errors.As(err, &e) && e == dfs.EIO
}

func isNotExist(err error) bool { return errors.Is(err, iofs.ErrNotExist) }
