package meta

import (
	"bytes"
	"slices"

	"github.com/google/btree"

	"dfs"
)

type row struct{ k, v []byte }

// memTable is a Table in memory.
type memTable struct {
	rows *btree.BTreeG[row]
	sets int
}

func newMemTable() *memTable {
	return &memTable{rows: btree.NewG(32, func(a, b row) bool { return bytes.Compare(a.k, b.k) < 0 })}
}

func (t *memTable) Get(k []byte) ([]byte, error) {
	r, _ := t.rows.Get(row{k: k})
	return r.v, nil
}

func (t *memTable) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error {
	var err error
	t.rows.AscendRange(row{k: lo}, row{k: hi}, func(r row) bool {
		var more bool
		more, err = fn(r.k, r.v)
		return more && err == nil
	})
	return err
}

func (t *memTable) Last(lo, hi []byte) (k, v []byte, err error) {
	t.rows.DescendLessOrEqual(row{k: hi}, func(r row) bool {
		if bytes.Equal(r.k, hi) {
			return true
		}
		if bytes.Compare(r.k, lo) >= 0 {
			k, v = r.k, r.v
		}
		return false
	})
	return k, v, nil
}

func (t *memTable) Set(k, v []byte) error {
	t.sets++
	t.rows.ReplaceOrInsert(row{bytes.Clone(k), bytes.Clone(v)})
	return nil
}

func (t *memTable) Delete(k []byte) error {
	t.rows.Delete(row{k: k})
	return nil
}

// dump is all bytes of the table.
func (t *memTable) dump() []byte { return t.dumpBut() }

// dumpBut is all bytes of the table without the rows of some kinds.
func (t *memTable) dumpBut(kinds ...byte) []byte {
	var b []byte
	t.rows.Ascend(func(r row) bool {
		if !slices.Contains(kinds, r.k[0]) {
			b = appendString(appendString(b, string(r.k)), string(r.v))
		}
		return true
	})
	return b
}

// tester is a *testing.T, B or F, or a *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// bench is a file system for tests: it fills in sequence numbers and times.
type bench struct {
	t       tester
	table   *memTable
	hash    func(string) uint64
	now     int64
	seq     uint64
	session dfs.SessionID
	cred    dfs.Cred
}

// newBench bootstraps a table, with one chunk server per position of copies=3
// and one session.
func newBench(t tester) *bench { return newBenchHash(t, hashName) }

func newBenchHash(t tester, hash func(string) uint64) *bench {
	b := &bench{t: t, table: newMemTable(), hash: hash, now: 1000}
	b.own(&Bootstrap{Cluster: 7, Buckets: 4})
	b.own(threeServers(1, dfs.ServerUp))
	b.session = b.own(&OpenSession{Nonce: 99, Host: "h", Mountpoint: "/m", Version: "v"}).Session
	b.do(&GrantIDs{Inodes: true})
	return b
}

// threeServers is a map in which server i+1 has position i of all groups; the
// first server is in the given state.
func threeServers(epoch dfs.Epoch, first dfs.ServerState) *PutMap {
	m := &PutMap{Epoch: epoch}
	for i := range 3 {
		name := string(rune('a' + i))
		m.Servers = append(m.Servers, dfs.Server{ID: dfs.NodeID(i + 1), Name: name, Addr: name + ":1", Weight: 1, State: dfs.ServerUp})
	}
	m.Servers[0].State = first
	for bucket := range uint16(4) {
		m.Acting = append(m.Acting, Home{PG: dfs.MakePG(dfs.DefaultLayout, bucket), Servers: []dfs.NodeID{1, 2, 3}})
	}
	return m
}

func (b *bench) view() View { return View{r: b.table, hash: b.hash} }

func (b *bench) time() dfs.Time {
	b.now++
	return dfs.Time{Sec: b.now, Nsec: uint32(b.now % 1000)}
}

// apply carries out a command as it is.
func (b *bench) apply(c Command) Reply {
	b.t.Helper()
	rep, err := apply(b.table, &c, b.hash)
	if err != nil {
		b.t.Fatalf("%T: %v", c.Op, err)
	}
	return rep
}

// own carries out a command of the masters, which must succeed.
func (b *bench) own(op Op) Reply {
	b.t.Helper()
	rep := b.apply(Command{Time: b.time(), Op: op})
	if rep.Errno != dfs.OK {
		b.t.Fatalf("%T: %v", op, rep.Errno)
	}
	return rep
}

// try carries out a command of the session.
func (b *bench) try(op Op) Reply {
	b.t.Helper()
	b.seq++
	return b.apply(Command{Session: b.session, Seq: b.seq, Acked: b.seq, Time: b.time(), Cred: b.cred, Op: op})
}

// do is try of what must succeed.
func (b *bench) do(op Op) Reply {
	b.t.Helper()
	rep := b.try(op)
	if rep.Errno != dfs.OK || rep.StaleMap || rep.Expired || rep.Duplicate {
		b.t.Fatalf("%T: %v %+v", op, rep.Errno, rep)
	}
	return rep
}

// check fails the test when the table is not sound.
func (b *bench) check() {
	b.t.Helper()
	for _, p := range check(b.view()) {
		b.t.Errorf("check: %s", p)
	}
}

// chunk is the chunk of copies=3 with the sequence number.
func testChunk(seq uint64) dfs.ChunkID { return dfs.MakeChunkID(dfs.DefaultLayout, seq) }

// allThree says that each of the three servers has the fragment.
func allThree() []dfs.NodeID { return []dfs.NodeID{1, 2, 3} }
