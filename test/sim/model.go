package sim

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sync"

	"dfs"
)

// model is what the clients were told, and so what may be read.
//
// A thing that one program changes (a cell of a file, the names of a folder) is in one
// state after another, counted from 0. What may be read of it is a state that is not older
// than the last that lasts, nor newer than the last that was begun. A state lasts when
// fsync has said so, or when another client has seen it. One that was only acknowledged can
// be lost, but only with its client: when that was killed, lost its session, or was told of
// an error. So a reader who sees less is a suspicion, and it becomes a failure if none of
// that is known of the client in the end.
type model struct {
	r *run

	mu         sync.Mutex
	things     map[string]*thing // +checklocks:mu
	suspicions []suspicion       // +checklocks:mu
	log        journal           // +checklocks:mu
	reads      int               // +checklocks:mu — that were held against the model
}

// thing is what one program changes.
type thing struct {
	writer  *writer
	begun   int                        // the last state that a call was made for
	acked   int                        // the last whose call has succeeded, or what lasts if that was in vain
	ackedIn int                        // the writer's era then
	lasting int                        // synced, or seen by another client
	states  map[int]map[string]dfs.Ino // of a folder
}

// writer is a client, over the time of several clients if it is killed.
type writer struct {
	id   int
	era  int // counts losses: sessions, kills, errors
	name string
	next int // of names and journal records; its program's
}

type suspicion struct {
	writer *writer
	era    int
	text   string
}

func newModel(r *run) *model { return &model{r: r, things: map[string]*thing{}} }

// add makes a thing in state 0, which lasts.
func (m *model) add(key string, w *writer) *thing {
	m.mu.Lock()
	defer m.mu.Unlock()
	th := &thing{writer: w}
	m.things[key] = th
	return th
}

// begin counts a new state.
func (m *model) begin(th *thing) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	th.begun++
	return th.begun
}

// ack notes that the call for a state has succeeded.
func (m *model) ack(th *thing, state, era int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if th.writer.era == era {
		th.acked, th.ackedIn = state, era
	}
}

// shake notes that a client may have lost what was not synced.
func (m *model) shake(w *writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shakeLocked(w)
}

func (m *model) shakeLocked(w *writer) {
	w.era++
	for _, th := range m.things {
		if th.writer == w {
			th.acked, th.ackedIn = th.lasting, w.era
		}
	}
}

func (m *model) era(w *writer) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return w.era
}

// syncing is what an fsync that begins now will make last, if it succeeds.
type syncing struct {
	era    int
	states map[*thing]int
}

// sync begins to sync things of a client; without any, all.
func (m *model) sync(w *writer, things ...*thing) syncing {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(things) == 0 {
		for _, th := range m.things {
			if th.writer == w {
				things = append(things, th)
			}
		}
	}
	s := syncing{era: w.era, states: map[*thing]int{}}
	for _, th := range things {
		s.states[th] = th.acked
	}
	return s
}

// synced notes that it has succeeded.
func (m *model) synced(w *writer, s syncing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.era != s.era {
		return
	}
	for th, state := range s.states {
		th.lasting = max(th.lasting, state)
	}
}

// bounds of what a read that begins now may see.
type bounds struct {
	least   int // by what lasts
	likely  int // by what was acknowledged
	ackedIn int
}

func (m *model) look(th *thing) bounds {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bounds{th.lasting, max(th.acked, th.lasting), th.ackedIn}
}

// saw holds against the model that a reader has seen a state, or of torn bytes several
// from least to most.
func (m *model) saw(reader *writer, key string, th *thing, b bounds, least, most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	what := fmt.Sprintf("%s read state %d to %d of %s; lasting %d, acknowledged %d, begun %d", reader.name, least, most, key, b.least, b.likely, th.begun)
	switch {
	case least < b.least || most > th.begun:
		m.r.failf("%s", what)
	case least < b.likely || least != most:
		m.suspicions = append(m.suspicions, suspicion{th.writer, b.ackedIn, what})
	}
	if reader != th.writer {
		th.lasting = max(th.lasting, least)
	}
}

// sawNames holds a listing against the model.
func (m *model) sawNames(reader *writer, key string, th *thing, b bounds, list map[string]dfs.Ino) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	for _, from := range []int{b.likely, b.least} {
		for i := from; i <= th.begun; i++ {
			if st := th.states[i]; st != nil && maps.Equal(st, list) {
				if from < b.likely && i < b.likely {
					m.suspicions = append(m.suspicions, suspicion{th.writer, b.ackedIn, fmt.Sprintf("%s listed state %d of %s; acknowledged %d", reader.name, i, key, b.likely)})
				}
				if reader != th.writer {
					th.lasting = max(th.lasting, i)
				}
				return
			}
		}
	}
	var states []string
	for i := b.least; i <= th.begun; i++ {
		if st := th.states[i]; st != nil {
			states = append(states, fmt.Sprintf("%d: %v", i, st))
		}
	}
	m.r.failf("%s listed %v of %s, which is none of its states from %d to %d (acknowledged %d): %v", reader.name, list, key, b.least, th.begun, b.likely, states)
}

