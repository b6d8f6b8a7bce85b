package meta

import (
	"testing"

	"dfs"
)

// pieces writes records of 10 bytes each, of one file, by a session's intents.
type pieces struct {
	*bench
	ino dfs.Ino
	end uint32
}

func newPieces(t *testing.T) *pieces {
	p := &pieces{bench: newBench(t), ino: 16, end: firstRecord}
	p.do(&Create{Parent: 1, Name: "f", Ino: p.ino, Mode: dfs.TypeFile | 0o644})
	return p
}

// next is the commit of a record that lies at off in the file.
func (p *pieces) next(off, seq, prev uint64) Commit {
	e := dfs.Extent{Off: off, Len: 10, Chunk: testChunk(1), Record: p.end, RecordLen: 10}
	p.end += dfs.PageBytes
	return Commit{
		Chunks: []ChunkCommit{{Chunk: testChunk(1), Committed: p.end, Servers: allThree()}},
		Files:  []FileCommit{{Ino: p.ino, Extents: []dfs.Extent{e}, SizeMin: e.End(), Mtime: p.time(), Seq: seq, Prev: prev}},
	}
}

func (p *pieces) commit(off, seq uint64) {
	p.t.Helper()
	c := p.next(off, seq, 0)
	p.do(&c)
}

// replay carries out what follows prev, and reports whether it counted.
func (p *pieces) replay(c Commit) bool {
	p.t.Helper()
	rep := p.own(&Replay{Session: p.session, Commit: c})
	p.check()
	return len(rep.Skipped) == 0
}

func (p *pieces) size() uint64 {
	p.t.Helper()
	a, err := p.view().GetAttr(p.ino)
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	return a.Size
}

func TestReplayTakesWhatFollowsAndNothingTwice(t *testing.T) {
	p := newPieces(t)
	p.commit(0, 3)
	if s, ok, err := p.view().Session(p.session); err != nil || !ok || !s.Intents {
		t.Fatalf("session %+v, %v, %v", s, ok, err)
	}
	second, third := p.next(10, 5, 3), p.next(20, 9, 5)
	if p.replay(third) {
		t.Fatal("a piece was taken whose predecessor is missing")
	}
	if !p.replay(second) || !p.replay(third) || p.size() != 30 {
		t.Fatalf("the pieces were not taken: size %d", p.size())
	}
	if p.replay(second) || p.replay(third) {
		t.Fatal("a piece was taken twice")
	}
	if list, err := p.view().Unsealed(p.session); err != nil || len(list) != 1 || list[0].Committed != p.end {
		t.Fatalf("%+v, %v", list, err)
	}
	p.own(&CloseSession{Session: p.session})
	rep := p.own(&Replay{Session: p.session, Commit: p.next(30, 10, 9)})
	if rep.StaleMap || p.size() != 30 {
		t.Fatalf("a session that is over was replayed: %+v", rep)
	}
	p.check()
}

func TestReplayDoesNotTouchWhatWasChangedOtherwise(t *testing.T) {
	zero := uint64(0)
	for name, change := range map[string]func(p *pieces){
		"truncate":                 func(p *pieces) { p.do(&SetAttr{Ino: p.ino, Size: &zero}) },
		"fallocate":                func(p *pieces) { p.do(&Fallocate{Ino: p.ino, Off: 0, Len: 100}) },
		"commit without intents":   func(p *pieces) { p.commit(0, 0) },
		"commit of something else": func(p *pieces) { p.commit(0, 4) },
		"other session": func(p *pieces) {
			mine, seq := p.session, p.seq
			p.session = p.own(&OpenSession{Nonce: 98, Host: "h", Mountpoint: "/m", Version: "v"}).Session
			p.seq = 0
			p.do(&Commit{Files: []FileCommit{{Ino: p.ino, SizeMin: 5, Seq: 3}}})
			p.session, p.seq = mine, seq
		},
		"gone": func(p *pieces) {
			p.do(&Unlink{Parent: 1, Name: "f"})
			p.own(&Reap{Inodes: []dfs.Ino{p.ino}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPieces(t)
			p.commit(0, 3)
			follows := p.next(10, 4, 3)
			change(p)
			if p.replay(follows) {
				t.Fatal("the piece was taken")
			}
		})
	}
}

func TestReplayByTooFewServersIsStale(t *testing.T) {
	p := newPieces(t)
	p.commit(0, 3)
	c := p.next(10, 4, 3)
	c.Chunks[0].Servers = []dfs.NodeID{0, 2, 0}
	if rep := p.own(&Replay{Session: p.session, Commit: c}); !rep.StaleMap || p.size() != 10 {
		t.Fatalf("%+v, size %d", rep, p.size())
	}
	c.Chunks[0].Servers = []dfs.NodeID{1, 2, 0}
	if !p.replay(c) || p.size() != 20 {
		t.Fatalf("not taken: size %d", p.size())
	}
}
