package chunk

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dfs"
	"dfs/chunk/record"
	"dfs/internal/disk"
)

// Bounds and times.
const (
	openFilesMax   = 1024        // fragment files kept open
	recoverWorkers = 4           // fragments looked at at once when the store is opened
	lookInterval   = time.Second // between looks at the free space
	reserveMax     = 1 << 30     // bytes, when the reserve is not configured
	reservePart    = 20          // a twentieth of the disk, then
)

// ErrClosed is returned by a store after Close.
var ErrClosed = errors.New("chunk store is closed")

// Config says what a store is made of.
type Config struct {
	Dirs    []string      // data folders, on different disks if there are several
	FS      disk.FS       // nil: the machine's
	Node    dfs.NodeID    // whose folders they must be; 0: whoever's they are, a new id for new ones
	Cluster dfs.ClusterID // which cluster they must be of; 0: any, and none for new ones
	Reserve uint64        // bytes of each disk that appends leave free; 0: a twentieth of it, at most 1 GiB
	Logger  *slog.Logger  // nil: none

	HangAfter    time.Duration // an operation of a disk that takes longer hangs; 0: 10 s
	FilesMax     int           // fragment files kept open; 0: 1024
	LookInterval time.Duration // between looks at the free space; 0: 1 s
}

// Store is the fragments that one server holds. Its methods may be called by many
// goroutines at once.
type Store struct {
	logger  *slog.Logger
	volumes []*volume
	broken  []string // data folders that could not be read, and are not in volumes
	files   files
	heads   record.Cache
	stats   counters
	stop    chan struct{}
	wg      sync.WaitGroup // sync loops and the look at free space

	mu        sync.RWMutex
	fragments map[dfs.ChunkID]*fragment // +checklocks:mu
	closed    bool                      // +checklocks:mu
}

// Info is what is known of a fragment.
type Info struct {
	Chunk    dfs.ChunkID
	Fragment uint32
	End      uint32 // bytes of the file that hold records which are on disk
	Sealed   bool
	Damaged  bool   // it cannot be read or written; it is left as it is
	Dir      string // its data folder
}

// Stats counts what a store has done since it was opened.
type Stats struct {
	Appends, AppendedBytes uint64
	Syncs                  uint64
	Reads, ReadBytes       uint64
	BadReads               uint64 // checksums or disks that failed
	Failed                 uint64 // chunks that a failed sync has ended
	Fragments              uint64 // held now
	Damaged                uint64 // of them, cannot be served
	OpenFiles              uint64
	Total, Free            uint64 // bytes of the disks; free above the reserve
}

type counters struct {
	appends, appendedBytes, syncs, reads, readBytes, badReads, failed, damaged atomic.Uint64
}

// Open opens the data folders, formats those that are empty, and brings the
// fragments to the state that they had when they were last acknowledged. It
// refuses, and changes nothing in, folders of another cluster or node, of a newer
// format, or that hold something else.
func Open(cfg Config) (*Store, error) {
	if cfg.FS == nil {
		cfg.FS = disk.OS()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		logger: cfg.Logger, stop: make(chan struct{}), fragments: map[dfs.ChunkID]*fragment{},
		files: files{max: cmp.Or(cfg.FilesMax, openFilesMax)},
	}
	if err := s.openVolumes(cfg); err != nil {
		s.unlock()
		return nil, err
	}
	if err := s.recover(); err != nil {
		s.unlock()
		return nil, err
	}
	for _, v := range s.volumes {
		s.wg.Go(func() { s.look(v, cmp.Or(cfg.LookInterval, lookInterval)) })
	}
	s.wg.Go(func() { s.watch(cmp.Or(cfg.LookInterval, lookInterval), cmp.Or(cfg.HangAfter, hangAfter)) })
	return s, nil
}

