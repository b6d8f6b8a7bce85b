package rpc

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A line is a connection that carries one call at a time. Who calls writes to it
// and reads from it himself, and so does the goroutine that serves it: no other
// goroutine has to be woken on the way, which is most of what a small gRPC call
// costs.
//
//	line:  preface of the client, the same of the server, calls
//	call:  open, messages of both sides, end of both sides
//	frame: length of the payload 4 | kind 1 | 0 0 0 | payload
//
// A unary call is an open frame with the mark for it, one message, and the answer,
// one message or an end; then the next may follow. A stream is the last call of its
// line. The payload of an end of the server is a google.rpc.Status.
const (
	frameOpen    = 1 // timeout 8, mark for unary 1, method, pairs of metadata; texts with their length before
	frameMessage = 2
	frameEnd     = 3
	frameHeader  = 8

	openBytesMax  = 64 << 10
	lineBuffer    = 32 << 10 // bytes read at once; a larger message is read where it stays
	gatherMessage = 16 << 10 // a message up to this is copied behind its header, for one write
)

// preface begins a line. It is as long as that of HTTP/2, so that each end of a
// connection knows at once that the other one speaks something else.
const preface = "dfs line, version 1.\r\n\r\n"

// line is one end of it. One goroutine reads, and many may write.
type line struct {
	conn net.Conn
	in   *bufio.Reader

	mu   sync.Mutex
	out  []byte // +checklocks:mu — scratch
	rest []byte // +checklocks:mu — of out, what the kernel did not take from now
}

func newLine(conn net.Conn, in io.Reader) *line {
	return &line{conn: conn, in: bufio.NewReaderSize(in, lineBuffer)}
}

func putHeader(b []byte, kind byte, n int) {
	binary.LittleEndian.PutUint32(b, uint32(n))
	binary.LittleEndian.PutUint32(b[4:], uint32(kind))
}

// frame writes a small frame.
func (l *line) frame(kind byte, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.flushLocked(); err != nil {
		return err
	}
	l.out = append(l.out[:0], make([]byte, frameHeader)...)
	putHeader(l.out, kind, len(payload))
	l.out = append(l.out, payload...)
	_, err := l.conn.Write(l.out)
	return err
}

// message writes a message, after the frame that opens its call, if one is given.
func (l *line) message(open []byte, m any) error {
	data, err := codec{}.Marshal(m)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	defer data.Free()
	n := data.Len()
	if n > MessageBytesMax {
		return status.Errorf(codes.ResourceExhausted, "message of %d bytes: at most %d", n, MessageBytesMax)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.flushLocked(); err != nil {
		return err
	}
	b := append(l.out[:0], open...)
	at := len(b)
	b = append(b, make([]byte, frameHeader)...)
	putHeader(b[at:], frameMessage, n)
	if n <= gatherMessage {
		for _, part := range data {
			b = append(b, part.ReadOnlyData()...)
		}
		l.out = b
		_, err = l.conn.Write(b)
		return err
	}
	l.out = b
	bufs := make(net.Buffers, 0, 1+len(data))
	bufs = append(bufs, b)
	for _, part := range data {
		bufs = append(bufs, part.ReadOnlyData())
	}
	_, err = bufs.WriteTo(l.conn)
	return err
}

// now writes a small message as far as the kernel takes it at once. taken is false
// when that cannot be done; then nothing was written. left says that flush has to
// follow.
func (l *line) now(m any) (taken, left bool, err error) {
	data, err := codec{}.Marshal(m)
	if err != nil {
		return false, false, status.Error(codes.Internal, err.Error())
	}
	defer data.Free()
	n := data.Len()
	if n > gatherMessage || !l.mu.TryLock() {
		return false, false, nil
	}
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		return false, false, nil
	}
	b := append(l.out[:0], make([]byte, frameHeader)...)
	putHeader(b, frameMessage, n)
	for _, part := range data {
		b = append(b, part.ReadOnlyData()...)
	}
	l.out = b
	n, ok, err := writeNow(l.conn, b)
	if err == nil && ok {
		l.rest = b[n:]
	}
	return ok, len(l.rest) > 0, err
}

