package append

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/chunk/code"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// Times of a link.
const (
	doubtAfter = 700 * time.Millisecond // without an answer: ask the masters about the server
	stallAfter = 2 * time.Second        // without an answer: the appends have failed; doubles while the server is up for the masters
	stallMax   = 16 * time.Second
	answerMax  = 30 * time.Second // for one append while others are answered
)

var (
	errStalled = errors.New("no answer to an append")
	errAway    = errors.New("out of the cluster map")
)

// link is the one stream to a chunk server.
type link struct {
	a      *Appender
	server dfs.NodeID
	addr   string
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	stream  grpc.BidiStreamingClient[chunkpb.AppendRequest, chunkpb.AppendReply] // +checklocks:mu — nil: connecting
	dead    error                                                                // +checklocks:mu
	sending bool                                                                 // +checklocks:mu — somebody is in drain
	queue   []*outgoing                                                          // +checklocks:mu — not yet given to gRPC
	waiting map[uint64]*outgoing                                                 // +checklocks:mu — by id
	next    uint64                                                               // +checklocks:mu
	since   time.Time                                                            // +checklocks:mu — of the last answer, or of being idle
}

// outgoing is one fragment of a record on its way to a server.
type outgoing struct {
	rec      *record
	position int
	fragment code.Fragment
	id       uint64
	at       time.Time
}

// link finds the stream to a server, or begins one.
func (a *Appender) link(id dfs.NodeID, addr string) *link {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.links[id]; l != nil && l.addr == addr {
		return l
	}
	ctx, cancel := context.WithCancel(a.ctx)
	l := &link{a: a, server: id, addr: addr, ctx: ctx, cancel: cancel, waiting: map[uint64]*outgoing{}}
	if a.closed {
		l.dead = ErrClosed
		cancel()
		return l
	}
	a.links[id] = l
	a.wg.Go(l.run)
	return l
}

// send hands over one append. Appends of one chunk are handed over in order, by one
// goroutine. It returns at once, but for the time gRPC takes to take one message
// when the link was idle: then there is no queue in any part of it.
func (l *link) send(o *outgoing) {
	l.mu.Lock()
	if l.dead != nil {
		err := l.dead
		l.mu.Unlock()
		o.rec.sentOne()
		l.a.linkFailed(l, []*outgoing{o}, err)
		return
	}
	idle := len(l.waiting) == 0
	o.id, o.at = l.next, time.Now()
	l.next++
	l.waiting[o.id] = o
	l.queue = append(l.queue, o)
	if idle {
		l.since = o.at
	}
	drain := l.stream != nil && !l.sending
	if drain {
		l.sending = true
	}
	l.mu.Unlock()
	if idle {
		signal(l.a.timed)
	}
	switch {
	case drain && idle:
		if l.drain(1) {
			l.a.wg.Go(func() { l.drain(0) })
		}
	case drain:
		l.a.wg.Go(func() { l.drain(0) })
	}
}

// drain gives queued appends to gRPC, at most limit when it is not 0. It reports
// whether some are left; the caller is then still the one who sends.
func (l *link) drain(limit int) (left bool) {
	for n := 0; ; n++ {
		l.mu.Lock()
		if len(l.queue) == 0 || l.dead != nil {
			l.sending = false
			l.mu.Unlock()
			return false
		}
		if limit > 0 && n == limit {
			l.mu.Unlock()
			return true
		}
		o := l.queue[0]
		l.queue = l.queue[1:]
		stream := l.stream
		l.mu.Unlock()
		c := o.rec.chunk
		err := rpc.Send(stream, &chunkpb.AppendRequest{
			Id: o.id, Cluster: uint64(l.a.cfg.Pool.Cluster()), Chunk: uint64(c.id), Fragment: uint32(o.position),
			Session: uint64(c.session), Epoch: uint64(c.epoch), Offset: o.rec.off, RecordLen: uint32(o.rec.length),
			Crcs: o.fragment.CRCs, Data: o.fragment.Data, Intents: o.rec.intents,
		}, o.rec.sentOne)
		if err != nil {
			// The stream is broken; the true error is what run receives.
			l.mu.Lock()
			l.sending = false
			l.mu.Unlock()
			return false
		}
	}
}

