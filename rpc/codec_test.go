package rpc

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"dfs"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// bulk is the messages that the codec treats itself.
var bulk = []struct {
	empty proto.Message
	field protowire.Number
}{
	{&chunkpb.AppendRequest{}, appendDataField},
	{&chunkpb.ReadReply{}, readDataField},
	{&metapb.SnapshotPart{}, snapshotDataField},
	{&metapb.RaftMessage{}, raftDataField},
}

// fill sets every field of m to something random, by reflection, so that a field
// that is added to a .proto file and forgotten in split makes the tests fail.
func fill(rng *rand.Rand, m protoreflect.Message, dataLen int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() {
			list := m.Mutable(f).List()
			for range 1 + rng.IntN(3) {
				if f.Message() != nil {
					fill(rng, list.AppendMutable().Message(), 5)
				} else {
					list.Append(scalar(rng, f, 5))
				}
			}
			continue
		}
		n := 5
		if f.Name() == "data" {
			n = dataLen
		}
		m.Set(f, scalar(rng, f, n))
	}
}

func scalar(rng *rand.Rand, f protoreflect.FieldDescriptor, n int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(rng.Uint32() | 1)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rng.Uint64() | 1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.Repeat("s", n))
	case protoreflect.BytesKind:
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return protoreflect.ValueOfBytes(b)
	}
	panic(fmt.Sprintf("field %s: teach this test the kind %s", f.FullName(), f.Kind()))
}

// cutUp spreads b over buffers as HTTP/2 frames do.
func cutUp(rng *rand.Rand, b []byte) mem.BufferSlice {
	var out mem.BufferSlice
	for len(b) > 0 {
		n := min(len(b), 1+rng.IntN(16384))
		if rng.IntN(4) == 0 {
			n = min(len(b), 1+rng.IntN(3))
		}
		out = append(out, mem.SliceBuffer(b[:n]))
		b = b[n:]
	}
	return out
}

func TestCodecSpeaksPlainProtobufBothWays(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, b := range bulk {
		for _, n := range []int{0, 1, 100, zeroCopyMin - 1, zeroCopyMin, 5000, 1 << 20} {
			m := b.empty.ProtoReflect().New()
			fill(rng, m, n)
			m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7))
			want := m.Interface()
			before := proto.Clone(want)

			out, err := codec{}.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			wire := out.Materialize()
			got := m.New().Interface()
			if err := proto.Unmarshal(wire, got); err != nil || !proto.Equal(got, want) {
				t.Errorf("%T with %d bytes: others read something else (%v)", want, n, err)
			}
			if !proto.Equal(want, before) {
				t.Errorf("%T: marshalling changed the message", want)
			}
			out.Free()

			plain, err := proto.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range [][]byte{wire, plain} {
				got = m.New().Interface()
				if err := (codec{}).Unmarshal(cutUp(rng, w), got); err != nil || !proto.Equal(got, want) {
					t.Errorf("%T with %d bytes: we read something else (%v)", want, n, err)
				}
			}
		}
	}
}

func TestLargeDataIsNotCopiedOnTheWayOut(t *testing.T) {
	m := &chunkpb.AppendRequest{Chunk: 1, Data: make([]byte, 1<<20)}
	out, err := codec{}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if last := out[len(out)-1].ReadOnlyData(); &last[0] != &m.Data[0] {
		t.Error("the data was copied")
	}
}

func TestLastDataFieldWins(t *testing.T) {
	big := bytes.Repeat([]byte{1}, 8192)
	var w []byte
	w = protowire.AppendBytes(protowire.AppendTag(w, readDataField, protowire.BytesType), big)
	w = protowire.AppendBytes(protowire.AppendTag(w, readDataField, protowire.BytesType), []byte("last"))
	var got chunkpb.ReadReply
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(w)}, &got); err != nil || string(got.Data) != "last" {
		t.Errorf("got %q, %v", got.Data, err)
	}
}