// openVolumes checks all folders before it formats any.
func (s *Store) openVolumes(cfg Config) error {
	if len(cfg.Dirs) == 0 {
		return errors.New("no data folder given: set --dir")
	}
	var fresh []*volume
	node, cluster := cfg.Node, cfg.Cluster
	for i, dir := range cfg.Dirs {
		dir = path.Clean(dir)
		if slices.ContainsFunc(cfg.Dirs[:i], func(d string) bool { return path.Clean(d) == dir }) {
			return fmt.Errorf("data folder %s is given twice", dir)
		}
		v, ok, err := openVolume(disk.NewWatch(cfg.FS), dir)
		if s.leaveOut(dir, err, len(cfg.Dirs)) {
			continue
		}
		if err != nil {
			return err
		}
		v.reserve = cfg.Reserve
		s.volumes = append(s.volumes, v)
		if !ok {
			fresh = append(fresh, v)
			continue
		}
		if node != 0 && v.id.Node != node {
			return fmt.Errorf("data folder %s is of server %s, not of %s", dir, v.id.Node, node)
		}
		if cluster != 0 && v.id.Cluster != 0 && v.id.Cluster != cluster {
			return fmt.Errorf("data folder %s is of cluster %s, not of %s", dir, v.id.Cluster, cluster)
		}
		node = v.id.Node
		cluster = cmp.Or(cluster, v.id.Cluster)
	}
	if node == 0 && len(s.broken) > 0 {
		return fmt.Errorf("data folders %v cannot be read, and the others do not tell whose they are", s.broken)
	}
	if node == 0 {
		node = dfs.NodeID(randomID())
	}
	for _, v := range fresh {
		s.logger.Info("formatting a new data folder", "dir", v.dir, "server", node)
		if err := v.format(identity{Node: node, Cluster: cluster, Disk: randomID()}); err != nil {
			return err
		}
	}
	for _, v := range slices.Clone(s.volumes) {
		var err error
		if v.id.Cluster != cluster {
			id := v.id
			id.Cluster = cluster
			err = v.format(id)
		}
		if err == nil {
			err = errors.Join(v.makeShards(), v.look())
		}
		if s.leaveOut(v.dir, err, len(s.volumes)) {
			_ = v.lock.Close() // it cannot be read: nor, perhaps, closed
			s.volumes = slices.DeleteFunc(s.volumes, func(o *volume) bool { return o == v })
			continue
		}
		if err != nil {
			return fmt.Errorf("data folder %s: %w", v.dir, err)
		}
		if v.reserve == 0 {
			v.reserve = min(v.total.Load()/reservePart, reserveMax)
		}
	}
	return nil
}

// leaveOut goes on without a data folder whose disk fails, when it is not the last one. What it
// held is missed, and made anew in the others.
func (s *Store) leaveOut(dir string, err error, folders int) bool {
	if !unreadable(err) || folders-len(s.broken) < 2 {
		return false
	}
	s.logger.Error("data folder cannot be read: going on without it", "dir", dir, "err", err)
	s.broken = append(s.broken, dir)
	return true
}

// unreadable reports whether an error is of a disk that fails, and not of a folder that is none
// of ours.
func unreadable(err error) bool {
	for _, e := range []syscall.Errno{syscall.EIO, syscall.ENXIO, syscall.ENODEV, syscall.EROFS, syscall.ENOTCONN, syscall.ESTALE, syscall.ETIMEDOUT, syscall.EUCLEAN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// randomID is never zero.
func randomID() uint64 {
	var b [8]byte
	for binary.LittleEndian.Uint64(b[:]) == 0 {
		_, _ = rand.Read(b[:]) // never fails, as crypto/rand tells
	}
	return binary.LittleEndian.Uint64(b[:])
}

// Node is whose data folders these are.
func (s *Store) Node() dfs.NodeID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.volumes[0].id.Node
}

// Cluster is which cluster they are of, 0 before the first SetCluster.
func (s *Store) Cluster() dfs.ClusterID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.volumes[0].id.Cluster
}

// SetCluster makes the folders the cluster's, for ever. It is an error when they
// are of another one. It must not be called twice at once.
func (s *Store) SetCluster(id dfs.ClusterID) error {
	if own := s.Cluster(); own != 0 && own != id {
		return fmt.Errorf("data folder %s is of cluster %s, not of %s", s.volumes[0].dir, own, id)
	}
	// The first folder is what Cluster answers: it comes last.
	for _, v := range slices.Backward(s.volumes) {
		next := v.id
		next.Cluster = id
		if next == v.id {
			continue
		}
		if err := disk.WriteFile(v.fs, path.Join(v.dir, identityName), encodeIdentity(next)); err != nil {
			return fmt.Errorf("data folder %s: %w", v.dir, err)
		}
		s.mu.Lock()
		v.id = next
		s.mu.Unlock()
	}
	return nil
}

// find returns the fragment of a chunk, nil when there is none.
func (s *Store) find(id dfs.ChunkID) *fragment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fragments[id]
}

// Path is where the file of a fragment is, whose records may be read by whoever knows
// that they were acknowledged. The file may be deleted at any time; a deleted one stays
// as it was for those who have it open.
func (s *Store) Path(id dfs.ChunkID, fragment uint32) (string, error) {
	c := s.find(id)
	switch {
	case c == nil || c.fragment != fragment:
		return "", fmt.Errorf("fragment %d of chunk %s is not here: %w", fragment, id, dfs.ENOENT)
	case c.damaged:
		return "", fmt.Errorf("fragment %d of chunk %s is damaged here: %w", fragment, id, dfs.EIO)
	}
	return c.path(), nil
}