// flush writes what now has left.
func (l *line) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushLocked()
}

// +checklocks:l.mu
func (l *line) flushLocked() error {
	if len(l.rest) == 0 {
		return nil
	}
	rest := l.rest
	l.rest = nil
	_, err := l.conn.Write(rest)
	return err
}

// next reads the header of a frame.
func (l *line) next() (kind byte, n int, err error) {
	b, err := l.in.Peek(frameHeader)
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return 0, 0, err
	}
	size, kind := binary.LittleEndian.Uint32(b), b[4]
	_, _ = l.in.Discard(frameHeader) // it was there
	limit := uint32(openBytesMax)
	if kind == frameMessage {
		limit = MessageBytesMax
	}
	if size > limit {
		return 0, 0, fmt.Errorf("frame of kind %d with %d bytes: at most %d", kind, size, limit)
	}
	return kind, int(size), nil
}

// payload reads what follows a header. It is valid until the next read.
func (l *line) payload(n int) ([]byte, error) {
	if n <= lineBuffer {
		b, err := l.in.Peek(n)
		if err == nil {
			_, err = l.in.Discard(n)
		}
		return b, unexpected(err)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(l.in, b)
	return b, unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// decode reads the message that follows a header.
func (l *line) decode(n int, m any) error {
	if n <= lineBuffer {
		b, err := l.payload(n)
		if err != nil {
			return err
		}
		return codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
	}
	pool := mem.DefaultBufferPool()
	p := pool.Get(n)
	buf := mem.NewBuffer(p, pool)
	defer buf.Free()
	if _, err := io.ReadFull(l.in, (*p)[:n]); err != nil {
		return unexpected(err)
	}
	return codec{}.Unmarshal(mem.BufferSlice{buf}, m)
}

// end writes the server's last word.
func (l *line) end(err error) error {
	if err == nil {
		return l.frame(frameEnd, nil)
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	b, err := proto.Marshal(st.Proto())
	if err != nil || len(b) > openBytesMax {
		b, _ = proto.Marshal(status.New(st.Code(), fmt.Sprintf("%.1000s", st.Message())).Proto())
	}
	return l.frame(frameEnd, b)
}

// ended reads the server's last word: io.EOF when all is well.
func (l *line) ended(n int) error {
	b, err := l.payload(n)
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	var p spb.Status
	if err := proto.Unmarshal(b, &p); err != nil {
		return status.Errorf(codes.Internal, "end of a call: %v", err)
	}
	return status.ErrorProto(&p)
}

// opening is what a call begins with.
type opening struct {
	method  string
	timeout time.Duration // 0: none
	unary   bool
	md      metadata.MD
}

// encode makes the frame.
func (o *opening) encode(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, frameHeader)...)
	b = binary.LittleEndian.AppendUint64(b, uint64(o.timeout))
	if o.unary {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	text(o.method)
	for key, values := range o.md {
		for _, v := range values {
			text(key)
			text(v)
		}
	}
	putHeader(b[at:], frameOpen, len(b)-at-frameHeader)
	return b
}

func decodeOpening(b []byte) (o opening, err error) {
	bad := status.Error(codes.InvalidArgument, "a call does not begin as it should")
	if len(b) < 9 {
		return o, bad
	}
	o.timeout, o.unary = time.Duration(binary.LittleEndian.Uint64(b)), b[8] == 1
	b = b[9:]
	var texts []string
	for len(b) > 0 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			return o, bad
		}
		texts = append(texts, string(b[k:k+int(n)]))
		b = b[k+int(n):]
	}
	if len(texts)%2 != 1 || o.timeout < 0 {
		return o, bad
	}
	o.method = texts[0]
	o.md = make(metadata.MD, len(texts)/2)
	for i := 1; i < len(texts); i += 2 {
		o.md[texts[i]] = append(o.md[texts[i]], texts[i+1])
	}
	return o, nil
}
