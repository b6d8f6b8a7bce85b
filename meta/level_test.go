package meta

import (
	"errors"
	"strings"
	"testing"

	"dfs"
)

func TestLevelOnlyRises(t *testing.T) {
	b := newBench(t)
	level := func() uint32 {
		level, _, err := NewView(b.table).Level()
		if err != nil {
			t.Fatal(err)
		}
		return level
	}
	if got := level(); got != 1 {
		t.Errorf("new state has level %d", got)
	}
	for _, step := range []struct{ to, want uint32 }{{2, 2}, {1, 2}, {2, 2}} {
		if rep := b.own(&SetLevel{Level: step.to, Program: "v2"}); rep.Errno != dfs.OK {
			t.Fatal(rep.Errno)
		}
		if got := level(); got != step.want {
			t.Errorf("level %d after %d was set, want %d", got, step.to, step.want)
		}
	}
	if rep := b.own(&Reap{}); rep.Errno != dfs.OK {
		t.Errorf("commands go on: %v", rep.Errno)
	}
}

// TestLaterStateIsRefused: what a later program wrote is not touched, and the error
// says which program it was.
func TestLaterStateIsRefused(t *testing.T) {
	b := newBench(t)
	row := (&cluster{id: 1, buckets: 8, epoch: 1, level: Level + 1, program: "v9.9"}).encode(nil)
	if err := b.table.Set(key0(kindCluster), append(row, "what only it knows"...)); err != nil {
		t.Fatal(err)
	}
	_, err := Apply(b.table, Command{Op: &PutMap{Epoch: 1}})
	_, readErr := NewView(b.table).Epoch()
	for _, err := range []error{err, readErr, NewView(b.table).Understood(Level)} {
		var newer *NewerError
		if !errors.As(err, &newer) || !strings.Contains(err.Error(), "v9.9") {
			t.Errorf("later state: %v", err)
		}
	}
	if err := NewView(b.table).Understood(Level + 1); err != nil {
		t.Error(err)
	}
}
