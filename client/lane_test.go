package client

import (
	"testing"

	"dfs"
	"dfs/proto/metapb"
)

func TestOnlyReadsMayDifferFromWhatWasExpected(t *testing.T) {
	at := func(sec int64) dfs.Time { return dfs.Time{Sec: sec} }
	want := dfs.Attr{Ino: 7, Mode: 0o100600, Atime: at(10), Mtime: at(10), Ctime: at(30), Change: 5}
	chmod := &metapb.Mutation{Op: &metapb.Mutation_SetAttr{SetAttr: &metapb.SetAttr{Ino: 7}}}
	utimens := &metapb.Mutation{Op: &metapb.Mutation_SetAttr{SetAttr: &metapb.SetAttr{Ino: 7, Atime: &metapb.Time{Sec: 10}}}}
	for _, c := range []struct {
		name     string
		mutation *metapb.Mutation
		got      func(*dfs.Attr)
		ok       bool
	}{
		{"the same", chmod, func(*dfs.Attr) {}, true},
		{"a read that was told before the change", chmod, func(a *dfs.Attr) { a.Atime = at(20) }, true},
		{"a read that was told after the change", chmod, func(a *dfs.Attr) { a.Atime = at(40) }, true},
		{"another mode", chmod, func(a *dfs.Attr) { a.Mode = 0o100400 }, false},
		{"one change more", chmod, func(a *dfs.Attr) { a.Change++ }, false},
		{"a read after atime was set", utimens, func(a *dfs.Attr) { a.Atime = at(40) }, true},
		{"another atime than was set", utimens, func(a *dfs.Attr) { a.Atime = at(20) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := want
			c.got(&got)
			if ok := (&change{mutation: c.mutation, attr: &want}).expected(got); ok != c.ok {
				t.Errorf("expected: %v", ok)
			}
		})
	}
}
