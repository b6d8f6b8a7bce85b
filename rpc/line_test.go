package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// lineService answers what the tests of lines ask.
type lineService struct {
	metapb.UnimplementedMetaServer
	metapb.UnimplementedRaftServer
	chunkpb.UnimplementedChunkServer
	lines sync.Map // *line of each GetAttr
	block chan struct{}
}

func (s *lineService) register(r grpc.ServiceRegistrar) {
	metapb.RegisterMetaServer(r, s)
	metapb.RegisterRaftServer(r, s)
	chunkpb.RegisterChunkServer(r, s)
}

// GetAttr answers the number it was asked for; some numbers are failures.
func (s *lineService) GetAttr(ctx context.Context, req *metapb.GetAttrRequest) (*metapb.GetAttrReply, error) {
	if l, ok := ctx.Value(lineKey{}).(*line); ok {
		s.lines.Store(l, true)
	}
	switch req.Ino {
	case 1:
		return nil, NotLeader(7, "there:1")
	case 2:
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.block:
		}
	}
	return &metapb.GetAttrReply{Attr: &metapb.Attr{Ino: req.Ino}}, nil
}

// Append answers each request with its id and the length of its data.
func (s *lineService) Append(stream grpc.BidiStreamingServer[chunkpb.AppendRequest, chunkpb.AppendReply]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if req.Id == 99 {
			return NotLeader(9, "")
		}
		sum := uint32(0)
		for _, b := range req.Data {
			sum += uint32(b)
		}
		Free(req.Data)
		if err := stream.Send(&chunkpb.AppendReply{Id: req.Id, End: sum}); err != nil {
			return err
		}
	}
}

// Messages reads slowly, and fails when what it reads is not in order.
func (s *lineService) Messages(in metapb.Raft_MessagesServer) error {
	md, _ := metadata.FromIncomingContext(in.Context())
	if got := md.Get("test"); len(got) != 1 || got[0] != "word" {
		return status.Errorf(codes.InvalidArgument, "metadata %v", md)
	}
	<-s.block
	for want := uint64(1); ; want++ {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&metapb.RaftDone{})
		}
		if err != nil {
			return err
		}
		if m.To != want || len(m.Data) != 10_000 {
			return status.Errorf(codes.DataLoss, "message %d with %d bytes, want %d", m.To, len(m.Data), want)
		}
	}
}

// awaitLine calls until a line is there.
func awaitLine(t *testing.T, s *lineService, c metapb.MetaClient) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := c.GetAttr(ctx, &metapb.GetAttrRequest{Ino: 5})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		s.lines.Range(func(any, any) bool { found = true; return false })
		if found {
			return
		}
	}
}

