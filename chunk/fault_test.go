package chunk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/record"
	"dfs/internal/disk"
	"dfs/internal/disk/disktest"
)

func file(r chunk.Record) string {
	return fmt.Sprintf("/data/chunks/%02x/%s.%d", byte(r.Chunk.Seq()), r.Chunk, r.Fragment)
}

func TestFailedSyncEndsTheChunk(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	first := testRecord(1, 1, dfs.FirstRecord, 9000)
	end := appendOK(t, s, first)
	disktest.Fail(t, m, "sync "+path.Base(file(first))+" times=1")
	second := testRecord(2, 1, end, 9000)
	_, err := s.Append(second)
	wantErrno(t, err, dfs.EIO)
	// The disk is well again, but nobody knows what is on it.
	_, err = s.Append(second)
	wantErrno(t, err, dfs.EIO)
	_, err = s.Append(testRecord(3, 1, end+uint32(dfs.RecordSpace(9000)), 10))
	wantErrno(t, err, dfs.EIO)
	readOK(t, s, first)
	_, err = s.Read(record.Piece{Chunk: second.Chunk, Record: second.Offset, Len: 1}, nil)
	wantErrno(t, err, dfs.ENOENT)
	appendOK(t, s, testRecord(1, 2, dfs.FirstRecord, 100)) // other chunks go on
	if got, err := s.Seal(first.Chunk); err != nil || got != end {
		t.Fatalf("sealed at %d, want %d: %v", got, end, err)
	}
	if n := s.Stats().Failed; n != 1 {
		t.Fatalf("%d chunks failed", n)
	}
	s = open(t, m.Crash(rand.New(rand.NewPCG(1, 1))), chunk.Config{})
	readOK(t, s, first)
	if info, ok := s.Stat(first.Chunk); !ok || info.End != end || !info.Sealed {
		t.Fatalf("after a crash: %+v", info)
	}
}

