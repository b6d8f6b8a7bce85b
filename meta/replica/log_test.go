package replica

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dfs/internal/disk"
	"dfs/meta"
)

const testSegment = 16 << 10

// openLog opens a log and answers the records that it holds.
func openLog(fs disk.FS) (*wal, [][]byte, error) {
	var got [][]byte
	w, err := openWAL(fs, "disk/log", testSegment, func(r record) (uint64, error) {
		got = append(got, slices.Clone(r.data))
		index, err := strconv.ParseUint(strings.TrimRight(string(r.data), "."), 10, 64)
		return index, err
	})
	return w, got, err
}

func mustOpenLog(t *testing.T, fs disk.FS) (*wal, [][]byte) {
	t.Helper()
	w, got, err := openLog(fs)
	if err != nil {
		t.Fatal(err)
	}
	return w, got
}

// numbered is a record that says its index.
func numbered(index uint64, size int) []byte {
	b := bytes.Repeat([]byte{'.'}, size)
	copy(b, strconv.FormatUint(index, 10))
	return b
}

// newDisk is one with a folder that lasts.
func newDisk(t *testing.T) *disk.Mem {
	t.Helper()
	mem := disk.NewMem()
	if err := errors.Join(mem.MkdirAll("disk"), mem.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	return mem
}

// TestLogKeepsWhatWasSynced writes records, gives up old ones, and cuts the power
// again and again: what append acknowledged is there, in order.
func TestLogKeepsWhatWasSynced(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		mem := newDisk(t)
		w, _ := mustOpenLog(t, mem)
		want := map[uint64][]byte{}
		index, kept := uint64(0), uint64(0) // records up to kept may have been given up
		for round := range 4 {
			for range rng.IntN(60) {
				index++
				want[index] = numbered(index, 10+rng.IntN(3000))
				if err := w.append(kindAppend, want[index], index); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if rng.IntN(20) == 0 {
					kept = max(kept, rng.Uint64N(index+1))
					if err := w.compact(kept); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
				}
			}
			crashed := mem.Crash(rng)
			w.wg.Wait()
			if err := w.close(); err != nil {
				t.Fatal(err)
			}
			mem = crashed
			var got [][]byte
			var err error
			if w, got, err = openLog(mem); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			if uint64(len(got)) < index-kept {
				t.Fatalf("seed %d, round %d: %d records, want %d at least", seed, round, len(got), index-kept)
			}
			for i, g := range got {
				if n := index - uint64(len(got)-1-i); !bytes.Equal(g, want[n]) {
					t.Fatalf("seed %d, round %d: record %d differs", seed, round, n)
				}
			}
		}
		w.wg.Wait()
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogCutsATornEnd tears the record whose sync failed to finish.
func TestLogCutsATornEnd(t *testing.T) {
	torn := 0
	for seed := range uint64(200) {
		mem := newDisk(t)
		w, _ := mustOpenLog(t, mem)
		for i := uint64(1); i <= 5; i++ {
			if err := w.append(kindAppend, numbered(i, 1000), i); err != nil {
				t.Fatal(err)
			}
		}
		rule, err := disk.ParseRule("sync log/* err=EIO")
		if err != nil {
			t.Fatal(err)
		}
		mem.Fail(rule)
		if err := w.append(kindAppend, numbered(6, 3000), 6); err == nil {
			t.Fatal("a sync that failed was acknowledged")
		}
		if err := w.append(kindAppend, numbered(7, 10), 7); err == nil {
			t.Fatal("the log went on after a sync that failed")
		}
		mem = mem.Crash(rand.New(rand.NewPCG(seed, 2)))
		again, got := mustOpenLog(t, mem)
		if len(got) != 5 && len(got) != 6 {
			t.Fatalf("seed %d: %d records", seed, len(got))
		}
		torn += 6 - len(got)
		// What comes now stands after what was kept, through another crash.
		if err := again.append(kindAppend, numbered(8, 10), 8); err != nil {
			t.Fatal(err)
		}
		final, all := mustOpenLog(t, mem.Crash(rand.New(rand.NewPCG(seed, 3))))
		if len(all) != len(got)+1 || !bytes.Equal(all[len(all)-1], numbered(8, 10)) {
			t.Fatalf("seed %d: %d records after the next", seed, len(all))
		}
		for _, l := range []*wal{w, again, final} {
			l.wg.Wait()
			_ = l.close()
		}
	}
	if torn == 0 {
		t.Fatal("no crash tore the last record: the test shows nothing")
	}
}

func TestLogRefusesDamageInTheMiddle(t *testing.T) {
	for _, off := range []int64{3, 9, 20, segmentHeader + 2, segmentHeader + 6, segmentHeader + 40} {
		mem := newDisk(t)
		w, _ := mustOpenLog(t, mem)
		for i := range uint64(5) {
			if err := w.append(kindAppend, numbered(i, 100), i); err != nil {
				t.Fatal(err)
			}
		}
		name := w.segments[0].name
		w.wg.Wait()
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
		if err := mem.Flip(name, off, 0x40); err != nil {
			t.Fatal(err)
		}
		_, _, err := openLog(mem)
		if err == nil {
			t.Fatalf("a flipped bit at %d was not seen", off)
		}
		if off != 9 && !errors.Is(err, ErrCorrupt) || off == 9 && !strings.Contains(err.Error(), "format version") {
			t.Fatalf("at %d: %v", off, err)
		}
		// Nothing was destroyed: with the bit flipped back all is there.
		if err := mem.Flip(name, off, 0x40); err != nil {
			t.Fatal(err)
		}
		again, got := mustOpenLog(t, mem)
		if len(got) != 5 {
			t.Fatalf("%d records", len(got))
		}
		again.wg.Wait()
		_ = again.close()
	}
}

func TestLogUsesSegmentsAgain(t *testing.T) {
	dir := t.TempDir()
	w, err := openWAL(disk.OS(), dir, testSegment, func(record) (uint64, error) { return 0, nil })
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2000) {
		if err := w.append(kindAppend, make([]byte, 500), i); err != nil {
			t.Fatal(err)
		}
		if err := w.compact(i); err != nil {
			t.Fatal(err)
		}
	}
	w.wg.Wait()
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 2+freeMax+1 {
		t.Fatalf("%d files for a log that needs one", len(files))
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(appendRecord(nil, 7, kindAppend, []byte("entry")), uint64(7))
	f.Add([]byte("dfL\x01\xff\xff\xff\xff"), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, salt uint64) {
		rec, n, err := decodeRecord(b, salt)
		if err != nil {
			return
		}
		if n > len(b) || !bytes.HasPrefix(appendRecord(nil, salt, rec.kind, rec.data)[:16], b[:12]) {
			t.Fatalf("record of %d bytes does not encode to itself", n)
		}
	})
}

func FuzzDecodePayload(f *testing.F) {
	state, err := encodeEntries(encodeState(nil, nil), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(state)
	f.Add([]byte{1, 2, 3, 4, 8, 0, 16, 1, 24, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, rest, err := decodeState(b); err == nil {
			_, _ = decodeEntries(rest) // must not panic
		}
	})
}

func FuzzDecodeBatch(f *testing.F) {
	b, err := encodeBatch(1, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = decodeBatch(b, meta.Level) // must not panic
	})
}
