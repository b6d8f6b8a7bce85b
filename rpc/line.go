package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// Bounds of the lines to one address.
const (
	linesMax       = 8 // calls at once; more go through gRPC, which then joins many in one write
	lineRetryAfter = time.Second
)

// lineCalls are the methods that take a line: streams that live long and carry small
// messages back and forth, and calls that are short. Of a call whose caller gave up
// the server hears nothing; it ends by its timeout.
var lineCalls = map[string]bool{
	chunkpb.Chunk_Append_FullMethodName:  true,
	chunkpb.Chunk_Read_FullMethodName:    true,
	metapb.Raft_Messages_FullMethodName:  true,
	metapb.Meta_Mutate_FullMethodName:    true,
	metapb.Meta_Lookup_FullMethodName:    true,
	metapb.Meta_GetAttr_FullMethodName:   true,
	metapb.Meta_Open_FullMethodName:      true,
	metapb.Meta_Extents_FullMethodName:   true,
	metapb.Meta_ReadDir_FullMethodName:   true,
	metapb.Meta_Readlink_FullMethodName:  true,
	metapb.Meta_GetXattr_FullMethodName:  true,
	metapb.Meta_ListXattr_FullMethodName: true,
	metapb.Meta_StatFS_FullMethodName:    true,
}

// lines are those to one address. It stands between a grpc.ClientConn and its
// callers, and leaves to gRPC what it cannot take.
type lines struct {
	addr   string
	dial   Dialer
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	idle    []*line   // +checklocks:mu
	open    int       // +checklocks:mu — idle or in a call, without streams
	dialing bool      // +checklocks:mu
	retryAt time.Time // +checklocks:mu — no line is tried before
	closed  bool      // +checklocks:mu
}

func newLines(addr string, dial Dialer) *lines {
	ls := &lines{addr: addr, dial: dial}
	ls.ctx, ls.cancel = context.WithCancel(context.Background())
	return ls
}

// close ends the lines that no call uses; those of calls and streams end with them.
func (ls *lines) close() {
	ls.mu.Lock()
	ls.closed = true
	ls.mu.Unlock()
	ls.cancel()
	ls.drop()
	ls.wg.Wait()
}

// drop closes what is idle.
func (ls *lines) drop() {
	ls.mu.Lock()
	idle := ls.idle
	ls.idle = nil
	ls.open -= len(idle)
	ls.mu.Unlock()
	for _, l := range idle {
		l.conn.Close()
	}
}

// errNoLines says that the other end does not speak this.
var errNoLines = errors.New("it does not take lines")

// connect makes a line.
func (ls *lines) connect(ctx context.Context) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := ls.dial(ctx, ls.addr)
	if err != nil {
		return nil, err
	}
	setUserTimeout(conn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l := newLine(conn, conn)
	_, err = conn.Write([]byte(preface))
	var b []byte
	if err == nil {
		b, err = l.in.Peek(len(preface))
	}
	if !stop() {
		conn.Close()
		return nil, ctx.Err()
	}
	if err != nil || string(b) != preface {
		conn.Close()
		return nil, errNoLines
	}
	_, err = l.in.Discard(len(preface))
	return l, err
}

// take is an idle line, nil when there is none. Then another one is made for the
// calls that follow.
func (ls *lines) take() *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if n := len(ls.idle); n > 0 {
		l := ls.idle[n-1]
		ls.idle = ls.idle[:n-1]
		return l
	}
	if ls.open < linesMax && !ls.dialing && !ls.closed && !time.Now().Before(ls.retryAt) {
		ls.dialing = true
		ls.wg.Go(ls.grow)
	}
	return nil
}

func (ls *lines) grow() {
	l, err := ls.connect(ls.ctx)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.dialing = false
	switch {
	case err != nil:
		ls.retryAt = time.Now().Add(lineRetryAfter)
	case ls.closed:
		l.conn.Close()
	default:
		ls.open++
		ls.idle = append(ls.idle, l)
	}
}

// give takes a line back; one that is broken is closed, and with it those that wait,
// which are likely to be broken too.
func (ls *lines) give(l *line, broken bool) {
	ls.mu.Lock()
	if broken || ls.closed {
		ls.open--
		ls.mu.Unlock()
		l.conn.Close()
		ls.drop()
		return
	}
	ls.idle = append(ls.idle, l)
	ls.mu.Unlock()
}