// FuzzCodec: whatever arrives, in whatever pieces, we decode as protobuf does.
func FuzzCodec(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for i, b := range bulk {
		for _, n := range []int{0, 10, 5000} {
			m := b.empty.ProtoReflect().New()
			fill(rng, m, n)
			w, err := proto.Marshal(m.Interface())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), uint64(n), w)
			f.Add(uint8(i), uint64(n), append(w, w...))
			f.Add(uint8(i), uint64(n), w[:len(w)/2])
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, seed uint64, wire []byte) {
		b := bulk[int(kind)%len(bulk)]
		// What is below zeroCopyMin takes the plain way; parse is to be right for any size.
		rng := rand.New(rand.NewPCG(seed, 0))
		want, got := b.empty.ProtoReflect().New().Interface(), b.empty.ProtoReflect().New().Interface()
		errWant := proto.Unmarshal(wire, want)
		payload, head, ok := parse(cutUp(rng, wire), b.field, nil)
		if !ok {
			return // left to protobuf
		}
		errGot := proto.Unmarshal(head, got)
		if (errWant == nil) != (errGot == nil) {
			t.Fatalf("protobuf says %v, we %v", errWant, errGot)
		}
		if errWant != nil {
			return
		}
		if payload != nil {
			r := got.ProtoReflect()
			r.Set(r.Descriptor().Fields().ByNumber(b.field), protoreflect.ValueOfBytes(payload))
		}
		if !proto.Equal(want, got) {
			t.Fatalf("protobuf reads\n%v\nwe\n%v", want, got)
		}
	})
}

func TestBufferPoolGivesWhatWasAskedFor(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 1 << 20, 1<<20 + 1, 8 << 20, 9 << 20} {
		for range 3 {
			b := Alloc(n)
			if len(b) != n {
				t.Fatalf("Alloc(%d) has %d bytes", n, len(b))
			}
			Free(b)
		}
	}
	Free(nil)
	Free(make([]byte, 5000)) // not ours: ignored
	if b := Alloc(5000); cap(b) != 8192 {
		t.Errorf("a foreign buffer was taken: capacity %d", cap(b))
	}
}

// blobs is a chunk server that answers reads and appends from memory.
type blobs struct {
	chunkpb.UnimplementedChunkServer
	freed atomic.Int64
	bad   atomic.Int64
}

func (s *blobs) Read(ctx context.Context, q *chunkpb.ReadRequest) (*chunkpb.ReadReply, error) {
	data := Alloc(int(q.Len))
	for i := range data {
		data[i] = byte(q.Record)
	}
	if !FreeAfterReply(ctx, func() {
		clear(data) // as the next owner would
		Free(data)
		s.freed.Add(1)
	}) {
		return nil, fmt.Errorf("no owner in the context")
	}
	return &chunkpb.ReadReply{Data: data}, nil
}

func (s *blobs) Append(stream grpc.BidiStreamingServer[chunkpb.AppendRequest, chunkpb.AppendReply]) error {
	for {
		q, err := stream.Recv()
		if err != nil {
			return nil
		}
		for _, c := range q.Data {
			if c != byte(q.Id) {
				s.bad.Add(1)
				break
			}
		}
		Free(q.Data)
		if err := stream.Send(&chunkpb.AppendReply{Id: q.Id}); err != nil {
			return err
		}
	}
}

