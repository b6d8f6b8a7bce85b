package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/meta"
	"dfs/proto/adminpb"
	"dfs/proto/chunkpb"
)

// Bounds of a check.
const (
	checkPage     = 1024 // chunks that are looked at together
	checkPart     = 64   // fragments in one request to a server
	checkSilence  = time.Minute
	checkAgain    = time.Second // between looks at what is being repaired
	checkPathMax  = 1 << 20     // chunks of one file or folder tree
	findingsMax   = 1000
	findingsFiles = 1000 // paths told with one finding
)

// checking is one check on its way. A finding is what is wrong twice: what only moved or was
// freed meanwhile is not.
type checking struct {
	l   *leadership
	req *adminpb.CheckRequest
	out grpc.ServerStreamingServer[adminpb.CheckReply]

	sum   tally // so far
	found []*finding
	more  bool

	mu   sync.Mutex
	lame map[dfs.NodeID]error // +checklocks:mu — servers that do not answer
}

// tally is what was looked at.
type tally struct{ Chunks, Fragments, Bytes, Files, Due uint64 }

// finding is something that is wrong.
type finding struct {
	*adminpb.Finding
	at target // what could be restored; of no chunk: nothing
}

// target is a fragment that should be somewhere.
type target struct {
	chunk    dfs.ChunkID
	position int
	server   dfs.NodeID
	end      uint32
}

// broken is a target of which a server says that it is not whole.
type broken struct {
	target
	errno dfs.Errno
	text  string
}

// Check proves that all that is stored is whole, or says what is not.
func (s *Server) Check(req *adminpb.CheckRequest, out grpc.ServerStreamingServer[adminpb.CheckReply]) error {
	l := s.leading.Load()
	if l == nil {
		return s.notReady()
	}
	if !l.checks.TryLock() {
		return status.Error(codes.FailedPrecondition, "a check is running already: wait for it")
	}
	defer l.checks.Unlock()
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	c := &checking{l: l, req: req, out: out, lame: map[dfs.NodeID]error{}}
	err := c.run(ctx)
	var errno dfs.Errno
	if errors.As(err, &errno) && (req.Path != "" || req.Ino != 0) {
		return out.Send(&adminpb.CheckReply{Errno: uint32(errno), Done: true})
	}
	return s.failure(err)
}

func (c *checking) run(ctx context.Context) error {
	// What was acknowledged before the check is part of it.
	if err := c.l.s.node.Read(ctx, func(meta.View) error { return nil }); err != nil {
		return err
	}
	if c.req.Path == "" && c.req.Ino == 0 {
		if err := c.all(ctx); err != nil {
			return err
		}
	} else if err := c.tree(ctx); err != nil {
		return err
	}
	if err := c.tell(ctx); err != nil {
		return err
	}
	if c.req.Repair {
		if err := c.await(ctx); err != nil {
			return err
		}
	}
	return c.send(&adminpb.CheckReply{Done: true, More: c.more})
}

// send tells how far it is, and what is new.
func (c *checking) send(r *adminpb.CheckReply) error {
	r.Chunks, r.Fragments, r.Bytes, r.Files, r.Due = c.sum.Chunks, c.sum.Fragments, c.sum.Bytes, c.sum.Files, c.sum.Due
	return c.out.Send(r)
}

func (c *checking) find(at target, f *adminpb.Finding) {
	if len(c.found) == findingsMax {
		c.more = true
		return
	}
	f.Id = uint32(len(c.found))
	c.found = append(c.found, &finding{f, at})
}

