package cluster

import (
	"fmt"
	"testing"

	"dfs"
	"dfs/proto/metapb"
)

// BenchmarkMutate is one caller who makes one change after the other, through gRPC
// and three masters on one machine.
func BenchmarkMutate(b *testing.B) {
	c := Start(b, Options{})
	s := c.session()
	ids := s.mutate(1, &metapb.Mutation{Op: &metapb.Mutation_GrantIds{GrantIds: &metapb.GrantIDs{Inodes: true}}})
	s.inodes = ids.Inodes
	if r := s.create(2, "a"); r.Errno != 0 {
		b.Fatal(dfs.Errno(r.Errno))
	}
	seq := uint64(2)
	names := [2]string{"a", "b"}
	for b.Loop() {
		seq++
		if r := s.rename(seq, names[(seq+1)%2], names[seq%2]); r.Errno != 0 {
			b.Fatal(dfs.Errno(r.Errno))
		}
	}
}

// BenchmarkLookup is one caller who reads.
func BenchmarkLookup(b *testing.B) {
	c := Start(b, Options{})
	s := c.session()
	for i := range 8 {
		if r := s.create(uint64(i+1), fmt.Sprint("f", i)); r.Errno != 0 {
			b.Fatal(dfs.Errno(r.Errno))
		}
	}
	for b.Loop() {
		if r := s.lookup("f3"); r.Errno != 0 {
			b.Fatal(dfs.Errno(r.Errno))
		}
	}
}
