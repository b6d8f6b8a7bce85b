package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of the lane.
const (
	laneDelay = 100 * time.Millisecond // changes gather for so long when nobody waits for them
	laneBatch = 512                    // in one request
	laneMany  = 128                    // so many go at once
	laneMax   = 4096                   // waiting; then changes are made by the masters at once
	laneBytes = 1 << 20                // of one request, about
)

// errLost says that the session ended before changes made under its leases were told.
var errLost = fmt.Errorf("the session has ended before changes were told to the masters: %w", dfs.EIO)

// lane tells the masters what was changed in memory under exclusive leases, in the order
// in which it was. What is on it is told soon, when somebody waits for it (fsync, another
// client, a change that the masters have to make), and before a lease is given back.
//
// Lock order: leases.mu, then lane.mu.
type lane struct {
	fs  *FS
	due chan struct{} // wakes run

	mu      sync.Mutex
	queue   []*change     // +checklocks:mu
	since   time.Time     // +checklocks:mu — of the oldest in queue
	added   uint64        // +checklocks:mu
	done    uint64        // +checklocks:mu — so many are told, or lost
	urgent  uint64        // +checklocks:mu — somebody waits for so many
	changed chan struct{} // +checklocks:mu — closed when done grows; nil when nobody waits
	lost    error         // +checklocks:mu — what was lost, until somebody is told
	names   uint64        // +checklocks:mu — so many are to be told until nothing but commits is left; 0: they are
}

// change is one change that was made in memory.
type change struct {
	session  *session
	mutation *metapb.Mutation
	inos     []dfs.Ino // that it is about: each counts it as pending
	commit   bool
	attr     *dfs.Attr // what the masters are expected to answer; nil: not looked at
	bytes    int
	seq      uint64
	told     func(*metapb.MutateReply, error) // with the one answer; nil: nobody wants it
}

func newLane(fs *FS) *lane { return &lane{fs: fs, due: make(chan struct{}, 1)} }

// full reports whether too much waits.
func (l *lane) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) >= laneMax
}

// add puts a change on the lane. The caller holds leases.mu, so that the order is that of
// the changes in memory.
func (l *lane) add(c *change, urgent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.since = time.Now()
	}
	l.queue = append(l.queue, c)
	l.added++
	if !c.commit {
		if l.names == 0 && l.fs.cfg.OnPending != nil {
			l.fs.cfg.OnPending(true)
		}
		l.names = l.added
	}
	if urgent {
		l.urgent = l.added
	}
	if len(l.queue) == 1 || urgent || len(l.queue) == laneMany {
		kick(l.due)
	}
}

