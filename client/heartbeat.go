package client

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/metapb"
)

// releasedMany is how many closed files make a heartbeat worth its while at once.
const releasedMany = 16 << 10

// beatNow sends the next heartbeat early.
func (fs *FS) beatNow() {
	select {
	case fs.beating <- struct{}{}:
	default:
	}
}

// beat is what a heartbeat tells besides that the client lives.
type beat struct {
	term     uint64 // of the leader that was told all open files last
	complete bool   // tell all open files
}

// beatLoop keeps the session alive, and tells what was closed.
func (fs *FS) beatLoop() {
	var b beat
	for {
		s := fs.session.Load()
		next := s.ttl / 4
		reply, err := fs.beat(fs.ctx, s, b)
		switch {
		case fs.ctx.Err() != nil:
			return
		case err != nil:
			fs.cfg.Logger.Warn("heartbeat failed", "err", err)
			next = beatPause
		case reply.Expired:
			if _, err := fs.renew(fs.ctx, s); err != nil {
				return
			}
			b = beat{}
			continue
		case reply.WantOpen:
			// A new leader knows nothing of open files until everybody has told.
			again := !b.complete || b.term != reply.LeaderTerm
			b = beat{term: reply.LeaderTerm, complete: true}
			if again {
				continue
			}
		default:
			b = beat{term: reply.LeaderTerm}
			if m := fs.cluster.Load(); m == nil || reply.MapEpoch > uint64(m.Epoch) {
				fs.mapLate(reply.MapEpoch)
			}
		}
		t := time.NewTimer(next)
		select {
		case <-t.C:
		case <-fs.beating:
		case <-fs.ctx.Done():
		}
		t.Stop()
		if fs.ctx.Err() != nil {
			return
		}
	}
}

// beat sends one heartbeat. What it tells as closed is told again when it fails.
func (fs *FS) beat(ctx context.Context, s *session, b beat) (*metapb.HeartbeatReply, error) {
	req := &metapb.HeartbeatRequest{Session: uint64(s.id), LeaderTerm: b.term, OpenComplete: b.complete}
	fs.mu.Lock()
	for fs.told != nil { // another one is under way: of a session being replaced
		told := fs.told
		fs.mu.Unlock()
		select {
		case <-told:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		fs.mu.Lock()
	}
	told := make(chan struct{})
	fs.told, fs.telling, fs.released = told, fs.released, map[dfs.Ino]bool{}
	for ino := range fs.telling {
		req.Released = append(req.Released, uint64(ino))
	}
	if b.complete {
		for ino, in := range fs.inodes {
			if in.opens > 0 {
				req.Open = append(req.Open, uint64(ino))
			}
		}
	}
	fs.mu.Unlock()
	slices.Sort(req.Released)
	slices.Sort(req.Open)

	ctx, cancel := context.WithTimeout(ctx, max(s.ttl, 10*time.Second))
	defer cancel()
	var reply *metapb.HeartbeatReply
	err := fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		reply, err = metapb.NewMetaClient(conn).Heartbeat(ctx, req)
		return err
	})
	fs.mu.Lock()
	if err != nil {
		maps.Copy(fs.released, fs.telling)
		for ino := range fs.released {
			if in := fs.inodes[ino]; in != nil && in.opens > 0 {
				delete(fs.released, ino)
			}
		}
	}
	fs.telling, fs.told = nil, nil
	fs.mu.Unlock()
	close(told)
	return reply, err
}

// opening is called before the masters are asked to open ino: a heartbeat must not
// tell that it is closed, before or after.
func (fs *FS) opening(ctx context.Context, ino dfs.Ino) error {
	for {
		fs.mu.Lock()
		delete(fs.released, ino)
		told := fs.told
		if !fs.telling[ino] {
			told = nil
		}
		fs.mu.Unlock()
		if told == nil {
			return nil
		}
		select {
		case <-told:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
