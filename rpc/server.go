package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"dfs"
)

// Server serves gRPC and lines at one address.
type Server struct {
	*grpc.Server
	check   clusterCheck
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	methods map[string]method // not changed once it serves

	mu     sync.Mutex
	lines  map[*line]struct{} // +checklocks:mu
	closed bool               // +checklocks:mu
}

// method is one of a service: unary or a stream.
type method struct {
	service any
	unary   *grpc.MethodDesc
	stream  *grpc.StreamDesc
}

// NewServer makes a server with ServerOptions. Services are registered with it as
// with a grpc.Server.
func NewServer(cluster func() dfs.ClusterID, anonymous ...string) *Server {
	s := &Server{check: newClusterCheck(cluster, anonymous), methods: map[string]method{}, lines: map[*line]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	options := append(ServerOptions(cluster, anonymous...), grpc.WaitForHandlers(true), grpc.Creds(splitter{s}))
	s.Server = grpc.NewServer(options...)
	return s
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, service any) {
	s.Server.RegisterService(desc, service)
	for i := range desc.Methods {
		d := &desc.Methods[i]
		s.methods["/"+desc.ServiceName+"/"+d.MethodName] = method{service: service, unary: d}
	}
	for i := range desc.Streams {
		d := &desc.Streams[i]
		s.methods["/"+desc.ServiceName+"/"+d.StreamName] = method{service: service, stream: d}
	}
}

// Stop ends all calls and waits until their handlers have returned.
func (s *Server) Stop() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	for l := range s.lines {
		l.conn.Close()
	}
	s.mu.Unlock()
	s.Server.Stop()
	s.wg.Wait()
}

// splitter tells lines from HTTP/2 by how a connection begins. gRPC calls it in a
// goroutine of each connection, and bounds its time.
type splitter struct{ s *Server }

var _ credentials.TransportCredentials = splitter{}

func (p splitter) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	b := make([]byte, len(preface))
	n, err := io.ReadFull(conn, b)
	switch {
	case n == 0 && err != nil:
		return nil, nil, err
	case err == nil && string(b) == preface:
		p.s.begin(conn)
		return nil, nil, credentials.ErrConnDispatched
	}
	setUserTimeout(conn)
	return &begun{Conn: conn, head: b[:n]}, nil, nil
}

func (splitter) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("rpc: not for clients")
}

func (splitter) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{} }
func (p splitter) Clone() credentials.TransportCredentials { return p }
func (splitter) OverrideServerName(string) error           { return nil }

// begun is a connection of which head was read.
type begun struct {
	net.Conn
	head []byte
}

func (c *begun) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// begin serves a line.
func (s *Server) begin(conn net.Conn) {
	setUserTimeout(conn)
	l := newLine(conn, attentive(conn))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return
	}
	s.lines[l] = struct{}{}
	s.wg.Go(func() {
		s.serve(l)
		conn.Close()
		s.mu.Lock()
		delete(s.lines, l)
		s.mu.Unlock()
	})
}

// serve carries out the calls of a line until it breaks or a stream was its last one.
func (s *Server) serve(l *line) {
	if _, err := l.conn.Write([]byte(preface)); err != nil {
		return
	}
	for {
		kind, n, err := l.next()
		if err != nil || kind != frameOpen {
			return
		}
		b, err := l.payload(n)
		if err != nil {
			return
		}
		o, err := decodeOpening(b)
		if err != nil {
			_ = l.end(err)
			return
		}
		if !s.call(l, &o) {
			return
		}
	}
}

// call carries out one call, and tells whether another may follow.
func (s *Server) call(l *line, o *opening) (more bool) {
	ctx := context.WithValue(metadata.NewIncomingContext(s.ctx, o.md), lineKey{}, l)
	var cancel context.CancelFunc
	if o.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	defer cancel()
	m, ok := s.methods[o.method]
	switch {
	case !ok || o.unary != (m.unary != nil):
		_ = l.end(status.Errorf(codes.Unimplemented, "no method %.100q", o.method))
		return false
	case m.unary != nil:
		return s.unary(ctx, l, o.method, m)
	}
	err := s.check.check(ctx, o.method)
	if err == nil {
		err = m.stream.Handler(m.service, &serverStream{ctx: ctx, cancel: cancel, line: l})
	}
	_ = l.end(err) // that it does not arrive is the caller's to notice
	return false
}

func (s *Server) unary(ctx context.Context, l *line, name string, m method) (more bool) {
	kind, n, err := l.next()
	if err != nil || kind != frameMessage {
		return false
	}
	broken := false
	decode := func(req any) error {
		if err := l.decode(n, req); err != nil {
			broken = true
			return status.Errorf(codes.Internal, "request: %v", err)
		}
		return s.check.check(ctx, name)
	}
	reply, err := m.unary.Handler(m.service, ctx, decode, ownReply)
	if err == nil {
		err = l.message(nil, reply)
		if _, refused := status.FromError(err); err == nil || !refused {
			return err == nil
		}
	}
	return l.end(err) == nil && !broken
}

// serverStream is a stream as its handler sees it.
type serverStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	line   *line
	ended  bool // by the client
}

var _ grpc.ServerStream = (*serverStream)(nil)

func (s *serverStream) SetHeader(metadata.MD) error  { return nil }
func (s *serverStream) SendHeader(metadata.MD) error { return nil }
func (s *serverStream) SetTrailer(metadata.MD)       {}
func (s *serverStream) Context() context.Context     { return s.ctx }

func (s *serverStream) SendMsg(m any) error { return lineError(s.line.message(nil, m)) }

func (s *serverStream) RecvMsg(m any) error {
	if s.ended {
		return io.EOF
	}
	kind, n, err := s.line.next()
	switch {
	case err != nil:
		s.cancel()
		return lineError(err)
	case kind == frameMessage:
		if err := s.line.decode(n, m); err != nil {
			s.cancel()
			return lineError(err)
		}
		return nil
	case kind == frameEnd:
		s.ended = true
		return io.EOF
	}
	s.cancel()
	return status.Errorf(codes.Internal, "frame of kind %d in a stream", kind)
}

// lineKey finds the line of a call in its context.
type lineKey struct{}

// Idle reports, in the goroutine that serves a call, that it is known that nothing more
// of it has arrived by now.
func Idle(ctx context.Context) bool {
	l, ok := ctx.Value(lineKey{}).(*line)
	return ok && l.in.Buffered() == 0
}

// lineError makes the failure of a line one that may be tried again.
func lineError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Errorf(codes.Unavailable, "the connection broke: %v", err)
}
