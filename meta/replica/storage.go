package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs/internal/disk"
	"dfs/meta/store"
)

// Kinds of records in the log.
const (
	kindAppend = 1 // hard state, then entries that replace all from the first one's index on
	kindReset  = 2 // hard state, then index and term of a snapshot: entries before are void
)

// storage is raft's view of the log: recent entries in memory, all of them in
// files. It is written by the goroutine that runs raft.
type storage struct {
	*raft.MemoryStorage
	wal      *wal
	state    *raftpb.HardState
	position atomic.Pointer[store.Position] // what a snapshot would hold now
}

// openStorage reads the log, and joins it with the store, which may be behind or
// (after a snapshot) ahead of it.
func openStorage(fs disk.FS, dir string, segmentBytes int64, p store.Position) (*storage, error) {
	r := replay{}
	w, err := openWAL(fs, dir, segmentBytes, r.add)
	if err != nil {
		return nil, err
	}
	if r.state == nil && p.Index > 1 {
		// Only bootstrap makes rows without a log, and they are at 1. Votes and
		// acknowledged entries are lost, so this master must not take part as itself.
		return nil, errors.Join(fmt.Errorf("%s: the rows are at %d, and the raft log is missing: %w", dir, p.Index, ErrCorrupt), w.close())
	}
	s := &storage{MemoryStorage: raft.NewMemoryStorage(), wal: w, state: r.state}
	if err := s.load(&r, p); err != nil {
		return nil, errors.Join(fmt.Errorf("raft log in %s: %w", dir, err), w.close())
	}
	return s, nil
}

// replay gathers what the records say.
type replay struct {
	state   *raftpb.HardState
	reset   uint64 // index of the last snapshot that the log began after
	entries []*raftpb.Entry
}

// add takes a record, and answers the index of the log's last entry then.
func (r *replay) add(rec record) (uint64, error) {
	state, rest, err := decodeState(rec.data)
	if err != nil {
		return 0, err
	}
	r.state = state
	switch rec.kind {
	case kindReset:
		index, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, fmt.Errorf("reset: %w", ErrCorrupt)
		}
		r.entries, r.reset = nil, index
		return index, nil
	case kindAppend:
		entries, err := decodeEntries(rest)
		if err != nil || len(entries) == 0 {
			return 0, err
		}
		return entries[len(entries)-1].GetIndex(), r.join(entries)
	}
	return 0, fmt.Errorf("record of unknown kind %d: a newer version of dfs wrote it", rec.kind)
}

// join lets entries replace all from the first one's index on.
func (r *replay) join(entries []*raftpb.Entry) error {
	if len(r.entries) == 0 {
		r.entries = entries
		return nil
	}
	first, last := r.entries[0].GetIndex(), r.entries[len(r.entries)-1].GetIndex()
	at := entries[0].GetIndex()
	if at > last+1 {
		return fmt.Errorf("entry %d follows entry %d: %w", at, last, ErrCorrupt)
	}
	if at < first {
		r.entries = nil
	} else {
		r.entries = r.entries[:at-first]
	}
	r.entries = append(r.entries, entries...)
	return nil
}

// load fills the memory with the entries that fit the store's position.
func (s *storage) load(r *replay, p store.Position) error {
	if r.reset > p.Index {
		// A snapshot's rows last before the log says so.
		return fmt.Errorf("it begins after %d, the store is at %d: %w", r.reset, p.Index, ErrCorrupt)
	}
	var conf raftpb.ConfState
	if err := proto.Unmarshal(p.ConfState, &conf); err != nil {
		return fmt.Errorf("membership in the store: %w", err)
	}
	entries, err := fitting(r.entries, p)
	if err != nil {
		return err
	}
	void := len(r.entries) > 0 && len(entries) == 0
	baseIndex, baseTerm := p.Index, p.Term
	if len(entries) > 0 && entries[0].GetIndex() <= p.Index {
		// Entries that the store already has are kept for masters that lag.
		baseIndex, baseTerm = entries[0].GetIndex(), entries[0].GetTerm()
		entries = entries[1:]
	}
	if baseIndex > 0 || len(conf.Voters) > 0 {
		err := s.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(baseIndex), Term: proto.Uint64(baseTerm), ConfState: &conf,
		}})
		if err != nil {
			return err
		}
	}
	if err := s.Append(entries); err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	if s.state == nil {
		s.state = &raftpb.HardState{Term: proto.Uint64(0), Vote: proto.Uint64(0), Commit: proto.Uint64(0)}
	}
	// The commit index is written without a sync of its own, so it may be old; what
	// the store has was committed.
	s.state.Commit = proto.Uint64(min(max(s.state.GetCommit(), p.Index), last))
	s.state.Term = proto.Uint64(max(s.state.GetTerm(), p.Term))
	s.position.Store(&p)
	if void {
		// The crash came before the reset. Without it the entries that follow would
		// be joined to those that are void.
		if err := s.wal.append(kindReset, s.resetRecord(p.Index, p.Term), p.Index); err != nil {
			return err
		}
	}
	return s.SetHardState(s.state)
}

