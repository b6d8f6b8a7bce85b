package meta

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"dfs"
)

// churn carries out a fixed long history with all operations.
func churn(b *bench, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	dirs := []dfs.Ino{dfs.RootIno}
	ino, chunk, end := dfs.FirstIno, uint64(1), uint32(firstRecord)
	name := func() string { return string(rune('a' + rng.IntN(12))) }
	dir := func() dfs.Ino { return dirs[rng.IntN(len(dirs))] }
	some := func() dfs.Ino { return dfs.FirstIno + dfs.Ino(rng.IntN(int(ino-dfs.FirstIno)+1)) }
	for range steps {
		switch rng.IntN(9) {
		case 0, 1:
			mode := uint32(dfs.TypeFile | 0o644)
			if rng.IntN(3) == 0 {
				mode = dfs.TypeDir | 0o755
			}
			if b.try(&Create{Parent: dir(), Name: name(), Ino: ino, Mode: mode, Excl: true}).Errno == dfs.OK {
				if mode&dfs.TypeMask == dfs.TypeDir {
					dirs = append(dirs, ino)
				}
				ino++
			}
		case 2:
			b.try(&Unlink{Parent: dir(), Name: name()})
		case 3:
			b.try(&Rename{Parent: dir(), Name: name(), NewParent: dir(), NewName: name(), Flags: uint32(rng.IntN(3))})
		case 4:
			b.try(&SetXattr{Ino: some(), Name: "user." + name(), Value: []byte("v")})
		case 5:
			size := uint64(rng.IntN(100))
			b.try(&SetAttr{Ino: some(), Size: &size})
		case 6, 7:
			c := &Commit{Chunks: []ChunkCommit{{Chunk: testChunk(chunk), Committed: end + 8192, Servers: allThree(), Sealed: rng.IntN(4) == 0}}}
			for range 3 {
				ino := some()
				if a, err := b.view().GetAttr(ino); err == nil && a.IsFile() {
					e := dfs.Extent{Off: uint64(rng.IntN(60)), Len: 20, Chunk: testChunk(chunk), Record: end, RecordLen: 100, Start: uint32(rng.IntN(80))}
					c.Files = append(c.Files, FileCommit{Ino: ino, Extents: []dfs.Extent{e}})
				}
			}
			b.do(c)
			if end += 8192; c.Chunks[0].Sealed {
				chunk, end = chunk+1, firstRecord
				if chunk%chunksGrant == 1 {
					b.do(&GrantIDs{Chunks: true})
				}
			}
		case 8:
			orphans, err := b.view().Orphans(0, 3)
			if err != nil {
				b.t.Fatalf("%v", err)
			}
			b.own(&Reap{Inodes: orphans, ExtentsMax: 2})
			ids, err := b.view().Droppable(0, 10)
			if err != nil {
				b.t.Fatalf("%v", err)
			}
			b.own(&DropChunks{Chunks: ids})
		}
	}
}

func TestSameCommandsMakeTheSameTable(t *testing.T) {
	for seed := range uint64(5) {
		one, two := newBench(t), newBench(t)
		churn(one, seed, 800)
		churn(two, seed, 800)
		one.check()
		if !bytes.Equal(one.table.dump(), two.table.dump()) {
			t.Fatalf("seed %d: the tables differ", seed)
		}
	}
}