// run opens the stream and receives its answers until it breaks.
func (l *link) run() {
	err := l.receive()
	l.fail(err)
}

func (l *link) receive() error {
	conn, err := l.a.cfg.Pool.Conn(l.addr)
	if err != nil {
		return err
	}
	stream, err := chunkpb.NewChunkClient(conn).Append(l.ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.dead != nil {
		err := l.dead
		l.mu.Unlock()
		return err
	}
	l.stream = stream
	drain := len(l.queue) > 0
	l.sending = drain
	l.mu.Unlock()
	if drain {
		l.a.wg.Go(func() { l.drain(0) })
	}
	for {
		reply, err := stream.Recv()
		if err != nil {
			return err
		}
		l.mu.Lock()
		o := l.waiting[reply.Id]
		delete(l.waiting, reply.Id)
		l.since = time.Now()
		l.mu.Unlock()
		if o == nil {
			return fmt.Errorf("answer to append %d, which is not waited for", reply.Id)
		}
		l.a.answered(o, l.server, reply)
	}
}

// fail ends the link: all that is not answered has failed.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.dead != nil {
		l.mu.Unlock()
		return
	}
	l.dead = err
	lost := make([]*outgoing, 0, len(l.waiting))
	for _, o := range l.waiting {
		lost = append(lost, o)
	}
	unsent := l.queue
	l.waiting, l.queue = nil, nil
	l.mu.Unlock()
	l.cancel()
	for _, o := range unsent {
		o.rec.sentOne()
	}
	l.a.linkFailed(l, lost, err)
}

// linkFailed gives up the chunks whose appends got lost with a link.
func (a *Appender) linkFailed(l *link, lost []*outgoing, err error) {
	a.mu.Lock()
	if a.links[l.server] == l {
		delete(a.links, l.server)
	}
	hit := false
	for _, o := range lost {
		if !o.rec.dead && !o.rec.acked {
			hit = true
			a.failedLocked(o.rec.chunk)
		}
	}
	if a.closed || errors.Is(err, errAway) {
		a.mu.Unlock()
		return
	}
	if hit {
		a.stats.ServerFails++
		a.reportLocked(l.server, err.Error())
	}
	a.mu.Unlock()
	signal(a.kick)
}

// answered takes a server's answer to one append.
func (a *Appender) answered(o *outgoing, server dfs.NodeID, reply *chunkpb.AppendReply) {
	r := o.rec
	c := r.chunk
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.dead {
		return
	}
	if errno := dfs.Errno(reply.Errno); errno != dfs.OK {
		a.refusedLocked(c, server, errno, reply.Error)
		return
	}
	if len(a.suspects) > 0 {
		if s := a.suspects[server]; s != nil && !s.reporting {
			delete(a.suspects, server)
		}
	}
	now := time.Now()
	r.waiting--
	r.got |= 1 << o.position
	a.judgeLocked(r, server, now)
	if r.waiting > 0 {
		return
	}
	r.acked = true
	l := c.lane
	moved := false
	for len(c.records) > 0 && c.records[0].acked {
		done := c.records[0]
		c.records = c.records[1:]
		c.acked = done.end
		l.records--
		l.bytes -= done.length
		a.stats.AppendTime += now.Sub(done.at)
		moved = true
		for _, p := range done.pieces {
			p.state = ready
			c.uncommitted++
			a.readyLocked(p.file)
			if p.file.tracked {
				p.file.wakeLocked()
			}
		}
	}
	if moved {
		l.failures = 0
		if len(l.queue) > 0 {
			signal(a.kick)
		}
	}
}

// refusedLocked handles an append that a server answered with a verdict.
//
// +checklocks:a.mu
func (a *Appender) refusedLocked(c *chunk, server dfs.NodeID, errno dfs.Errno, text string) {
	a.cfg.Logger.Warn("append refused", "server", server.String(), "chunk", c.id.String(), "errno", errno.Error(), "reason", text)
	a.failedLocked(c)
	switch errno {
	case dfs.ENOSPC, dfs.EDQUOT:
		a.full[server] = time.Now().Add(fullPause)
	case dfs.EIO, dfs.EROFS:
		a.slowLocked(server, time.Now(), text) // it is of no use, even if it is up
		a.reportLocked(server, "append: "+errno.Error()+": "+text)
	}
	signal(a.kick)
}
