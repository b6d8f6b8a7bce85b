package meta

import (
	"encoding/binary"
	"fmt"

	"dfs"
)

// JobKind is what a job does.
type JobKind uint8

// JobConvert brings what is stored of files to the policies of their folders.
const JobConvert JobKind = 1

// JobState is whether a job goes on. One that has ended does not change any more.
type JobState uint8

// States of a job.
const (
	JobRuns JobState = iota + 1
	JobPaused
	JobDone
	JobFailed // it went through, and some files could not be done
	JobCancelled
)

func (s JobState) String() string {
	names := [...]string{"", "runs", "paused", "done", "failed", "cancelled"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Ended reports whether it is over.
func (s JobState) Ended() bool { return s > JobPaused }

// Job is long work that somebody has asked for. The leader does it, and writes down how far it
// is, so that the next one goes on from there.
type Job struct {
	ID       uint64
	Revision uint64 // counts its changes, from 1
	Kind     JobKind
	State    JobState
	Ino      dfs.Ino    // the folder below which files are converted, or a file
	Layout   dfs.Layout // of a file: what its folder says; of a folder 0
	Path     string     // for people: of Ino when it began
	Started  dfs.Time
	Ended    dfs.Time
	Counted  bool    // Total is known
	Places   []Place // how far it is: the folders that it is in, from Ino down
	Total    uint64  // bytes that were to be moved when it began
	Bytes    uint64  // moved
	Left     uint64  // not moved, as they were written again and again
	Folders  uint64
	Files    uint64 // looked at
	Changed  uint64 // of these: that were not kept as they should be
	Skipped  uint64 // of these: that could not be done
	Error    string // the last one
}

// Place is a folder and the cookie of its last entry that was looked at.
type Place struct {
	Ino    dfs.Ino
	Cookie uint64
}

// Bounds of jobs.
const (
	JobsMax   = 64   // that have not ended
	PlacesMax = 4096 // folders in each other
	jobsKept  = 16   // that have ended
	errorMax  = 1024 // bytes
)

// PutJob begins a job (Revision 1), or changes one that was at the revision before; else EAGAIN.
type PutJob struct{ Job Job }

func (o *PutJob) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	j := &o.Job
	if j.ID == 0 || j.Revision == 0 || j.State < JobRuns || j.State > JobCancelled || len(j.Path) > dfs.PathMax || len(j.Error) > errorMax || len(j.Places) > PlacesMax {
		return Reply{}, dfs.EINVAL
	}
	all, err := tx.v.Jobs()
	if err != nil {
		return Reply{}, err
	}
	now, live := uint64(0), 0
	var ended []uint64
	for i := range all {
		switch x := &all[i]; {
		case x.ID == j.ID && x.State.Ended():
			return Reply{}, dfs.EINVAL
		case x.ID == j.ID:
			now = x.Revision
		case x.State.Ended():
			ended = append(ended, x.ID)
		default:
			live++
		}
	}
	switch {
	case j.Revision != now+1:
		return Reply{}, dfs.EAGAIN
	case now == 0 && live >= JobsMax:
		return Reply{}, dfs.EBUSY
	}
	for len(ended) > jobsKept {
		if err := tx.t.Delete(key1(kindJob, ended[0])); err != nil {
			return Reply{}, err
		}
		ended = ended[1:]
	}
	return Reply{}, tx.t.Set(key1(kindJob, j.ID), j.encode(nil))
}

func (j *Job) encode(b []byte) []byte {
	b = append(b, rowVersion, byte(j.Kind), byte(j.State))
	b = binary.AppendUvarint(b, j.Revision)
	b = binary.AppendUvarint(b, uint64(j.Ino))
	b = binary.AppendUvarint(b, uint64(j.Layout))
	b = appendString(b, j.Path)
	b = appendTime(appendTime(b, j.Started), j.Ended)
	counted := byte(0)
	if j.Counted {
		counted = 1
	}
	b = append(b, counted)
	for _, v := range [...]uint64{j.Total, j.Bytes, j.Left, j.Folders, j.Files, j.Changed, j.Skipped, uint64(len(j.Places))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, p := range j.Places {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(p.Ino)), p.Cookie)
	}
	return appendString(b, j.Error)
}

func decodeJob(id uint64, b []byte) (*Job, error) {
	d := decode("job", b)
	j := &Job{
		ID: id, Kind: JobKind(d.byte()), State: JobState(d.byte()), Revision: d.uvarint(), Ino: dfs.Ino(d.uvarint()), Layout: decodeLayout(&d),
		Path: d.string(dfs.PathMax), Started: d.time(), Ended: d.time(),
	}
	switch counted := d.byte(); counted {
	case 0, 1:
		j.Counted = counted == 1
	default:
		d.fail(fmt.Errorf("unknown flags %#x", counted))
	}
	for _, v := range [...]*uint64{&j.Total, &j.Bytes, &j.Left, &j.Folders, &j.Files, &j.Changed, &j.Skipped} {
		*v = d.uvarint()
	}
	for range d.count(2) {
		j.Places = append(j.Places, Place{dfs.Ino(d.uvarint()), d.uvarint()})
	}
	j.Error = d.string(errorMax)
	return j, d.done()
}

// Jobs lists the jobs in the order in which they began: those that have not ended, and the last
// ones that have.
func (v View) Jobs() (list []Job, err error) {
	err = v.r.Scan(key0(kindJob), key0(kindJob+1), func(k, b []byte) (bool, error) {
		j, err := decodeJob(number(k, 0), b)
		if err == nil {
			list = append(list, *j)
		}
		return true, err
	})
	return list, err
}