// serve runs a server on loopback until the test ends.
func serve(t testing.TB, cluster dfs.ClusterID, register func(grpc.ServiceRegistrar)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(func() dfs.ClusterID { return cluster })
	register(s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return l.Addr().String()
}

func testPool(t testing.TB, cluster dfs.ClusterID) *Pool {
	p := NewPool(cluster, nil)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Buffers are reused as soon as free is called: if gRPC still read them then, wrong
// bytes would arrive.
func TestBuffersAreNotReusedBeforeTheyAreSent(t *testing.T) {
	srv := &blobs{}
	addr := serve(t, 1, func(s grpc.ServiceRegistrar) { chunkpb.RegisterChunkServer(s, srv) })
	conn, err := testPool(t, 1).Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	c := chunkpb.NewChunkClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	const reads, callers = 50, 4
	var wg sync.WaitGroup
	for w := range callers {
		wg.Go(func() {
			for i := range reads {
				n := []int{1, 100, 4096, 70000, 1 << 20}[i%5]
				mark := byte(w*reads + i)
				r, err := c.Read(ctx, &chunkpb.ReadRequest{Record: uint32(mark), Len: uint32(n)})
				if err != nil {
					t.Error(err)
					return
				}
				if len(r.Data) != n || bytes.Count(r.Data, []byte{mark}) != n {
					t.Errorf("read of %d bytes: wrong bytes", n)
				}
				Free(r.Data)
			}
		})
	}
	wg.Wait()
	if n := srv.freed.Load(); n != reads*callers {
		// The last ones may still be on their way out of the transport.
		waitFor(t, func() bool { return srv.freed.Load() == reads*callers })
	}

	stream, err := c.Append(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const sends = 200
	var freed atomic.Int64
	wg.Go(func() {
		for range sends {
			if _, err := stream.Recv(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for id := range uint64(sends) {
		n := []int{10, 5000, 1 << 20}[id%3]
		data := bytes.Repeat([]byte{byte(id)}, n)
		err := Send(stream, &chunkpb.AppendRequest{Id: id, Data: data}, func() { clear(data); freed.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if srv.bad.Load() != 0 {
		t.Errorf("%d appends arrived with wrong bytes", srv.bad.Load())
	}
	waitFor(t, func() bool { return freed.Load() == sends })
	cancel()
	waitFor(t, func() bool { return stream.Context().Err() != nil })
	for i := range 10 { // on a dead stream, free is called too
		before := freed.Load()
		// An error is not certain: gRPC may take a message before it sees the end.
		_ = Send(stream, &chunkpb.AppendRequest{Id: uint64(i), Data: make([]byte, 1<<20)}, func() { freed.Add(1) })
		waitFor(t, func() bool { return freed.Load() == before+1 })
	}
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the condition does not come true")
		}
	}
}

// A program with gRPC's own codec and options can talk to us.
func TestOrdinaryClientIsUnderstood(t *testing.T) {
	srv := &blobs{}
	addr := serve(t, 1, func(s grpc.ServiceRegistrar) { chunkpb.RegisterChunkServer(s, srv) })
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(clusterSigner{func() dfs.ClusterID { return 1 }}.unary))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, err := chunkpb.NewChunkClient(conn).Read(t.Context(), &chunkpb.ReadRequest{Record: 7, Len: 100000})
	if err != nil || bytes.Count(r.Data, []byte{7}) != 100000 {
		t.Errorf("read: %v", err)
	}
}

var _ encoding.CodecV2 = codec{}

// BenchmarkMove compares our codec with gRPC's: 1 MiB each way of a call.
func BenchmarkMove(b *testing.B) {
	for _, ours := range []bool{true, false} {
		name := "default"
		if ours {
			name = "zerocopy"
		}
		b.Run("read/"+name, func(b *testing.B) { benchRead(b, ours) })
		b.Run("append/"+name, func(b *testing.B) { benchAppend(b, ours) })
	}
}

func benchConn(b *testing.B, ours bool) *grpc.ClientConn {
	id := func() dfs.ClusterID { return 1 }
	so, do := ServerOptions(id), DialOptions(id, nil)
	if !ours {
		so = append(so, grpc.ForceServerCodecV2(encoding.GetCodecV2("proto")))
		do = append(do, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(encoding.GetCodecV2("proto"))))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer(so...)
	chunkpb.RegisterChunkServer(s, &fixed{data: make([]byte, 1<<20)})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), do...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(); s.Stop(); wg.Wait() })
	return conn
}

// fixed is a chunk server that does nothing.
type fixed struct {
	chunkpb.UnimplementedChunkServer
	data []byte
}

func (s *fixed) Read(_ context.Context, q *chunkpb.ReadRequest) (*chunkpb.ReadReply, error) {
	return &chunkpb.ReadReply{Data: s.data[:q.Len]}, nil
}

func (s *fixed) Append(stream grpc.BidiStreamingServer[chunkpb.AppendRequest, chunkpb.AppendReply]) error {
	for {
		q, err := stream.Recv()
		if err != nil {
			return nil
		}
		Free(q.Data)
		if err := stream.Send(&chunkpb.AppendReply{Id: q.Id}); err != nil {
			return err
		}
	}
}

func (s *fixed) Ping(context.Context, *chunkpb.PingRequest) (*chunkpb.PingReply, error) {
	return &chunkpb.PingReply{}, nil
}

func benchRead(b *testing.B, ours bool) {
	c := chunkpb.NewChunkClient(benchConn(b, ours))
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		r, err := c.Read(b.Context(), &chunkpb.ReadRequest{Len: 1 << 20})
		if err != nil {
			b.Fatal(err)
		}
		if ours {
			Free(r.Data)
		}
	}
}

func benchAppend(b *testing.B, ours bool) {
	stream, err := chunkpb.NewChunkClient(benchConn(b, ours)).Append(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	const window = 8
	for i := 0; b.Loop(); i++ {
		if err := stream.Send(&chunkpb.AppendRequest{Id: uint64(i), Data: data}); err != nil {
			b.Fatal(err)
		}
		if i >= window {
			if _, err := stream.Recv(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkRoundTrip is one small call at a time: unary, and on an open stream.
func BenchmarkRoundTrip(b *testing.B) {
	b.Run("unary", func(b *testing.B) {
		c := chunkpb.NewChunkClient(benchConn(b, true))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Ping(b.Context(), &chunkpb.PingRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stream", func(b *testing.B) {
		stream, err := chunkpb.NewChunkClient(benchConn(b, true)).Append(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := stream.Send(&chunkpb.AppendRequest{}); err != nil {
				b.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		c := chunkpb.NewChunkClient(benchConn(b, true))
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := c.Ping(b.Context(), &chunkpb.PingRequest{}); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