// Stat tells about the fragment of a chunk.
func (s *Store) Stat(id dfs.ChunkID) (Info, bool) {
	c := s.find(id)
	if c == nil {
		return Info{}, false
	}
	return c.info(), true
}

// List calls fn for each fragment, in no order, until it returns false.
func (s *Store) List(fn func(Info) bool) {
	s.mu.RLock()
	all := make([]*fragment, 0, len(s.fragments))
	for _, c := range s.fragments {
		all = append(all, c)
	}
	s.mu.RUnlock()
	for _, c := range all {
		if !fn(c.info()) {
			return
		}
	}
}

// Chunks lists the ids of all chunks in order; damaged ones are left out, for nobody
// knows what they are.
func (s *Store) Chunks() []dfs.ChunkID {
	s.mu.RLock()
	ids := make([]dfs.ChunkID, 0, len(s.fragments))
	for id, c := range s.fragments {
		if !c.damaged {
			ids = append(ids, id)
		}
	}
	s.mu.RUnlock()
	slices.Sort(ids)
	return ids
}

// Usage is the bytes of the disks, and how many of them may be appended. A disk
// that holds two data folders counts twice.
func (s *Store) Usage() (total, free uint64) {
	for _, v := range s.volumes {
		if !v.failed.Load() && !v.broken.Load() {
			total += v.total.Load()
		}
		if v.works() {
			free += uint64(max(v.spare(), 0))
		}
	}
	return total, free
}

// Check says why the store cannot do its work, nil when it can.
func (s *Store) Check() error {
	if len(s.broken) > 0 {
		return fmt.Errorf("data folder %s cannot be read", s.broken[0])
	}
	for _, v := range s.volumes {
		if v.hung.Load() {
			return fmt.Errorf("the disk of data folder %s does not answer", v.dir)
		}
		if !v.works() {
			return fmt.Errorf("data folder %s cannot be read", v.dir)
		}
	}
	return nil
}

// Stats tells what the store has done.
func (s *Store) Stats() Stats {
	st := Stats{
		Appends: s.stats.appends.Load(), AppendedBytes: s.stats.appendedBytes.Load(), Syncs: s.stats.syncs.Load(),
		Reads: s.stats.reads.Load(), ReadBytes: s.stats.readBytes.Load(), BadReads: s.stats.badReads.Load(),
		Failed: s.stats.failed.Load(), Damaged: s.stats.damaged.Load(), OpenFiles: uint64(s.files.count()),
	}
	st.Total, st.Free = s.Usage()
	s.mu.RLock()
	st.Fragments = uint64(len(s.fragments))
	s.mu.RUnlock()
	return st
}

// Delete removes a chunk; one that is not there is no error. The name is not
// synced: after a crash the chunk may be there again, and is to be deleted again.
// Appends that are under way fail.
func (s *Store) Delete(id dfs.ChunkID) error {
	c := s.find(id)
	if c == nil {
		return nil
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.volume.fs.Remove(c.path()); err != nil && !isNotExist(err) {
		return fmt.Errorf("delete chunk %s: %w", id, err)
	}
	c.mu.Lock()
	c.deleted = true
	c.mu.Unlock()
	s.mu.Lock()
	if s.fragments[id] == c {
		delete(s.fragments, id)
	}
	s.mu.Unlock()
	if c.damaged {
		s.stats.damaged.Add(^uint64(0))
	}
	s.files.forget(c)
	s.heads.Drop(id)
	return nil
}

// Close waits for appends that are under way and closes all files.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	all := slices.Collect(maps.Values(s.fragments))
	s.mu.Unlock()
	close(s.stop)
	// Whoever got hold of a fragment before closed was set is done with it when its
	// writeMu is free; later ones see closed.
	for _, c := range all {
		c.close()
	}
	s.wg.Wait()
	for _, c := range all {
		s.files.forget(c)
	}
	return s.unlock()
}

// unlock gives the folders free.
func (s *Store) unlock() error {
	var errs []error
	for _, v := range s.volumes {
		errs = append(errs, v.lock.Close())
	}
	return errors.Join(errs...)
}

// choose picks the folder of a new chunk: the one with the most free space.
func (s *Store) choose() (*volume, error) {
	var best *volume
	for _, v := range s.volumes {
		if v.works() && (best == nil || v.spare() > best.spare()) {
			best = v
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no data folder can be written: %w", dfs.EIO)
	}
	return best, nil
}