// settle makes a state that was found by its own writer, and synced, the one that the
// others follow.
func (m *model) settle(th *thing, names map[string]dfs.Ino) {
	m.mu.Lock()
	defer m.mu.Unlock()
	th.begun++
	th.states[th.begun] = names
	th.acked, th.ackedIn, th.lasting = th.begun, th.writer.era, th.begun
}

// begun counts a new state of a folder.
func (m *model) beginNames(th *thing, names map[string]dfs.Ino) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	th.begun++
	th.states[th.begun] = names
	return th.begun
}

// condemn makes failures of suspicions that nothing explains.
func (m *model) condemn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.suspicions {
		if s.writer.era == s.era {
			m.r.failf("%s; and %s has lost nothing", s.text, s.writer.name)
		}
	}
}

// journal is a file that all clients append to, in records of one size.
type journal struct {
	fixed    []entry         // the beginning that lasts: others have seen it, or it is synced
	lasting  map[entry]bool  // acknowledged by fsync
	acked    map[int][]entry // by writer, since the last loss
	began    map[entry]bool
	ackedEra map[int]int
}

// entry is one record.
type entry struct{ writer, seq int }

const entryBytes = 64

func (e entry) encode() []byte {
	b := make([]byte, entryBytes)
	for i := 0; i+16 <= entryBytes-8; i += 16 {
		binary.BigEndian.PutUint64(b[i:], uint64(e.writer)+1)
		binary.BigEndian.PutUint64(b[i+8:], uint64(e.seq))
	}
	binary.BigEndian.PutUint32(b[entryBytes-4:], crc32.ChecksumIEEE(b[:entryBytes-8]))
	return b
}

func decodeEntry(b []byte) (entry, bool) {
	e := entry{int(binary.BigEndian.Uint64(b)) - 1, int(binary.BigEndian.Uint64(b[8:]))}
	return e, slices.Equal(e.encode(), b)
}

func (m *model) appending(e entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.log.began == nil {
		m.log = journal{lasting: map[entry]bool{}, acked: map[int][]entry{}, began: map[entry]bool{}, ackedEra: map[int]int{}}
	}
	m.log.began[e] = true
}

func (m *model) appended(w *writer, e entry, era int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.era != era {
		return
	}
	if m.log.ackedEra[w.id] != era {
		m.log.acked[w.id], m.log.ackedEra[w.id] = nil, era
	}
	m.log.acked[w.id] = append(m.log.acked[w.id], e)
}

func (m *model) logSyncing(w *writer) (era int, list []entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.log.ackedEra[w.id] != w.era {
		return w.era, nil
	}
	return w.era, slices.Clone(m.log.acked[w.id])
}

func (m *model) logSynced(w *writer, era int, list []entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.era != era {
		return
	}
	for _, e := range list {
		m.log.lasting[e] = true
	}
}

// expected is what a read of the journal must find.
type expected struct {
	lasting map[entry]bool
	fixed   int
}

// logNow is what a read of the journal that begins now must find.
func (m *model) logNow() expected {
	m.mu.Lock()
	defer m.mu.Unlock()
	return expected{maps.Clone(m.log.lasting), len(m.log.fixed)}
}

// sawLog holds the journal, as it was read, against the model.
func (m *model) sawLog(reader *writer, must expected, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if len(data)%entryBytes != 0 {
		m.r.failf("%s read a journal of %d bytes, which is not whole records", reader.name, len(data))
		return
	}
	var list []entry
	last, there := map[int]int{}, map[entry]bool{}
	for at := 0; at < len(data); at += entryBytes {
		e, ok := decodeEntry(data[at : at+entryBytes])
		switch {
		case !ok:
			m.r.failf("%s read no record at %d of the journal: %x", reader.name, at, data[at:at+entryBytes])
			return
		case !m.log.began[e]:
			m.r.failf("%s read %v in the journal, which nobody wrote", reader.name, e)
			return
		case e.seq <= last[e.writer]:
			m.r.failf("%s read %v in the journal behind %d of the same writer", reader.name, e, last[e.writer])
			return
		}
		last[e.writer], there[e] = e.seq, true
		list = append(list, e)
	}
	for e := range must.lasting {
		if !there[e] {
			m.r.failf("%s does not find %v in the journal of %d records, which was synced", reader.name, e, len(list))
			return
		}
	}
	same := 0
	for same < len(list) && same < len(m.log.fixed) && list[same] == m.log.fixed[same] {
		same++
	}
	if same < len(list) && same < len(m.log.fixed) {
		m.r.failf("%s read %v as record %d of the journal, where %v was seen before", reader.name, list[same], same, m.log.fixed[same])
		return
	}
	if len(list) < must.fixed {
		m.r.failf("%s read %d records of the journal, where %d were seen before", reader.name, len(list), must.fixed)
		return
	}
	// What is behind the last record of others may be this client's own, and not last.
	n := len(list)
	for n > 0 && list[n-1].writer == reader.id && !m.log.lasting[list[n-1]] {
		n--
	}
	if n > len(m.log.fixed) {
		m.log.fixed = list[:n]
	}
}
