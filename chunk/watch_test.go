package chunk_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/record"
	"dfs/internal/disk"
	"dfs/internal/disk/disktest"
	"dfs/internal/virtualtime"
)

// folder of a store of several.
func folder(s *chunk.Store, id dfs.ChunkID) string {
	info, _ := s.Stat(id)
	return info.Dir
}

// Nothing is asked of a disk that does not answer, and it is said; new chunks go to the other.
func TestDiskThatDoesNotAnswerIsLeftAlone(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		m := disk.NewMem()
		s := open(t, m, chunk.Config{Dirs: []string{"/a", "/b"}})
		var held []chunk.Record
		for seq := uint64(1); len(held) < 2; seq++ {
			r := testRecord(1, seq, dfs.FirstRecord, 9000)
			appendOK(t, s, r)
			if dir := folder(s, r.Chunk); len(held) == 0 && dir == "/a" || len(held) == 1 && dir == "/b" {
				held = append(held, r)
			}
		}
		remove := m.Fail(disk.Rule{Path: "a/chunks/*/*", Delay: 30 * time.Second})
		next := testRecord(2, uint64(held[0].Chunk.Seq()), dfs.FirstRecord+uint32(dfs.RecordSpace(9000)), 100)
		answered := make(chan error, 1)
		go s.Submit(next, func(_ uint32, err error) { answered <- err })
		time.Sleep(time.Second)
		remove()
		time.Sleep(12 * time.Second)
		if c := s.Condition(); !slices.Equal(c.Hung, []string{"/a"}) || s.Check() == nil {
			t.Fatalf("%+v", c)
		}
		began := time.Now()
		if err := s.Hung(held[0].Chunk); !errors.Is(err, chunk.ErrHung) {
			t.Errorf("a chunk there: %v", err)
		}
		other := next
		other.Offset += uint32(dfs.RecordSpace(100))
		_, err := s.Append(other)
		wantErrno(t, err, dfs.EIO)
		readOK(t, s, held[1])
		for seq := uint64(100); seq < 120; seq++ {
			r := testRecord(1, seq, dfs.FirstRecord, 100)
			appendOK(t, s, r)
			if dir := folder(s, r.Chunk); dir != "/b" {
				t.Fatalf("a new chunk is in %s", dir)
			}
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v", d)
		}
		if err := <-answered; err != nil {
			t.Errorf("the append that hung: %v", err)
		}
		time.Sleep(2 * time.Second)
		if c := s.Condition(); len(c.Hung) > 0 || s.Check() != nil {
			t.Errorf("the disk answers again: %+v", c)
		}
		readOK(t, s, next)
		appendOK(t, s, other)
	})
}

// How long syncs take is known, and found out again when nobody uses the disk any more.
func TestSlowDiskIsProbedUntilItIsWell(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		m := disk.NewMem()
		s := open(t, m, chunk.Config{})
		remove := m.Fail(disk.Rule{Op: disk.OpSync, Path: "*", Delay: 200 * time.Millisecond})
		for seq := range uint64(10) {
			appendOK(t, s, testRecord(1, seq+1, dfs.FirstRecord, 100))
		}
		if c := s.Condition(); c.Sync != 200*time.Millisecond {
			t.Errorf("a sync takes %v", c.Sync)
		}
		time.Sleep(5 * time.Minute)
		if c := s.Condition(); c.Sync != 200*time.Millisecond {
			t.Errorf("nobody uses it, and a sync takes %v", c.Sync)
		}
		remove()
		time.Sleep(3 * time.Minute)
		if c := s.Condition(); c.Sync >= 10*time.Millisecond {
			t.Errorf("it is well, and a sync takes %v", c.Sync)
		}
	})
}

// A store is opened without a folder whose disk fails, if it is not the only one.
func TestStoreOpensWithoutAFolderThatCannotBeRead(t *testing.T) {
	for _, rule := range []string{"any b err=EIO", "any b/* err=EIO", "readdir b/chunks/7f err=EIO", "usage b err=EIO"} {
		t.Run(rule, func(t *testing.T) {
			m := disk.NewMem()
			cfg := chunk.Config{FS: m, Dirs: []string{"/b", "/a"}}
			s, err := chunk.Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			var kept []chunk.Record
			for seq := range uint64(20) {
				r := testRecord(1, seq+1, dfs.FirstRecord, 9000)
				appendOK(t, s, r)
				if folder(s, r.Chunk) == "/a" {
					kept = append(kept, r)
				}
			}
			node := s.Node()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if len(kept) == 0 || len(kept) == 20 {
				t.Fatalf("%d of 20 chunks are in one of two folders", len(kept))
			}
			disktest.Fail(t, m, rule)
			if _, err := chunk.Open(chunk.Config{FS: m, Dirs: []string{"/b"}}); err == nil && rule != "usage b err=EIO" {
				t.Error("it opens with nothing that can be read")
			}
			s = open(t, m, cfg)
			if c := s.Condition(); !slices.Equal(c.Unreadable, []string{"/b"}) || s.Check() == nil || s.Node() != node {
				t.Errorf("%+v, server %v", c, s.Node())
			}
			for _, r := range kept {
				readOK(t, s, r)
			}
			appendOK(t, s, testRecord(1, 1000, dfs.FirstRecord, 9000))
			if dir := folder(s, dfs.MakeChunkID(dfs.DefaultLayout, 1000)); dir != "/a" {
				t.Errorf("a new chunk is in %s", dir)
			}
			_, err = s.Read(record.Piece{Chunk: kept[0].Chunk, Record: dfs.FirstRecord, Len: 1}, nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
}
