package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// hello answers only Hello.
type hello struct {
	metapb.UnimplementedClusterServer
}

func (hello) Hello(context.Context, *metapb.HelloRequest) (*metapb.HelloReply, error) {
	return &metapb.HelloReply{}, nil
}

func TestClusterCheck(t *testing.T) {
	for _, c := range []struct {
		server, caller dfs.ClusterID
		hello, other   bool // is allowed
	}{
		{1, 1, true, true},
		{1, 2, false, false},
		{1, 0, true, false},
		{0, 1, true, false},
		{0, 0, true, false},
	} {
		t.Run(fmt.Sprintf("server=%d,caller=%d", c.server, c.caller), func(t *testing.T) {
			addr := serve(t, c.server, func(s grpc.ServiceRegistrar) {
				metapb.RegisterClusterServer(s, hello{})
				chunkpb.RegisterChunkServer(s, &fixed{})
			})
			conn, err := testPool(t, c.caller).Conn(addr)
			if err != nil {
				t.Fatal(err)
			}
			check := func(what string, err error, allowed bool) {
				t.Helper()
				if (err == nil) != allowed {
					t.Errorf("%s: allowed %v, got %v", what, allowed, err)
				}
				if err == nil {
					return
				}
				if !IsWrongCluster(err) || Retryable(err) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: not a final refusal in one line: %v", what, err)
				}
				for _, id := range []dfs.ClusterID{c.server, c.caller} {
					if id != 0 && !strings.Contains(err.Error(), id.String()) {
						t.Errorf("%s: %v does not name %s", what, err, id)
					}
				}
			}
			_, err = metapb.NewClusterClient(conn).Hello(t.Context(), &metapb.HelloRequest{})
			check("Hello", err, c.hello)
			_, err = chunkpb.NewChunkClient(conn).Ping(t.Context(), &chunkpb.PingRequest{})
			check("Ping", err, c.other)
			stream, err := chunkpb.NewChunkClient(conn).Append(t.Context())
			if err == nil {
				_ = stream.Send(&chunkpb.AppendRequest{Id: 1})
				_, err = stream.Recv()
			}
			check("Append", err, c.other)
		})
	}
}

