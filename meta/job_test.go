package meta

import (
	"reflect"
	"strings"
	"testing"

	"dfs"
)

func (b *bench) jobs(t *testing.T) []Job {
	t.Helper()
	list, err := b.view().Jobs()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestJobChangesOnlyFromItsLastRevision: so two who change it at the same time do not undo what the
// other did, and a leader that is none any more changes nothing.
func TestJobChangesOnlyFromItsLastRevision(t *testing.T) {
	b := newBench(t)
	put := func(j Job, want dfs.Errno) {
		t.Helper()
		before := b.jobs(t)
		rep, err := Apply(b.table, Command{Op: &PutJob{j}})
		if err != nil || rep.Errno != want {
			t.Fatalf("%+v: %v, %v, want %v", j, rep.Errno, err, want)
		}
		if want != dfs.OK && !reflect.DeepEqual(b.jobs(t), before) {
			t.Fatalf("%+v was refused, and is there", j)
		}
	}
	j := Job{ID: 1, Revision: 1, Kind: JobConvert, State: JobRuns, Ino: 1, Path: "/", Places: []Place{{1, 0}}}
	put(j, dfs.OK)
	put(j, dfs.EAGAIN)
	j.Revision, j.Places, j.Bytes = 2, []Place{{1, 77}, {9, 3}}, 5
	put(j, dfs.OK)
	if got := b.jobs(t); len(got) != 1 || !reflect.DeepEqual(got[0], j) {
		t.Fatalf("%+v, want %+v", got, j)
	}
	late := j
	late.State = JobPaused
	put(late, dfs.EAGAIN)
	j.Revision, j.State = 3, JobCancelled
	put(j, dfs.OK)
	j.Revision, j.State = 4, JobRuns
	put(j, dfs.EINVAL) // it has ended
	for _, bad := range []Job{
		{Revision: 1, State: JobRuns}, {ID: 9, State: JobRuns}, {ID: 9, Revision: 1}, {ID: 9, Revision: 1, State: JobCancelled + 1},
		{ID: 9, Revision: 1, State: JobRuns, Places: make([]Place, PlacesMax+1)}, {ID: 9, Revision: 1, State: JobRuns, Error: strings.Repeat("e", errorMax+1)},
	} {
		put(bad, dfs.EINVAL)
	}
	if rep := b.try(&PutJob{Job{ID: 9, Revision: 1, State: JobRuns}}); rep.Errno != dfs.EINVAL {
		t.Errorf("a client has begun a job: %v", rep.Errno)
	}
	b.check()
}

func TestJobsAreBounded(t *testing.T) {
	b := newBench(t)
	put := func(id, revision uint64, s JobState) dfs.Errno {
		return b.own(&PutJob{Job{ID: id, Revision: revision, State: s}}).Errno
	}
	for id := uint64(1); id <= JobsMax; id++ {
		if err := put(id, 1, JobRuns); err != dfs.OK {
			t.Fatal(err)
		}
	}
	rep, err := Apply(b.table, Command{Op: &PutJob{Job{ID: JobsMax + 1, Revision: 1, State: JobRuns}}})
	if err != nil || rep.Errno != dfs.EBUSY {
		t.Fatalf("one more than there may be: %v, %v", rep.Errno, err)
	}
	for id := uint64(1); id <= JobsMax; id++ {
		if err := put(id, 2, JobDone); err != dfs.OK {
			t.Fatal(err)
		}
	}
	if list := b.jobs(t); len(list) > jobsKept+2 || list[len(list)-1].ID != JobsMax {
		t.Errorf("%d jobs are kept that have ended, the last is %d", len(list), list[len(list)-1].ID)
	}
	b.check()
}