func TestRecordsThatShareAFailedSyncAllFail(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	r := testRecord(1, 1, dfs.FirstRecord, 100)
	off := appendOK(t, s, r)
	disktest.Fail(t, m, "sync "+path.Base(file(r))+" delay=30ms err=EIO times=1")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for i := range 10 {
		r := testRecord(uint64(2+i), 1, off, 100)
		off += uint32(dfs.RecordSpace(100))
		wg.Add(1)
		s.Submit(r, func(_ uint32, err error) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	for _, err := range errs {
		wantErrno(t, err, dfs.EIO)
	}
}

func TestFailedFolderSyncFailsTheNewChunk(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	disktest.Fail(t, m, "syncdir chunks/01 times=1")
	_, err := s.Append(testRecord(1, 1, dfs.FirstRecord, 100))
	wantErrno(t, err, dfs.EIO)
	appendOK(t, s, testRecord(1, 2, dfs.FirstRecord, 100))
}

func TestFailedWriteLeavesTheEndWhereItWas(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	first := testRecord(1, 1, dfs.FirstRecord, 100000)
	end := appendOK(t, s, first)
	for errno, text := range map[dfs.Errno]string{dfs.ENOSPC: "ENOSPC", dfs.EIO: "EIO"} {
		// The header is written, the payload is not.
		remove := disktest.Fail(t, m, "write "+path.Base(file(first))+" after=1 times=1 err="+text)
		_, err := s.Append(testRecord(2, 1, end, 200000))
		wantErrno(t, err, errno)
		remove()
	}
	second := testRecord(3, 1, end, 100000)
	appendOK(t, s, second)
	readOK(t, s, first)
	readOK(t, s, second)
	remove := disktest.Fail(t, m, "open *.0 err=ENOSPC")
	_, err := s.Append(testRecord(1, 2, dfs.FirstRecord, 100))
	wantErrno(t, err, dfs.ENOSPC)
	remove()
	appendOK(t, s, testRecord(1, 2, dfs.FirstRecord, 100))
}

func TestFullDiskRefusesAppendsOnly(t *testing.T) {
	m := disk.NewMem()
	m.SetCapacity(4 << 20)
	s := open(t, m, chunk.Config{Reserve: 1 << 20, LookInterval: time.Millisecond})
	off := uint32(dfs.FirstRecord)
	var all []chunk.Record
	var err error
	for i := range 100 {
		r := testRecord(uint64(i), 1, off, 100000)
		if _, err = s.Append(r); err != nil {
			break
		}
		off += uint32(dfs.RecordSpace(len(r.Data)))
		all = append(all, r)
	}
	wantErrno(t, err, dfs.ENOSPC)
	if n := len(all); n < 20 || n > 31 {
		t.Fatalf("%d records of 100 kB fit in 4 MiB with 1 MiB in reserve", n)
	}
	if _, free, _ := m.Usage("/data"); free < 1<<20 {
		t.Fatalf("only %d bytes are left", free)
	}
	_, err = s.Append(testRecord(1, 2, dfs.FirstRecord, 100000))
	wantErrno(t, err, dfs.ENOSPC)
	for _, r := range all {
		readOK(t, s, r)
	}
	if _, err := s.Seal(all[0].Chunk); err != nil {
		t.Fatal(err)
	}
	if _, free := s.Usage(); free > 200000 {
		t.Fatalf("%d bytes are told to be free", free)
	}
	if err := s.Delete(all[0].Chunk); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "space that was given back can be used", func() bool {
		_, err := s.Append(testRecord(1, 2, dfs.FirstRecord, 100000))
		return err == nil
	})
}

func TestFlippedBitIsNeverServed(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	r := testRecord(1, 1, dfs.FirstRecord, 20000)
	end := appendOK(t, s, r)
	inline := testRecord(2, 1, end, 50)
	appendOK(t, s, inline)
	piece := record.Piece{Chunk: r.Chunk, Record: r.Offset, Len: 20000}
	if err := m.Flip(file(r), int64(dfs.FirstRecord)+4096+2*4096+17, 0x40); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(piece, nil)
	wantErrno(t, err, dfs.EIO)
	for page := range uint32(5) {
		got, err := s.Read(record.Piece{Chunk: r.Chunk, Record: r.Offset, Off: page*4096 + 5, Len: 10}, nil)
		if page == 2 {
			wantErrno(t, err, dfs.EIO)
		} else if err != nil || got.Off != page*4096 || !bytes.Equal(got.Data, r.Data[page*4096:min(20000, page*4096+4096)]) {
			t.Fatalf("page %d: %v", page, err)
		}
	}
	if err := m.Flip(file(r), int64(end)+70, 1); err != nil {
		t.Fatal(err)
	}
	_, err = s.Read(record.Piece{Chunk: r.Chunk, Record: end, Len: 50}, nil)
	wantErrno(t, err, dfs.EIO)
	if n := s.Stats().BadReads; n != 3 {
		t.Fatalf("%d bad reads", n)
	}
	// A damaged record does not cost those after it, even if the chunk was never sealed.
	last := testRecord(3, 1, end+4096, 5000)
	appendOK(t, s, last)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, m, chunk.Config{})
	readOK(t, s, last)
	_, err = s.Read(piece, nil)
	wantErrno(t, err, dfs.EIO)
	// Every bit of a record's header matters.
	for off := range int64(dfs.RecordHeaderBytes + 2*dfs.PageCRCBytes) {
		if err := m.Flip(file(r), int64(last.Offset)+off, 1<<(off%8)); err != nil {
			t.Fatal(err)
		}
		s2 := open(t, m.Crash(rand.New(rand.NewPCG(1, 1))), chunk.Config{})
		if _, err := s2.Read(record.Piece{Chunk: r.Chunk, Record: last.Offset, Len: 5000}, nil); err == nil {
			t.Fatalf("flip at %d of the header is not noticed", off)
		}
		if err := m.Flip(file(r), int64(last.Offset)+off, 1<<(off%8)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamagedFileHindersNoOther(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{})
	var all []chunk.Record
	for seq := range uint64(6) {
		r := testRecord(seq, seq, dfs.FirstRecord, 5000)
		appendOK(t, s, r)
		all = append(all, r)
	}
	for seq := 2; seq < 6; seq++ {
		if _, err := s.Seal(all[seq].Chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	write := func(i int, off int64, text string) {
		t.Helper()
		f, err := m.OpenFile(file(all[i]), 2)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if text == "" {
			err = f.Truncate(off)
		} else {
			_, err = f.WriteAt([]byte(text), off)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(1, 20, "x")                // header
	write(2, 8, "\x02\x00\x00\x00")  // version
	write(3, 0, "something else")    // no fragment file
	write(4, 8000, "")               // cut off
	write(5, 520, "what seal mark?") // sealed, and nobody knows where
	if err := m.Rename(file(all[3]), file(all[3])+".txt"); err != nil {
		t.Fatal(err)
	}
	s = open(t, m, chunk.Config{})
	for i, ok := range []bool{true, false, false, false, false, true} {
		if ok {
			readOK(t, s, all[i])
			continue
		}
		if _, err := s.Read(record.Piece{Chunk: all[i].Chunk, Record: dfs.FirstRecord, Len: 5000}, nil); err == nil {
			t.Errorf("damaged chunk %d was read", i)
		}
	}
	_, err := s.Append(testRecord(9, 1, dfs.FirstRecord+8192+4096, 10))
	wantErrno(t, err, dfs.EIO)
	_, err = s.Seal(all[1].Chunk)
	wantErrno(t, err, dfs.EIO)
	_, err = s.Append(testRecord(9, 5, dfs.FirstRecord+8192+4096, 10))
	wantErrno(t, err, dfs.ESTALE)
	if end, err := s.Seal(all[5].Chunk); err != nil || end != dfs.FirstRecord+12288 {
		t.Errorf("sealed again at %d: %v", end, err)
	}
	st := s.Stats()
	if st.Fragments != 5 || st.Damaged != 2 || len(s.Chunks()) != 3 {
		t.Errorf("%d fragments, %d damaged, reported %v", st.Fragments, st.Damaged, s.Chunks())
	}
	for i := range all {
		name := file(all[i])
		if i == 3 {
			name += ".txt"
		}
		if _, err := m.Stat(name); err != nil {
			t.Errorf("file %d was destroyed: %v", i, err)
		}
	}
	if err := s.Delete(all[1].Chunk); err != nil {
		t.Fatal(err)
	}
	appendOK(t, s, all[1])
}

func TestFoldersOfOthersAreRefusedAndLeftAlone(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, chunk.Config{Node: 5, Cluster: 7})
	r := testRecord(1, 1, dfs.FirstRecord, 100)
	appendOK(t, s, r)
	_, err := chunk.Open(chunk.Config{FS: m, Dirs: []string{"/data"}})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("opened twice: %v", err)
	}
	if err := s.SetCluster(8); err == nil {
		t.Fatal("changed the cluster")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := disk.ReadFile(m, "/data/dfs.json", 4096)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want     string
		cfg      chunk.Config
		identity string
	}{
		{"cluster", chunk.Config{Cluster: 8}, ""},
		{"is of server", chunk.Config{Node: 6}, ""},
		{"newer version", chunk.Config{}, strings.Replace(string(good), `"format": 1`, `"format": 2`, 1)},
		{"role", chunk.Config{}, strings.Replace(string(good), `"chunk"`, `"master"`, 1)},
		{"no id", chunk.Config{}, strings.Replace(string(good), `"node": "`, `"node": "x`, 1)},
		{"dfs.json", chunk.Config{}, "garbage"},
	} {
		identity := good
		if c.identity != "" {
			identity = []byte(c.identity)
		}
		if err := disk.WriteFile(m, "/data/dfs.json", identity); err != nil {
			t.Fatal(err)
		}
		c.cfg.FS, c.cfg.Dirs = m, []string{"/new", "/data"}
		_, err := chunk.Open(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want one line about %q, got %v", c.want, err)
		}
		if now, err := disk.ReadFile(m, "/data/dfs.json", 4096); err != nil || !bytes.Equal(now, identity) {
			t.Errorf("%s: the identity was changed", c.want)
		}
		if _, err := m.Stat("/new/dfs.json"); err == nil {
			t.Errorf("%s: the other folder was formatted", c.want)
		}
	}
	if err := disk.WriteFile(m, "/data/dfs.json", good); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove("/data/dfs.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := chunk.Open(chunk.Config{FS: m, Dirs: []string{"/data"}}); err == nil || !strings.Contains(err.Error(), "chunks") {
		t.Errorf("a folder without identity: %v", err)
	}
	if err := disk.WriteFile(m, "/data/dfs.json", good); err != nil {
		t.Fatal(err)
	}
	s = open(t, m, chunk.Config{Node: 5, Cluster: 7})
	readOK(t, s, r)
}