// all checks everything: the rows, all chunks, and what the servers hold besides.
func (c *checking) all(ctx context.Context) error {
	var problems []meta.Problem
	err := c.l.s.node.Frozen(func(v meta.View) error {
		problems = v.Check()
		counters, err := v.Counters()
		c.sum.Files = counters.Inodes
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range problems {
		c.find(target{}, &adminpb.Finding{Kind: "metadata", Chunk: uint64(p.Chunk), Ino: uint64(p.Ino), Text: p.Text})
	}
	for after := dfs.ChunkID(0); ; {
		var page []meta.Chunk
		var m *dfs.ClusterMap
		err := c.l.s.node.LocalRead(func(v meta.View) (err error) {
			if m, err = v.Map(); err != nil {
				return err
			}
			page, err = v.Chunks(after, checkPage)
			return err
		})
		if err != nil {
			return err
		}
		if err := c.chunks(ctx, m, page); err != nil {
			return err
		}
		if len(page) < checkPage {
			return c.strays(ctx, m)
		}
		after = page[len(page)-1].ID
	}
}

// tree checks the chunks in which files of a folder tree, or one file, have bytes.
func (c *checking) tree(ctx context.Context) error {
	chunks := map[dfs.ChunkID]bool{}
	err := c.l.s.node.Frozen(func(v meta.View) error {
		top := dfs.Ino(c.req.Ino)
		if top == 0 {
			attr, err := v.Resolve(dfs.Cred{}, c.req.Path)
			if err != nil {
				return err
			}
			top = attr.Ino
		}
		return v.Tree(top, func(ino dfs.Ino, dir bool) error {
			c.sum.Files++
			if dir {
				return ctx.Err()
			}
			return v.EachExtentOf(ino, func(e dfs.Extent) error {
				if chunks[e.Chunk] = true; len(chunks) > checkPathMax {
					return status.Errorf(codes.FailedPrecondition, "more than %d chunks are below it: check everything, or smaller folders", checkPathMax)
				}
				return nil
			})
		})
	})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(chunks)), checkPage) {
		m, page, err := c.records(part)
		if err != nil {
			return err
		}
		if err := c.chunks(ctx, m, page); err != nil {
			return err
		}
	}
	return nil
}

// records reads the map and the records of some chunks, of those that have one.
func (c *checking) records(ids []dfs.ChunkID) (m *dfs.ClusterMap, page []meta.Chunk, err error) {
	err = c.l.s.node.LocalRead(func(v meta.View) (err error) {
		if m, err = v.Map(); err != nil {
			return err
		}
		for _, id := range ids {
			rec, ok, err := v.Chunk(id)
			if err != nil {
				return err
			}
			if ok {
				page = append(page, rec)
			}
		}
		return nil
	})
	return m, page, err
}

// wanted lists the fragments that should be there of a chunk, and those of which it is known
// that they are not.
func wanted(m *dfs.ClusterMap, rec *meta.Chunk) (there []target, missing []broken) {
	for i, id := range m.Home[rec.ID.PG(m.Buckets)] {
		t := target{rec.ID, i, id, rec.Committed}
		switch {
		case id == 0:
			missing = append(missing, broken{t, dfs.ENOENT, "no server has this place"})
		case !serves(m, id):
			missing = append(missing, broken{t, dfs.ENODEV, "its server is down"})
		case rec.Present>>i&1 == 0:
			missing = append(missing, broken{t, dfs.ENOENT, "it was lost there, or never written, and is not restored yet"})
		default:
			there = append(there, t)
		}
	}
	return there, missing
}

// chunks checks a page of chunks.
func (c *checking) chunks(ctx context.Context, m *dfs.ClusterMap, page []meta.Chunk) error {
	var todo []target
	suspect := map[dfs.ChunkID]bool{}
	for i := range page {
		if page[i].Committed == 0 || page[i].Live == 0 {
			continue // no part of a file
		}
		c.sum.Chunks++
		there, missing := wanted(m, &page[i])
		todo = append(todo, there...)
		if len(missing) > 0 {
			suspect[page[i].ID] = true
		}
	}
	for _, b := range c.verify(ctx, m, todo, false) {
		suspect[b.chunk] = true
	}
	c.sum.Fragments += uint64(len(todo))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(suspect) > 0 {
		if err := c.confirm(ctx, slices.Sorted(maps.Keys(suspect))); err != nil {
			return err
		}
	}
	return c.send(&adminpb.CheckReply{})
}

// confirm looks again at chunks with which something was wrong, by the map and the records as
// they are now.
func (c *checking) confirm(ctx context.Context, ids []dfs.ChunkID) error {
	bad, m, err := c.wrong(ctx, ids, c.req.Repair)
	if err != nil {
		return err
	}
	for _, b := range bad {
		f := &adminpb.Finding{Kind: "damaged", Chunk: uint64(b.chunk), Text: fmt.Sprintf("fragment %d: %s", b.position, b.text)}
		switch b.errno {
		case dfs.ENOENT:
			f.Kind = "missing"
		case dfs.ENODEV:
			f.Kind = "unreachable"
		}
		if server := m.Server(b.server); server != nil {
			f.Server = server.Name
		}
		c.find(b.target, f)
	}
	return nil
}

