package meta

import (
	"fmt"
	"slices"

	"dfs"
)

// Level is what this program understands of commands and rows: all that came with
// this level and those below. The state has a level too (View.Level), which the leader
// raises once every master understands more. Until then nothing is proposed that came
// later, so that a program of before can still take its place again.
//
// 1: all that the first state knew. 2: SetLevel, SetConfig, FileCommit.Move, SetPolicy.KeepTimes, what an admin has decided of a Server.
// 3: PutJob.
const Level = 3

// LevelOf is the level at which a command came, or what it asks for in one of its
// fields. A command that is not named here is of level 1.
func LevelOf(op Op) uint32 {
	switch op := op.(type) {
	case *SetLevel:
		return max(2, op.Level)
	case *SetConfig:
		return 2
	case *PutJob:
		return 3
	case *PutMap:
		if slices.ContainsFunc(op.Servers, func(s dfs.Server) bool { return serverLevel(&s) > 1 }) {
			return 2
		}
	case *SetPolicy:
		if op.KeepTimes {
			return 2
		}
	case *Commit:
		if slices.ContainsFunc(op.Files, func(f FileCommit) bool { return f.Move }) {
			return 2
		}
	}
	return 1
}

// A LevelError says that a command needs a higher level than the state has.
type LevelError struct{ Needs, Has uint32 }

func (e *LevelError) Error() string {
	return fmt.Sprintf("this needs format level %d, and the metadata has level %d: install the same version of dfs on all masters", e.Needs, e.Has)
}

// A NewerError says that the state has a higher level than the program knows.
type NewerError struct {
	Level   uint32 // of the state
	Program string // the version that raised it to that
	Knows   uint32 // what this program knows
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("the metadata has format level %d, written by dfs %q, and this program knows level %d: use that version of dfs or a later one", e.Level, e.Program, e.Knows)
}

// SetLevel raises the level of the state; it never falls.
type SetLevel struct {
	Level   uint32
	Program string // the version that does it, for messages
}

func (o *SetLevel) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	cl, err := tx.v.cluster()
	if err != nil {
		return Reply{}, err
	}
	if o.Level <= cl.level {
		return Reply{}, nil
	}
	if len(o.Program) > hostMax {
		return Reply{}, dfs.EINVAL
	}
	cl.level, cl.program = o.Level, o.Program
	return Reply{}, tx.t.Set(key0(kindCluster), cl.encode(nil))
}

// Level is the level of the state and the version of the program that raised it to
// that; 1 when nobody has. It also answers of a state that this program cannot read.
func (v View) Level() (level uint32, program string, err error) {
	b, err := v.r.Get(key0(kindCluster))
	if err != nil || b == nil {
		return 1, "", err
	}
	level, program, _ = clusterLevel(b)
	return level, program, nil
}

// Understood is a *NewerError when the state has a higher level than this one.
func (v View) Understood(level uint32) error {
	needs, program, err := v.Level()
	if err != nil || needs <= level {
		return err
	}
	return &NewerError{Level: needs, Program: program, Knows: level}
}