// TestCommandTakesEffectOnce repeats every command of a history at once and later.
func TestCommandTakesEffectOnce(t *testing.T) {
	b := newBench(t)
	ops := []Op{
		&Create{Parent: 1, Name: "f", Ino: 16, Mode: dfs.TypeFile | 0o644},
		&Link{Ino: 16, Parent: 1, Name: "g"},
		&Rename{Parent: 1, Name: "g", NewParent: 1, NewName: "h"},
		&Commit{
			Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: 8192, Servers: allThree()}},
			Files:  []FileCommit{{Ino: 16, Extents: []dfs.Extent{{Len: 5, Chunk: testChunk(1), Record: 4096, RecordLen: 5}}}},
		},
		&Unlink{Parent: 1, Name: "f"},
		&Unlink{Parent: 1, Name: "f"}, // ENOENT, and so it stays
		&GrantIDs{Inodes: true, Chunks: true},
		&Commit{Chunks: []ChunkCommit{{Chunk: testChunk(2), Committed: 8192, Servers: []dfs.NodeID{1, 0, 0}}}}, // stale map
		&Unlink{Parent: 1, Name: "h"},
	}
	var cmds []Command
	var replies []Reply
	for i, op := range ops {
		cmds = append(cmds, Command{Session: b.session, Seq: uint64(100 + i), Acked: 100, Time: b.time(), Op: op})
		replies = append(replies, b.apply(cmds[i]))
		before := b.table.dump()
		for j := range cmds {
			again := b.apply(cmds[j])
			if !again.Replayed {
				t.Fatalf("%T was carried out again", cmds[j].Op)
			}
			again.Replayed = false
			if got, want := fmt.Sprintf("%+v", again), fmt.Sprintf("%+v", replies[j]); !sameReply(again, replies[j]) {
				t.Fatalf("%T was answered %s, first %s", cmds[j].Op, got, want)
			}
		}
		if !bytes.Equal(before, b.table.dump()) {
			t.Fatalf("repeating up to %T changed the table", op)
		}
	}
	// Once it is acknowledged, the answer is forgotten and the command refused.
	b.apply(Command{Session: b.session, Seq: 200, Acked: 200, Time: b.time(), Op: &GrantIDs{Inodes: true}})
	rows := 0
	if err := b.table.Scan(key0(kindReply), key0(kindReply+1), func(_, _ []byte) (bool, error) { rows++; return true, nil }); err != nil || rows != 1 {
		t.Fatalf("%d answers are kept, %v", rows, err)
	}
	for _, c := range cmds {
		if rep := b.apply(c); !rep.Duplicate {
			t.Fatalf("%T after its acknowledgement: %+v", c.Op, rep)
		}
	}
	b.check()
}

func sameReply(a, b Reply) bool {
	if (a.Attr == nil) != (b.Attr == nil) || a.Attr != nil && *a.Attr != *b.Attr {
		return false
	}
	a.Attr, b.Attr = nil, nil
	return fmt.Sprint(a) == fmt.Sprint(b)
}

func TestManyAnswersAreForgottenAtOnce(t *testing.T) {
	b := newBench(t)
	for seq := uint64(100); seq < 500; seq++ {
		b.apply(Command{Session: b.session, Seq: seq, Acked: 2, Time: b.time(), Op: &Unlink{Parent: 1, Name: "none"}})
	}
	b.apply(Command{Session: b.session, Seq: 500, Acked: 499, Time: b.time(), Op: &Unlink{Parent: 1, Name: "none"}})
	rows := 0
	if err := b.table.Scan(key0(kindReply), key0(kindReply+1), func(_, _ []byte) (bool, error) { rows++; return true, nil }); err != nil || rows != 2 {
		t.Fatalf("%d answers are kept, %v", rows, err)
	}
}

// TestEmptyingAHugeFileIsCheap: its extents are left to Reap.
func TestEmptyingAHugeFileIsCheap(t *testing.T) {
	b := newBench(t)
	b.do(&Create{Parent: 1, Name: "big", Ino: 16, Mode: dfs.TypeFile | 0o644})
	const extents = 3 * cutMax
	c := &Commit{
		Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: 1 << 20, Servers: allThree()}},
		Files:  []FileCommit{{Ino: 16}},
	}
	for i := range uint64(extents) {
		c.Files[0].Extents = append(c.Files[0].Extents, dfs.Extent{Off: 10 * i, Len: 5, Chunk: testChunk(1), Record: 4096, RecordLen: 5})
	}
	b.do(c)
	b.check()
	for round := range 2 {
		size, sets := uint64(0), b.table.sets
		rep := b.do(&SetAttr{Ino: 16, Size: &size})
		if n := b.table.sets - sets; n > 10 {
			t.Fatalf("%d rows were written", n)
		}
		if rep.Attr.Size != 0 || rep.Attr.Alloc != 0 || len(rep.Orphaned) != 1 {
			t.Fatalf("%+v", rep)
		}
		b.check()
		if list, _, err := b.view().Extents(16, 0, 10); err != nil || len(list) != 0 {
			t.Fatalf("extents %v, %v", list, err)
		}
		if round == 0 {
			c.Chunks = nil
			b.do(c)
		}
	}
	b.do(&Commit{Files: []FileCommit{{Ino: 16, Extents: c.Files[0].Extents[:3]}}})
	b.check()
	for {
		orphans, err := b.view().Orphans(0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(orphans) == 0 {
			break
		}
		sets := b.table.sets
		b.own(&Reap{Inodes: orphans, ExtentsMax: 1000})
		if n := b.table.sets - sets; n > 20 {
			t.Fatalf("a Reap wrote %d rows", n)
		}
	}
	b.check()
	a, err := b.view().GetAttr(16)
	if err != nil || a.Size != 25 || a.Alloc != 15 {
		t.Fatalf("%+v, %v", a, err)
	}
	if cnt, err := b.view().Counters(); err != nil || cnt.Inodes != 2 || cnt.Bytes != 15 {
		t.Fatalf("%+v, %v", cnt, err)
	}
}

