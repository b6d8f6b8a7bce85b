package server

import (
	"errors"
	"testing"

	"dfs/meta"
)

// TestJobSaysWhyItDoesNotGoOn: and one that waits for another does not say what is wrong with that.
func TestJobSaysWhyItDoesNotGoOn(t *testing.T) {
	j := &jobs{}
	j.troubled(3, errors.New("no room"))
	for id, want := range map[uint64]string{3: "no room", 4: "others come first"} {
		if got := j.describe(&meta.Job{ID: id, State: meta.JobRuns, Counted: true}); got.State != "waits" || got.Text != want {
			t.Errorf("job %d %s: %s, want %s", id, got.State, got.Text, want)
		}
	}
	if got := j.describe(&meta.Job{ID: 3, State: meta.JobDone, Files: 5}); got.State != "done" || got.Text != "5 files looked at, 0 changed" {
		t.Errorf("%v", got)
	}
}
