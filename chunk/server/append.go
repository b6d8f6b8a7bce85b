package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/chunk"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// carryMax is the data, in bytes, of an append that the receiving goroutine syncs
// itself when no other one has arrived. Receiving a larger one is worth doing at the
// same time.
const carryMax = 32 << 10

// stream is one Append call.
type stream struct {
	server  *Server
	out     grpc.BidiStreamingServer[chunkpb.AppendRequest, chunkpb.AppendReply]
	slots   chan struct{} // one for each append without a reply
	pending sync.WaitGroup
	hops    map[string]*hop // by address; used by the receiving goroutine only

	sendMu sync.Mutex // gRPC allows one sender at a time
}

// Append serves a stream of appends. It receives in order, so the records of a
// chunk are written in order; replies go out as the syncs end.
func (s *Server) Append(out grpc.BidiStreamingServer[chunkpb.AppendRequest, chunkpb.AppendReply]) error {
	ctx, cancel := context.WithCancel(out.Context())
	st := &stream{server: s, out: out, slots: make(chan struct{}, streamPending), hops: map[string]*hop{}}
	err := st.receive(ctx)
	if err != nil {
		cancel() // nobody waits for what the next hops say
	}
	st.pending.Wait()
	cancel()
	for _, h := range st.hops {
		h.wg.Wait()
	}
	return err
}

func (st *stream) receive(ctx context.Context) error {
	for {
		req, err := st.out.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if own := st.server.store.Cluster(); dfs.ClusterID(req.Cluster) != own {
			rpc.Free(req.Data)
			return status.Errorf(codes.FailedPrecondition, "wrong cluster: the append is of cluster %s, this server is of cluster %s",
				dfs.ClusterID(req.Cluster), own)
		}
		if err := st.server.gone(); err != nil {
			rpc.Free(req.Data)
			return err
		}
		select {
		case st.slots <- struct{}{}:
		case <-ctx.Done():
			rpc.Free(req.Data)
			return ctx.Err()
		}
		st.pending.Add(1)
		st.server.busy.note(time.Now())
		st.handle(ctx, req)
	}
}

// reply sends one, and ends its append. That it does not arrive is the caller's to
// notice.
func (st *stream) reply(r *chunkpb.AppendReply) {
	st.sendMu.Lock()
	_ = st.out.Send(r)
	st.sendMu.Unlock()
	<-st.slots
	st.pending.Done()
}

// verdict is the errno and text of an error; what has no errno is EIO.
func verdict(err error) (uint32, string) {
	if err == nil {
		return 0, ""
	}
	e := dfs.EIO
	errors.As(err, &e)
	return uint32(e), err.Error()
}

// handle passes an append on to the next hop, if there is one, and writes it here
// at the same time.
func (st *stream) handle(ctx context.Context, req *chunkpb.AppendRequest) {
	s := st.server
	r := chunk.Record{
		Chunk: dfs.ChunkID(req.Chunk), Fragment: req.Fragment, Session: dfs.SessionID(req.Session), Epoch: dfs.Epoch(req.Epoch),
		Offset: req.Offset, RecordLen: req.RecordLen, CRCs: req.Crcs, Data: req.Data, Intents: req.Intents,
	}
	next, err := st.next(ctx, req)
	if err == nil {
		err = s.belongs(r)
	}
	if err != nil {
		rpc.Free(req.Data)
		errno, text := verdict(err)
		st.reply(&chunkpb.AppendReply{Id: req.Id, Errno: errno, Error: text})
		return
	}
	if next == nil {
		submit := s.store.Submit
		if len(req.Data) <= carryMax && rpc.Idle(ctx) {
			submit = s.store.Carry
		}
		submit(r, func(end uint32, err error) {
			errno, text := verdict(err)
			st.reply(&chunkpb.AppendReply{Id: req.Id, Errno: errno, Error: text, End: end})
		})
		rpc.Free(req.Data)
		return
	}
	// Two halves answer, in any order: the second one replies. Two users of the data
	// end, in any order: the second one frees it.
	both := &pair{}
	data := &pair{}
	free := func() {
		if data.second() {
			rpc.Free(req.Data)
		}
	}
	next.forward(req, free, func(errno uint32, text string, failed dfs.NodeID) {
		both.set(func(r *chunkpb.AppendReply) {
			if r.Errno == 0 && errno != 0 {
				r.Errno, r.Error, r.Failed = errno, text, uint64(failed)
			}
		}, req.Id, st.reply)
	})
	s.store.Submit(r, func(end uint32, err error) {
		both.set(func(r *chunkpb.AppendReply) {
			r.End = end
			if err != nil { // our own trouble is what is told first
				r.Failed = 0
				r.Errno, r.Error = verdict(err)
			}
		}, req.Id, st.reply)
	})
	free()
}