// TestListingShowsWhatStaysExactlyOnce while other names come and go.
func TestListingShowsWhatStaysExactlyOnce(t *testing.T) {
	for _, hash := range []func(string) uint64{hashName, weakHash} {
		b := newBenchHash(t, hash)
		ino := dfs.FirstIno
		create := func(name string) {
			b.do(&Create{Parent: 1, Name: name, Ino: ino, Mode: dfs.TypeFile | 0o644})
			ino++
		}
		for i := range 200 {
			create(fmt.Sprintf("stay%d", i))
			create(fmt.Sprintf("go%d", i))
		}
		seen := make(map[string]int)
		var cookie uint64
		for i := 0; ; i++ {
			l, err := b.view().ReadDir(dfs.Cred{}, 1, cookie, 7, true)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range l.Entries {
				seen[e.Name]++
				cookie = e.Cookie
			}
			if l.End {
				break
			}
			b.do(&Unlink{Parent: 1, Name: fmt.Sprintf("go%d", i)})
			create(fmt.Sprintf("come%d", i))
			b.do(&Rename{Parent: 1, Name: fmt.Sprintf("go%d", 100+i), NewParent: 1, NewName: fmt.Sprintf("moved%d", i)})
		}
		for i := range 200 {
			if n := seen[fmt.Sprintf("stay%d", i)]; n != 1 {
				t.Errorf("stay%d was shown %d times", i, n)
			}
		}
		b.check()
	}
}

func TestBucketOfNamesIsFull(t *testing.T) {
	b := newBenchHash(t, func(string) uint64 { return 1 })
	for i := range slotMax + 1 {
		b.do(&Create{Parent: 1, Name: fmt.Sprint(i), Ino: dfs.FirstIno + dfs.Ino(i), Mode: dfs.TypeFile})
	}
	more := &Create{Parent: 1, Name: "more", Ino: dfs.FirstIno + slotMax + 1, Mode: dfs.TypeFile}
	if rep := b.try(more); rep.Errno != dfs.ENOSPC {
		t.Fatalf("%v", rep.Errno)
	}
	b.do(&Unlink{Parent: 1, Name: "77"})
	b.do(more)
	b.check()
}

func TestLinkLimits(t *testing.T) {
	b := newBench(t)
	b.do(&Create{Parent: 1, Name: "f", Ino: 16, Mode: dfs.TypeFile | 0o644})
	b.do(&Create{Parent: 1, Name: "d", Ino: 17, Mode: dfs.TypeDir | 0o755})
	b.do(&Create{Parent: 1, Name: "e", Ino: 18, Mode: dfs.TypeDir | 0o755})
	for _, ino := range []dfs.Ino{16, 17} {
		in, err := b.view().inode(ino)
		if err != nil {
			t.Fatal(err)
		}
		in.Nlink = dfs.LinkMax
		if err := b.table.Set(key1(kindInode, uint64(ino)), in.encode(nil)); err != nil {
			t.Fatal(err)
		}
	}
	for _, op := range []Op{
		&Link{Ino: 16, Parent: 1, Name: "g"},
		&Create{Parent: 17, Name: "x", Ino: 19, Mode: dfs.TypeDir | 0o755},
		&Rename{Parent: 1, Name: "e", NewParent: 17, NewName: "e"},
	} {
		if rep := b.try(op); rep.Errno != dfs.EMLINK {
			t.Errorf("%T: %v", op, rep.Errno)
		}
	}
	b.do(&Create{Parent: 17, Name: "f", Ino: 19, Mode: dfs.TypeFile | 0o644})
	if rep := b.try(&Rename{Parent: 17, Name: "f", NewParent: 1, NewName: "e", Flags: dfs.RenameExchange}); rep.Errno != dfs.EMLINK {
		t.Errorf("exchange: %v", rep.Errno)
	}
}

