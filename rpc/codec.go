package rpc

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// Codec is protobuf, byte for byte what any protobuf program sends and reads, but
// the messages that carry file data (AppendRequest, ReadReply, SnapshotPart,
// RaftMessage) are sent without copying their data field, which then stands last,
// and received with one copy, into a buffer of Alloc.
//
// Sending: gRPC may read a message's data after Send or SendMsg has returned, and
// for a unary reply after the handler has. So the data must never be written to
// again, unless Send, Reply or FreeAfterReply of this package said when gRPC is
// done with it.
//
// Receiving: the message owns its data. Free(m.Data) recycles it, when nobody
// refers to it any more; not doing so is no error.
//
// Its name is "proto": it talks to programs that use the usual codec.
func Codec() encoding.CodecV2 { return codec{} }

type codec struct{}

// outgoing is a message with the function that takes its data back.
type outgoing struct {
	message proto.Message
	free    func()
	taken   atomic.Bool // the codec took over the duty to call free
}

// release calls free when the codec never saw the message.
func (o *outgoing) release() {
	if o.taken.CompareAndSwap(false, true) {
		o.free()
	}
}

// Get and Put make it a mem.BufferPool: gRPC puts the data "back" when the last
// reference to it is gone.
func (o *outgoing) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (o *outgoing) Put(*[]byte)       { o.free() }

// Stream is the sending half that client and server streams share.
type Stream interface {
	SendMsg(m any) error
}

// Send sends m and calls free exactly once, when gRPC does not need m's data any
// more: perhaps before Send returns, perhaps after, on another goroutine.
// free must not block.
func Send(s Stream, m proto.Message, free func()) error {
	o := &outgoing{message: m, free: free}
	err := s.SendMsg(o)
	if err != nil {
		o.release()
	}
	return err
}

// replyKey finds the *replyOwner of a unary call in its context.
type replyKey struct{}

type replyOwner struct{ free func() }

// FreeAfterReply arranges in a unary handler that free is called once, when the
// reply's data has been sent or will never be. It reports whether it could: only
// in servers with ServerOptions of this package; else the caller keeps the data.
func FreeAfterReply(ctx context.Context, free func()) bool {
	o, ok := ctx.Value(replyKey{}).(*replyOwner)
	if !ok {
		return false
	}
	if before := o.free; before != nil {
		o.free = func() { before(); free() }
		return true
	}
	o.free = free
	return true
}

// ownReply gives handlers their FreeAfterReply.
func ownReply(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	o := &replyOwner{}
	reply, err := handler(context.WithValue(ctx, replyKey{}, o), req)
	if o.free == nil {
		return reply, err
	}
	m, ok := reply.(proto.Message)
	if err != nil || !ok {
		o.free()
		return reply, err
	}
	return &outgoing{message: m, free: o.free}, nil
}

// Name makes the content type the usual one.
func (codec) Name() string { return "proto" }

// Marshal encodes v; what gRPC frees is the head, and for an outgoing the data.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	out, _ := v.(*outgoing)
	m, ok := v.(proto.Message)
	if out != nil {
		m, ok = out.message, true
		out.taken.Store(true)
	}
	if !ok {
		return nil, fmt.Errorf("rpc: cannot send a %T: not a protobuf message", v)
	}
	head, field, data := split(m)
	if len(data) < zeroCopyMin {
		b, err := marshal(m, 0)
		if out != nil {
			out.free()
		}
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{b}, nil
	}
	h, err := marshalHead(head, field, len(data))
	if err != nil {
		if out != nil {
			out.free()
		}
		return nil, err
	}
	var pool mem.BufferPool // nil: nobody takes the data back
	if out != nil {
		pool = out
	}
	return mem.BufferSlice{h, mem.NewBuffer(&data, pool)}, nil
}

// zeroCopyMin is the data, in bytes, from which sending it as a buffer of its own
// is cheaper than copying it. It must be above the threshold under which
// mem.NewBuffer forgets its pool, 1 KiB, else free would never be called.
const zeroCopyMin = 4096

func marshal(m proto.Message, extra int) (mem.Buffer, error) {
	size := proto.Size(m)
	opt := proto.MarshalOptions{UseCachedSize: true}
	if mem.IsBelowBufferPoolingThreshold(size + extra) {
		b, err := opt.MarshalAppend(make([]byte, 0, size+extra), m)
		return mem.SliceBuffer(b), err
	}
	pool := mem.DefaultBufferPool()
	p := pool.Get(size + extra)
	b, err := opt.MarshalAppend((*p)[:0], m)
	if err != nil {
		pool.Put(p)
		return nil, err
	}
	*p = b
	return mem.NewBuffer(p, pool), nil
}

// marshalHead encodes head, then the tag and length of the data field.
func marshalHead(head proto.Message, field protowire.Number, dataLen int) (mem.Buffer, error) {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 0, 512), head)
	if err != nil {
		return nil, err
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return mem.SliceBuffer(protowire.AppendVarint(b, uint64(dataLen))), nil
}