func TestCallsTakeLines(t *testing.T) {
	srv := &lineService{block: make(chan struct{})}
	conn, err := testPool(t, 1).Conn(serve(t, 1, srv.register))
	if err != nil {
		t.Fatal(err)
	}
	c := metapb.NewMetaClient(conn)
	awaitLine(t, srv, c)
	get := func(timeout time.Duration, ino uint64) (*metapb.GetAttrReply, error) {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		return c.GetAttr(ctx, &metapb.GetAttrRequest{Ino: ino})
	}
	for range 3 { // a failure leaves the line whole
		if _, err := get(10*time.Second, 1); err == nil {
			t.Error("a failure got lost")
		} else if leader, addr, ok := IsNotLeader(err); !ok || leader != 7 || addr != "there:1" {
			t.Errorf("failure without its details: %v", err)
		}
		if r, err := get(10*time.Second, 5); err != nil || r.Attr.Ino != 5 {
			t.Errorf("answer %v, %v", r, err)
		}
	}
	if _, err := get(50*time.Millisecond, 2); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call that is too slow: %v", err)
	}
	var wg sync.WaitGroup
	for w := range 4 * linesMax {
		wg.Go(func() {
			for i := range 50 {
				ino := uint64(1000*(w+1) + i)
				if r, err := get(10*time.Second, ino); err != nil || r.Attr.Ino != ino {
					t.Errorf("answer %v to %d, %v", r, ino, err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	srv.lines.Range(func(any, any) bool { n++; return true })
	if n < 2 {
		t.Errorf("%d lines for many calls at once", n)
	}
}

func TestLineOfAnotherClusterIsRefused(t *testing.T) {
	srv := &lineService{}
	addr := serve(t, 1, srv.register)
	conn, err := testPool(t, 2).Conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := chunkpb.NewChunkClient(conn).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !IsWrongCluster(err) {
		t.Errorf("answer %v", err)
	}
}

func TestStreamOverLine(t *testing.T) {
	srv := &lineService{}
	conn, err := testPool(t, 1).Conn(serve(t, 1, srv.register))
	if err != nil {
		t.Fatal(err)
	}
	open := func() grpc.BidiStreamingClient[chunkpb.AppendRequest, chunkpb.AppendReply] {
		stream, err := chunkpb.NewChunkClient(conn).Append(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stream.Context().Value(lineKey{}) == nil {
			t.Fatal("the stream took no line")
		}
		return stream
	}
	stream := open()
	for i, n := range []int{0, 1, 4096, gatherMessage, lineBuffer - 9, lineBuffer, lineBuffer + 1, 1 << 20, 3} {
		freed := make(chan struct{})
		req := &chunkpb.AppendRequest{Id: uint64(i), Data: bytes.Repeat([]byte{1}, n)}
		if err := Send(stream, req, func() { close(freed) }); err != nil {
			t.Fatal(err)
		}
		<-freed
		if r, err := stream.Recv(); err != nil || r.Id != uint64(i) || r.End != uint32(n) {
			t.Fatalf("answer %v to %d bytes, %v", r, n, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	stream = open()
	if err := stream.Send(&chunkpb.AppendRequest{Data: make([]byte, MessageBytesMax)}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message that is too long: %v", err)
	}
	if err := stream.Send(&chunkpb.AppendRequest{Id: 99}); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "does not lead") {
		t.Errorf("the handler's failure became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err = chunkpb.NewChunkClient(conn).Append(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after its context ended: %v", err)
	}
}

// What the kernel does not take at once stays in order.
func TestSendNowNeverWaits(t *testing.T) {
	srv := &lineService{block: make(chan struct{})}
	conn, err := testPool(t, 1).Conn(serve(t, 1, srv.register))
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "test", "word")
	stream, err := metapb.NewRaftClient(conn).Messages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	message := func(i uint64) *metapb.RaftMessage {
		return &metapb.RaftMessage{To: i, Data: make([]byte, 10_000)}
	}
	n := uint64(0)
	for part := false; !part; { // nobody reads, so it ends
		taken, left, err := SendNow(stream, message(n+1))
		if err != nil {
			t.Fatal(err)
		}
		if taken {
			n++
		} else if !left {
			break
		}
		part = left
	}
	if taken, _, err := SendNow(stream, message(n+1)); taken || err != nil {
		t.Errorf("taken %v before what was left is sent, %v", taken, err)
	}
	close(srv.block)
	if err := Flush(stream); err != nil {
		t.Fatal(err)
	}
	n++
	if err := stream.Send(message(n)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Errorf("after %d messages: %v", n, err)
	}
}

// A server that knows only gRPC is talked to in gRPC.
func TestWithoutLinesThereIsGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(ServerOptions(func() dfs.ClusterID { return 1 })...)
	(&lineService{}).register(s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	defer func() { s.Stop(); wg.Wait() }()
	conn, err := testPool(t, 1).Conn(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := chunkpb.NewChunkClient(conn).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&chunkpb.AppendRequest{Id: 4}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || r.Id != 4 {
		t.Errorf("answer %v, %v", r, err)
	}
	for i := range uint64(20) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		r, err := metapb.NewMetaClient(conn).GetAttr(ctx, &metapb.GetAttrRequest{Ino: 10 + i})
		cancel()
		if err != nil || r.Attr.Ino != 10+i {
			t.Errorf("answer %v, %v", r, err)
		}
	}
}

func TestOpeningIsReadAsWritten(t *testing.T) {
	o := opening{method: "/a/B", timeout: time.Second, unary: true, md: metadata.MD{"k": {"1", "2"}, "l": {""}}}
	b := o.encode(nil)
	got, err := decodeOpening(b[frameHeader:])
	if err != nil || got.method != o.method || got.timeout != o.timeout || !got.unary || len(got.md["k"]) != 2 || len(got.md["l"]) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzOpening(f *testing.F) {
	f.Add((&opening{method: "/a/B", md: metadata.MD{"k": {"1"}}}).encode(nil)[frameHeader:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := decodeOpening(b); err == nil && o.timeout < 0 {
			t.Errorf("%+v", o)
		}
	})
}