func TestRefusedConnectionFailsAtOnce(t *testing.T) {
	conn, err := testPool(t, 1).Conn("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = chunkpb.NewChunkClient(conn).Ping(t.Context(), &chunkpb.PingRequest{})
	if status.Code(err) != codes.Unavailable || !Retryable(err) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
}

func TestPoolSharesAndCloses(t *testing.T) {
	p := NewPool(1, nil)
	a, err := p.Conn("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := p.Conn("127.0.0.1:1"); a != b {
		t.Error("two connections to one address")
	}
	if out := p.idle(time.Now().Add(poolIdle / 2)); len(out) != 0 {
		t.Error("a fresh connection counts as idle")
	}
	out := p.idle(time.Now().Add(2 * poolIdle))
	if len(out) != 1 || len(p.conns) != 0 {
		t.Errorf("%d idle connections, %d left", len(out), len(p.conns))
	}
	for _, c := range out {
		c.lines.close()
		_ = c.conn.Close()
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.Conn("127.0.0.1:1"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	q := testPool(t, 0)
	first, again, other := q.SetCluster(5), q.SetCluster(5), q.SetCluster(6)
	if !first || !again || other || q.Cluster() != 5 {
		t.Error("the cluster is learned once")
	}
}

func TestNotLeaderSurvivesTheWire(t *testing.T) {
	id, addr, ok := IsNotLeader(NotLeader(7, "m:1"))
	if id != 7 || addr != "m:1" || !ok || !Retryable(NotLeader(0, "")) {
		t.Errorf("got %v %q %v", id, addr, ok)
	}
	for _, err := range []error{nil, errors.New("x"), status.Error(codes.FailedPrecondition, "x"), Unavailable("x")} {
		if _, _, ok := IsNotLeader(err); ok {
			t.Errorf("%v is taken for NotLeader", err)
		}
	}
}

func TestRetryable(t *testing.T) {
	for err, want := range map[error]bool{
		nil:                                  false,
		dfs.EIO:                              false,
		fmt.Errorf("read: %w", dfs.ENOSPC):   false,
		Unavailable("gone"):                  true,
		context.DeadlineExceeded:             true,
		context.Canceled:                     false,
		status.Error(codes.Internal, "bug"):  false,
		status.Error(codes.Aborted, "again"): true,
	} {
		if got := Retryable(err); got != want {
			t.Errorf("Retryable(%v) = %v", err, got)
		}
	}
	if Errno(0) != nil || !errors.Is(Errno(2), dfs.ENOENT) {
		t.Error("Errno")
	}
}

// random sets all fields of v, a pointer to a struct of numbers, strings, booleans,
// slices of them and such structs, to something not zero.
func random(rng *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		random(rng, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			random(rng, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		random(rng, v.Index(0))
		random(rng, v.Index(1))
	case reflect.String:
		v.SetString(fmt.Sprint(rng.Uint32()))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(rng.Int64())
	default:
		v.SetUint(rng.Uint64()&(1<<v.Type().Bits()-1) | 1)
	}
}

func TestConversionsLoseNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		var attr dfs.Attr
		random(rng, reflect.ValueOf(&attr))
		if got := AttrFromProto(AttrToProto(&attr)); got != attr {
			t.Errorf("attr %+v became %+v", attr, got)
		}
		var cred dfs.Cred
		random(rng, reflect.ValueOf(&cred))
		cred.Umask = 0 // it goes with what is made
		if got := CredFromProto(CredToProto(cred)); !reflect.DeepEqual(got, cred) {
			t.Errorf("cred %+v became %+v", cred, got)
		}
		var lock dfs.Lock
		random(rng, reflect.ValueOf(&lock))
		if got := LockFromProto(LockToProto(lock)); got != lock {
			t.Errorf("lock %+v became %+v", lock, got)
		}
		var extents []dfs.Extent
		random(rng, reflect.ValueOf(&extents).Elem())
		if got := ExtentsFromProto(ExtentsToProto(extents)); !reflect.DeepEqual(got, extents) {
			t.Errorf("extents %+v became %+v", extents, got)
		}
		var server dfs.Server
		random(rng, reflect.ValueOf(&server))
		server.Leaving, server.Weighted, server.Until = false, false, 0 // they stay with the masters
		if got := ServerFromProto(ServerToProto(server)); got != server {
			t.Errorf("server %+v became %+v", server, got)
		}
	}
	if AttrToProto(nil) != nil || AttrFromProto(nil) != (dfs.Attr{}) {
		t.Error("nil attr")
	}
}

func TestClusterMapConversionDerivesActing(t *testing.T) {
	l := dfs.DefaultLayout
	pg := dfs.MakePG(l, 3)
	m := &dfs.ClusterMap{
		Cluster: 9, Epoch: 4, Buckets: 8,
		Servers: []dfs.Server{{ID: 1, Name: "a", State: dfs.ServerUp}, {ID: 2, State: dfs.ServerDown}, {ID: 3, State: dfs.ServerDrain}},
		Home:    map[dfs.PG][]dfs.NodeID{pg: {2, 3, 1}, dfs.MakePG(l, 4): {1, 0, 2}},
	}
	got := ClusterMapFromProto(ClusterMapToProto(m))
	m.Derive()
	if !reflect.DeepEqual(got, m) {
		t.Errorf("got  %+v\nwant %+v", got, m)
	}
	if want := []dfs.NodeID{0, 3, 1}; !reflect.DeepEqual(got.Acting[pg], want) {
		t.Errorf("acting %v, want %v: a server that is down leaves a hole at its position", got.Acting[pg], want)
	}
}
