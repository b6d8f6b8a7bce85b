package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/chunk/code"
	"dfs/client"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// syncer writes pages of one file and syncs each, until the client is cut off.
type syncer struct {
	user
	w    *Wire
	f    *client.File
	want []byte
}

// round writes a page somewhere, or behind the end, and syncs it. It reports whether the
// masters were not waited for.
func (s *syncer) round(r *rand.Rand) (early bool) {
	page := content(r.Uint64(), 1+r.IntN(5000))
	off := r.IntN(len(s.want) + 4096)
	before := s.fs.Stats().Append.Early
	s.write(s.f, page, int64(off))
	s.ok("fsync", s.f.Fsync(s.t.Context(), true))
	if n := off + len(page); n > len(s.want) {
		s.want = append(s.want, make([]byte, n-len(s.want))...)
	}
	copy(s.want[off:], page)
	return s.fs.Stats().Append.Early > before
}

// cut lets the client die just after an fsync that the masters have not heard of.
func (s *syncer) cut(r *rand.Rand) {
	s.t.Helper()
	early := 0
	for range 20 {
		if s.round(r) {
			early++
		}
	}
	if early < 10 {
		s.t.Fatalf("of 20 fsyncs, %d did not wait for the masters", early)
	}
	for range 100 {
		if s.round(r) {
			s.w.cut(false)
			return
		}
	}
	s.t.Fatal("all fsyncs wait for the masters")
}

func TestWhatWasSyncedOutlivesItsClient(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	for _, x := range []struct {
		name   string
		before func(c *Cluster)
		after  func(c *Cluster)
	}{
		{"client", nil, func(*Cluster) {}},
		{"client and leader", nil, func(c *Cluster) { c.Kill(c.Leader()) }},
		{"client and chunk server", nil, func(c *Cluster) { c.Kill("chunk-1") }},
		{"client, after a chunk server", func(c *Cluster) { c.Kill("chunk-1") }, func(c *Cluster) { c.Restart("chunk-1") }},
		{"everything", nil, func(c *Cluster) {
			var all []string
			for i := range 3 {
				all = append(all, fmt.Sprintf("master-%d", i+1), fmt.Sprintf("chunk-%d", i+1))
			}
			for _, name := range all {
				c.Kill(name)
			}
			for _, name := range all {
				c.Restart(name)
			}
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			c := Start(t, Options{Masters: 3, ChunkServers: 3, SessionTTL: ttl})
			a, w := c.cuttable(t, "A")
			s := &syncer{user: a, w: w, f: a.file(1, "f")}
			r := rand.New(rand.NewPCG(7, uint64(len(x.name))))
			for range 5 {
				s.round(r)
			}
			if x.before != nil {
				x.before(c)
				for range 5 {
					s.round(r)
				}
			}
			s.cut(r)
			x.after(c)
			b := user{t, "B", c.Client()}
			b.contents(s.f.Ino(), s.want)
			// And nothing of it comes a second time, when the client is back.
			late := b.open(s.f.Ino(), 2)
			b.put(late, content(99, len(s.want)), 0)
			w.mend()
			for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(ttl / 10) {
				b.holds(late, content(99, len(s.want)))
			}
			if err := s.f.Fsync(t.Context(), false); err != nil {
				t.Errorf("what was synced, and was there, is reported as lost: %v", err)
			}
			b.holds(late, content(99, len(s.want)))
		})
	}
}

// scribe is a client that says what it likes, in its own order.
type scribe struct {
	c       *Cluster
	session *metapb.OpenSessionReply
	seq     uint64
	m       *dfs.ClusterMap
	chunk   dfs.ChunkID
	end     uint32 // of the chunk
}

func newScribe(c *Cluster) *scribe {
	c.t.Helper()
	s := &scribe{c: c, end: dfs.FirstRecord}
	c.ok(c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		stream, err := metapb.NewClusterClient(conn).WatchMap(ctx, &metapb.WatchMapRequest{})
		if err != nil {
			return err
		}
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		s.m = rpc.ClusterMapFromProto(m)
		s.session, err = metapb.NewMetaClient(conn).OpenSession(ctx, &metapb.OpenSessionRequest{Host: "h", Mountpoint: "/m", Version: "v", Nonce: 77})
		return err
	}))
	s.chunk = dfs.MakeChunkID(dfs.DefaultLayout, s.session.Chunks.From)
	return s
}