// wrong is what is wrong with chunks now.
func (c *checking) wrong(ctx context.Context, ids []dfs.ChunkID, repair bool) ([]broken, *dfs.ClusterMap, error) {
	m, page, err := c.records(ids)
	if err != nil {
		return nil, nil, err
	}
	var todo []target
	var bad []broken
	for i := range page {
		if page[i].Committed == 0 || page[i].Live == 0 {
			continue
		}
		there, missing := wanted(m, &page[i])
		todo, bad = append(todo, there...), append(bad, missing...)
	}
	return append(bad, c.verify(ctx, m, todo, repair)...), m, ctx.Err()
}

// verify has servers read fragments, and answers those that are not whole.
func (c *checking) verify(ctx context.Context, m *dfs.ClusterMap, todo []target, repair bool) []broken {
	byServer := map[dfs.NodeID][]target{}
	for _, t := range todo {
		byServer[t.server] = append(byServer[t.server], t)
	}
	var bad []broken
	var mu sync.Mutex // of bad and the bytes
	var wg sync.WaitGroup
	for id, list := range byServer {
		wg.Go(func() {
			for part := range slices.Chunk(list, checkPart) {
				wrong, read := c.verifyPart(ctx, m.Server(id), part, repair)
				mu.Lock()
				bad = append(bad, wrong...)
				c.sum.Bytes += read
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(bad, func(a, b broken) int {
		return cmp.Or(cmp.Compare(a.chunk, b.chunk), cmp.Compare(a.position, b.position))
	})
	return bad
}

// verifyPart asks a server. One that does not answer is not asked again.
func (c *checking) verifyPart(ctx context.Context, server *dfs.Server, part []target, repair bool) (bad []broken, read uint64) {
	c.mu.Lock()
	lame := c.lame[server.ID]
	c.mu.Unlock()
	if lame == nil {
		bad, read, lame = c.askVerify(ctx, server.Addr, part, repair)
	}
	if lame == nil || ctx.Err() != nil {
		return bad, read
	}
	c.mu.Lock()
	c.lame[server.ID] = lame
	c.mu.Unlock()
	bad = bad[:0]
	for _, t := range part {
		bad = append(bad, broken{t, dfs.ENODEV, fmt.Sprintf("its server does not answer: %v", lame)})
	}
	return bad, 0
}

func (c *checking) askVerify(ctx context.Context, addr string, part []target, repair bool) (bad []broken, read uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(checkSilence, cancel)
	defer silence.Stop()
	conn, err := c.l.s.pool.Conn(addr)
	if err != nil {
		return nil, 0, err
	}
	req := &chunkpb.VerifyRequest{Cluster: c.l.s.cluster.Load(), Quick: c.req.Quick, Repair: repair}
	for _, t := range part {
		req.Fragments = append(req.Fragments, &chunkpb.VerifyFragment{Chunk: uint64(t.chunk), Fragment: uint32(t.position), End: t.end})
	}
	stream, err := chunkpb.NewChunkClient(conn).Verify(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	for _, t := range part {
		r, err := stream.Recv()
		if err != nil {
			return nil, 0, err
		}
		silence.Reset(checkSilence)
		if r.Errno != 0 {
			bad = append(bad, broken{t, dfs.Errno(r.Errno), r.Error})
		} else if !c.req.Quick {
			read += uint64(t.end)
		}
	}
	return bad, read, nil
}

// strays looks at what the servers hold: what nothing needs is due to be freed, what nobody can
// have written is a finding.
func (c *checking) strays(ctx context.Context, m *dfs.ClusterMap) error {
	for i := range m.Servers {
		server := &m.Servers[i]
		if !serves(m, server.ID) {
			continue
		}
		err := c.listed(ctx, server.Addr, func(ids []dfs.ChunkID) error {
			var due, strange []dfs.ChunkID
			err := c.l.s.node.LocalRead(func(v meta.View) (err error) {
				if due, err = v.Deletable(server.ID, ids); err != nil {
					return err
				}
				strange, err = v.Strange(ids)
				return err
			})
			c.sum.Due += uint64(len(due))
			for _, id := range strange {
				c.find(target{}, &adminpb.Finding{Kind: "stray", Chunk: uint64(id), Server: server.Name, Text: "nobody was ever given the number of this chunk: it is of another cluster, or the masters were set back"})
			}
			return err
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.find(target{}, &adminpb.Finding{Kind: "unreachable", Server: server.Name, Text: fmt.Sprintf("it does not tell what it holds: %v", err)})
		}
	}
	return nil
}

func (c *checking) listed(ctx context.Context, addr string, fn func([]dfs.ChunkID) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(checkSilence, cancel)
	defer silence.Stop()
	conn, err := c.l.s.pool.Conn(addr)
	if err != nil {
		return err
	}
	stream, err := chunkpb.NewChunkClient(conn).List(ctx, &chunkpb.ListRequest{Cluster: c.l.s.cluster.Load()})
	if err != nil {
		return err
	}
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		silence.Reset(checkSilence)
		ids := make([]dfs.ChunkID, len(page.Chunks))
		for i, x := range page.Chunks {
			ids[i] = dfs.ChunkID(x.Chunk)
		}
		if err := fn(ids); err != nil {
			return err
		}
	}
}

// tell tells the findings, with the files that they are about.
func (c *checking) tell(ctx context.Context) error {
	if len(c.found) == 0 {
		return ctx.Err()
	}
	chunks, inodes := map[dfs.ChunkID]bool{}, map[dfs.Ino]bool{}
	for _, f := range c.found {
		if f.Chunk != 0 {
			chunks[dfs.ChunkID(f.Chunk)] = true
		}
		if f.Ino != 0 {
			inodes[dfs.Ino(f.Ino)] = true
		}
	}
	var owners map[dfs.ChunkID][]dfs.Ino
	var paths map[dfs.Ino]string
	err := c.l.s.node.Frozen(func(v meta.View) (err error) {
		if len(chunks) > 0 {
			if owners, err = v.Owners(chunks); err != nil {
				return err
			}
		}
		for _, list := range owners {
			for _, ino := range list {
				inodes[ino] = true
			}
		}
		paths, err = v.Paths(inodes)
		return err
	})
	if err != nil {
		return err
	}
	for _, f := range c.found {
		list := owners[dfs.ChunkID(f.Chunk)]
		if f.Ino != 0 {
			list = append(slices.Clone(list), dfs.Ino(f.Ino))
		}
		for _, ino := range list {
			path := paths[ino]
			if path == "" {
				path = fmt.Sprintf("inode %d, which has no name", ino)
			}
			f.Files = append(f.Files, path)
		}
		slices.Sort(f.Files)
		if n := len(f.Files) - findingsFiles; n > 0 {
			f.Files = append(f.Files[:findingsFiles], fmt.Sprintf("and %d more", n))
		}
		if err := c.send(&adminpb.CheckReply{Findings: []*adminpb.Finding{f.Finding}}); err != nil {
			return err
		}
	}
	return nil
}

// await waits until what was damaged is restored, and tells it.
func (c *checking) await(ctx context.Context) error {
	over := time.Now().Add(time.Duration(c.req.WaitNanos))
	for {
		left := map[dfs.ChunkID]bool{}
		for _, f := range c.found {
			if f.at.chunk != 0 && !f.Repaired {
				left[f.at.chunk] = true
			}
		}
		if len(left) == 0 {
			return nil
		}
		c.mu.Lock()
		clear(c.lame) // a server may be back
		c.mu.Unlock()
		bad, _, err := c.wrong(ctx, slices.Sorted(maps.Keys(left)), false)
		if err != nil {
			return err
		}
		still := map[dfs.ChunkID]bool{}
		for _, b := range bad {
			still[b.chunk] = true
		}
		for _, f := range c.found {
			if f.at.chunk == 0 || f.Repaired || still[f.at.chunk] {
				continue
			}
			f.Repaired = true
			if err := c.send(&adminpb.CheckReply{Findings: []*adminpb.Finding{f.Finding}}); err != nil {
				return err
			}
		}
		if len(still) == 0 {
			return nil
		}
		if time.Now().After(over) {
			return nil
		}
		if !pause(ctx, checkAgain) {
			return ctx.Err()
		}
	}
}
