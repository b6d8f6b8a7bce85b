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
func (fs *FS) beatNow() { kick(fs.beating) }

// beat is what a heartbeat tells besides that the client lives.
type beat struct {
	term     uint64 // of the leader that was told all open files last
	complete bool   // tell all open files
	attach   bool   // leases of that term are wanted, or renewed
}

// beatLoop keeps the session alive, and tells what was closed.
func (fs *FS) beatLoop() {
	var b beat
	for {
		s := fs.session.Load()
		next := min(s.ttl/8, leaseBeat)
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
		case reply.WantOpen || !fs.leases.of(reply.LeaderTerm):
			// A new leader knows nothing of open files and leases until everybody has told.
			again := !b.complete || b.term != reply.LeaderTerm
			b = beat{term: reply.LeaderTerm, complete: true, attach: true}
			if !fs.leases.of(reply.LeaderTerm) {
				fs.leases.detach()
				fs.tellAllLocks()
				if err := fs.lane.flush(fs.ctx); err != nil {
					return
				}
			}
			if again {
				continue
			}
			next = beatPause
		default:
			b = beat{term: reply.LeaderTerm, attach: true}
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

// leaseBeat is the time between heartbeats, several times in the life of a lease.
const leaseBeat = time.Second

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
				in.registered = true
				req.Open = append(req.Open, uint64(ino))
			}
		}
	}
	fs.mu.Unlock()
	fresh, at := b.attach && !fs.leases.of(b.term), fs.leases.now()
	if b.attach {
		req.AttachedTerm = b.term
		if fresh {
			req.Keep = fs.leases.written()
		}
	}
	slices.Sort(req.Released)
	slices.Sort(req.Open)

	ctx, cancel := context.WithTimeout(ctx, max(s.ttl, 10*time.Second))
	defer cancel()
	var reply *metapb.HeartbeatReply
	var sent time.Time
	var boot int64
	err := fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		sent, boot = time.Now(), fs.cfg.Clock()
		reply, err = metapb.NewMetaClient(conn).Heartbeat(ctx, req)
		return err
	})
	if err == nil && !reply.Expired {
		fs.beatAt.Store(boot)
		fs.setSkew(sent, reply.Time)
		if b.attach && reply.LeaderTerm == b.term && reply.LeaseNanos == 0 && fs.leases.until.Load() == 0 {
			fs.leases.none.Store(true)
		}
		if b.attach && reply.LeaderTerm == b.term && reply.LeaseNanos > 0 {
			fs.leases.none.Store(false)
			until := boot + reply.LeaseNanos
			if fresh {
				fs.leases.attach(b.term, until, at, reply.Leases)
			} else {
				fs.leases.renew(b.term, until)
			}
		}
	}
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

// setSkew notes how far the leader's clock is ahead of ours: it was told in the middle
// between question and answer, most likely.
func (fs *FS) setSkew(sent time.Time, told *metapb.Time) {
	if told == nil {
		return
	}
	took := time.Since(sent)
	if old := fs.skew.Load(); took > skewExact && old != 0 {
		return
	}
	leader := time.Unix(told.Sec, int64(told.Nsec))
	skew := leader.Sub(sent.Add(took / 2))
	if skew.Abs() < took/2 {
		skew = 0 // no more than can be known
	}
	fs.skew.Store(int64(skew))
}

const skewExact = 10 * time.Millisecond // an answer that took longer tells little about the clock

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
