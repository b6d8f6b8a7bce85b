package dfs

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// LockKind is which locks a lock can be in the way of: only those of its own kind.
type LockKind uint32

// The kinds of locks.
const (
	LockFile  LockKind = 1 // flock(2): a whole file, owned by an open file description
	LockBytes LockKind = 2 // fcntl(2): bytes of a file, owned by a process or an open file description
	LockName  LockKind = 3 // a name that programs agree on, no file
)

// LockType is what a lock allows to others.
type LockType uint32

// The types of locks.
const (
	Unlocked   LockType = 0 // in a request: take locks away
	LockShared LockType = 1 // others may share it
	LockAlone  LockType = 2
)

// LockEnd is the last byte that a lock can cover: to the end of the file, however it grows.
const LockEnd = 1<<63 - 1

// Lock is an advisory lock on bytes of a file, as one session holds it or wants it.
type Lock struct {
	Kind  LockKind
	Type  LockType
	Owner uint64 // who may hold overlapping ones at once; a number that the session chose
	File  uint64 // the open file through which it was set, likewise; it ends with it
	Start uint64 // first byte
	End   uint64 // last byte, LockEnd at most
	PID   uint32 // for people, and for F_GETLK
	Token uint64 // of names: grows with each that is given, over all names
	Name  string // of names
	Mount bool   // it excludes all of its kind that other sessions have of the file
}

// Valid reports whether a lock can be held or, with Unlocked, taken away.
func (l Lock) Valid() bool {
	if l.Kind < LockFile || l.Kind > LockName || l.Type > LockAlone || len(l.Name) > NameMax || (l.Kind == LockName) != (l.Name != "") {
		return false
	}
	return l.Start <= l.End && l.End <= LockEnd && (l.Kind == LockBytes || l.Start == 0 && l.End == LockEnd)
}

// Against reports whether two locks of different owners exclude each other.
func (l Lock) Against(o Lock) bool {
	return l.Kind == o.Kind && l.Start <= o.End && o.Start <= l.End && (l.Type == LockAlone || o.Type == LockAlone) &&
		l.Type != Unlocked && o.Type != Unlocked
}

// Excludes reports whether a lock of another owner, of the same session or of another one,
// excludes o.
func (l Lock) Excludes(o Lock, same bool) bool {
	return l.Against(o) || !same && (l.Mount || o.Mount) && l.Kind == o.Kind && l.Type != Unlocked && o.Type != Unlocked
}

// Locks is what one session holds of one file, in order; those of one owner do not overlap.
type Locks []Lock

// Conflict finds a lock of another owner that excludes want.
func (ls Locks) Conflict(want Lock) (Lock, bool) {
	for _, l := range ls {
		if l.Owner != want.Owner && l.Against(want) {
			return l, true
		}
	}
	return Lock{}, false
}

// Against finds a lock that excludes want, which is another session's.
func (ls Locks) Against(want Lock) (Lock, bool) {
	for _, l := range ls {
		if l.Excludes(want, false) {
			return l, true
		}
	}
	return Lock{}, false
}

// Holds reports whether an owner has a lock of a kind.
func (ls Locks) Holds(kind LockKind, owner uint64) bool {
	return slices.ContainsFunc(ls, func(l Lock) bool { return l.Kind == kind && l.Owner == owner })
}

// Set returns what is held when an owner has set a lock, which takes the place of what the
// owner had of those bytes, or has taken one away. ls stays as it is.
func (ls Locks) Set(set Lock) Locks {
	out := make(Locks, 0, len(ls)+2)
	for _, l := range ls {
		if l.Kind != set.Kind || l.Owner != set.Owner || l.End < set.Start || set.End < l.Start {
			out = append(out, l)
			continue
		}
		if l.Start < set.Start {
			left := l
			left.End = set.Start - 1
			out = append(out, left)
		}
		if l.End > set.End {
			right := l
			right.Start = set.End + 1
			out = append(out, right)
		}
	}
	if set.Type != Unlocked {
		out = append(out, set)
	}
	return out.tidy()
}

// tidy joins what lies side by side and is the same.
func (ls Locks) tidy() Locks {
	slices.SortFunc(ls, func(a, b Lock) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Start, b.Start))
	})
	out := ls[:0]
	for _, l := range ls {
		if n := len(out); n > 0 {
			last := out[n-1]
			last.Start, last.End = l.Start, l.End
			if last == l && out[n-1].End+1 == l.Start {
				out[n-1].End = l.End
				continue
			}
		}
		out = append(out, l)
	}
	return out
}

// Closed returns what is held when an open file is gone with all locks set through it.
func (ls Locks) Closed(file uint64) Locks {
	return slices.DeleteFunc(slices.Clone(ls), func(l Lock) bool { return l.File == file })
}

// LockClosing is how long a lock of an open file that is being closed is waited for by who
// does not wait otherwise. Linux tells a file server of close(2) before it returns, and
// whether it was the last one, which ends the lock, a moment later.
const LockClosing = 500 * time.Millisecond

// lockNames is where numbers of names are: no shard has such a number.
const lockNames = Ino(0xffff) << 48

// LockNameIno is the number under which locks of a name are kept, among those of files. Two
// names could have the same one; then they exclude each other, which does no harm.
func LockNameIno(name string) Ino {
	sum := sha256.Sum256([]byte(name))
	return lockNames | Ino(binary.BigEndian.Uint64(sum[:])>>16)
}

// IsLockName reports whether a number is that of names.
func (i Ino) IsLockName() bool { return i&lockNames == lockNames }