// fitting drops entries that do not belong to the history that the store is at: a
// crash between the installation of a snapshot and the log's reset leaves them.
func fitting(entries []*raftpb.Entry, p store.Position) ([]*raftpb.Entry, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	first, last := entries[0].GetIndex(), entries[len(entries)-1].GetIndex()
	switch {
	case last <= p.Index && first <= p.Index:
		if last < p.Index || entries[len(entries)-1].GetTerm() != p.Term {
			return nil, nil
		}
		return entries, nil
	case first <= p.Index:
		if entries[p.Index-first].GetTerm() != p.Term {
			return nil, nil
		}
		return entries, nil
	case first == p.Index+1:
		if entries[0].GetTerm() < p.Term {
			return nil, nil
		}
		return entries, nil
	}
	return nil, fmt.Errorf("it begins at entry %d, the store is at %d: %w", first, p.Index, ErrCorrupt)
}

// save writes the state and the entries as one record, unless raft can do without:
// a commit index alone goes with the next record.
func (s *storage) save(state *raftpb.HardState, entries []*raftpb.Entry, sync bool) error {
	if !raft.IsEmptyHardState(state) {
		s.state = state
	}
	if !sync && len(entries) == 0 {
		return s.SetHardState(s.state)
	}
	// A follower that was paused may find more entries than a record can hold.
	for rest := entries; ; {
		n, last := recordEntries(rest)
		b, err := encodeEntries(encodeState(nil, s.state), rest[:n])
		if err != nil {
			return err
		}
		if err := s.wal.append(kindAppend, b, last); err != nil {
			return err
		}
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	if err := s.SetHardState(s.state); err != nil {
		return err
	}
	return s.Append(entries)
}

// recordEntries is how many entries one record takes, and the index of the last.
func recordEntries(entries []*raftpb.Entry) (n int, last uint64) {
	for bytes := 0; n < len(entries) && bytes < recordFill; n++ {
		bytes += len(entries[n].GetData())
		last = entries[n].GetIndex()
	}
	return n, last
}

// reset makes the log begin after a snapshot.
func (s *storage) reset(snapshot *raftpb.Snapshot) error {
	m := snapshot.GetMetadata()
	if err := s.wal.append(kindReset, s.resetRecord(m.GetIndex(), m.GetTerm()), m.GetIndex()); err != nil {
		return err
	}
	return s.ApplySnapshot(snapshot)
}

func (s *storage) resetRecord(index, term uint64) []byte {
	b := binary.AppendUvarint(encodeState(nil, s.state), index)
	return binary.AppendUvarint(b, term)
}

// Snapshot implements raft.Storage: where the store is. Its rows travel by
// themselves.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	p := s.position.Load()
	if p == nil || p.Index == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return snapshotAt(*p)
}

func snapshotAt(p store.Position) (*raftpb.Snapshot, error) {
	var conf raftpb.ConfState
	if err := proto.Unmarshal(p.ConfState, &conf); err != nil {
		return nil, err
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(p.Index), Term: proto.Uint64(p.Term), ConfState: &conf,
	}}, nil
}

// compact forgets entries up to index, in memory and in the files, but for the last
// keep of them in keepBytes, and those after hold in holdBytes.
func (s *storage) compact(index, keep, hold uint64) error {
	first, err := s.FirstIndex()
	if err != nil || index < first {
		return err
	}
	entries, err := s.Entries(first, index+1, math.MaxUint64) // shares the memory
	if err != nil {
		return err
	}
	n := len(entries)
	for bytes := 0; n > 0; n-- {
		bytes += len(entries[n-1].GetData())
		kept := uint64(len(entries)-n) < keep && bytes <= keepBytes
		held := entries[n-1].GetIndex() > hold && bytes <= holdBytes
		if !kept && !held {
			break
		}
	}
	if index = first + uint64(n) - 1; n == 0 {
		return nil
	}
	if err := s.Compact(index); err != nil {
		return err
	}
	return s.wal.compact(index)
}

func encodeState(b []byte, s *raftpb.HardState) []byte {
	b = binary.AppendUvarint(b, s.GetTerm())
	b = binary.AppendUvarint(b, s.GetVote())
	return binary.AppendUvarint(b, s.GetCommit())
}

func decodeState(b []byte) (*raftpb.HardState, []byte, error) {
	var v [3]uint64
	for i := range v {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, nil, fmt.Errorf("hard state: %w", ErrCorrupt)
		}
		v[i], b = x, b[n:]
	}
	return &raftpb.HardState{Term: proto.Uint64(v[0]), Vote: proto.Uint64(v[1]), Commit: proto.Uint64(v[2])}, b, nil
}

func encodeEntries(b []byte, entries []*raftpb.Entry) ([]byte, error) {
	var err error
	for _, e := range entries {
		b = binary.AppendUvarint(b, uint64(proto.Size(e)))
		if b, err = (proto.MarshalOptions{}).MarshalAppend(b, e); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func decodeEntries(b []byte) ([]*raftpb.Entry, error) {
	var entries []*raftpb.Entry
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, fmt.Errorf("entry: %w", ErrCorrupt)
		}
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(b[n:n+int(size)], e); err != nil {
			return nil, fmt.Errorf("entry: %w: %w", ErrCorrupt, err)
		}
		if len(entries) > 0 && e.GetIndex() != entries[len(entries)-1].GetIndex()+1 {
			return nil, fmt.Errorf("entry %d follows entry %d: %w", e.GetIndex(), entries[len(entries)-1].GetIndex(), ErrCorrupt)
		}
		entries = append(entries, e)
		b = b[n+int(size):]
	}
	return entries, nil
}
