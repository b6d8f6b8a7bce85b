package dfs

import (
	"testing"

	"pgregory.net/rapid"
)

// TestLocksAreThoseOfEachByte compares with a model that keeps one lock for each byte.
func TestLocksAreThoseOfEachByte(t *testing.T) {
	const bytes, owners = 16, 3
	rapid.Check(t, func(t *rapid.T) {
		var ls Locks
		var model [owners][bytes]Lock
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			start := rapid.Uint64Range(0, bytes-1).Draw(t, "start")
			end := rapid.Uint64Range(start, bytes-1).Draw(t, "end")
			set := Lock{
				Kind: LockBytes, Type: LockType(rapid.IntRange(0, 2).Draw(t, "type")), Owner: rapid.Uint64Range(0, owners-1).Draw(t, "owner"),
				File: rapid.Uint64Range(1, 2).Draw(t, "file"), Start: start, End: end,
			}
			if rapid.IntRange(0, 9).Draw(t, "close") == 0 {
				ls = ls.Closed(set.File)
				for o := range model {
					for b := range model[o] {
						if model[o][b].File == set.File {
							model[o][b] = Lock{}
						}
					}
				}
				continue
			}
			want := false
			for o := range model {
				for b := start; b <= end; b++ {
					held := model[o][b].Type
					want = want || uint64(o) != set.Owner && set.Type != Unlocked && held != Unlocked && (held == LockAlone || set.Type == LockAlone)
				}
			}
			if _, got := ls.Conflict(set); got != want {
				t.Fatalf("%+v beside %+v: conflict %v, want %v", set, ls, got, want)
			}
			if want {
				continue
			}
			before := append(Locks(nil), ls...)
			next := ls.Set(set)
			for i := range before {
				if before[i] != ls[i] {
					t.Fatalf("Set has changed what it was called on: %+v, was %+v", ls, before)
				}
			}
			ls = next
			for b := start; b <= end; b++ {
				model[set.Owner][b] = Lock{}
				if set.Type != Unlocked {
					model[set.Owner][b] = set
				}
			}
			var got [owners][bytes]Lock
			for i, l := range ls {
				if !l.Valid() || l.Type == Unlocked {
					t.Fatalf("%+v is held", l)
				}
				if i > 0 && l.Owner == ls[i-1].Owner && l.Start <= ls[i-1].End {
					t.Fatalf("%+v overlap", ls)
				}
				if i > 0 && l.Owner == ls[i-1].Owner && l.Start == ls[i-1].End+1 && l.Type == ls[i-1].Type && l.File == ls[i-1].File {
					t.Fatalf("%+v are not joined", ls)
				}
				for b := l.Start; b <= l.End; b++ {
					got[l.Owner][b] = l
				}
			}
			for o := range got {
				for b := range got[o] {
					if g, w := got[o][b], model[o][b]; g.Type != w.Type || g.File != w.File {
						t.Fatalf("byte %d of owner %d: %+v, want %+v", b, o, g, w)
					}
				}
			}
		}
	})
}

func TestLockValid(t *testing.T) {
	for _, c := range []struct {
		l    Lock
		want bool
	}{
		{Lock{Kind: LockBytes, Type: LockShared, Start: 3, End: 3}, true},
		{Lock{Kind: LockBytes, Type: Unlocked, Start: 0, End: LockEnd}, true},
		{Lock{Kind: LockFile, Type: LockAlone, Start: 0, End: LockEnd}, true},
		{Lock{Kind: LockFile, Type: LockAlone, Start: 1, End: LockEnd}, false},
		{Lock{Kind: LockBytes, Type: LockAlone, Start: 4, End: 3}, false},
		{Lock{Kind: LockBytes, Type: LockAlone, Start: 0, End: LockEnd + 1}, false},
		{Lock{Kind: LockBytes, Type: 3, Start: 0, End: 1}, false},
		{Lock{Kind: LockName, Type: LockAlone, Start: 0, End: LockEnd, Name: "nightly"}, true},
		{Lock{Kind: LockName, Type: LockAlone, Start: 0, End: LockEnd}, false},
		{Lock{Kind: LockFile, Type: LockAlone, Start: 0, End: LockEnd, Name: "nightly"}, false},
		{Lock{Kind: 0, Type: LockAlone, Start: 0, End: LockEnd}, false},
		{Lock{Kind: 4, Type: LockAlone, Start: 0, End: LockEnd}, false},
	} {
		if got := c.l.Valid(); got != c.want {
			t.Errorf("%+v: valid %v, want %v", c.l, got, c.want)
		}
	}
}

func TestLockOfAMountExcludesOtherSessions(t *testing.T) {
	at := func(kind LockKind, kindOf LockType, first, last uint64, mount bool) Lock {
		return Lock{Kind: kind, Type: kindOf, Owner: 1, Start: first, End: last, Mount: mount}
	}
	shared := at(LockBytes, LockShared, 0, 9, true)
	for _, x := range []struct {
		o           Lock
		same, other bool
	}{
		{at(LockBytes, LockShared, 5, 5, false), false, true},
		{at(LockBytes, LockShared, 20, 29, false), false, true},
		{at(LockBytes, LockAlone, 20, 29, true), false, true},
		{at(LockBytes, LockAlone, 9, 9, true), true, true},
		{at(LockBytes, Unlocked, 0, 9, true), false, false},
		{at(LockFile, LockAlone, 0, LockEnd, true), false, false},
	} {
		for _, pair := range [][2]Lock{{shared, x.o}, {x.o, shared}} {
			if same, other := pair[0].Excludes(pair[1], true), pair[0].Excludes(pair[1], false); same != x.same || other != x.other {
				t.Errorf("%+v and %+v: of one session %v, of two %v; want %v, %v", pair[0], pair[1], same, other, x.same, x.other)
			}
		}
		if _, is := (Locks{shared}).Against(x.o); is != x.other {
			t.Errorf("%+v among another session's: %v, want %v", x.o, is, x.other)
		}
	}
}