func TestXattrNamesFillUp(t *testing.T) {
	b := newBench(t)
	b.do(&Create{Parent: 1, Name: "f", Ino: 16, Mode: dfs.TypeFile | 0o644})
	n := 0
	for ; ; n++ {
		rep := b.try(&SetXattr{Ino: 16, Name: fmt.Sprintf("user.%0250d", n)})
		if rep.Errno == dfs.ENOSPC {
			break
		}
		if rep.Errno != dfs.OK {
			t.Fatal(rep.Errno)
		}
	}
	if n != 256 {
		t.Fatalf("%d names of 255 bytes fit in %d", n, dfs.XattrMax)
	}
	b.do(&SetXattr{Ino: 16, Name: fmt.Sprintf("user.%0250d", 0), Value: []byte("again")})
	b.check()
}

func TestRangesStayBounded(t *testing.T) {
	b := newBench(t)
	other := b.own(&OpenSession{Nonce: 5}).Session
	for i := range uint64(3 * rangesMax) {
		b.do(&GrantIDs{Inodes: true, Chunks: true})
		rep := b.apply(Command{Session: other, Seq: i + 1, Acked: i, Time: b.time(), Op: &GrantIDs{Inodes: true, Chunks: true}})
		if rep.Errno != dfs.OK || rep.Inodes.Len() != inodesGrant || rep.Chunks.Len() != chunksGrant {
			t.Fatalf("%+v", rep)
		}
	}
	s, ok, err := b.view().Session(b.session)
	if err != nil || !ok || len(s.Inodes) != rangesMax || len(s.Chunks) != rangesMax {
		t.Fatalf("%d and %d ranges, %v, %v", len(s.Inodes), len(s.Chunks), ok, err)
	}
	b.check()
}

