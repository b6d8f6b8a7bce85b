// Package store keeps the rows of a meta.State in Pebble. The Raft log is the
// durable log: a Commit is not synced, it carries the index of the log that it
// brings the rows to, and after a crash the store is at some earlier Commit, whole,
// from which the log is applied again. Flushed says how far that can go back.
//
// Locks: mu is held shared by View and exclusively by Commit and Install, so that
// a View sees the rows between two commits. No other lock is taken under it.
package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"dfs"
	"dfs/internal/disk"
	"dfs/meta"
)

// Sizes of what Pebble keeps in memory, in bytes: with them a master with five
// million files stays below 1 GiB.
const (
	CacheBytes    = 192 << 20
	memtableBytes = 32 << 20
	memtables     = 4
)

// Those of a store that is read from end to end only, where to keep rows is of no use.
const (
	smallCacheBytes    = 8 << 20
	smallMemtableBytes = 8 << 20
)

// The folder of a store holds Pebble's folder, and while a snapshot is installed
// the one that comes and the one that goes.
const (
	currentDir  = "rows"
	incomingDir = "rows.new"
	outgoingDir = "rows.old"
)

// rowPrefix stands before each of meta's keys, so that the store's own rows can
// never meet them.
const rowPrefix = 'r'

// positionKey is the store's own row: where in the log the rows are.
var positionKey = []byte("position")

// Position is where in the log the rows are, and who took part in Raft then.
type Position struct {
	Index     uint64
	Term      uint64
	Time      dfs.Time // the latest of all commands up to here
	ConfState []byte   // raftpb.ConfState
}

const positionVersion = 1

func (p Position) encode() []byte {
	b := []byte{positionVersion}
	b = binary.AppendUvarint(b, p.Index)
	b = binary.AppendUvarint(b, p.Term)
	b = binary.AppendVarint(b, p.Time.Sec)
	b = binary.AppendUvarint(b, uint64(p.Time.Nsec))
	return append(b, p.ConfState...)
}

// errFormat is the cause when a row of the store itself cannot be read.
var errFormat = errors.New("unknown or damaged format")

func decodePosition(b []byte) (Position, error) {
	if len(b) == 0 || b[0] != positionVersion {
		return Position{}, fmt.Errorf("position row: %w", errFormat)
	}
	b = b[1:]
	whole := true
	take := func() uint64 {
		v, n := binary.Uvarint(b)
		whole = whole && n > 0
		b = b[max(n, 0):]
		return v
	}
	p := Position{Index: take(), Term: take()}
	sec, n := binary.Varint(b)
	whole = whole && n > 0
	b = b[max(n, 0):]
	nsec := take()
	if !whole || nsec >= 1e9 {
		return Position{}, fmt.Errorf("position row: %w", errFormat)
	}
	p.Time, p.ConfState = dfs.Time{Sec: sec, Nsec: uint32(nsec)}, bytes.Clone(b)
	return p, nil
}

// Store is the rows on one master's disk.
type Store struct {
	fs      disk.FS
	dir     string
	logger  *slog.Logger
	small   bool          // little is kept in memory
	flushed atomic.Uint64 // index up to which the rows survive a crash

	mu       sync.RWMutex
	db       *pebble.DB // +checklocks:mu
	position Position   // +checklocks:mu
	gone     gone       // written under mu by the one who has the only batch, which reads it without
}

// Open opens the store in a folder, and makes it when it is not there. The rows
// are at Position, perhaps earlier than they were when the process died.
func Open(fs disk.FS, dir string, logger *slog.Logger) (*Store, error) {
	return open(fs, dir, logger, false)
}

// OpenSmall is Open for who reads all rows once, in order, and wants little memory used.
func OpenSmall(fs disk.FS, dir string) (*Store, error) { return open(fs, dir, nil, true) }

func open(fs disk.FS, dir string, logger *slog.Logger, small bool) (*Store, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := disk.MkdirSync(fs, dir); err != nil {
		return nil, err
	}
	if err := finishInstall(fs, dir); err != nil {
		return nil, err
	}
	s := &Store{fs: fs, dir: dir, logger: logger, small: small}
	db, err := s.open()
	if err != nil {
		return nil, err
	}
	s.db = db
	if s.position, err = readPosition(db); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), db.Close())
	}
	s.flushed.Store(s.position.Index)
	return s, nil
}

// finishInstall ends what a crash in Install left: a store that came whole has its
// place, one that did not is thrown away.
func finishInstall(fs disk.FS, dir string) error {
	current, outgoing := filepath.Join(dir, currentDir), filepath.Join(dir, outgoingDir)
	if _, err := fs.Stat(current); errors.Is(err, os.ErrNotExist) {
		if err := fs.Rename(outgoing, current); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return errors.Join(disk.RemoveAll(fs, outgoing), disk.RemoveAll(fs, filepath.Join(dir, incomingDir)))
}

func (s *Store) open() (*pebble.DB, error) {
	cacheBytes, memtable := int64(CacheBytes), uint64(memtableBytes)
	if s.small {
		cacheBytes, memtable = smallCacheBytes, smallMemtableBytes
	}
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref() // the DB holds its own reference
	opts := &pebble.Options{
		FS:                          pebbleFS(s.fs),
		Cache:                       cache,
		DisableWAL:                  true, // the Raft log is replayed instead
		MemTableSize:                memtable,
		MemTableStopWritesThreshold: memtables,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      pebbleLogger{s.logger},
		EventListener:               &pebble.EventListener{},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(filepath.Join(s.dir, currentDir), opts)
	if err != nil {
		return nil, fmt.Errorf("open the metadata store in %s: %w", s.dir, err)
	}
	return db, nil
}

func readPosition(db *pebble.DB) (Position, error) {
	b, closer, err := db.Get(positionKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return Position{}, nil
	}
	if err != nil {
		return Position{}, err
	}
	defer closer.Close()
	return decodePosition(b)
}

// Position is where in the log the rows are.
func (s *Store) Position() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.position
}

// Flushed is the index of the log up to which the rows survive a crash: the log is
// kept from there on.
func (s *Store) Flushed() uint64 { return s.flushed.Load() }

// Flush makes all commits so far survive a crash.
func (s *Store) Flush() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	index := s.position.Index
	if err := s.db.Flush(); err != nil {
		return fmt.Errorf("flush %s: %w", s.dir, err)
	}
	s.raiseFlushed(index)
	return nil
}