func (ls *lines) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	deadline, bounded := ctx.Deadline()
	if !bounded || !lineCalls[method] {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	l := ls.take()
	if l == nil {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	o := opening{method: method, timeout: max(time.Until(deadline), 1), unary: true}
	o.md, _ = metadata.FromOutgoingContext(ctx)
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	whole, err := l.call(&o, req, reply)
	if !stop() {
		whole = false
		if err != nil {
			err = status.FromContextError(ctx.Err()).Err()
		}
	}
	ls.give(l, !whole)
	return err
}

// call carries out a unary call; whole says that another may follow.
func (l *line) call(o *opening, req, reply any) (whole bool, err error) {
	if err := l.message(o.encode(make([]byte, 0, 128)), req); err != nil {
		return false, lineError(err)
	}
	kind, n, err := l.next()
	switch {
	case err != nil:
		return false, lineError(err)
	case kind == frameMessage:
		if err := l.decode(n, reply); err != nil {
			return false, lineError(err)
		}
		return true, nil
	case kind == frameEnd:
		err := l.ended(n)
		if _, ok := status.FromError(err); !ok {
			return false, lineError(err)
		}
		return true, err
	}
	return false, status.Errorf(codes.Internal, "frame of kind %d as an answer", kind)
}

func (ls *lines) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !lineCalls[method] {
		return open(ctx, desc, cc, method, opts...)
	}
	l, err := ls.connect(ctx)
	if errors.Is(err, errNoLines) {
		return open(ctx, desc, cc, method, opts...)
	}
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "connect to %s: %v", ls.addr, err)
	}
	o := opening{method: method}
	o.md, _ = metadata.FromOutgoingContext(ctx)
	if _, err := l.conn.Write(o.encode(nil)); err != nil {
		l.conn.Close()
		return nil, lineError(err)
	}
	s := &clientStream{ctx: context.WithValue(ctx, lineKey{}, l), line: l}
	s.stop = context.AfterFunc(ctx, func() { l.conn.Close() })
	return s, nil
}

// SendNow sends a small message on a stream without waiting, for those who must not. It
// reports whether the stream took it: a stream of gRPC never does. When left is true,
// Flush has to be called where waiting is allowed, or nothing is taken any more.
func SendNow(s grpc.ClientStream, m any) (taken, left bool, err error) {
	l, ok := s.Context().Value(lineKey{}).(*line)
	if !ok {
		return false, false, nil
	}
	return l.now(m)
}

// Flush sends what SendNow has left.
func Flush(s grpc.ClientStream) error {
	if l, ok := s.Context().Value(lineKey{}).(*line); ok {
		return l.flush()
	}
	return nil
}

// clientStream is a stream as its caller sees it. It ends with its context, or when
// it was read to its end.
type clientStream struct {
	ctx  context.Context
	line *line
	stop func() bool
}

var _ grpc.ClientStream = (*clientStream)(nil)

func (s *clientStream) Header() (metadata.MD, error) { return nil, nil }
func (s *clientStream) Trailer() metadata.MD         { return nil }
func (s *clientStream) Context() context.Context     { return s.ctx }
func (s *clientStream) CloseSend() error             { return s.error(s.line.frame(frameEnd, nil)) }

// SendMsg answers io.EOF when the stream is broken: RecvMsg says why.
func (s *clientStream) SendMsg(m any) error {
	err := s.line.message(nil, m)
	if _, ok := status.FromError(err); !ok {
		return io.EOF
	}
	return err
}

func (s *clientStream) RecvMsg(m any) error {
	kind, n, err := s.line.next()
	switch {
	case err != nil:
	case kind == frameMessage:
		if err = s.line.decode(n, m); err == nil {
			return nil
		}
	case kind == frameEnd:
		if err = s.line.ended(n); err == io.EOF {
			s.close()
			return io.EOF
		}
	default:
		err = status.Errorf(codes.Internal, "frame of kind %d in a stream", kind)
	}
	err = s.error(err)
	s.close()
	return err
}

func (s *clientStream) error(err error) error {
	if err != nil && s.ctx.Err() != nil {
		return status.FromContextError(s.ctx.Err()).Err()
	}
	return lineError(err)
}

func (s *clientStream) close() {
	s.stop()
	s.line.conn.Close()
}

// setUserTimeout lets a connection break when what it sent is not acknowledged.
func setUserTimeout(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		userTimeout(tcp)
	}
}