// TestCheckFindsDamage damages a sound table row by row.
func TestCheckFindsDamage(t *testing.T) {
	sound := func() *bench {
		b := newBench(t)
		churn(b, 1, 400)
		b.do(&Create{Parent: 1, Name: "file", Ino: 4000, Mode: dfs.TypeFile | 0o644})
		b.do(&SetXattr{Ino: 4000, Name: "user.x"})
		b.do(&Create{Parent: 1, Name: "orphan", Ino: 4001, Mode: dfs.TypeFile | 0o644})
		b.do(&Unlink{Parent: 1, Name: "orphan"})
		chunks := b.do(&GrantIDs{Chunks: true}).Chunks
		b.do(&Commit{Chunks: []ChunkCommit{
			{Chunk: testChunk(chunks.From), Servers: allThree(), Sealed: true}, // droppable
			{Chunk: testChunk(chunks.From + 1), Servers: allThree()},
		}})
		b.check()
		return b
	}
	b := sound()
	kinds := make(map[byte]int)
	var keys [][]byte
	b.table.rows.Ascend(func(r row) bool {
		if kinds[r.k[0]]++; kinds[r.k[0]] <= 40 {
			keys = append(keys, r.k)
		}
		return true
	})
	for _, kind := range []byte("ABCDEGHILNOQRSTUVX") {
		if kinds[kind] == 0 {
			t.Errorf("the history leaves no row of kind %c", kind)
		}
	}
	for _, k := range keys {
		v, err := b.table.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.table.Set(k, []byte{rowVersion + 1, 0, 0}); err != nil {
			t.Fatal(err)
		}
		if strings.IndexByte("LOQU", k[0]) < 0 && len(check(b.view())) == 0 { // rows whose key says all
			t.Errorf("an unreadable row %q is not found", k)
		}
		if err := b.table.Delete(k); err != nil {
			t.Fatal(err)
		}
		// Not missed: a kept answer, a layout in use, a tally of nothing.
		if strings.IndexByte("ARLT", k[0]) < 0 && !(k[0] == kindHome) && len(check(b.view())) == 0 {
			t.Errorf("a missing row %q is not found", k)
		}
		if err := b.table.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	b.check()
	if err := b.table.Set([]byte("Zebra"), markerRow); err != nil {
		t.Fatal(err)
	}
	if len(Check(b.table)) != 1 {
		t.Error("a row of no known kind is not found")
	}
}

func TestProblemsSayWhatTheyAreAbout(t *testing.T) {
	for _, p := range []Problem{{Ino: 5, Text: "x"}, {Chunk: 5, Text: "x"}, {Text: "x"}} {
		if s := p.String(); !strings.HasSuffix(s, "x") || (len(s) > 1) != (p.Ino+dfs.Ino(p.Chunk) > 0) {
			t.Error(s)
		}
	}
}

// brokenTable fails from the n-th access on.
type brokenTable struct {
	*memTable
	left int
}

var errBroken = errors.New("disk is gone")

func (t *brokenTable) use() error {
	if t.left--; t.left < 0 {
		return errBroken
	}
	return nil
}

func (t *brokenTable) Get(k []byte) ([]byte, error) {
	if err := t.use(); err != nil {
		return nil, err
	}
	return t.memTable.Get(k)
}

func (t *brokenTable) Scan(lo, hi []byte, fn func(k, v []byte) (bool, error)) error {
	if err := t.use(); err != nil {
		return err
	}
	return t.memTable.Scan(lo, hi, fn)
}

func (t *brokenTable) Last(lo, hi []byte) (k, v []byte, err error) {
	if err := t.use(); err != nil {
		return nil, nil, err
	}
	return t.memTable.Last(lo, hi)
}

func (t *brokenTable) Set(k, v []byte) error {
	if err := t.use(); err != nil {
		return err
	}
	return t.memTable.Set(k, v)
}

func (t *brokenTable) Delete(k []byte) error {
	if err := t.use(); err != nil {
		return err
	}
	return t.memTable.Delete(k)
}

// TestBrokenStoreIsNoVerdict: whichever access fails, Apply says so and never
// answers as if all were well.
func TestBrokenStoreIsNoVerdict(t *testing.T) {
	size := uint64(3)
	ops := []Op{
		&Create{Parent: 1, Name: "n", Ino: 40, Mode: dfs.TypeFile},
		&Create{Parent: 1, Name: "f", Ino: 41, Mode: dfs.TypeFile},
		&Link{Ino: 16, Parent: 1, Name: "l"},
		&Unlink{Parent: 1, Name: "f"},
		&Rmdir{Parent: 1, Name: "d"},
		&Rename{Parent: 1, Name: "f", NewParent: 18, NewName: "x"},
		&Rename{Parent: 18, Name: "sub", NewParent: 1, NewName: "d"},
		&Rename{Parent: 18, Name: "sub", NewParent: 1, NewName: "f", Flags: dfs.RenameExchange},
		&SetAttr{Ino: 16, Size: &size},
		&SetXattr{Ino: 16, Name: "user.b"},
		&RemoveXattr{Ino: 16, Name: "user.a"},
		&SetPolicy{Ino: 16, Layout: 1 << 3},
		&GrantIDs{Inodes: true, Chunks: true},
		&CloseSession{Session: 1},
		&Commit{
			Chunks: []ChunkCommit{{Chunk: testChunk(2), Committed: 8192, Servers: allThree(), Sealed: true}},
			Files: []FileCommit{{Ino: 16, Extents: []dfs.Extent{
				{Off: 3, Len: 4, Chunk: testChunk(2), Record: 4096, RecordLen: 5}, {Off: 7, Len: 1, Chunk: testChunk(1), Record: 4096, RecordLen: 10, Start: 7}}}},
		},
	}
	own := []Op{
		&OpenSession{Nonce: 4}, &OpenSession{Nonce: 99}, &CloseSession{Session: 1}, &Reap{Inodes: []dfs.Ino{20}, ExtentsMax: 2},
		&Reap{Inodes: []dfs.Ino{20}}, &DropChunks{Chunks: []dfs.ChunkID{testChunk(3)}}, threeServers(2, dfs.ServerDown),
		&PutMaster{ID: 5, Name: "five"}, &RemoveMaster{ID: 4}, &Unlink{Parent: 1, Name: "f"},
	}
	prepare := func() *bench {
		b := newBench(t)
		b.do(&Create{Parent: 1, Name: "f", Ino: 16, Mode: dfs.TypeFile | 0o644})
		b.do(&Create{Parent: 1, Name: "d", Ino: 17, Mode: dfs.TypeDir | 0o755})
		b.do(&Create{Parent: 1, Name: "e", Ino: 18, Mode: dfs.TypeDir | 0o755})
		b.do(&Create{Parent: 18, Name: "sub", Ino: 19, Mode: dfs.TypeDir | 0o755})
		b.do(&Create{Parent: 1, Name: "gone", Ino: 20, Mode: dfs.TypeFile | 0o644})
		b.do(&SetXattr{Ino: 16, Name: "user.a"})
		e := dfs.Extent{Len: 10, Chunk: testChunk(1), Record: 4096, RecordLen: 10}
		e2 := dfs.Extent{Off: 20, Len: 10, Chunk: testChunk(1), Record: 4096, RecordLen: 10}
		b.do(&Commit{
			Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: 8192, Servers: allThree()}, {Chunk: testChunk(3), Servers: allThree(), Sealed: true}},
			Files:  []FileCommit{{Ino: 16, Extents: []dfs.Extent{e, e2}}, {Ino: 20, Extents: []dfs.Extent{e, e2}}},
		})
		b.do(&SetXattr{Ino: 20, Name: "user.a"})
		b.do(&Unlink{Parent: 1, Name: "gone"})
		b.own(&PutMaster{ID: 4, Name: "four"})
		return b
	}
	run := func(op Op, session dfs.SessionID) {
		for n := 0; ; n++ {
			b := prepare()
			c := Command{Session: session, Time: b.time(), Op: op}
			if session != 0 {
				c.Seq, c.Acked = b.seq+1, b.seq
			}
			broken := &brokenTable{memTable: b.table, left: n}
			rep, err := Apply(broken, c)
			if broken.left >= 0 {
				if err != nil {
					t.Errorf("%T: %v", op, err)
				}
				return
			}
			if !errors.Is(err, errBroken) {
				t.Errorf("%T: access %d fails, answer %+v, %v", op, n, rep, err)
			}
		}
	}
	for _, op := range ops {
		run(op, 1)
	}
	for _, op := range own {
		run(op, 0)
	}
}

