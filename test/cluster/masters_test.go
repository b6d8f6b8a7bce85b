package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// session is a client by hand: it decides its sequence numbers itself.
type session struct {
	t      testing.TB
	c      *Cluster
	id     uint64
	inodes *metapb.IDRange
}

func (c *Cluster) session() *session {
	c.t.Helper()
	var reply *metapb.OpenSessionReply
	err := c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewMetaClient(conn).OpenSession(ctx, &metapb.OpenSessionRequest{Host: "test", Nonce: rand.Uint64() | 1})
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return &session{t: c.t, c: c, id: reply.Session, inodes: reply.Inodes}
}

// mutate makes one change under a sequence number, however often it must be sent.
func (s *session) mutate(seq uint64, m *metapb.Mutation) *metapb.MutationReply {
	s.t.Helper()
	m.Seq, m.Cred = seq, &metapb.Cred{Checked: true}
	var reply *metapb.MutateReply
	err := s.c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewMetaClient(conn).Mutate(ctx, &metapb.MutateRequest{Session: s.id, Mutations: []*metapb.Mutation{m}})
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if reply.Expired || len(reply.Replies) != 1 {
		s.t.Fatalf("expired %v, %d replies", reply.Expired, len(reply.Replies))
	}
	return reply.Replies[0]
}

func (s *session) create(seq uint64, name string) *metapb.MutationReply {
	ino := s.inodes.From
	s.inodes.From++
	return s.mutate(seq, &metapb.Mutation{Op: &metapb.Mutation_Create{Create: &metapb.Create{
		Parent: uint64(dfs.RootIno), Name: []byte(name), Ino: ino, Mode: dfs.TypeFile | 0o644, Excl: true,
	}}})
}

func (s *session) rename(seq uint64, from, to string) *metapb.MutationReply {
	return s.mutate(seq, &metapb.Mutation{Op: &metapb.Mutation_Rename{Rename: &metapb.Rename{
		Parent: uint64(dfs.RootIno), Name: []byte(from), NewParent: uint64(dfs.RootIno), NewName: []byte(to),
	}}})
}

func (s *session) lookup(name string) *metapb.LookupReply {
	s.t.Helper()
	var reply *metapb.LookupReply
	err := s.c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewMetaClient(conn).Lookup(ctx, &metapb.LookupRequest{Parent: uint64(dfs.RootIno), Name: []byte(name), Cred: &metapb.Cred{}})
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return reply
}

func TestThreeMastersVoteAfterBootstrapAndJoin(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	st, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Masters) != 3 || st.Leader == "" || !st.Quorum {
		t.Fatalf("masters %v, leader %q, quorum %v", st.Masters, st.Leader, st.Quorum)
	}
	s := c.session()
	if r := s.create(1, "a"); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
	if r := s.rename(2, "a", "b"); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
	if r := s.lookup("a"); dfs.Errno(r.Errno) != dfs.ENOENT {
		t.Errorf("the old name answers %v", dfs.Errno(r.Errno))
	}
	if r := s.lookup("b"); r.Errno != 0 || r.Attr.Mode != dfs.TypeFile|0o644 {
		t.Errorf("the new name answers %v, %v", dfs.Errno(r.Errno), r.Attr)
	}
}

// A change whose answer was lost with the leader is sent again to the next one,
// under the same number: it must not be made twice, and must answer the same.
func TestChangeRetriedAfterLeaderIsKilledIsMadeOnce(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	s := c.session()
	first := s.create(1, "a")
	if first.Errno != 0 {
		t.Fatal(dfs.Errno(first.Errno))
	}
	for round := range 3 {
		from, to := "a", "b"
		if round%2 == 1 {
			from, to = to, from
		}
		seq := uint64(2 + round)
		want := s.rename(seq, from, to)
		if want.Errno != 0 {
			t.Fatal(dfs.Errno(want.Errno))
		}
		leader := c.Leader()
		c.Kill(leader)
		got := s.rename(seq, from, to)
		if got.Errno != 0 || got.Attr.Change != want.Attr.Change || got.Attr.Ctime.String() != want.Attr.Ctime.String() {
			t.Fatalf("round %d: the answer was %v, repeated it is %v", round, want, got)
		}
		if r := s.lookup(to); r.Errno != 0 || r.Attr.Ino != first.Attr.Ino {
			t.Fatalf("round %d: %s is %v, %v", round, to, dfs.Errno(r.Errno), r.Attr)
		}
		c.Restart(leader)
		c.WaitHealthy()
	}
}

func TestLateMasterCatchesUpAndVotes(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Masters: 1, Late: 2})
	s := c.session()
	for i := range 14 {
		if r := s.create(uint64(i+1), fmt.Sprint("f", i)); r.Errno != 0 {
			t.Fatal(dfs.Errno(r.Errno))
		}
	}
	c.Restart("master-2")
	c.WaitHealthy()
	c.Restart("master-3")
	c.WaitHealthy()
	// Now two of three are a majority without the one that made it all.
	c.Kill("master-1")
	if r := s.lookup("f13"); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
	if r := s.rename(15, "f13", "g"); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
}

func TestAllMastersKilledKeepTheirState(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	s := c.session()
	if r := s.create(1, "a"); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
	for i := range 3 {
		c.Kill(fmt.Sprintf("master-%d", i+1))
	}
	for i := range 3 {
		c.Restart(fmt.Sprintf("master-%d", i+1))
	}
	c.WaitHealthy()
	if r := s.lookup("a"); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
	if r := s.create(2, "b"); r.Errno != 0 {
		t.Fatal(dfs.Errno(r.Errno))
	}
}

func TestFollowerNamesTheLeader(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	leader := c.Leader()
	for _, m := range c.masters {
		if m.name == leader {
			continue
		}
		conn, err := c.Pool.Conn(m.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, err = metapb.NewMetaClient(conn).GetAttr(context.Background(), &metapb.GetAttrRequest{Ino: uint64(dfs.RootIno)})
		_, addr, ok := rpc.IsNotLeader(err)
		if !ok || addr != c.Master(leader).Addr() {
			t.Errorf("%s answers %v, want that %s leads", m.name, err, c.Master(leader).Addr())
		}
	}
}
