package server

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dfs"
	"dfs/meta"
	"dfs/meta/replica"
)

// stored is the rows of a master by itself, with chunks that a test makes.
type stored struct {
	t       testing.TB
	node    *replica.Node
	session dfs.SessionID
	seq     uint64
	file    dfs.Ino
	size    uint64
	grant   meta.Range
	chunks  []dfs.ChunkID
	rand    *rand.Rand
}

const storedServers = 6

func newStored(t testing.TB) *stored {
	t.Helper()
	n, err := replica.Start(replica.Config{ID: 1, Dir: t.TempDir(), Bootstrap: true, Tick: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	eventually(t, "the node to lead", func() error {
		if !n.Status().Leading {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	s := &stored{t: t, node: n, file: 16, rand: rand.New(rand.NewPCG(1, 2))}
	s.own(&meta.Bootstrap{Cluster: 7, Buckets: 16})
	s.session = s.own(&meta.OpenSession{Nonce: 1}).Session
	grant := s.do(&meta.GrantIDs{Inodes: true}).Inodes
	s.file = dfs.Ino(grant.From)
	s.do(&meta.Create{Parent: dfs.RootIno, Name: "f", Ino: s.file, Mode: dfs.TypeFile | 0o644})
	m := s.theMap()
	op := &meta.PutMap{Epoch: m.Epoch}
	for i := range storedServers {
		op.Servers = append(op.Servers, dfs.Server{ID: dfs.NodeID(i + 1), Name: fmt.Sprint("chunk-", i+1), Weight: 1, State: dfs.ServerUp})
	}
	for _, l := range s.layouts() {
		for b := range m.Buckets {
			home := make([]dfs.NodeID, l.Width())
			for i := range home {
				home[i] = dfs.NodeID(1 + (int(b)+i)%storedServers)
			}
			op.Acting = append(op.Acting, meta.Home{PG: dfs.MakePG(l, uint16(b)), Servers: home})
		}
	}
	s.own(op)
	return s
}

func (s *stored) layouts() []dfs.Layout {
	ec, err := dfs.EC(4, 2)
	if err != nil {
		s.t.Fatal(err)
	}
	return []dfs.Layout{dfs.DefaultLayout, ec}
}

func (s *stored) propose(c meta.Command) meta.Reply {
	s.t.Helper()
	r, err := s.node.Propose(s.t.Context(), c)
	if err != nil {
		s.t.Fatalf("%T: %v", c.Op, err)
	}
	return r
}

// own carries out a command of the masters.
func (s *stored) own(op meta.Op) meta.Reply {
	s.t.Helper()
	r := s.propose(meta.Command{Op: op})
	if r.Errno != dfs.OK {
		s.t.Fatalf("%T: %v", op, r.Errno)
	}
	return r
}

// do carries out a command of the session.
func (s *stored) do(op meta.Op) meta.Reply {
	s.t.Helper()
	s.seq++
	r := s.propose(meta.Command{Session: s.session, Seq: s.seq, Acked: s.seq, Cred: dfs.Cred{Checked: true}, Op: op})
	if r.Errno != dfs.OK || r.StaleMap {
		s.t.Fatalf("%T: %v, stale %v", op, r.Errno, r.StaleMap)
	}
	return r
}

func (s *stored) theMap() (m *dfs.ClusterMap) {
	s.t.Helper()
	if err := s.node.LocalRead(func(v meta.View) (err error) { m, err = v.Map(); return err }); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// write makes n chunks of one record of 1 MiB each, in one command.
func (s *stored) write(n int, sealed bool) {
	s.t.Helper()
	m := s.theMap()
	op := &meta.Commit{Files: []meta.FileCommit{{Ino: s.file}}}
	for range n {
		if s.grant.Len() == 0 {
			s.grant = s.do(&meta.GrantIDs{Chunks: true}).Chunks
		}
		id := dfs.MakeChunkID(s.layouts()[s.rand.IntN(2)], s.grant.From)
		s.grant.From++
		servers := slices.Clone(m.ActingOf(id))
		if have := len(servers) - count(servers, 0); have < id.Layout().MinWrite() {
			continue
		}
		op.Chunks = append(op.Chunks, meta.ChunkCommit{Chunk: id, Committed: 4 << 20, Servers: servers, Sealed: sealed})
		op.Files[0].Extents = append(op.Files[0].Extents, dfs.Extent{Off: s.size, Len: 1 << 20, Chunk: id, Record: dfs.FirstRecord, RecordLen: 1 << 20})
		s.size += 1 << 20
		s.chunks = append(s.chunks, id)
	}
	s.do(op)
}

// change does something at random to where chunks are.
func (s *stored) change() {
	s.t.Helper()
	m := s.theMap()
	some := func() (list []dfs.ChunkID) {
		for range 1 + s.rand.IntN(5) {
			list = append(list, s.chunks[s.rand.IntN(len(s.chunks))])
		}
		return list
	}
	server := dfs.NodeID(1 + s.rand.IntN(storedServers))
	switch s.rand.IntN(7) {
	case 0:
		s.write(1+s.rand.IntN(4), s.rand.IntN(3) > 0)
	case 1: // others' bytes die
		off := uint64(s.rand.Int64N(int64(s.size)))
		s.do(&meta.Fallocate{Ino: s.file, Off: off, Len: 1 << 18, Mode: dfs.FallocPunchHole | dfs.FallocKeepSize})
	case 2:
		s.own(&meta.SetPresent{Server: server, Lack: some()})
	case 3:
		s.own(&meta.SetPresent{Server: server, Have: some()})
	case 4: // a server comes or goes
		servers := slices.Clone(m.Servers)
		x := &servers[server-1]
		if x.State++; x.State > dfs.ServerDrain {
			x.State = dfs.ServerUp
		}
		s.own(&meta.PutMap{Epoch: m.Epoch, Servers: servers})
	case 5: // a position goes to another server, and sometimes back at once
		pgs := slices.Sorted(maps.Keys(m.Home))
		pg := pgs[s.rand.IntN(len(pgs))]
		home, other := m.Home[pg], slices.Clone(m.Home[pg])
		other[s.rand.IntN(len(other))] = 0
		s.own(&meta.PutMap{Epoch: m.Epoch, Acting: []meta.Home{{PG: pg, Servers: other}}})
		if s.rand.IntN(2) == 0 {
			s.own(&meta.PutMap{Epoch: m.Epoch + 1, Acting: []meta.Home{{PG: pg, Servers: home}}})
		}
	case 6:
		s.own(&meta.DropChunks{Chunks: some()})
	}
}

// full is what a look at all records finds.
type full struct {
	state repairState
	tasks map[dfs.NodeID]map[dfs.ChunkID]int // with the rank of each
	dying map[dfs.ChunkID]bool
	kept  map[dfs.ChunkID]kept
}

func (s *stored) full() full {
	s.t.Helper()
	m := s.theMap()
	out := full{repairState{epoch: m.Epoch, pinned: map[dfs.PG]bool{}}, map[dfs.NodeID]map[dfs.ChunkID]int{}, map[dfs.ChunkID]bool{}, map[dfs.ChunkID]kept{}}
	var all []meta.Chunk
	if err := s.node.LocalRead(func(v meta.View) (err error) { all, err = v.Chunks(0, 1<<30); return err }); err != nil {
		s.t.Fatal(err)
	}
	st := &out.state
	for i := range all {
		c := &all[i]
		k := keptOf(c)
		out.kept[c.ID] = k
		switch width := uint64(c.ID.Layout().Width()); {
		case k.worthReclaim(c.ID):
			out.dying[c.ID] = true
			st.dyingRaw += width * uint64(k.dead(c.ID))
		case c.Sealed && c.Live == 0:
			st.dead++
			st.deadRaw += width * uint64(c.Committed)
		}
		pg, layout, have := c.ID.PG(m.Buckets), c.ID.Layout(), 0
		var lacks []int
		for i, id := range m.Home[pg] {
			if c.Present>>i&1 == 1 && serves(m, id) {
				have++
			} else {
				lacks = append(lacks, i)
			}
		}
		if len(lacks) == 0 {
			continue
		}
		if c.Committed == 0 || c.Live == 0 {
			if !c.Sealed && have < layout.Data() {
				st.pinned[pg] = true
			}
			continue
		}
		st.chunks++
		if have == layout.Data() {
			st.critical++
		}
		if have < layout.Data() {
			st.lost++
			st.pinned[pg] = true
		}
		for _, i := range lacks {
			id := m.Home[pg][i]
			switch {
			case id == 0 || !serves(m, id):
				st.waiting++
			case c.Sealed:
				st.bytes += uint64(c.Committed)
				if out.tasks[id] == nil {
					out.tasks[id] = map[dfs.ChunkID]int{}
				}
				out.tasks[id][c.ID] = max(have-layout.Data(), 0)
			}
		}
	}
	return out
}

// ledgerSays is the same by the ledger.
func ledgerSays(g *ledger) full {
	out := full{g.result(), map[dfs.NodeID]map[dfs.ChunkID]int{}, map[dfs.ChunkID]bool{}, map[dfs.ChunkID]kept{}}
	for _, id := range g.dead() {
		out.dying[id] = true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, chunks := range g.groups {
		maps.Copy(out.kept, chunks)
	}
	for server, lists := range g.tasks {
		for rank, list := range lists {
			for id := range list {
				if out.tasks[server] == nil {
					out.tasks[server] = map[dfs.ChunkID]int{}
				}
				out.tasks[server][id] = rank
			}
		}
	}
	return out
}

// TestLedgerIsWhatAFullLookFinds: after any changes, and from whatever point it begins.
func TestLedgerIsWhatAFullLookFinds(t *testing.T) {
	s := newStored(t)
	s.write(40, true)
	s.write(10, false)
	g := newLedger(s.node)
	defer g.close()
	for i := range 400 {
		for range s.rand.IntN(4) {
			s.change()
		}
		if i%100 == 50 { // another leader's begins with all that there is
			g.close()
			g = newLedger(s.node)
		}
		if err := g.update(t.Context()); err != nil {
			t.Fatal(err)
		}
		want, got := s.full(), ledgerSays(g)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("after look %d the ledger says\n%v\nthere is\n%v", i, got, want)
		}
	}
}

// TestMadeFragmentsLeaveTheLedger: what a server has made it is not given again, unless it turns
// out that it is not there.
func TestMadeFragmentsLeaveTheLedger(t *testing.T) {
	s := newStored(t)
	s.write(1, true)
	id := s.chunks[0]
	server := s.theMap().Home[id.PG(16)][0]
	s.own(&meta.SetPresent{Server: server, Lack: []dfs.ChunkID{id}})
	g := newLedger(s.node)
	defer g.close()
	look := func(want int) {
		t.Helper()
		if err := g.update(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := g.next(server); len(got) != want {
			t.Fatalf("%d to make, want %d", len(got), want)
		}
	}
	look(1)
	if n := g.made(server, []uint64{uint64(id)}); n != 4<<20 || len(g.next(server)) != 0 {
		t.Fatalf("%d bytes made, %d are left", n, len(g.next(server)))
	}
	if st := g.result(); st.bytes != 0 || st.chunks != 1 {
		t.Fatalf("%+v", st)
	}
	look(1) // nobody has told the masters
	s.own(&meta.SetPresent{Server: server, Have: []dfs.ChunkID{id}})
	look(0)
	if st := g.result(); st.chunks != 0 || st.bytes != 0 {
		t.Fatalf("%+v", st)
	}
}

// BenchmarkLedger looks at what 100 changed chunks among many have become, against a look at all.
func BenchmarkLedger(b *testing.B) {
	const chunks, changed = 300_000, 100
	s := newStored(b)
	for len(s.chunks) < chunks {
		s.write(64, true)
	}
	g := newLedger(s.node)
	defer g.close()
	if err := g.update(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Run("changed", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			at := s.rand.IntN(chunks - changed)
			s.own(&meta.SetPresent{Server: 1, Lack: s.chunks[at : at+changed]})
			b.StartTimer()
			if err := g.update(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			all := newLedger(s.node)
			if err := all.update(b.Context()); err != nil {
				b.Fatal(err)
			}
			all.close()
		}
	})
}

// TestServerThatIsDownOnPurposeIsNotReplaced: until the time for that is over.
func TestServerThatIsDownOnPurposeIsNotReplaced(t *testing.T) {
	l := newTerm()
	l.s = &Server{} // replaces at once
	m := &dfs.ClusterMap{Servers: []dfs.Server{
		{ID: 1, State: dfs.ServerDown, Until: time.Now().Add(time.Hour).Unix()}, {ID: 2, State: dfs.ServerDown}, {ID: 3, State: dfs.ServerUp},
	}}
	l.noteAway(m)
	if late := l.absent(); len(late) != 1 || !late[2] {
		t.Errorf("replaced: %v, want 2 alone", late)
	}
	m.Servers[0].Until = time.Now().Add(-time.Second).Unix()
	l.noteAway(m)
	if late := l.absent(); len(late) != 2 {
		t.Errorf("replaced when its time is over: %v", late)
	}
}
