package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"dfs"
	appender "dfs/client/append"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// watchLoop keeps the cluster map up to date.
func (fs *FS) watchLoop() {
	for fs.ctx.Err() == nil {
		err := fs.masters.CallStream(fs.ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			req := &metapb.WatchMapRequest{}
			if m := fs.cluster.Load(); m != nil {
				req.Epoch = uint64(m.Epoch)
			}
			stream, err := metapb.NewClusterClient(conn).WatchMap(ctx, req)
			if err != nil {
				return err
			}
			for {
				m, err := stream.Recv()
				if err != nil {
					return err
				}
				fs.setMap(m)
			}
		})
		if err != nil && fs.ctx.Err() == nil {
			fs.cfg.Logger.Debug("map stream ended", "err", err)
			fs.sleep(beatPause)
		}
	}
}

func (fs *FS) setMap(p *metapb.ClusterMap) {
	m := rpc.ClusterMapFromProto(p)
	for {
		old := fs.cluster.Load()
		if old != nil && m.Epoch <= old.Epoch {
			return
		}
		if fs.cluster.CompareAndSwap(old, m) {
			break
		}
	}
	fs.app.SetMap(m)
}

// refresh fetches the map once.
func (fs *FS) refresh(ctx context.Context) error {
	return fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := metapb.NewClusterClient(conn).WatchMap(ctx, &metapb.WatchMapRequest{})
		if err != nil {
			return err
		}
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		fs.setMap(m)
		return nil
	})
}

// mapLate fetches the map when the stream did not bring an epoch that a heartbeat
// told of.
func (fs *FS) mapLate(epoch uint64) {
	fs.sleep(beatPause)
	if m := fs.cluster.Load(); m != nil && uint64(m.Epoch) >= epoch {
		return
	}
	ctx, cancel := context.WithTimeout(fs.ctx, 2*time.Second)
	defer cancel()
	if err := fs.refresh(ctx); err != nil && fs.ctx.Err() == nil {
		fs.cfg.Logger.Warn("cannot get the cluster map", "err", err)
	}
}

// waitMap returns the map, waiting for the first.
func (fs *FS) waitMap(ctx context.Context) (*dfs.ClusterMap, error) {
	if m := fs.cluster.Load(); m != nil {
		return m, nil
	}
	if err := fs.refresh(ctx); err != nil {
		return nil, fmt.Errorf("no cluster map: %w", err)
	}
	return fs.cluster.Load(), nil
}

// masters is what the appender sees of the FS.
type masters struct{ fs *FS }

var _ appender.Masters = masters{}

// ChunkIDs passes on the first grant of the session, then asks for more.
func (m masters) ChunkIDs(ctx context.Context) (dfs.SessionID, uint64, uint64, error) {
	s := m.fs.session.Load()
	if s == nil {
		return 0, 0, 0, errExpired
	}
	s.mu.Lock()
	r := s.chunks
	s.chunks = idRange{}
	s.mu.Unlock()
	if r.from < r.to {
		return s.id, r.from, r.to, nil
	}
	for {
		r, err := m.fs.grant(ctx, s, &metapb.GrantIDs{Chunks: true})
		if err == nil {
			return s.id, r.from, r.to, nil
		}
		if !errors.Is(err, errExpired) {
			return 0, 0, 0, err
		}
		if s, err = m.fs.renew(ctx, s); err != nil {
			return 0, 0, 0, err
		}
	}
}

// Report asks the masters to look after a server.
func (m masters) Report(ctx context.Context, server dfs.NodeID, reason string) (bool, dfs.Epoch, error) {
	var reply *metapb.ReportServerReply
	err := m.fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewClusterClient(conn).ReportServer(ctx, &metapb.ReportServerRequest{Server: uint64(server), Reason: reason})
		return err
	})
	if err != nil {
		return false, 0, err
	}
	return reply.Up, dfs.Epoch(reply.Epoch), nil
}

// Refresh fetches the map.
func (m masters) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return m.fs.refresh(ctx)
}