func TestViewsOfABrokenStoreSaySo(t *testing.T) {
	b := newBench(t)
	b.do(&Create{Parent: 1, Name: "f", Ino: 16, Mode: dfs.TypeFile | 0o644})
	b.do(&SetXattr{Ino: 16, Name: "user.a"})
	b.do(&Commit{
		Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: 8192, Servers: allThree()}},
		Files:  []FileCommit{{Ino: 16, Extents: []dfs.Extent{{Len: 10, Chunk: testChunk(1), Record: 4096, RecordLen: 10}}}},
	})
	views := map[string]func(v View) error{
		"Lookup":     func(v View) error { _, err := v.Lookup(dfs.Cred{}, 1, "f"); return err },
		"GetAttr":    func(v View) error { _, err := v.GetAttr(1); return err },
		"Access":     func(v View) error { return v.Access(dfs.Cred{}, 1, 7) },
		"Extents":    func(v View) error { _, _, err := v.Extents(16, 1, 5); return err },
		"ReadDir":    func(v View) error { _, err := v.ReadDir(dfs.Cred{}, 1, 0, 5, true); return err },
		"GetXattr":   func(v View) error { _, err := v.GetXattr(dfs.Cred{}, 16, "user.a"); return err },
		"ListXattr":  func(v View) error { _, err := v.ListXattr(dfs.Cred{}, 16); return err },
		"Resolve":    func(v View) error { _, err := v.Resolve(dfs.Cred{}, "/f"); return err },
		"Map":        func(v View) error { _, err := v.Map(); return err },
		"Epoch":      func(v View) error { _, err := v.Epoch(); return err },
		"Layouts":    func(v View) error { _, err := v.Layouts(); return err },
		"Group":      func(v View) error { _, err := v.GroupChunks(1); return err },
		"Session":    func(v View) error { _, _, err := v.Session(1); return err },
		"Sessions":   func(v View) error { _, err := v.Sessions(); return err },
		"Orphans":    func(v View) error { _, err := v.Orphans(0, 1); return err },
		"Masters":    func(v View) error { _, err := v.Masters(); return err },
		"Chunk":      func(v View) error { _, _, err := v.Chunk(testChunk(1)); return err },
		"Chunks":     func(v View) error { _, err := v.Chunks(0, 9); return err },
		"Droppable":  func(v View) error { _, err := v.Droppable(0, 9); return err },
		"Deletable":  func(v View) error { _, err := v.Deletable([]dfs.ChunkID{testChunk(1), testChunk(2)}); return err },
		"Counters":   func(v View) error { _, err := v.Counters(); return err },
		"Bootstrapd": func(v View) error { _, err := v.Bootstrapped(); return err },
	}
	for name, view := range views {
		for n := 0; ; n++ {
			broken := &brokenTable{memTable: b.table, left: n}
			err := view(NewView(broken))
			if broken.left >= 0 {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
			if !errors.Is(err, errBroken) {
				t.Errorf("%s: access %d fails: %v", name, n, err)
			}
		}
	}
}

