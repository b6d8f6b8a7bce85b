package store

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"dfs/internal/disk"
	"dfs/meta"
)

// Batches of random changes against a map: what gone remembers must never hide a
// row, nor show one.
func TestDeletedRowsStayDeletedAndComeBack(t *testing.T) {
	s, err := Open(disk.OS(), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := rand.New(rand.NewPCG(1, 2))
	rows := map[string]string{}
	check := func(who string, table meta.Reader, want map[string]string) {
		t.Helper()
		for k := range 20 {
			key := fmt.Sprint("k", k)
			got, err := table.Get([]byte(key))
			if err != nil {
				t.Fatal(err)
			}
			v, ok := want[key]
			if (got != nil) != ok || string(got) != v {
				t.Fatalf("%s: row %s is %q, want %q, %v", who, key, got, v, ok)
			}
		}
	}
	for i := range uint64(2000) {
		b := s.Batch()
		next := map[string]string{}
		for k, v := range rows {
			next[k] = v
		}
		for range r.IntN(6) {
			key := fmt.Sprint("k", r.IntN(20))
			if r.IntN(2) == 0 {
				err = b.Delete([]byte(key))
				delete(next, key)
			} else {
				next[key] = fmt.Sprint(i)
				err = b.Set([]byte(key), []byte(next[key]))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		check("batch", b, next)
		if r.IntN(4) == 0 { // thrown away: nothing of it may be remembered
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			if err := s.Commit(b, Position{Index: i + 1, Term: 1}); err != nil {
				t.Fatal(err)
			}
			rows = next
		}
		if err := s.View(func(v meta.Reader) error { check("view", v, rows); return nil }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGoneForgetsTheOldest(t *testing.T) {
	var g gone
	for i := range 5 * goneMax {
		g.add(fmt.Sprint(i))
	}
	if n := len(g.young) + len(g.old); n > 2*goneMax {
		t.Errorf("%d keys are held, at most %d should be", n, 2*goneMax)
	}
	if last := fmt.Sprint(5*goneMax - 1); !g.has([]byte(last)) {
		t.Errorf("the key deleted last is forgotten")
	}
}

// BenchmarkGetOfRowMadeAndDeletedOften must not grow with how often.
func BenchmarkGetOfRowMadeAndDeletedOften(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, err := Open(disk.OS(), b.TempDir(), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			key := []byte("lock")
			for i := range uint64(n) {
				t := s.Batch()
				err := t.Set(key, make([]byte, 100))
				if i%2 == 1 {
					err = t.Delete(key)
				}
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Commit(t, Position{Index: i + 1, Term: 1}); err != nil {
					b.Fatal(err)
				}
			}
			t := s.Batch()
			defer t.Close()
			for b.Loop() {
				if _, err := t.Get(key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
