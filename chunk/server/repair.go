package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/code"
	"dfs/chunk/record"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Times and bounds of repair.
const (
	repairIdle    = time.Second      // between questions for work, when there is none
	repairRetry   = 2 * time.Second  // after a failure, the first time
	repairPatient = time.Minute      // later
	repairWorkers = 2                // fragments made at once
	repairTimeout = 30 * time.Second // one request to the masters
	tellMax       = 4096             // chunks told of in one request
	repairBurst   = 4 << 20          // bytes that may go at once, whatever the rate

	defaultRepairRate = 128 << 20 // bytes a second
	defaultScrubRate  = 32 << 20
	defaultScrubEvery = 7 * 24 * time.Hour
)

// repairs is what the server has to tell of its fragments, and knows of those that could
// not be made.
type repairs struct {
	kick chan struct{}
	pace pacer

	mu     sync.Mutex
	have   []dfs.ChunkID                // +checklocks:mu — not told yet
	lack   []dfs.ChunkID                // +checklocks:mu
	holed  []dfs.ChunkID                // +checklocks:mu — not told yet: holes were made, or could not be
	doubts map[dfs.ChunkID]bool         // +checklocks:mu — of which a read went wrong
	failed map[dfs.ChunkID]repairFailed // +checklocks:mu
	scrub  *metapb.Scrub                // +checklocks:mu — the one that is under way; replaced, not changed
}

// repairFailed is when to try again.
type repairFailed struct {
	until time.Time
	wait  time.Duration
}

