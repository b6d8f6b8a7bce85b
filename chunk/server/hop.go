package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// hop is the way from one incoming stream to the next server of its chains: an
// Append stream of our own. When it breaks, or does not answer in time, all that
// waits on it fails, and the incoming stream makes a new one.
type hop struct {
	server *Server
	addr   string
	id     dfs.NodeID
	ctx    context.Context
	cancel context.CancelCauseFunc
	queue  chan forwarded
	wg     sync.WaitGroup

	mu      sync.Mutex
	next    uint64             // +checklocks:mu — id of the next request
	waiting map[uint64]waiting // +checklocks:mu
	err     error              // +checklocks:mu — why it ended
}

type forwarded struct {
	req  *chunkpb.AppendRequest
	free func() // when the data is not needed any more
}

type waiting struct {
	since time.Time
	done  func(errno uint32, text string, failed dfs.NodeID)
}

var errHopTimeout = errors.New("it did not answer in time")

func newHop(ctx context.Context, s *Server, addr string, id dfs.NodeID) *hop {
	h := &hop{server: s, addr: addr, id: id, queue: make(chan forwarded, hopQueue), waiting: map[uint64]waiting{}}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	h.wg.Go(h.run)
	return h
}

// ended reports whether a new hop is needed.
func (h *hop) ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err != nil
}

// forward passes an append on. done is called once, free too, perhaps at once. It
// waits while the queue is full: so a slow server slows its writer down.
func (h *hop) forward(req *chunkpb.AppendRequest, free func(), done func(errno uint32, text string, failed dfs.NodeID)) {
	h.mu.Lock()
	if err := h.err; err != nil {
		h.mu.Unlock()
		free()
		done(uint32(dfs.EIO), err.Error(), h.id)
		return
	}
	h.next++
	id := h.next
	h.waiting[id] = waiting{time.Now(), done}
	h.mu.Unlock()
	out := &chunkpb.AppendRequest{
		Id: id, Cluster: req.Cluster, Chunk: req.Chunk, Fragment: req.Forward[0].GetFragment(), Session: req.Session,
		Epoch: req.Epoch, Offset: req.Offset, RecordLen: req.RecordLen, Crcs: req.Crcs,
		Forward: req.Forward[1:], Data: req.Data, Intents: req.Intents,
	}
	select {
	case h.queue <- forwarded{out, free}:
	case <-h.ctx.Done():
		free()
		// run answers all that waits when it ends; it has perhaps done so.
		h.fail(context.Cause(h.ctx))
	}
}

// run owns the stream: this goroutine sends, another receives, a third one watches
// the time.
func (h *hop) run() {
	err := h.work()
	h.cancel(err)
	h.fail(err)
	for {
		select {
		case f := <-h.queue:
			f.free()
		default:
			return
		}
	}
}

func (h *hop) work() error {
	conn, err := h.server.pool.Conn(h.addr)
	if err != nil {
		return err
	}
	out, err := chunkpb.NewChunkClient(conn).Append(h.ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { h.cancel(h.receive(out)) })
	wg.Go(h.watch)
	for {
		select {
		case f := <-h.queue:
			if err := rpc.Send(out, f.req, f.free); err != nil {
				<-h.ctx.Done() // the stream is broken, and receive hears why
			}
		case <-h.ctx.Done():
			return context.Cause(h.ctx)
		}
	}
}

func (h *hop) receive(in grpc.BidiStreamingClient[chunkpb.AppendRequest, chunkpb.AppendReply]) error {
	for {
		r, err := in.Recv()
		if err != nil {
			return err
		}
		h.mu.Lock()
		w, ok := h.waiting[r.Id]
		delete(h.waiting, r.Id)
		h.mu.Unlock()
		if !ok {
			return fmt.Errorf("it answered append %d, which it was not sent", r.Id)
		}
		failed := dfs.NodeID(r.Failed)
		if r.Errno != 0 && failed == 0 {
			failed = h.id
		}
		w.done(r.Errno, r.Error, failed)
	}
}

// watch ends the hop when an append waits for too long.
func (h *hop) watch() {
	limit := h.server.cfg.HopTimeout
	t := time.NewTicker(limit / 4)
	defer t.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case now := <-t.C:
			h.mu.Lock()
			late := false
			for _, w := range h.waiting {
				late = late || now.Sub(w.since) > limit
			}
			h.mu.Unlock()
			if late {
				h.cancel(errHopTimeout)
			}
		}
	}
}

// fail answers all that waits, now and later.
func (h *hop) fail(err error) {
	if err == nil {
		err = errors.New("it ended the stream")
	}
	err = fmt.Errorf("next server %s: %w", h.addr, err)
	h.mu.Lock()
	if h.err == nil {
		h.err = err
	}
	list := h.waiting
	h.waiting = map[uint64]waiting{}
	h.mu.Unlock()
	for _, w := range list {
		w.done(uint32(dfs.EIO), err.Error(), h.id)
	}
}