// split returns m without its data field (a shallow copy, for others may be
// sending m at the same time), the field's number, and the data. Messages that
// carry no file data return nil data.
func split(m proto.Message) (head proto.Message, field protowire.Number, data []byte) {
	switch m := m.(type) {
	case *chunkpb.AppendRequest:
		if len(m.Data) < zeroCopyMin {
			return m, 0, nil
		}
		head = &chunkpb.AppendRequest{
			Id: m.Id, Cluster: m.Cluster, Chunk: m.Chunk, Fragment: m.Fragment, Session: m.Session, Epoch: m.Epoch,
			Offset: m.Offset, RecordLen: m.RecordLen, Crcs: m.Crcs, Forward: m.Forward, Intents: m.Intents,
		}
		return keepUnknown(head, m), appendDataField, m.Data
	case *chunkpb.ReadReply:
		if len(m.Data) < zeroCopyMin {
			return m, 0, nil
		}
		head = &chunkpb.ReadReply{Errno: m.Errno, Error: m.Error, Off: m.Off, Crcs: m.Crcs}
		return keepUnknown(head, m), readDataField, m.Data
	case *metapb.SnapshotPart:
		if len(m.Data) < zeroCopyMin {
			return m, 0, nil
		}
		head = &metapb.SnapshotPart{To: m.To, Message: m.Message, File: m.File, Crc: m.Crc, Last: m.Last}
		return keepUnknown(head, m), snapshotDataField, m.Data
	case *metapb.RaftMessage:
		if len(m.Data) < zeroCopyMin {
			return m, 0, nil
		}
		return keepUnknown(&metapb.RaftMessage{To: m.To}, m), raftDataField, m.Data
	}
	return m, 0, nil
}

func keepUnknown(head, m proto.Message) proto.Message {
	if u := m.ProtoReflect().GetUnknown(); len(u) > 0 {
		head.ProtoReflect().SetUnknown(u)
	}
	return head
}

// Numbers of the data fields, as in the .proto files.
const (
	appendDataField   protowire.Number = 15
	readDataField     protowire.Number = 15
	snapshotDataField protowire.Number = 4
	raftDataField     protowire.Number = 2
)

// Unmarshal decodes data into v.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *chunkpb.AppendRequest:
		return unmarshalData(data, m, appendDataField, &m.Data)
	case *chunkpb.ReadReply:
		return unmarshalData(data, m, readDataField, &m.Data)
	case *metapb.SnapshotPart:
		return unmarshalData(data, m, snapshotDataField, &m.Data)
	case *metapb.RaftMessage:
		return unmarshalData(data, m, raftDataField, &m.Data)
	case proto.Message:
		return unmarshalPlain(data, m)
	}
	return fmt.Errorf("rpc: cannot receive into a %T: not a protobuf message", v)
}

func unmarshalPlain(data mem.BufferSlice, m proto.Message) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}

// heads recycles the small buffers in which the fields before the data are
// gathered; the decoder copies what it keeps.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

// unmarshalData decodes a message whose field number field is the bytes *dst. It
// copies that field straight from the received buffers to a buffer of Alloc, and
// all others to a scratch buffer for the usual decoder. What is rare or malformed
// (groups, truncation) is left to the usual decoder as a whole.
func unmarshalData(data mem.BufferSlice, m proto.Message, field protowire.Number, dst *[]byte) error {
	if data.Len() < zeroCopyMin {
		return unmarshalPlain(data, m)
	}
	scratch := heads.Get().(*[]byte)
	defer func() {
		if cap(*scratch) <= 64<<10 {
			*scratch = (*scratch)[:0]
			heads.Put(scratch)
		}
	}()
	payload, head, ok := parse(data, field, (*scratch)[:0])
	*scratch = head
	if !ok {
		Free(payload)
		return unmarshalPlain(data, m)
	}
	if err := proto.Unmarshal(head, m); err != nil {
		Free(payload)
		return err
	}
	*dst = payload
	return nil
}

// parse walks the top-level fields of a message: the last value of the data field
// is returned in a buffer of Alloc, all else is appended to head as it stands.
func parse(data mem.BufferSlice, field protowire.Number, head []byte) (payload, rest []byte, ok bool) {
	c := cursor{bufs: data, left: data.Len()}
	for c.left > 0 {
		mark := len(head)
		tag, ok := c.varint(&head)
		if !ok {
			return payload, head, false
		}
		num, typ := protowire.DecodeTag(tag)
		if num < protowire.MinValidNumber {
			return payload, head, false
		}
		switch typ {
		case protowire.VarintType:
			_, ok = c.varint(&head)
		case protowire.Fixed32Type:
			ok = c.take(4, &head)
		case protowire.Fixed64Type:
			ok = c.take(8, &head)
		case protowire.BytesType:
			var n uint64
			n, ok = c.varint(&head)
			if !ok || n > uint64(c.left) {
				return payload, head, false
			}
			if num == field {
				head = head[:mark]
				Free(payload) // an earlier value: the last one wins
				payload = Alloc(int(n))
				c.read(payload)
				continue
			}
			ok = c.take(int(n), &head)
		default: // groups, and what does not exist
			ok = false
		}
		if !ok {
			return payload, head, false
		}
	}
	return payload, head, true
}

// cursor reads a message that is spread over buffers.
type cursor struct {
	bufs mem.BufferSlice
	off  int // in bufs[0]
	left int // bytes, in all of bufs
}

// read fills p; the caller has checked that so much is left.
func (c *cursor) read(p []byte) {
	for len(p) > 0 {
		b := c.bufs[0].ReadOnlyData()[c.off:]
		n := copy(p, b)
		p, c.off, c.left = p[n:], c.off+n, c.left-n
		if n == len(b) {
			c.bufs, c.off = c.bufs[1:], 0
		}
	}
}

// take appends the next n bytes to head.
func (c *cursor) take(n int, head *[]byte) bool {
	if n > c.left {
		return false
	}
	at := len(*head)
	*head = append(*head, make([]byte, n)...)
	c.read((*head)[at:])
	return true
}

// varint reads a varint and appends its bytes to head.
func (c *cursor) varint(head *[]byte) (uint64, bool) {
	at := len(*head)
	for i := range 10 {
		if !c.take(1, head) {
			return 0, false
		}
		if (*head)[at+i] < 0x80 {
			v, n := protowire.ConsumeVarint((*head)[at:])
			return v, n == i+1
		}
	}
	return 0, false
}