// repair makes what the masters say is missing here: what was written while the server
// was away, what another server has left to it, and what is damaged.
func (s *Server) repair(ctx context.Context) {
	for !s.audit(ctx) {
		if !pause(ctx, repairRetry) {
			return
		}
	}
	for ctx.Err() == nil {
		s.lookAtDoubts(ctx)
		work, reclaims, err := s.askRepairs(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.Debug("no answer about what is to be repaired", "err", err)
		}
		work = slices.DeleteFunc(work, func(r *metapb.RepairsReply_Repair) bool { return !s.mends.due(dfs.ChunkID(r.Fragment.GetChunk())) })
		s.makeHoles(ctx, reclaims)
		if len(work) > 0 {
			s.mendAll(ctx, work)
		}
		if len(work)+len(reclaims) > 0 {
			continue
		}
		t := time.NewTimer(repairIdle)
		select {
		case <-t.C:
		case <-s.mends.kick:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// askRepairs tells what is here and what is not, and asks what to make.
func (s *Server) askRepairs(ctx context.Context) (work []*metapb.RepairsReply_Repair, reclaims []*metapb.RepairsReply_Reclaim, err error) {
	m := &s.mends
	m.mu.Lock()
	req := &metapb.RepairsRequest{Server: uint64(s.store.Node()), Scrub: m.scrub}
	have, lack, holed := m.have[:min(len(m.have), tellMax)], m.lack[:min(len(m.lack), tellMax)], m.holed[:min(len(m.holed), tellMax)]
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	for _, id := range have {
		req.Have = append(req.Have, uint64(id))
	}
	for _, id := range lack {
		req.Lack = append(req.Lack, uint64(id))
	}
	for _, id := range holed {
		req.Reclaimed = append(req.Reclaimed, uint64(id))
	}
	var reply *metapb.RepairsReply
	err = s.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewClusterClient(conn).Repairs(ctx, req)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	m.have, m.lack, m.holed = slices.Clone(m.have[len(have):]), slices.Clone(m.lack[len(lack):]), slices.Clone(m.holed[len(holed):])
	m.mu.Unlock()
	return slices.DeleteFunc(reply.Repairs, func(r *metapb.RepairsReply_Repair) bool { return r.Fragment == nil }),
		slices.DeleteFunc(reply.Reclaims, func(r *metapb.RepairsReply_Reclaim) bool { return r.Fragment == nil }), nil
}

// makeHoles gives back the space of records that nothing needs.
func (s *Server) makeHoles(ctx context.Context, reclaims []*metapb.RepairsReply_Reclaim) {
	for _, r := range reclaims {
		if ctx.Err() != nil {
			return
		}
		id := dfs.ChunkID(r.Fragment.Chunk)
		var live []chunk.Span
		for pair := range slices.Chunk(r.Live, 2) {
			if len(pair) == 2 {
				live = append(live, chunk.Span{From: pair[0], To: pair[1]})
			}
		}
		freed, err := s.store.Reclaim(id, r.Fragment.End, live)
		if err != nil && !errors.Is(err, dfs.ENOENT) {
			s.logger.Warn("dead records could not be given back", "chunk", id, "err", err)
		} else if freed > 0 {
			s.logger.Debug("dead records given back", "chunk", id, "bytes", freed)
		}
		s.mends.mu.Lock()
		s.mends.holed = append(s.mends.holed, id)
		s.mends.mu.Unlock()
	}
}

// mendAll makes some fragments, or finds them whole.
func (s *Server) mendAll(ctx context.Context, work []*metapb.RepairsReply_Repair) {
	todo := make(chan *metapb.RepairsReply_Repair)
	var wg sync.WaitGroup
	for range min(repairWorkers, len(work)) {
		wg.Go(func() {
			for r := range todo {
				id := dfs.ChunkID(r.Fragment.Chunk)
				err := s.mend(ctx, r)
				s.mends.note(id, err)
				if err != nil && ctx.Err() == nil {
					s.logger.Warn("a fragment could not be restored yet", "chunk", id, "err", err)
				}
			}
		})
	}
	for _, r := range work {
		todo <- r
	}
	close(todo)
	wg.Wait()
}

// due reports whether a fragment may be tried to be made now.
func (m *repairs) due(id dfs.ChunkID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !time.Now().Before(m.failed[id].until)
}

// note takes over how the making of a fragment ended.
func (m *repairs) note(id dfs.ChunkID, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.have = append(m.have, id)
		delete(m.failed, id)
		return
	}
	if m.failed == nil {
		m.failed = map[dfs.ChunkID]repairFailed{}
	}
	wait := min(max(2*m.failed[id].wait, repairRetry), repairPatient)
	m.failed[id] = repairFailed{time.Now().Add(wait), wait}
}

// missing notes chunks whose fragments are not here, or not whole.
func (m *repairs) missing(ids ...dfs.ChunkID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lack = append(m.lack, ids...)
}

// mend makes one fragment, unless it is here.
func (s *Server) mend(ctx context.Context, r *metapb.RepairsReply_Repair) error {
	f := r.Fragment
	id := dfs.ChunkID(f.Chunk)
	layout := id.Layout()
	if info, ok := s.store.Stat(id); ok && !info.Damaged && info.End >= f.End && (info.Fragment == f.Fragment || layout.Data() == 1) {
		if err := s.store.Verify(id, f.End, func(n int) error { return s.mends.pace.wait(ctx, n) }); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return err
		}
	}
	sources := r.Sources
	var errs []error
	for len(sources) >= layout.Data() {
		bad, err := s.restoreFrom(ctx, f, sources[:layout.Data()])
		if err == nil {
			s.logger.Info("fragment restored", "chunk", id, "fragment", f.Fragment, "bytes", f.End)
			return nil
		}
		errs = append(errs, err)
		if bad < 0 || ctx.Err() != nil {
			break // it is not the source's fault
		}
		sources = slices.Delete(slices.Clone(sources), bad, bad+1)
	}
	if len(errs) == 0 {
		return fmt.Errorf("%d of %d fragments that it takes are on servers that are up", len(sources), layout.Data())
	}
	return errors.Join(errs...)
}

// errSource says that what a source sent cannot be used.
var errSource = errors.New("the source failed")

// restoreFrom makes a fragment from as many others as it takes. bad is the one of them that
// failed, -1 when it was not they.
func (s *Server) restoreFrom(ctx context.Context, f *metapb.Fragment, sources []*metapb.RepairsReply_Source) (bad int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id := dfs.ChunkID(f.Chunk)
	in := make([]*fetching, len(sources))
	for i, src := range sources {
		if in[i], err = s.fetch(ctx, id, f.End, src); err != nil {
			return i, err
		}
	}
	bad = -1
	l := chunk.Lost{Chunk: id, Fragment: f.Fragment, Session: in[0].session, End: f.End}
	err = s.store.Restore(l, func() (record.Header, []byte, error) {
		h, data, at, err := together(id.Layout(), in, int(f.Fragment))
		if err != nil {
			if err != io.EOF {
				bad = at
			}
			return h, nil, err
		}
		return h, data, s.mends.pace.wait(ctx, int(h.Space()))
	})
	return bad, err
}

// together reads the next record of each source, and computes from them the payload that
// one fragment has of it.
func together(layout dfs.Layout, in []*fetching, want int) (h record.Header, data []byte, bad int, err error) {
	fragments := make([][]byte, layout.Width())
	for i, f := range in {
		g, payload, err := f.records.Next()
		if err != nil {
			if err == io.EOF && i == 0 {
				return h, nil, -1, err
			}
			return h, nil, i, fmt.Errorf("fragment %d: %w: %w", f.position, errSource, err)
		}
		if i == 0 {
			h = g
		}
		if int(g.Fragment) != f.position && layout.Data() > 1 || g.Offset != h.Offset || g.RecordLen != h.RecordLen || g.Session != h.Session {
			return h, nil, i, fmt.Errorf("fragment %d has another record at %d: %w", f.position, h.Offset, errSource)
		}
		if layout.Data() == 1 {
			return h, payload, -1, nil
		}
		fragments[f.position] = payload
	}
	if fragments[want] != nil {
		return h, fragments[want], -1, nil
	}
	data, err = code.Rebuild(layout, fragments, want)
	return h, data, -1, err
}

// fetching is a stream of another server's fragment.
type fetching struct {
	position int
	session  dfs.SessionID
	records  *record.Stream
}

// fetch begins to read a fragment of another server.
func (s *Server) fetch(ctx context.Context, id dfs.ChunkID, end uint32, src *metapb.RepairsReply_Source) (*fetching, error) {
	conn, err := s.pool.Conn(src.Addr)
	if err != nil {
		return nil, err
	}
	stream, err := chunkpb.NewChunkClient(conn).Fetch(ctx, &chunkpb.FetchRequest{Chunk: uint64(id), Cluster: uint64(s.store.Cluster()), From: dfs.FirstRecord, To: end})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.Addr, err)
	}
	r := &frames{stream: stream, addr: src.Addr}
	if err := r.next(); err != nil {
		return nil, fmt.Errorf("%s: it has nothing of it: %w", src.Addr, err)
	}
	return &fetching{int(src.Fragment), r.session, record.NewStream(r, dfs.FirstRecord)}, nil
}

