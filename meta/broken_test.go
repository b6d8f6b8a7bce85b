package meta

import (
	"errors"
	"testing"

	"dfs"
)

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
		&Access{Inodes: []dfs.Ino{16}, Times: []dfs.Time{{Sec: 1 << 40}}},
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
		&Reap{Inodes: []dfs.Ino{20}}, &DropChunks{Chunks: []dfs.ChunkID{testChunk(3)}}, &SetPresent{Server: 1, Lack: []dfs.ChunkID{testChunk(1)}}, threeServers(2, dfs.ServerDown),
		&PutMaster{ID: 5, Name: "five"}, &RemoveMaster{ID: 4}, &Unlink{Parent: 1, Name: "f"}, &SetLevel{Level: 2, Program: "p"}, &SetConfig{Name: "n", Value: "v"}, &SetConfig{Name: "n"},
		&PutJob{Job{ID: 1, Revision: 1, State: JobRuns}},
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
		"Deletable":  func(v View) error { _, err := v.Deletable(0, []dfs.ChunkID{testChunk(1), testChunk(2)}); return err },
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
