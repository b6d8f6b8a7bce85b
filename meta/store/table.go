package store

import (
	"bytes"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"dfs/meta"
)

// source is what reader needs of a pebble.DB or an indexed pebble.Batch.
type source interface {
	Get(key []byte) ([]byte, io.Closer, error)
	NewIter(*pebble.IterOptions) (*pebble.Iterator, error)
}

// reader is a meta.Reader over Pebble. It is for one goroutine.
type reader struct {
	src  source
	held io.Closer // keeps the last value that Get answered
	key  []byte    // reused for the prefixed key
	changes
}

var _ meta.Reader = (*reader)(nil)

func prefixed(dst, key []byte) []byte { return append(append(dst[:0], rowPrefix), key...) }

func (r *reader) close() {
	if r.held != nil {
		_ = r.held.Close() // of a value: never fails
		r.held = nil
	}
}

// Get implements meta.Reader.
func (r *reader) Get(key []byte) ([]byte, error) {
	r.close()
	if r.absent(key) {
		return nil, nil
	}
	r.key = prefixed(r.key, key)
	v, closer, err := r.src.Get(r.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.held = closer
	return v, nil
}

// Scan implements meta.Reader.
func (r *reader) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) (err error) {
	it, err := r.iter(lo, hi)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if more, err := fn(it.Key()[1:], v); err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// Last implements meta.Reader.
func (r *reader) Last(lo, hi []byte) (k, v []byte, err error) {
	it, err := r.iter(lo, hi)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.Last() {
		return nil, nil, it.Error()
	}
	if v, err = it.ValueAndErr(); err != nil {
		return nil, nil, err
	}
	return bytes.Clone(it.Key()[1:]), bytes.Clone(v), nil
}

// iter walks [lo, hi). It has bounds of its own, since fn of Scan may read.
func (r *reader) iter(lo, hi []byte) (*pebble.Iterator, error) {
	return r.src.NewIter(&pebble.IterOptions{LowerBound: prefixed(nil, lo), UpperBound: prefixed(nil, hi)})
}

// Batch is changes that become visible together. It reads its own writes. It is
// for one goroutine, and ends with Store.Commit or Close.
type Batch struct {
	reader
	batch *pebble.Batch
}

var _ meta.Table = (*Batch)(nil)

// Batch begins a batch over the rows as they are. Nothing else may commit before
// it does: there is one applier.
func (s *Store) Batch() *Batch {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.db.NewIndexedBatch()
	return &Batch{reader: reader{src: b, changes: changes{gone: &s.gone}}, batch: b}
}

// Set implements meta.Table.
func (b *Batch) Set(k, v []byte) error {
	b.changes.set(k)
	b.key = prefixed(b.key, k)
	return b.batch.Set(b.key, v, nil)
}

// Delete implements meta.Table.
func (b *Batch) Delete(k []byte) error {
	b.changes.delete(k)
	b.key = prefixed(b.key, k)
	return b.batch.Delete(b.key, nil)
}

// Bytes is the size of the batch.
func (b *Batch) Bytes() int { return b.batch.Len() }

// Close throws the batch away.
func (b *Batch) Close() error {
	b.reader.close()
	return b.batch.Close()
}