// Commit sends a batch until it is answered.
func (m masters) Commit(ctx context.Context, b *appender.Batch) (appender.Result, error) {
	fs := m.fs
	s := fs.session.Load()
	if s == nil || s.id != b.Session {
		return appender.Result{}, appender.ErrExpired
	}
	inos := make([]dfs.Ino, len(b.Files))
	for i := range b.Files {
		inos[i] = b.Files[i].Ino
	}
	fs.leases.committing(inos)
	mutation := &metapb.Mutation{Op: &metapb.Mutation_Commit{Commit: commitToProto(b)}}
	reply, err := fs.commitHere(ctx, s, mutation, inos)
	if reply == nil && err == nil {
		reply, _, err = fs.mutateAlone(ctx, s, mutation, inos)
	}
	if errors.Is(err, errExpired) {
		if _, err := fs.renew(ctx, s); err != nil {
			return appender.Result{}, err
		}
		return appender.Result{}, appender.ErrExpired
	}
	if err != nil {
		return appender.Result{}, err
	}
	r := reply.Replies[0]
	if err := rpc.Errno(r.Errno); err != nil {
		return appender.Result{}, err
	}
	res := appender.Result{Stale: r.StaleMap, Attrs: map[dfs.Ino]*dfs.Attr{}}
	if r.Attr != nil {
		a := rpc.AttrFromProto(r.Attr)
		res.Attr = &a
	}
	for _, g := range reply.Leases {
		if g.Attr != nil {
			a := rpc.AttrFromProto(g.Attr)
			res.Attrs[a.Ino] = &a
		}
	}
	return res, nil
}

// commitHere sends a commit of files with exclusive leases down the lane, behind what
// made the files; nil, nil when some have none.
func (fs *FS) commitHere(ctx context.Context, s *session, m *metapb.Mutation, inos []dfs.Ino) (*metapb.MutateReply, error) {
	type answer struct {
		reply *metapb.MutateReply
		err   error
	}
	told := make(chan answer, 1)
	l := fs.leases
	l.mu.Lock()
	ok := l.good()
	for _, ino := range inos {
		// One that is being given back is exclusive until this has been told.
		n := l.nodes[ino]
		ok = ok && n != nil && n.exclusive && n.busy == 0
	}
	if ok {
		for _, ino := range inos {
			l.nodes[ino].pending++
			l.nodes[ino].commits++
			l.touch(ino, false)
		}
		fs.lane.add(&change{session: s, mutation: m, inos: inos, commit: true, bytes: 256 * len(inos), told: func(r *metapb.MutateReply, err error) {
			told <- answer{r, err}
		}}, true)
	}
	l.mu.Unlock()
	if !ok {
		return nil, nil
	}
	select {
	case a := <-told:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func commitToProto(b *appender.Batch) *metapb.Commit {
	c := &metapb.Commit{Files: make([]*metapb.FileCommit, len(b.Files)), Chunks: make([]*metapb.ChunkCommit, len(b.Chunks))}
	for i := range b.Files {
		f := &b.Files[i]
		c.Files[i] = &metapb.FileCommit{
			Ino: uint64(f.Ino), Extents: rpc.ExtentsToProto(f.Extents), SizeMin: f.SizeMin,
			KillSuid: f.KillSuid, Seq: f.Seq, Move: f.Move, Was: rpc.ExtentsToProto(f.Was),
		}
		if f.Mtime != (dfs.Time{}) {
			c.Files[i].Mtime = rpc.TimeToProto(f.Mtime)
		}
		if f.Ctime != (dfs.Time{}) {
			c.Files[i].Ctime = rpc.TimeToProto(f.Ctime)
		}
	}
	for i := range b.Chunks {
		ch := &b.Chunks[i]
		p := &metapb.ChunkCommit{Chunk: uint64(ch.Chunk), Committed: ch.Committed, Sealed: ch.Sealed, Servers: make([]uint64, len(ch.Servers))}
		for k, id := range ch.Servers {
			p.Servers[k] = uint64(id)
		}
		c.Chunks[i] = p
	}
	return c
}