func (s *Store) raiseFlushed(index uint64) {
	for {
		old := s.flushed.Load()
		if old >= index || s.flushed.CompareAndSwap(old, index) {
			return
		}
	}
}

// View calls fn with the rows as they are between two commits. fn must not keep
// the Reader.
func (s *Store) View(fn func(meta.Reader) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := reader{src: s.db, changes: changes{gone: &s.gone}}
	defer r.close()
	return fn(&r)
}

// Frozen calls fn with the rows as they are now, and their position, however long it takes: commits go on
// meanwhile. fn must not keep the Reader.
func (s *Store) Frozen(fn func(meta.Reader, Position) error) error {
	s.mu.RLock()
	snapshot, p := s.db.NewSnapshot(), s.position
	s.mu.RUnlock()
	r := reader{src: snapshot}
	err := fn(&r, p)
	r.close()
	return errors.Join(err, snapshot.Close())
}

// Commit makes a batch visible, and p the position of the rows. The batch is
// closed.
func (s *Store) Commit(b *Batch, p Position) error {
	b.reader.close()
	if err := b.batch.Set(positionKey, p.encode(), nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := b.batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("commit to %s: %w", s.dir, err)
	}
	b.changes.commit()
	s.position = p
	return b.batch.Close()
}

// Checkpoint writes the rows as they are now into a new folder, from which Install
// takes them, and answers their position. It shares files with the store, so it
// costs little.
func (s *Store) Checkpoint(dir string) (Position, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	// A checkpoint has only what is in tables, since there is no write-ahead log.
	if err := s.db.Flush(); err != nil {
		return Position{}, fmt.Errorf("flush %s: %w", s.dir, err)
	}
	p := s.position
	s.raiseFlushed(p.Index)
	if err := s.db.Checkpoint(dir); err != nil {
		return Position{}, fmt.Errorf("checkpoint of %s: %w", s.dir, err)
	}
	return p, nil
}

// Incoming makes an empty folder for the files of a snapshot, on the same disk as
// the store.
func (s *Store) Incoming() (string, error) {
	dir := filepath.Join(s.dir, incomingDir)
	if err := disk.RemoveAll(s.fs, dir); err != nil {
		return "", err
	}
	return dir, s.fs.MkdirAll(dir)
}

// IncomingPosition is where the checkpoint in the Incoming folder is; an error when
// it cannot be opened or check refuses its rows. Nothing is changed.
func (s *Store) IncomingPosition(check func(meta.Reader) error) (p Position, err error) {
	dir := filepath.Join(s.dir, incomingDir)
	db, err := pebble.Open(dir, &pebble.Options{
		FS: pebbleFS(s.fs), ReadOnly: true, ErrorIfNotExists: true, FormatMajorVersion: pebble.FormatNewest, Logger: pebbleLogger{s.logger},
	})
	if err != nil {
		return Position{}, fmt.Errorf("a snapshot cannot be opened: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	r := reader{src: db}
	defer r.close()
	if err := check(&r); err != nil {
		return Position{}, err
	}
	return readPosition(db)
}

// Install replaces all rows by those of the checkpoint in the Incoming folder, in
// which every file is synced. A crash leaves the old rows or the new.
func (s *Store) Install() (Position, error) {
	current, incoming, outgoing := filepath.Join(s.dir, currentDir), filepath.Join(s.dir, incomingDir), filepath.Join(s.dir, outgoingDir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.db.Close(); err != nil {
		return Position{}, fmt.Errorf("close %s: %w", s.dir, err)
	}
	err := s.fs.Rename(current, outgoing)
	if err == nil {
		err = s.fs.Rename(incoming, current)
	}
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		return Position{}, fmt.Errorf("install a snapshot in %s: %w", s.dir, err)
	}
	s.gone = gone{}
	if s.db, err = s.open(); err != nil {
		return Position{}, err
	}
	if s.position, err = readPosition(s.db); err != nil {
		return Position{}, err
	}
	s.flushed.Store(s.position.Index)
	return s.position, disk.RemoveAll(s.fs, outgoing)
}

// Metrics tells what Pebble holds: bytes on disk and in memory.
func (s *Store) Metrics() (disk, memory uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.db.Metrics()
	return m.DiskSpaceUsage(), uint64(m.BlockCache.Size) + m.MemTable.Size
}

// Close flushes and closes the store, so that the next Open needs little of the
// log.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.db.Flush(), s.db.Close())
}

// Abandon closes the store as a crash would: what was not flushed is lost. For
// tests.
func (s *Store) Abandon() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.db.Close()
}

// pebbleLogger passes what Pebble says to slog.
type pebbleLogger struct{ l *slog.Logger }

func (p pebbleLogger) Infof(format string, args ...any) { p.l.Debug(fmt.Sprintf(format, args...)) }
func (p pebbleLogger) Errorf(format string, args ...any) {
	p.l.Error(fmt.Sprintf(format, args...))
}

// Fatalf is called when Pebble cannot go on: its state in memory may be wrong.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.l.Error(text)
	panic("metadata store: " + text)
}
