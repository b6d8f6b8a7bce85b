package replica

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"dfs/internal/disk"
)

// counted is a disk that counts the files which are made.
type counted struct {
	disk.FS
	made int
}

func (c *counted) OpenFile(name string, flag int) (disk.File, error) {
	if flag&os.O_CREATE != 0 {
		c.made++
	}
	return c.FS.OpenFile(name, flag)
}

// TestSegmentsAreNotMadeAnewForEver: a log that is compacted as it grows lives on a
// bounded number of files; zeros are not written beside each byte of it.
func TestSegmentsAreNotMadeAnewForEver(t *testing.T) {
	fs := &counted{FS: newDisk(t)}
	w, _ := mustOpenLog(t, fs)
	index := uint64(0)
	for w.number < 60 {
		for range 60 { // four segments, as between two compactions
			index++
			if err := w.append(kindAppend, numbered(index, 1000), index); err != nil {
				t.Fatal(err)
			}
			w.wg.Wait()
		}
		if err := w.compact(index - 5); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if fs.made > freeMax+freeSegments {
		t.Fatalf("%d files were made for %d segments", fs.made, w.number)
	}
}

// TestRecordsOfAnEarlierUseAreNotTaken: a segment that is used again still holds
// whole records right behind its new end.
func TestRecordsOfAnEarlierUseAreNotTaken(t *testing.T) {
	fs := newDisk(t)
	w, _ := mustOpenLog(t, fs)
	index := uint64(0)
	add := func() {
		index++
		if err := w.append(kindAppend, numbered(index, 1000), index); err != nil {
			t.Fatal(err)
		}
		w.wg.Wait()
	}
	again := 0
	for again == 0 {
		before := w.number
		for w.number == before {
			add()
		}
		if err := w.compact(index - 1); err != nil {
			t.Fatal(err)
		}
		stale, err := disk.ReadFile(fs, w.segments[len(w.segments)-1].name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(stale, recordMagic[:]) > 5 {
			again++
		}
		if w.number > 40 {
			t.Fatal("no segment is used again: the test shows nothing")
		}
	}
	kept := w.segments[0].number
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	final, got := mustOpenLog(t, fs)
	defer final.close()
	if len(got) == 0 || final.segments[0].number != kept {
		t.Fatalf("%d records", len(got))
	}
	for i, g := range got {
		if want := index - uint64(len(got)-1-i); !bytes.HasPrefix(g, fmt.Appendf(nil, "%d.", want)) {
			t.Fatalf("record %d of %d is %.8q, want %d: it is of an earlier use", i, len(got), g, want)
		}
	}
}