// change carries out one change.
func (s *scribe) change(m *metapb.Mutation) *metapb.MutationReply {
	s.c.t.Helper()
	s.seq++
	m.Seq, m.Cred = s.seq, rpc.CredToProto(root)
	var r *metapb.MutateReply
	s.c.ok(s.c.Call(func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		r, err = metapb.NewMetaClient(conn).Mutate(ctx, &metapb.MutateRequest{Session: s.session.Session, Acked: s.seq, Mutations: []*metapb.Mutation{m}})
		return err
	}))
	if r.Expired || r.Replies[0].Errno != 0 || r.Replies[0].StaleMap {
		s.c.t.Fatalf("%v is answered %v", m, r)
	}
	return r.Replies[0]
}

func (s *scribe) create(name string) dfs.Ino {
	ino := s.session.Inodes.From
	s.session.Inodes.From++
	s.change(&metapb.Mutation{Op: &metapb.Mutation_Create{Create: &metapb.Create{Parent: uint64(dfs.RootIno), Name: []byte(name), Ino: ino, Mode: dfs.TypeFile | 0o644}}})
	return dfs.Ino(ino)
}

// append writes a record of one piece to all servers of the chunk.
func (s *scribe) append(data []byte, in dfs.Intent) dfs.Extent {
	s.c.t.Helper()
	in.Len = uint32(len(data))
	e := dfs.Extent{Off: in.Off, Len: in.Len, Chunk: s.chunk, Record: s.end, RecordLen: in.Len}
	fragments, err := code.Encode(s.chunk.Layout(), data)
	s.c.ok(err)
	for i, id := range s.m.ActingOf(s.chunk) {
		conn, err := s.c.Pool.Conn(s.m.Server(id).Addr)
		s.c.ok(err)
		stream, err := chunkpb.NewChunkClient(conn).Append(s.c.t.Context())
		s.c.ok(err)
		s.c.ok(rpc.Send(stream, &chunkpb.AppendRequest{
			Cluster: uint64(s.c.Pool.Cluster()), Chunk: uint64(s.chunk), Fragment: uint32(i), Session: s.session.Session, Epoch: uint64(s.m.Epoch),
			Offset: s.end, RecordLen: in.Len, Crcs: fragments[i].CRCs, Data: fragments[i].Data, Intents: dfs.AppendIntents(nil, []dfs.Intent{in}),
		}, func() {}))
		r, err := stream.Recv()
		if err != nil || r.Errno != 0 {
			s.c.t.Fatalf("append: %v, %v", r, err)
		}
	}
	s.end += uint32(dfs.RecordSpace(len(data)))
	return e
}

// commit makes a piece part of its file, and says that the chunk is on disk up to here.
func (s *scribe) commit(in dfs.Intent, e dfs.Extent) {
	s.c.t.Helper()
	servers := make([]uint64, 0, 3)
	for _, id := range s.m.ActingOf(s.chunk) {
		servers = append(servers, uint64(id))
	}
	s.change(&metapb.Mutation{Op: &metapb.Mutation_Commit{Commit: &metapb.Commit{
		Files:  []*metapb.FileCommit{{Ino: uint64(in.Ino), Extents: rpc.ExtentsToProto([]dfs.Extent{e}), SizeMin: e.End(), Mtime: rpc.TimeToProto(in.Mtime), Seq: in.Seq}},
		Chunks: []*metapb.ChunkCommit{{Chunk: uint64(s.chunk), Committed: s.end, Servers: servers}},
	}}})
}

func (c *Cluster) ok(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// A record that was acknowledged is found when a session ends, although the chunk is
// committed beyond it: by another file's commit.
func TestWhatWasSyncedBeforeOthersCommitOutlivesItsClient(t *testing.T) {
	c := Start(t, Options{ChunkServers: 3, SessionTTL: 2 * time.Second})
	s := newScribe(c)
	f, other := s.create("f"), s.create("other")
	now := dfs.Time{Sec: 1e9}
	first := dfs.Intent{Ino: f, Mtime: now, Seq: 1}
	s.commit(first, s.append([]byte("one "), first))
	s.append([]byte("two "), dfs.Intent{Ino: f, Off: 4, Mtime: now, Seq: 2, Prev: 1}) // acknowledged, and not told
	third := dfs.Intent{Ino: other, Mtime: now, Seq: 3}
	s.commit(third, s.append([]byte("others"), third))
	s.append([]byte("three"), dfs.Intent{Ino: f, Off: 8, Mtime: now, Seq: 4, Prev: 2})
	// It is heard of no more.
	b := user{t, "B", c.Client()}
	c.Eventually("the end of the session", func() error {
		st, err := c.Status()
		if err == nil && len(st.Sessions) > 1 {
			err = fmt.Errorf("%d sessions", len(st.Sessions))
		}
		return err
	})
	b.contents(f, []byte("one two three"))
	b.contents(other, []byte("others"))
}