// flush waits until everything that is on the lane now is told.
func (l *lane) flush(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	target := l.added
	if l.done >= target {
		return nil
	}
	l.urgent = max(l.urgent, target)
	kick(l.due)
	for l.done < target {
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		l.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// settle is flush for an operation, which does not wait for ever.
func (l *lane) settle(ctx context.Context) error {
	l.mu.Lock()
	empty := l.done >= l.added
	l.mu.Unlock()
	if empty {
		return nil
	}
	ctx, cancel := l.fs.bound(ctx)
	defer cancel()
	return l.flush(ctx)
}

// sync is settle for who is to be told when something was lost.
func (l *lane) sync(ctx context.Context) error {
	if err := l.settle(ctx); err != nil {
		return err
	}
	return l.failure(ctx)
}

// failure tells once that something was lost.
func (l *lane) failure(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.lost
	l.lost = nil
	if err != nil {
		l.settledLocked()
	}
	return err
}

// settledLocked says that nothing would be lost without a word if this process died.
//
// +checklocks:l.mu
func (l *lane) settledLocked() {
	if l.names == 0 && l.lost == nil && l.fs.cfg.OnPending != nil {
		l.fs.cfg.OnPending(false)
	}
}

// take waits for changes that are due, and takes them off the queue.
func (l *lane) take() []*change {
	for {
		l.mu.Lock()
		n := len(l.queue)
		due := n > 0 && (l.done < l.urgent || n >= laneMany)
		wait := laneDelay - time.Since(l.since)
		if due || n > 0 && wait <= 0 {
			k, bytes := 0, 0
			for k < n && k < laneBatch && bytes < laneBytes && l.queue[k].session == l.queue[0].session {
				bytes += l.queue[k].bytes
				k++
			}
			batch := l.queue[:k:k]
			l.queue = l.queue[k:]
			if len(l.queue) == 0 {
				l.queue = nil
			}
			l.mu.Unlock()
			return batch
		}
		l.mu.Unlock()
		var timer <-chan time.Time
		if n > 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-l.due:
		case <-timer:
		case <-l.fs.ctx.Done():
			return nil
		}
	}
}

// run tells one batch after the other.
func (l *lane) run() {
	for {
		batch := l.take()
		if batch == nil {
			l.fail(l.rest(), rpc.ErrClosed)
			return
		}
		reply, err := l.tell(batch)
		if err != nil {
			l.fail(batch, err)
			continue
		}
		l.conclude(batch, reply)
	}
}

func (l *lane) rest() []*change {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.queue
	l.queue = nil
	return rest
}

// tell sends a batch until it is answered.
func (l *lane) tell(batch []*change) (*metapb.MutateReply, error) {
	fs, s := l.fs, batch[0].session
	if fs.session.Load() != s {
		return nil, errExpired
	}
	req := &metapb.MutateRequest{Session: uint64(s.id), Leased: true, Mutations: make([]*metapb.Mutation, len(batch))}
	for i, c := range batch {
		seq, err := s.begin(fs.ctx)
		if err != nil {
			return nil, err
		}
		c.seq, c.mutation.Seq = seq, seq
		req.Mutations[i] = c.mutation
	}
	defer func() {
		for _, c := range batch {
			s.end(c.seq)
		}
	}()
	var reply *metapb.MutateReply
	err := fs.masters.Call(fs.ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		req.Acked = s.acked()
		reply, err = metapb.NewMetaClient(conn).Mutate(ctx, req)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case reply.Expired:
		return nil, errExpired
	case len(reply.Replies) != len(batch):
		return nil, fmt.Errorf("the master answered %d changes instead of %d", len(reply.Replies), len(batch))
	}
	return reply, nil
}

// conclude compares what the masters answered with what was expected.
func (l *lane) conclude(batch []*change, reply *metapb.MutateReply) {
	fs, ls := l.fs, l.fs.leases
	fs.orphaned(reply.Opened)
	var lost error
	var doubtful []dfs.Ino
	ls.mu.Lock()
	for _, g := range reply.Leases {
		ino := dfs.Ino(g.Ino)
		if n := ls.nodes[ino]; n != nil {
			n.serial = max(n.serial, g.Serial)
			if g.Attr != nil {
				attr := rpc.AttrFromProto(g.Attr)
				if n.known {
					n.learn(&attr)
				}
			}
		}
	}
	for i, c := range batch {
		r := reply.Replies[i]
		wrong := c.told == nil && r.Errno != 0
		if c.attr != nil && r.Attr != nil {
			got := rpc.AttrFromProto(r.Attr)
			wrong = wrong || !c.expected(got)
			if n := ls.nodes[got.Ino]; n != nil && n.known && n.attr.Atime == c.attr.Atime {
				n.attr.Atime = got.Atime
			}
		}
		if wrong {
			// What this client answered its programs is not what happened.
			fs.surprises.Add(1)
			fs.cfg.Logger.Error("the masters do not agree with a change made under a lease", "change", c.mutation.String(), "expected", c.attr, "answer", r.String())
			if r.Errno != 0 {
				lost = errors.Join(dfs.Errno(r.Errno), errLost)
			}
		}
		for _, ino := range c.inos {
			n := ls.nodes[ino]
			if n == nil {
				continue
			}
			n.pending--
			if c.commit {
				n.commits--
				n.committed(r, reply.Leases)
			}
			if wrong {
				doubtful = append(doubtful, ino)
				ls.doubt(n)
			}
			if n.pending == 0 && n.known && n.attr.Nlink == 0 {
				ls.gone = append(ls.gone, ino)
			}
		}
	}
	ls.wakeLocked()
	ls.mu.Unlock()
	fs.doubt(doubtful)
	ls.returnGone()
	for i, c := range batch {
		if c.told != nil {
			c.told(&metapb.MutateReply{Replies: reply.Replies[i : i+1], Leases: reply.Leases}, nil)
		}
	}
	l.finish(len(batch), lost)
}

// expected compares what the inode has become with what was expected, but for reads: whether
// one counts that was told meanwhile, here or by others, is up to the masters.
func (c *change) expected(got dfs.Attr) bool {
	want := *c.attr
	if s := c.mutation.GetSetAttr(); s == nil || s.Atime == nil && !s.AtimeNow {
		want.Atime = got.Atime
	} else {
		want.Accessed(got.Atime, got.Atime)
	}
	return got == want
}

// committed takes over what a file is after a commit.
func (n *node) committed(r *metapb.MutationReply, told []*metapb.Lease) {
	if r.Errno != 0 || r.StaleMap {
		return // it is as it was
	}
	if r.Attr != nil {
		attr := rpc.AttrFromProto(r.Attr)
		n.learn(&attr)
		return
	}
	n.known = n.known && slices.ContainsFunc(told, func(g *metapb.Lease) bool { return g.Ino == uint64(n.ino) && g.Attr != nil })
}

// fail gives a batch up.
func (l *lane) fail(batch []*change, err error) {
	if len(batch) == 0 {
		return
	}
	fs, ls := l.fs, l.fs.leases
	var lost error
	silent := 0
	for _, c := range batch {
		if c.told == nil {
			silent++
		}
	}
	if silent > 0 && fs.ctx.Err() == nil {
		lost = errLost
		fs.cfg.Logger.Error("changes are lost", "changes", silent, "err", err)
	}
	ls.mu.Lock()
	for _, c := range batch {
		for _, ino := range c.inos {
			if n := ls.nodes[ino]; n != nil {
				n.pending--
				if c.commit {
					n.commits--
				}
				ls.doubt(n)
			}
		}
	}
	ls.wakeLocked()
	ls.mu.Unlock()
	for _, c := range batch {
		fs.doubt(c.inos)
	}
	for _, c := range batch {
		if c.told != nil {
			c.told(nil, err)
		}
	}
	l.finish(len(batch), lost)
	if errors.Is(err, errExpired) {
		if _, rerr := fs.renew(fs.ctx, batch[0].session); rerr != nil && fs.ctx.Err() == nil {
			fs.cfg.Logger.Warn("no new session", "err", rerr)
		}
	}
}

func (l *lane) finish(n int, lost error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done += uint64(n)
	if len(l.queue) > 0 {
		l.since = time.Now()
	}
	if lost != nil {
		l.lost = lost
	}
	if l.names != 0 && l.done >= l.names {
		l.names = 0
		l.settledLocked()
	}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// doubt forgets what is known of files that are open: it is not as it was expected.
func (fs *FS) doubt(inos []dfs.Ino) {
	for _, ino := range inos {
		if in := fs.find(ino); in != nil {
			in.mu.Lock()
			in.attr.Change = 0
			in.extents.reset()
			in.mu.Unlock()
			in.release()
		}
	}
}

// orphaned hears of inodes that lost their last name through this session, and that
// count as open by it since it may have them open.
func (fs *FS) orphaned(inos []uint64) {
	if len(inos) == 0 {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, n := range inos {
		ino := dfs.Ino(n)
		if in := fs.inodes[ino]; in != nil && in.opens > 0 {
			in.registered = true
		} else {
			fs.released[ino] = true
		}
	}
}
