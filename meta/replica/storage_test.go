package replica

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"dfs/internal/disk"
)

// logModel is a storage and what it must still have after a crash.
type logModel struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	mem     *disk.Mem
	s       *storage
	entries map[uint64]string // data, by index
	terms   map[uint64]uint64
	last    uint64
	term    uint64
	vote    uint64
	commit  uint64
	rows    uint64 // index that the store's rows last at
	kept    uint64 // entries up to here may be forgotten
}

func (m *logModel) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

func (m *logModel) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.fatalf("%v", err)
	}
}

// append writes entries of the newest term, in place of some that no majority had.
func (m *logModel) append() {
	from := m.last + 1
	if m.last > m.commit && m.rng.IntN(3) == 0 {
		from = m.commit + 1 + m.rng.Uint64N(m.last-m.commit)
		m.term++ // only another leader overrules
	}
	var list []*raftpb.Entry
	for i := from; i < from+1+m.rng.Uint64N(6); i++ {
		data := fmt.Sprintf("%d/%d %0*d", i, m.term, m.rng.IntN(3000), 0)
		list = append(list, &raftpb.Entry{Index: proto.Uint64(i), Term: proto.Uint64(m.term), Data: []byte(data)})
	}
	m.ok(m.s.save(hardState(m.term, m.vote, m.commit), list, true))
	for i := from; i <= m.last; i++ {
		delete(m.entries, i)
		delete(m.terms, i)
	}
	for _, e := range list {
		m.entries[e.GetIndex()], m.terms[e.GetIndex()] = string(e.GetData()), e.GetTerm()
		m.last = e.GetIndex()
	}
}

func (m *logModel) elect() {
	m.term++
	m.vote = m.rng.Uint64N(4)
	m.ok(m.s.save(hardState(m.term, m.vote, m.commit), nil, true))
}

// advance commits, lets the rows follow, and forgets what they have.
func (m *logModel) advance() {
	m.commit += m.rng.Uint64N(m.last - m.commit + 1)
	m.ok(m.s.save(hardState(m.term, m.vote, m.commit), nil, false))
	m.rows = max(m.rows, m.commit-m.rng.Uint64N(m.commit-m.rows+1))
	if keep := m.rng.Uint64N(8); m.rows > keep && m.rng.IntN(2) == 0 {
		m.kept = max(m.kept, m.rows-keep)
		m.ok(m.s.compact(m.rows, keep, m.rows))
	}
}

// install takes a snapshot beyond the log; a crash may come before the reset.
func (m *logModel) install() (crash bool) {
	index := m.last + 1 + m.rng.Uint64N(50)
	m.term++
	m.ok(m.s.save(hardState(m.term, 0, m.commit), nil, true))
	m.vote, m.rows, m.commit, m.last, m.kept = 0, index, index, index, index
	clear(m.entries)
	clear(m.terms)
	if m.rng.IntN(2) == 0 {
		return true
	}
	m.ok(m.s.reset(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(index), Term: proto.Uint64(m.rowsTerm()), ConfState: &raftpb.ConfState{Voters: []uint64{1}},
	}}))
	return false
}

// rowsTerm is the term of the entry that the rows are at.
func (m *logModel) rowsTerm() uint64 {
	if term, ok := m.terms[m.rows]; ok {
		return term
	}
	if m.rows == 1 {
		return 1
	}
	m.terms[m.rows] = m.term
	return m.term
}

// again starts another process, after the power went or only the process.
func (m *logModel) again() {
	old := m.s
	if m.rng.IntN(2) == 0 {
		m.mem = m.mem.Crash(m.rng)
	}
	_ = old.wal.close()
	s, err := openStorage(m.mem, "disk/log", testSegment, at(m.t, m.rows, m.rowsTerm()))
	m.ok(err)
	m.s = s
	hs, _, err := s.InitialState()
	m.ok(err)
	if hs.GetTerm() != m.term || hs.GetVote() != m.vote {
		m.fatalf("term %d vote %d, want %d and %d", hs.GetTerm(), hs.GetVote(), m.term, m.vote)
	}
	if c := hs.GetCommit(); c > m.commit || c < m.rows {
		m.fatalf("commit %d, want from %d to %d", c, m.rows, m.commit)
	}
	first, err := s.FirstIndex()
	m.ok(err)
	last, err := s.LastIndex()
	m.ok(err)
	if last != m.last || first > max(m.kept, m.rows)+1 {
		m.fatalf("entries %d to %d, want from %d at most to %d", first, last, max(m.kept, m.rows)+1, m.last)
	}
	if last < first {
		return
	}
	list, err := s.Entries(first, last+1, 1<<40)
	m.ok(err)
	for _, e := range list {
		i := e.GetIndex()
		if want, known := m.entries[i]; known && (string(e.GetData()) != want || e.GetTerm() != m.terms[i]) {
			m.fatalf("entry %d is %.20q of term %d, want %.20q of term %d", i, e.GetData(), e.GetTerm(), want, m.terms[i])
		} else if !known && i > 1 {
			m.fatalf("entry %d of term %d was never written", i, e.GetTerm())
		}
	}
}

// TestLogAndStateOutliveEveryEnd does at random what raft may ask of its storage,
// and ends the process by a kill or a loss of power: all that was saved is there.
func TestLogAndStateOutliveEveryEnd(t *testing.T) {
	for seed := range uint64(250) {
		m := &logModel{
			t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 6)), mem: newDisk(t),
			entries: map[uint64]string{}, terms: map[uint64]uint64{}, last: 1, term: 1, commit: 1, rows: 1,
		}
		s, err := openStorage(m.mem, "disk/log", testSegment, at(t, 1, 1))
		m.ok(err)
		m.s = s
		for range 120 {
			switch n := m.rng.IntN(40); {
			case n < 22:
				m.append()
			case n < 26:
				m.elect()
			case n < 36:
				m.advance()
			case n < 37:
				if m.install() {
					m.again()
				}
			default:
				m.again()
			}
		}
		m.again()
		_ = m.s.wal.close()
	}
}