func TestDeletableSparesWhatNobodyWasGivenYet(t *testing.T) {
	b := newBench(t)
	ids := []dfs.ChunkID{testChunk(1), testChunk(64), testChunk(65), testChunk(1 << 40)}
	if list, err := b.view().Deletable(ids); err != nil || len(list) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
	b.own(&CloseSession{Session: b.session})
	if list, err := b.view().Deletable(ids); err != nil || !slices.Equal(list, ids[:2]) {
		t.Fatalf("%v, %v", list, err)
	}
	if list, err := NewView(newMemTable()).Deletable(ids); err != nil || len(list) != 0 {
		t.Fatalf("of an empty table: %v, %v", list, err)
	}
}

func BenchmarkCreate(b *testing.B) {
	bb := newBench(b)
	var grant Range
	sets := bb.table.sets
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if grant.Len() == 0 {
			grant = bb.do(&GrantIDs{Inodes: true}).Inodes
		}
		bb.do(&Create{Parent: 1, Name: fmt.Sprintf("file-%d", i), Ino: dfs.Ino(grant.From), Mode: dfs.TypeFile | 0o644})
		grant.From++
	}
	b.ReportMetric(float64(bb.table.sets-sets)/float64(b.N), "sets/op")
}

// BenchmarkCommit appends 64 KiB to one file with each command.
func BenchmarkCommit(b *testing.B) {
	bb := newBench(b)
	bb.do(&Create{Parent: 1, Name: "f", Ino: 16, Mode: dfs.TypeFile | 0o644})
	chunk, end := uint64(1), uint32(firstRecord)
	const bytes = 64 << 10
	sets := bb.table.sets
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		record := end
		end += 2*dfs.PageBytes + bytes
		sealed := end+bytes+2*dfs.PageBytes > dfs.ChunkBytes
		bb.do(&Commit{
			Chunks: []ChunkCommit{{Chunk: testChunk(chunk), Committed: end, Servers: allThree(), Sealed: sealed}},
			Files: []FileCommit{{Ino: 16, Extents: []dfs.Extent{
				{Off: uint64(i) * bytes, Len: bytes, Chunk: testChunk(chunk), Record: record, RecordLen: bytes}}}},
		})
		if sealed {
			chunk, end = chunk+1, firstRecord
			if chunk%chunksGrant == 1 {
				bb.do(&GrantIDs{Chunks: true})
			}
		}
	}
	b.ReportMetric(float64(bb.table.sets-sets)/float64(b.N), "sets/op")
}

// BenchmarkCommitManyFiles commits 100 files of 4 KiB with each command.
func BenchmarkCommitManyFiles(b *testing.B) {
	bb := newBench(b)
	const files = 100
	for i := range dfs.Ino(files) {
		bb.do(&Create{Parent: 1, Name: fmt.Sprint(i), Ino: 16 + i, Mode: dfs.TypeFile | 0o644})
	}
	bb.do(&Commit{Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: 1 << 20, Servers: allThree()}}})
	b.ReportAllocs()
	for b.Loop() {
		c := &Commit{}
		for i := range dfs.Ino(files) {
			c.Files = append(c.Files, FileCommit{Ino: 16 + i, Extents: []dfs.Extent{
				{Len: 4096, Chunk: testChunk(1), Record: 4096, RecordLen: files * 4096, Start: uint32(i) * 4096}}})
		}
		bb.do(c)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
}