// frames reads the bytes of a stream.
type frames struct {
	stream  grpc.ServerStreamingClient[chunkpb.FetchReply]
	addr    string
	session dfs.SessionID
	rest    []byte
}

func (f *frames) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *frames) next() error {
	m, err := f.stream.Recv()
	if err != nil {
		return err // io.EOF is the end
	}
	if err := rpc.Errno(m.Errno); err != nil {
		return fmt.Errorf("%s: %s: %w", f.addr, m.Error, err)
	}
	f.rest, f.session = m.Data, dfs.SessionID(m.Session)
	return nil
}

// expected calls fn for the fragments that the masters think are here, page by page, from
// those after a chunk on.
func (s *Server) expected(ctx context.Context, after dfs.ChunkID, fn func([]*metapb.Fragment) error) error {
	for {
		var reply *metapb.ExpectReply
		call, cancel := context.WithTimeout(ctx, repairTimeout)
		err := s.masters.Call(call, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			reply, err = metapb.NewClusterClient(conn).Expect(ctx, &metapb.ExpectRequest{Server: uint64(s.store.Node()), After: uint64(after)})
			return err
		})
		cancel()
		if err != nil {
			return err
		}
		if err := fn(reply.Fragments); err != nil || reply.Next == 0 {
			return err
		}
		after = dfs.ChunkID(reply.Next)
	}
}

// lacks reports whether a fragment is not here as it should be, as far as can be told
// without reading it.
func (s *Server) lacks(f *metapb.Fragment) bool {
	id := dfs.ChunkID(f.Chunk)
	info, ok := s.store.Stat(id)
	return !ok || info.Damaged || info.End < f.End || info.Fragment != f.Fragment && id.Layout().Data() > 1
}

// audit compares what the masters think is here with what is. It answers false when it
// could not.
func (s *Server) audit(ctx context.Context) bool {
	n, example := 0, dfs.ChunkID(0)
	err := s.expected(ctx, 0, func(page []*metapb.Fragment) error {
		for _, f := range page {
			if s.lacks(f) {
				n, example = n+1, dfs.ChunkID(f.Chunk)
				s.mends.missing(example)
			}
		}
		return nil
	})
	if n > 0 {
		s.logger.Warn("fragments that should be here are not, or not whole; they will be made anew from others", "fragments", n, "one_is_of", example)
	}
	if err != nil && ctx.Err() == nil {
		s.logger.Debug("what is here could not be compared with what should be", "err", err)
	}
	return err == nil
}

// doubt has a chunk looked at of which a read went wrong.
func (s *Server) doubt(id dfs.ChunkID) {
	m := &s.mends
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doubts == nil {
		m.doubts = map[dfs.ChunkID]bool{}
	}
	m.doubts[id] = true
	kick(m.kick)
}

