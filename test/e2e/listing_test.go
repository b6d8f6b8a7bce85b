package e2e

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestKernelKeepsListings(t *testing.T) {
	m := shared.get(t).mount(t)
	dir := filepath.Join(m.dir, "kept-listing")
	mkdir(t, dir)
	for i := range 300 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644))
	}
	count := func() int { return m.requests(t, "readdir") + m.requests(t, "readdirplus") }
	list := func(want int) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != want {
			t.Errorf("%d entries, %v; want %d", len(entries), err, want)
		}
	}
	list(300)
	before, opened := count(), m.requests(t, "opendir")
	for range 10 {
		list(300)
	}
	if n := count() - before; n != 0 {
		t.Errorf("%d requests for what the kernel had", n)
	}
	if n := m.requests(t, "opendir") - opened; n != 0 {
		t.Errorf("%d requests to open a folder", n)
	}
	must(t, os.Remove(filepath.Join(dir, "7")))
	list(299)
}

// Two mounts change one folder, and after each change both list it.
func TestListingsOfTwoMounts(t *testing.T) {
	c := shared.get(t)
	mounts := []*mount{c.mount(t), c.mount(t)}
	rng := rand.New(rand.NewPCG(11, uint64(os.Getpid())))
	fixed := time.Unix(1_700_000_000, 123)
	for _, sameTime := range []bool{false, true} {
		dir := func(i int) string { return filepath.Join(mounts[i].dir, fmt.Sprintf("listing-%v", sameTime)) }
		mkdir(t, dir(0))
		mkdir(t, dir(0)+" out")
		open := make([]*os.File, len(mounts))
		for i := range mounts {
			var err error
			open[i], err = os.Open(dir(i))
			must(t, err)
			defer open[i].Close()
		}
		model := map[string]bool{}
		rounds := 400
		if *full {
			rounds = 10000
		}
		for round := range rounds {
			who := rng.IntN(len(mounts))
			if rng.IntN(3) > 0 {
				who = round / 20 % len(mounts) // for a while mostly one, so that it has the lease
			}
			name := fmt.Sprintf("n%d", rng.IntN(40))
			path := filepath.Join(dir(who), name)
			what := ""
			switch n := rng.IntN(5); {
			case model[name] && n < 3:
				what = "removes"
				must(t, os.RemoveAll(path))
				delete(model, name)
			case model[name]:
				what = "moves away"
				must(t, os.Rename(path, filepath.Join(dir(who)+" out", fmt.Sprint(round))))
				delete(model, name)
			case n == 0:
				what = "makes a folder"
				must(t, os.Mkdir(path, 0o755))
				model[name] = true
			case n == 1:
				what = "makes a symlink"
				must(t, os.Symlink("x", path))
				model[name] = true
			case n == 2:
				what = "makes a file elsewhere and moves it"
				from := filepath.Join(dir(who)+" out", "new")
				must(t, os.WriteFile(from, nil, 0o644))
				must(t, os.Rename(from, path))
				model[name] = true
			default:
				what = "makes a file"
				must(t, os.WriteFile(path, nil, 0o644))
				model[name] = true
			}
			if sameTime {
				must(t, os.Chtimes(dir(who), fixed, fixed))
			}
			want := slices.Sorted(maps.Keys(model))
			for i := range mounts {
				entries, err := os.ReadDir(dir(i))
				must(t, err)
				var got []string
				for _, e := range entries {
					got = append(got, e.Name())
				}
				if !slices.Equal(got, want) {
					t.Fatalf("round %d: mount %d %s %s; mount %d lists %v, want %v", round, who, what, name, i, got, want)
				}
				_, err = open[i].Seek(0, io.SeekStart)
				must(t, err)
				got, err = open[i].Readdirnames(-1)
				must(t, err)
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Fatalf("round %d: mount %d %s %s; mount %d lists %v through an open folder, want %v", round, who, what, name, i, got, want)
				}
			}
		}
	}
}