// pair brings two halves together.
type pair struct {
	mu    sync.Mutex
	once  bool
	reply chunkpb.AppendReply
}

// second is false the first time, then true.
func (p *pair) second() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.once
	p.once = true
	return was
}

// set adds one half's part to the reply; the second half sends it.
func (p *pair) set(part func(*chunkpb.AppendReply), id uint64, send func(*chunkpb.AppendReply)) {
	p.mu.Lock()
	part(&p.reply)
	last := p.once
	p.once = true
	p.mu.Unlock()
	if last {
		p.reply.Id = id
		send(&p.reply)
	}
}

// belongs refuses the first record of a chunk that, as we know from a map that is
// not older than the writer's, lives elsewhere: the masters would refuse its commit.
func (s *Server) belongs(r chunk.Record) error {
	m := s.clusterMap.Load()
	if r.Offset != dfs.FirstRecord || m == nil || m.Epoch < r.Epoch || m.Buckets == 0 || !r.Chunk.Layout().Valid() {
		return nil
	}
	home := m.Home[r.Chunk.PG(m.Buckets)]
	if home == nil || int64(r.Fragment) < int64(len(home)) && home[r.Fragment] == s.store.Node() {
		return nil
	}
	return fmt.Errorf("chunk %s does not live on server %s in epoch %d: %w", r.Chunk, s.cfg.Name, m.Epoch, dfs.ESTALE)
}

// mapWait is how long an append waits for the map that names its next hop.
const mapWait = time.Second

// next finds the connection to the next hop of an append, nil when it has none. It
// only goes to servers of the cluster map.
func (st *stream) next(ctx context.Context, req *chunkpb.AppendRequest) (*hop, error) {
	if len(req.Forward) == 0 {
		return nil, nil
	}
	if dfs.ChunkID(req.Chunk).Layout().Data() != 1 || len(req.Forward) >= dfs.CopiesMax {
		return nil, fmt.Errorf("%d hops for a chunk of %s: %w", len(req.Forward), dfs.ChunkID(req.Chunk).Layout(), dfs.EINVAL)
	}
	addr := req.Forward[0].GetAddr()
	if h := st.hops[addr]; h != nil && !h.ended() {
		return h, nil
	}
	id, ok := st.server.serverAt(ctx, addr, dfs.Epoch(req.Epoch))
	if !ok {
		return nil, fmt.Errorf("next hop %.100q is no server of the cluster map: %w", addr, dfs.EINVAL)
	}
	if old := st.hops[addr]; old != nil {
		old.wg.Wait()
	}
	h := newHop(ctx, st.server, addr, id)
	st.hops[addr] = h
	return h, nil
}

// serverAt finds the server with an address, waiting a moment when the writer knows
// a newer map.
func (s *Server) serverAt(ctx context.Context, addr string, epoch dfs.Epoch) (dfs.NodeID, bool) {
	for deadline := time.Now().Add(mapWait); ; {
		m := s.clusterMap.Load()
		if m != nil {
			for i := range m.Servers {
				if m.Servers[i].Addr == addr && m.Servers[i].State != dfs.ServerGone {
					return m.Servers[i].ID, m.Servers[i].ID != s.store.Node()
				}
			}
		}
		if m != nil && m.Epoch >= epoch || time.Now().After(deadline) {
			return 0, false
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-time.After(mapWait / 50):
		}
	}
}
