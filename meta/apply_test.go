package meta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
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
				if e.Cookie <= cookie {
					t.Fatalf("entry %+v after cookie %d", e, cookie)
				}
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

func TestDeletableSparesWhatNobodyWasGivenYet(t *testing.T) {
	b := newBench(t)
	ids := []dfs.ChunkID{testChunk(1), testChunk(64), testChunk(65), testChunk(1 << 40)}
	if list, err := b.view().Deletable(0, ids); err != nil || len(list) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
	b.own(&CloseSession{Session: b.session})
	if list, err := b.view().Deletable(0, ids); err != nil || !slices.Equal(list, ids[:2]) {
		t.Fatalf("%v, %v", list, err)
	}
	if list, err := NewView(newMemTable()).Deletable(0, ids); err != nil || len(list) != 0 {
		t.Fatalf("of an empty table: %v, %v", list, err)
	}
}
