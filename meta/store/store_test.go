package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"dfs/internal/disk"
	"dfs/meta"
)

func mustOpen(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(disk.OS(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// put commits rows at an index; an empty value deletes.
func put(t testing.TB, s *Store, index uint64, rows map[string]string) {
	t.Helper()
	b := s.Batch()
	for k, v := range rows {
		err := b.Set([]byte(k), []byte(v))
		if v == "" {
			err = b.Delete([]byte(k))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit(b, Position{Index: index, Term: 1, ConfState: []byte("members")}); err != nil {
		t.Fatal(err)
	}
}

func scan(r meta.Reader, lo, hi string) (map[string]string, []string, error) {
	rows, order := map[string]string{}, []string(nil)
	err := r.Scan([]byte(lo), []byte(hi), func(k, v []byte) (bool, error) {
		rows[string(k)] = string(v)
		order = append(order, string(k))
		return true, nil
	})
	return rows, order, err
}

func rowsOf(t testing.TB, s *Store) map[string]string {
	t.Helper()
	var rows map[string]string
	if err := s.View(func(r meta.Reader) (err error) {
		rows, _, err = scan(r, "", "\xff\xff")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestTableIsAnOrderedMap compares a batch that is written and read with a map,
// over rows that are partly in the store and partly in the batch.
func TestTableIsAnOrderedMap(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := mustOpen(t, t.TempDir())
		model := map[string]string{}
		key := func() string { return fmt.Sprintf("%02d", rng.IntN(40)) }
		for index := uint64(1); index <= 8; index++ {
			b := s.Batch()
			for range 60 {
				k := key()
				switch rng.IntN(6) {
				case 0, 1:
					v := fmt.Sprint("v", rng.Uint32())
					model[k] = v
					if err := b.Set([]byte(k), []byte(v)); err != nil {
						t.Fatal(err)
					}
				case 2:
					delete(model, k)
					if err := b.Delete([]byte(k)); err != nil {
						t.Fatal(err)
					}
				case 3:
					v, err := b.Get([]byte(k))
					want, there := model[k]
					if err != nil || string(v) != want || (v != nil) != there {
						t.Fatalf("seed %d: Get(%s) = %q, %v, want %q", seed, k, v, err, want)
					}
				default:
					lo, hi := key(), key()
					sameRange(t, b, model, lo, hi)
				}
			}
			if err := s.Commit(b, Position{Index: index, Term: 1}); err != nil {
				t.Fatal(err)
			}
			if got := rowsOf(t, s); !maps.Equal(got, model) {
				t.Fatalf("seed %d: after commit %d: %v, want %v", seed, index, got, model)
			}
		}
		mustClose(t, s)
	}
}

func sameRange(t *testing.T, r meta.Reader, model map[string]string, lo, hi string) {
	t.Helper()
	if lo > hi {
		lo, hi = hi, lo
	}
	var want []string
	for k := range model {
		if k >= lo && k < hi {
			want = append(want, k)
		}
	}
	slices.Sort(want)
	rows, got, err := scan(r, lo, hi)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("Scan [%s, %s) = %v, %v, want %v", lo, hi, got, err, want)
	}
	for k, v := range rows {
		if model[k] != v {
			t.Fatalf("Scan: %s has %q, want %q", k, v, model[k])
		}
	}
	k, v, err := r.Last([]byte(lo), []byte(hi))
	if err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 {
		if k != nil || v != nil {
			t.Fatalf("Last of nothing = %q", k)
		}
		return
	}
	if last := want[len(want)-1]; string(k) != last || string(v) != model[last] {
		t.Fatalf("Last [%s, %s) = %q, want %q", lo, hi, k, last)
	}
}

func TestScanStopsWhenToldTo(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	defer mustClose(t, s)
	put(t, s, 1, map[string]string{"a": "1", "b": "2", "c": "3"})
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		calls := 0
		err := s.View(func(r meta.Reader) error {
			return r.Scan([]byte("a"), []byte("z"), func(_, _ []byte) (bool, error) {
				calls++
				return false, want
			})
		})
		if calls != 1 || !errors.Is(err, want) {
			t.Fatalf("%d calls, %v", calls, err)
		}
	}
}

// TestScanMayReadMeanwhile: meta reads inodes while it walks entries.
func TestScanMayReadMeanwhile(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	defer mustClose(t, s)
	put(t, s, 1, map[string]string{"a1": "x", "a2": "y", "b1": "1", "b2": "2"})
	b := s.Batch()
	defer b.Close()
	var got []string
	err := b.Scan([]byte("a"), []byte("b"), func(k, v []byte) (bool, error) {
		other, err := b.Get([]byte{'b', k[1]})
		got = append(got, string(k)+string(v)+string(other))
		return true, err
	})
	if err != nil || !slices.Equal(got, []string{"a1x1", "a2y2"}) {
		t.Fatalf("%v, %v", got, err)
	}
}

// TestStoresOwnRowIsNotInTheTable: whatever range is asked for.
func TestStoresOwnRowIsNotInTheTable(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	defer mustClose(t, s)
	put(t, s, 7, map[string]string{"k": "v"})
	if got := rowsOf(t, s); !maps.Equal(got, map[string]string{"k": "v"}) {
		t.Fatalf("%v", got)
	}
	if err := s.View(func(r meta.Reader) error {
		if v, err := r.Get(positionKey); err != nil || v != nil {
			t.Errorf("%q, %v", v, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestBatchThatIsClosedLeavesNoTrace(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	defer mustClose(t, s)
	put(t, s, 1, map[string]string{"k": "v"})
	b := s.Batch()
	if err := errors.Join(b.Set([]byte("k"), []byte("other")), b.Set([]byte("l"), []byte("w")), b.Close()); err != nil {
		t.Fatal(err)
	}
	if got := rowsOf(t, s); !maps.Equal(got, map[string]string{"k": "v"}) || s.Position().Index != 1 {
		t.Fatalf("%v at %d", got, s.Position().Index)
	}
}

// TestViewSeesNoHalfCommit: each commit writes its number in two rows.
func TestViewSeesNoHalfCommit(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	defer mustClose(t, s)
	put(t, s, 1, map[string]string{"a": "1", "b": "1"})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				rows := rowsOf(t, s)
				if rows["a"] != rows["b"] {
					t.Errorf("a is %s, b is %s", rows["a"], rows["b"])
					return
				}
			}
		})
	}
	for index := uint64(2); index < 500; index++ {
		n := fmt.Sprint(index)
		put(t, s, index, map[string]string{"a": n, "b": n})
	}
	close(stop)
	wg.Wait()
}

// TestCrashLeavesAnEarlierCommitWhole: Flushed says which one at least, and the rows
// are exactly those of Position.
func TestCrashLeavesAnEarlierCommitWhole(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 2))
		dir := t.TempDir()
		history := []map[string]string{{}} // by index
		index := uint64(0)
		for round := range 3 {
			s := mustOpen(t, dir)
			p := s.Position()
			if p.Index > index || round == 0 && p.Index != 0 {
				t.Fatalf("seed %d: at %d, never was beyond %d", seed, p.Index, index)
			}
			if s.Flushed() != p.Index {
				t.Fatalf("seed %d: at %d after the start, flushed %d", seed, p.Index, s.Flushed())
			}
			if got := rowsOf(t, s); !maps.Equal(got, history[p.Index]) {
				t.Fatalf("seed %d: at %d: %d rows, want %d", seed, p.Index, len(got), len(history[p.Index]))
			}
			// The log is applied again from there, to another end.
			index = p.Index
			history = history[:index+1]
			flushed := index
			for range 1 + rng.IntN(40) {
				index++
				next := maps.Clone(history[index-1])
				change := map[string]string{}
				for range 5 {
					k := fmt.Sprint(rng.IntN(30))
					change[k] = fmt.Sprint(seed, index)
					next[k] = change[k]
					if rng.IntN(3) == 0 {
						change[k] = ""
						delete(next, k)
					}
				}
				put(t, s, index, change)
				history = append(history, next)
				if rng.IntN(10) == 0 {
					if err := s.Flush(); err != nil {
						t.Fatal(err)
					}
					flushed = index
				}
			}
			if s.Flushed() != flushed {
				t.Fatalf("seed %d: flushed %d, want %d", seed, s.Flushed(), flushed)
			}
			if err := s.Abandon(); err != nil {
				t.Fatal(err)
			}
			again := mustOpen(t, dir)
			if got := again.Position().Index; got < flushed {
				t.Fatalf("seed %d: at %d, but %d was flushed", seed, got, flushed)
			}
			if err := again.Abandon(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCloseKeepsAll(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	put(t, s, 5, map[string]string{"k": "v"})
	want := s.Position()
	mustClose(t, s)
	s = mustOpen(t, dir)
	defer mustClose(t, s)
	if got := s.Position(); !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	if got := rowsOf(t, s); got["k"] != "v" {
		t.Fatalf("%v", got)
	}
}

// checkpointed is a store, and another one whose Incoming folder has its rows.
func checkpointed(t *testing.T) (dir string, target *Store) {
	t.Helper()
	source := mustOpen(t, t.TempDir())
	put(t, source, 90, map[string]string{"new": "1"})
	checkpoint := filepath.Join(t.TempDir(), "checkpoint")
	p, err := source.Checkpoint(checkpoint)
	if err != nil || p.Index != 90 {
		t.Fatalf("%+v, %v", p, err)
	}
	put(t, source, 91, map[string]string{"later": "1"})
	mustClose(t, source)

	dir = t.TempDir()
	target = mustOpen(t, dir)
	put(t, target, 4, map[string]string{"old": "1"})
	if err := target.Flush(); err != nil {
		t.Fatal(err)
	}
	incoming, err := target.Incoming()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(incoming, os.DirFS(checkpoint)); err != nil {
		t.Fatal(err)
	}
	return dir, target
}

func TestInstallTakesTheCheckpointsRows(t *testing.T) {
	dir, s := checkpointed(t)
	p, err := s.Install()
	if err != nil || p.Index != 90 || s.Flushed() != 90 {
		t.Fatalf("%+v, flushed %d, %v", p, s.Flushed(), err)
	}
	if got := rowsOf(t, s); !maps.Equal(got, map[string]string{"new": "1"}) {
		t.Fatalf("%v", got)
	}
	put(t, s, 91, map[string]string{"next": "1"})
	mustClose(t, s)
	s = mustOpen(t, dir)
	defer mustClose(t, s)
	if got := rowsOf(t, s); !maps.Equal(got, map[string]string{"new": "1", "next": "1"}) {
		t.Fatalf("%v", got)
	}
}

// TestCrashInInstallLeavesOldOrNew makes the folder as each step of Install leaves
// it, and starts.
func TestCrashInInstallLeavesOldOrNew(t *testing.T) {
	rename := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	steps := []func(dir string) error{
		rename(currentDir, outgoingDir),
		rename(incomingDir, currentDir),
		func(dir string) error { return os.RemoveAll(filepath.Join(dir, outgoingDir)) },
	}
	for done := range len(steps) + 1 {
		dir, s := checkpointed(t)
		mustClose(t, s)
		for _, step := range steps[:done] {
			if err := step(dir); err != nil {
				t.Fatal(err)
			}
		}
		want, index := map[string]string{"old": "1"}, uint64(4)
		if done >= 2 {
			want, index = map[string]string{"new": "1"}, 90
		}
		for range 2 { // the second start finds nothing left to do
			s = mustOpen(t, dir)
			if got := rowsOf(t, s); !maps.Equal(got, want) || s.Position().Index != index {
				t.Fatalf("after %d steps: %v at %d, want %v at %d", done, got, s.Position().Index, want, index)
			}
			mustClose(t, s)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 {
			t.Fatalf("after %d steps: %v, %v", done, left, err)
		}
	}
}

func TestUnknownPositionFormatIsRefusedAndNothingDestroyed(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	put(t, s, 3, map[string]string{"k": "v"})
	good := s.Position().encode()
	bad := bytes.Clone(good)
	bad[0] = 200
	if err := s.db.Set(positionKey, bad, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if again, err := Open(disk.OS(), dir, nil); !errors.Is(err, errFormat) {
		if err == nil {
			mustClose(t, again)
		}
		t.Fatalf("%v", err)
	}
	db, err := pebble.Open(filepath.Join(dir, currentDir), &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: pebbleLogger{s.logger}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set(positionKey, good, pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir)
	defer mustClose(t, s)
	if got := rowsOf(t, s); got["k"] != "v" {
		t.Fatalf("%v", got)
	}
}

func FuzzDecodePosition(f *testing.F) {
	f.Add(Position{Index: 1, Term: 2, ConfState: []byte{3}}.encode())
	f.Add([]byte{positionVersion, 0x80})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePosition(b)
		if err != nil {
			return
		}
		again, err := decodePosition(p.encode())
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}

// Rows on a disk that forgets are at some commit after a loss of power, whole, and not
// before the last flush.
func TestRowsOutliveALossOfPower(t *testing.T) {
	const commits = 20
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 1))
		mem := disk.NewMem()
		s, err := Open(mem, "/m/meta", nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(commits) {
			put(t, s, i+1, map[string]string{"first": fmt.Sprint(i + 1), "second": fmt.Sprint(i + 1)})
			if rng.IntN(8) == 0 {
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		least := s.Flushed()
		lost := mem.Crash(rng)
		if err := s.Abandon(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(lost, "/m/meta", nil); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		at := s.Position().Index
		if at < least {
			t.Errorf("seed %d: the rows are at %d, flushed were %d", seed, at, least)
		}
		want := map[string]string{}
		if at > 0 {
			want["first"], want["second"] = fmt.Sprint(at), fmt.Sprint(at)
		}
		err = s.View(func(r meta.Reader) error {
			got, _, err := scan(r, "a", "z")
			if !maps.Equal(got, want) {
				t.Errorf("seed %d: at %d the rows are %v", seed, at, got)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
	}
}