// lookAtDoubts reads the chunks of which reads went wrong.
func (s *Server) lookAtDoubts(ctx context.Context) {
	m := &s.mends
	m.mu.Lock()
	doubts := m.doubts
	m.doubts = nil
	m.mu.Unlock()
	for id := range doubts {
		err := s.expected(ctx, id-1, func(page []*metapb.Fragment) error {
			if len(page) > 0 && dfs.ChunkID(page[0].Chunk) == id {
				s.inspect(ctx, page[0], &m.pace)
			}
			return errOnce
		})
		if err != nil && !errors.Is(err, errOnce) && ctx.Err() == nil {
			s.doubt(id)
			return
		}
	}
}

// errOnce ends a walk after the first page.
var errOnce = errors.New("that was all that was asked for")

// inspect reads a fragment that should be here, and has it made anew when it is not whole.
func (s *Server) inspect(ctx context.Context, f *metapb.Fragment, p *pacer) {
	id := dfs.ChunkID(f.Chunk)
	var err error
	if s.lacks(f) {
		err = fmt.Errorf("it is not here up to %d: %w", f.End, dfs.ENOENT)
	} else {
		err = s.store.Verify(id, f.End, func(n int) error { return p.wait(ctx, n) })
	}
	if err != nil && ctx.Err() == nil {
		s.logger.Error("a fragment is damaged; it will be made anew from others", "chunk", id, "err", err)
		s.mends.missing(id)
		kick(s.mends.kick)
	}
}

// scrub reads all that should be here, again and again, so that what was damaged at rest
// is found while there are other copies.
func (s *Server) scrub(ctx context.Context) {
	p := &pacer{rate: s.rate("scrub-rate", s.cfg.ScrubRate)}
	for began := time.Now(); s.untilScrub(ctx, began); began = time.Now() {
		n, bytes, total := 0, uint64(0), s.expectedBytes(ctx)
		err := s.expected(ctx, 0, func(page []*metapb.Fragment) error {
			for _, f := range page {
				s.mends.scrubbed(bytes, total, time.Since(began))
				s.inspect(ctx, f, p)
				n, bytes = n+1, bytes+uint64(f.End)
			}
			return ctx.Err()
		})
		s.mends.scrubbed(0, 0, 0)
		if ctx.Err() == nil {
			s.logger.Info("scrubbed", "fragments", n, "bytes", bytes, "took", time.Since(began), "err", err)
		}
	}
}

// expectedBytes is how much the scrub has to read; 0 when it is not known.
func (s *Server) expectedBytes(ctx context.Context) (total uint64) {
	err := s.expected(ctx, 0, func(page []*metapb.Fragment) error {
		for _, f := range page {
			total += uint64(f.End)
		}
		return ctx.Err()
	})
	if err != nil {
		return 0
	}
	return total
}

// scrubbed notes how far the scrub is, for the masters to tell; a total of 0: none is under way.
func (m *repairs) scrubbed(bytes, total uint64, since time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.scrub = nil; total > 0 {
		m.scrub = &metapb.Scrub{Done: bytes, Total: total, PerSecond: uint64(float64(bytes) / max(since.Seconds(), 1e-3))}
	}
}

// scrubLook is how often it is looked whether the time between scrubs was changed.
const scrubLook = time.Minute

// untilScrub waits for the next scrub; false when ctx ended.
func (s *Server) untilScrub(ctx context.Context, began time.Time) bool {
	for {
		every := time.Duration(s.Map().Setting("scrub-every", int64(s.cfg.ScrubEvery)))
		left := time.Until(began.Add(every))
		if !pause(ctx, min(left, scrubLook)) {
			return false
		}
		if left <= scrubLook {
			return true
		}
	}
}

// rate is a setting of the cluster in bytes a second; own holds while it is not set.
func (s *Server) rate(name string, own int64) func() int64 {
	return func() int64 { return s.Map().Setting(name, own) }
}

// pacer bounds how fast bytes go.
type pacer struct {
	rate func() int64 // bytes a second

	mu   sync.Mutex
	next time.Time // +checklocks:mu — when what has gone would have gone at the rate
}

// wait lets n bytes go.
func (p *pacer) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	now, rate := time.Now(), float64(p.rate())
	burst := time.Duration(float64(repairBurst) / rate * float64(time.Second))
	if earliest := now.Add(-burst); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	wait := p.next.Sub(now)
	p.mu.Unlock()
	if wait > time.Millisecond {
		pause(ctx, wait)
	}
	return ctx.Err()
}

// kick wakes the loop that reads from c, a channel with room for one.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
