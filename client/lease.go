package client

import (
	"container/list"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of what is cached under leases.
const (
	nodesMax   = 64 << 10  // inodes
	namesMax   = 512 << 10 // names of all folders
	evictShare = 16        // this part of the inodes is given back when there are too many
	touchesMax = 64 << 10  // remembered
)

// leases is what this client may answer from memory: attributes of inodes and names in
// folders, each under a lease on its inode. See docs/coherence.md.
//
// The masters' answers come late or in another order than they were made. An answer may
// be kept only when nothing happened to the inode here since it was asked for: each
// recall and each change touches the inode, and who asks takes the clock first. While a
// change of ours is on its way to the masters and back, others may have seen already what
// we have not heard of: nothing is kept of the inode then, and nothing answered from memory.
// And it may be kept only under a lease that came with it, or that was here before it was
// asked for: between an answer and a lease that was granted later others may have changed the inode, and had nothing to recall.
//
// Lock order: FS.mu, inode.mu, leases.mu, then session.mu or lane.mu.
type leases struct {
	fs    *FS
	none  atomic.Bool  // the masters grant no leases at all
	until atomic.Int64 // boot time in nanoseconds: nothing is good after; 0: not attached

	mu       sync.Mutex
	term     uint64                 // +checklocks:mu — of the leader that this client has come to; 0: none
	clock    uint64                 // +checklocks:mu — counts touches
	floor    uint64                 // +checklocks:mu — answers asked for before are not kept
	touched  map[dfs.Ino]touch      // +checklocks:mu — clock of the last one, when above floor
	busy     map[dfs.Ino]int        // +checklocks:mu — changes by the masters under way
	nodes    map[dfs.Ino]*node      // +checklocks:mu
	locks    map[dfs.Ino]*fileLocks // +checklocks:mu
	order    *list.List             // +checklocks:mu — of *node, the least recently used first
	names    int                    // +checklocks:mu — in all nodes
	returns  []*metapb.Returned     // +checklocks:mu — leases that were evicted
	evicting chan struct{}          // wakes evictLoop
	gone     []dfs.Ino              // +checklocks:mu — without a name, to be given back
	stamped  dfs.Time               // +checklocks:mu — the last time that a change in memory got
	waiting  chan struct{}          // +checklocks:mu — closed when a pin or a lane entry goes; nil when nobody waits
}

// node is an inode that this client has a lease on.
type node struct {
	ino       dfs.Ino
	serial    uint64
	since     uint64 // clock when the lease came
	by        uint64 // clock of the question whose answer it came with last
	exclusive bool
	known     bool               // attr is set
	attr      dfs.Attr           // with all changes made here; without bytes that are not committed
	names     map[string]dfs.Ino // of a folder; 0: there is none
	entries   int                // names that there are
	pins      int                // changes being made in memory
	going     *going             // a write that is to go on, and that nobody else may get into
	pending   int                // changes on the lane
	commits   int                // of pending: commits, whose outcome is not known here
	busy      int                // leases.busy of it
	target    string             // of a symlink; empty: not known
	opened    bool               // a file was opened under this lease
	own       bool               // the file was made or emptied here under this lease, and no byte written since was lost
	recalled  bool               // no more changes in memory
	shown     dfs.Time           // the mtime that the kernel was told last
	asks      uint64             // reads that have asked, since mtime is asksOf, whether their pages are right
	asksOf    dfs.Time
	listing   listing      // of a folder
	extents   []dfs.Extent // of a small file, all of them
	extentsOf uint64       // the attr.Change that they are of; 0: they are not known
	unlocked  bool         // when the lease became exclusive no other client had locks, or wanted some
	untold    bool         // the masters do not know all locks of it that are held here
	place     *list.Element
}

func newLeases(fs *FS) *leases {
	return &leases{fs: fs, touched: map[dfs.Ino]touch{}, busy: map[dfs.Ino]int{}, nodes: map[dfs.Ino]*node{}, locks: map[dfs.Ino]*fileLocks{}, order: list.New(), clock: 1, evicting: make(chan struct{}, 1)}
}

// good reports whether leases are good now.
func (l *leases) good() bool { return l.fs.cfg.Clock() < l.until.Load() }

// now is the clock to keep answers by, another one for each question: to be taken before
// it is sent.
func (l *leases) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	return l.clock
}

// touch is when something happened to an inode here, by leases.clock.
type touch struct {
	any    uint64 // a change or a recall
	recall uint64
}

// touch makes answers that were asked for before be not kept.
//
// +checklocks:l.mu
func (l *leases) touch(ino dfs.Ino, recall bool) {
	if len(l.touched) >= touchesMax {
		clear(l.touched)
		l.floor = l.clock + 1
	}
	l.clock++
	t := l.touched[ino]
	t.any = l.clock
	if recall {
		t.recall = l.clock
	}
	l.touched[ino] = t
}

// fresh reports whether an answer about ino that was asked for at may be kept.
//
// +checklocks:l.mu
func (l *leases) fresh(ino dfs.Ino, at uint64) bool {
	n := l.nodes[ino]
	return n != nil && n.covers(at) && l.quiet(ino, at)
}

// covers reports whether the lease was there when the answer to a question was made.
func (n *node) covers(at uint64) bool { return n.since < at || n.by == at }

// quiet reports whether nothing has happened to an inode here since at.
//
// +checklocks:l.mu
func (l *leases) quiet(ino dfs.Ino, at uint64) bool {
	return l.granted(ino, at) && l.touched[ino].any <= at && l.busy[ino] == 0
}

// granted reports whether a lease that was asked for at is still there.
//
// +checklocks:l.mu
func (l *leases) granted(ino dfs.Ino, at uint64) bool {
	return at >= l.floor && l.touched[ino].recall <= at && l.term != 0
}

// keeps names the lease under which an answer about an inode that was asked for at may be
// kept, until the Invalidator hears otherwise; 0: none. What was changed here meanwhile
// is no matter.
func (l *leases) keeps(ino dfs.Ino, at uint64) (lease uint64) {
	if !l.good() {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[ino]; n != nil && !n.recalled && n.covers(at) && l.granted(ino, at) {
		return n.since
	}
	return 0
}

// overtaken reports whether a lease on the inode went while an answer that was asked for at was
// on its way: what it tells may be of before what others have changed since.
func (l *leases) overtaken(ino dfs.Ino, at uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return at < l.floor || l.touched[ino].recall > at
}

// take takes leases over that came with an answer.
func (l *leases) take(at uint64, granted []*metapb.Lease) {
	if len(granted) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range granted {
		l.takeLocked(at, g)
	}
	l.evictLocked()
}

// A lease's serial begins with the leader's term, but for those of older masters.
const (
	termShift = 40
	termMask  = 1<<(64-termShift) - 1
)

// +checklocks:l.mu
func (l *leases) takeLocked(at uint64, g *metapb.Lease) *node {
	ino := dfs.Ino(g.Ino)
	if !l.granted(ino, at) {
		return nil
	}
	if term := g.Serial >> termShift; term != 0 && term != l.term&termMask {
		return nil // of a leader that this client has not come to, or has left
	}
	n := l.nodes[ino]
	if n == nil {
		if g.Serial == 0 {
			return nil
		}
		n = l.addLocked(ino)
	}
	if g.Serial != 0 {
		n.serial, n.by = max(n.serial, g.Serial), at
		n.exclusive = n.exclusive || g.Exclusive
		if g.Exclusive {
			n.unlocked = g.Unlocked
		}
	}
	if g.Attr != nil && n.covers(at) { // while n.busy, too, so that no older one is taken over later
		attr := rpc.AttrFromProto(g.Attr)
		n.learn(&attr)
	}
	return n
}

// +checklocks:l.mu
func (l *leases) addLocked(ino dfs.Ino) *node {
	l.clock++
	n := &node{ino: ino, busy: l.busy[ino], since: l.clock}
	n.place = l.order.PushBack(n)
	l.nodes[ino] = n
	return n
}

// learn takes attributes over, unless newer ones were known: answers come in another
// order than they were given.
func (n *node) learn(attr *dfs.Attr) {
	if attr.Change >= n.attr.Change {
		atime := n.attr.Atime
		same := n.known && attr.Change == n.attr.Change
		n.attr, n.known = *attr, true
		if same { // but for reads, which may have been told since
			n.attr.Accessed(atime, atime)
		}
	}
}

// doubt forgets all that is known of the inode, also what was only expected of it.
//
// +checklocks:l.mu
func (l *leases) doubt(n *node) {
	n.attr, n.known = dfs.Attr{}, false
	l.dropNames(n)
}

// attrs takes over attributes of an inode with a lease.
func (l *leases) attrs(at uint64, attr *dfs.Attr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[attr.Ino]; n != nil && l.fresh(attr.Ino, at) {
		n.learn(attr)
	}
}

// absent takes over that a name leads to nothing, in a folder that is known to be one
// that has not been removed.
func (l *leases) absent(at uint64, parent dfs.Ino, name string) {
	l.mu.Lock()
	is := false
	if n := l.nodes[parent]; n != nil {
		is = n.known && n.attr.Nlink >= 2
	}
	l.mu.Unlock()
	if is {
		l.name(at, parent, name, 0)
	}
}

// name takes over what a name in a folder leads to; 0 is nothing.
func (l *leases) name(at uint64, parent dfs.Ino, name string, ino dfs.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[parent]; n != nil && l.fresh(parent, at) {
		l.setName(n, name, ino)
		l.evictLocked()
	}
}

// +checklocks:l.mu
func (l *leases) setName(n *node, name string, ino dfs.Ino) {
	l.dropName(n, name)
	if ino == 0 && n.whole() {
		return
	}
	if n.names == nil {
		n.names = map[string]dfs.Ino{}
	}
	n.names[name] = ino
	l.names++
	if ino != 0 {
		n.entries++
	}
}

// dropName forgets what a name leads to.
//
// +checklocks:l.mu
func (l *leases) dropName(n *node, name string) {
	if ino, had := n.names[name]; had {
		delete(n.names, name)
		l.names--
		if ino != 0 {
			n.entries--
		}
	}
}

// dropNames forgets what all names of a folder lead to.
//
// +checklocks:l.mu
func (l *leases) dropNames(n *node) {
	l.names -= len(n.names)
	n.names, n.entries = nil, 0
}

// settled reports whether what is known of the inode is what it is like: no change by the
// masters is under way, or it is not sent before what was changed in memory has been told.
func (n *node) settled() bool { return n.busy == 0 || n.pending > 0 }

// whole reports whether all names in the folder are known: a folder's size is how many
// there are.
func (n *node) whole() bool { return n.known && uint64(n.entries) == n.attr.Size }

// find tells what a name leads to, when that is known.
func (n *node) find(name string) (ino dfs.Ino, known bool) {
	ino, known = n.names[name]
	return ino, known || n.whole()
}

// useLocked finds an inode with a good lease.
//
// +checklocks:l.mu
func (l *leases) useLocked(ino dfs.Ino) *node {
	n := l.nodes[ino]
	if n == nil {
		return nil
	}
	l.order.MoveToBack(n.place)
	return n
}

// attr answers from memory.
func (l *leases) attr(ino dfs.Ino) (dfs.Attr, bool) {
	if !l.good() {
		return dfs.Attr{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.useLocked(ino)
	if n == nil || !n.known || !n.settled() {
		return dfs.Attr{}, false
	}
	return n.attr, true
}

// lookup answers from memory what a name leads to: attributes, or ENOENT.
func (l *leases) lookup(parent dfs.Ino, name string) (attr dfs.Attr, err error, known bool) {
	if !l.good() {
		return dfs.Attr{}, nil, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.useLocked(parent)
	if n == nil || !n.known || !n.settled() || !n.attr.IsDir() || len(name) > dfs.NameMax || name == "." || name == ".." {
		return dfs.Attr{}, nil, false
	}
	ino, known := n.find(name)
	if !known {
		return dfs.Attr{}, nil, false
	}
	if ino == 0 {
		return dfs.Attr{}, dfs.ENOENT, true
	}
	child := l.useLocked(ino)
	if child == nil || !child.known || !child.settled() {
		return dfs.Attr{}, nil, false
	}
	return child.attr, nil, true
}

// target is where a symlink points, which never changes; empty when it is not known.
func (l *leases) target(ino dfs.Ino) string {
	if !l.good() {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.useLocked(ino); n != nil && n.known && n.settled() && n.attr.Nlink > 0 {
		return n.target
	}
	return ""
}

func (l *leases) setTarget(ino dfs.Ino, target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[ino]; n != nil {
		n.target = target
	}
}

// child is what a name leads to, as far as is known here; 0 when it is not.
func (l *leases) child(parent dfs.Ino, name string) dfs.Ino {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[parent]; n != nil {
		return n.names[name]
	}
	return 0
}

// free reports whether it is known that a name leads to nothing.
func (l *leases) free(parent dfs.Ino, name string) bool {
	if !l.good() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[parent]
	if n == nil || !n.settled() {
		return false
	}
	ino, known := n.find(name)
	return known && ino == 0
}

// holds reports whether the client has a good lease on the inode.
func (l *leases) holds(ino dfs.Ino) bool {
	if !l.good() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[ino] != nil
}

// still reports whether nothing has happened to an inode here since at, and the lease is
// there.
func (l *leases) still(ino dfs.Ino, at uint64) bool {
	if !l.good() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[ino]
	return n != nil && !n.recalled && l.fresh(ino, at)
}

// changeable reports whether an inode can be changed in memory now.
func (l *leases) changeable(ino dfs.Ino) bool {
	if !l.good() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[ino]
	return n != nil && n.changeable() && n.commits == 0
}

// changeable reports whether changes may be made in memory.
func (n *node) changeable() bool { return n.exclusive && !n.recalled && n.known && n.busy == 0 }

// ours reports whether nobody else has changed the file since its last commit, nobody can
// before what is written now is committed, and nothing but commits is still to be told
// of it.
func (l *leases) ours(in *inode) bool {
	if !l.good() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[in.ino]
	return n != nil && n == in.committed && n.changeable() && n.pending == n.commits
}

// committing notes under which leases files are being committed.
func (l *leases) committing(inos []dfs.Ino) {
	for _, ino := range inos {
		if in := l.fs.find(ino); in != nil {
			l.mu.Lock()
			in.committing = l.nodes[ino]
			l.mu.Unlock()
			in.release()
		}
	}
}

// stillOurs notes that the commit was made.
func (l *leases) stillOurs(in *inode) {
	l.mu.Lock()
	in.committed = in.committing
	l.mu.Unlock()
}

// errNoLeases says that the masters grant no leases: changes are made by them.
var errNoLeases = errors.New("the masters grant no leases")

// untold reports whether the masters do not know yet what the inode is like here.
func (l *leases) untold(ino dfs.Ino) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[ino]
	return n != nil && n.pending > 0
}

// untoldName reports whether the masters may not know yet what a name leads to. Names that
// were changed here are remembered until the masters know, as is what they lead to.
func (l *leases) untoldName(parent dfs.Ino, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[parent]
	if n == nil || n.pending == 0 {
		return false
	}
	ino, known := n.find(name)
	child := l.nodes[ino]
	return !n.known || known && (ino == 0 || child != nil && child.pending > 0)
}

// settleFor waits until the masters know what an inode is like here, before they are asked
// about it. What else is on the lane does not concern it.
func (fs *FS) settleFor(ctx context.Context, ino dfs.Ino) error {
	if !fs.leases.untold(ino) {
		return nil
	}
	return fs.lane.settle(ctx)
}

// hold lets the caller change the bytes of an inode in memory until unpin: nobody else
// has a lease on it meanwhile. It asks for the lease and waits for it when it is not
// there.
//
// The result is for unpin. What is known of the file's attributes is as good as the lease.
func (l *leases) hold(ctx context.Context, in *inode) (*node, error) {
	for {
		l.mu.Lock()
		n := l.nodes[in.ino]
		here := n != nil && n.exclusive && (!n.recalled || n.going != nil) && l.good()
		if here && n.busy > 0 {
			// The masters are making a change of ours; they ask nobody for it.
			err := l.waitLocked(ctx)
			l.mu.Unlock()
			if err != nil {
				return nil, err
			}
			continue
		}
		// The lease may have come just now, with an answer that nobody has looked at yet.
		if here && (n.known || in.based == n) {
			n.pins++
			n.going = nil
			in.based = n
			attr, known := n.attr, n.known
			l.mu.Unlock()
			if known {
				in.mu.Lock()
				in.validate(&attr)
				in.mu.Unlock()
			}
			return n, nil
		}
		l.mu.Unlock()
		if l.none.Load() {
			return nil, errNoLeases
		}
		if n, err := l.acquire(ctx, in); n != nil || err != nil {
			return n, err
		}
		if err := l.pauseFor(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// acquire asks for the exclusive lease, and pins it at once when it comes.
func (l *leases) acquire(ctx context.Context, in *inode) (pinned *node, err error) {
	if err := l.fs.settleFor(ctx, in.ino); err != nil {
		return nil, err
	}
	at := l.now()
	var reply *metapb.GetAttrReply
	err = l.fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.Acquire(ctx, &metapb.AcquireRequest{Session: l.session(), Ino: uint64(in.ino)})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil {
		return nil, err
	}
	attr := rpc.AttrFromProto(reply.Attr)
	l.fs.seen(attr)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range reply.Leases {
		if n := l.takeLocked(at, g); n != nil {
			if n.busy > 0 {
				continue
			}
			n.learn(&attr)
			if l.good() && n.exclusive && !n.recalled {
				n.pins++
				in.based, pinned = n, n
			}
		}
	}
	return pinned, nil
}

// pauseFor lets others get on.
func (l *leases) pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *leases) session() uint64 {
	if s := l.fs.session.Load(); s != nil {
		return uint64(s.id)
	}
	return 0
}

// writePartMax is how long others wait for the next part of a write.
const writePartMax = 2 * time.Second

// going is a write of which more is to come.
type going struct {
	goesOn func() bool
	until  time.Time
}

// unpin ends what hold began. With goesOn the lease is not given back before the next
// hold, or until there is to be none.
func (l *leases) unpin(n *node, goesOn func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n.pins--
	if goesOn != nil {
		n.going = &going{goesOn, time.Now().Add(writePartMax)}
	}
	l.wakeLocked()
}

// +checklocks:l.mu
func (l *leases) wakeLocked() {
	if l.waiting != nil {
		close(l.waiting)
		l.waiting = nil
	}
}

// asking is a change by the masters under way.
type asking struct {
	at    uint64
	inos  []dfs.Ino
	names []nameIn // that it is about, once it may have been sent
}

// nameIn is a name in a folder.
type nameIn struct {
	parent dfs.Ino
	name   string
}

// namesOf lists the names that a change is about.
func namesOf(m *metapb.Mutation) []nameIn {
	in := func(parent uint64, name []byte) nameIn { return nameIn{dfs.Ino(parent), string(name)} }
	switch {
	case m.GetCreate() != nil:
		return []nameIn{in(m.GetCreate().Parent, m.GetCreate().Name)}
	case m.GetUnlink() != nil:
		return []nameIn{in(m.GetUnlink().Parent, m.GetUnlink().Name)}
	case m.GetRmdir() != nil:
		return []nameIn{in(m.GetRmdir().Parent, m.GetRmdir().Name)}
	case m.GetLink() != nil:
		return []nameIn{in(m.GetLink().Parent, m.GetLink().Name)}
	case m.GetRename() != nil:
		r := m.GetRename()
		return []nameIn{in(r.Parent, r.Name), in(r.NewParent, r.NewName)}
	}
	return nil
}

// begin is called before the masters are asked to change inodes: what is asked for from
// here on until end, by anybody, is not kept, and nothing is changed in memory.
func (l *leases) begin(inos []dfs.Ino) asking {
	inos = slices.Clone(inos)
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(inos)
	inos = slices.DeleteFunc(slices.Compact(inos), func(ino dfs.Ino) bool { return ino == 0 })
	for _, ino := range inos {
		l.touch(ino, false)
		l.busy[ino]++
		if n := l.nodes[ino]; n != nil {
			n.busy = l.busy[ino]
		}
	}
	l.clock++
	return asking{at: l.clock, inos: inos}
}

// end takes over what the masters answered. alone is the clock since when it is known what
// the names lead to that the change was about, if nothing else happens to their folders;
// 0 when something has happened.
func (l *leases) end(a asking, granted []*metapb.Lease) (alone uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	free := true
	for _, ino := range a.inos {
		if l.busy[ino]--; l.busy[ino] == 0 {
			delete(l.busy, ino)
		}
		free = free && l.quiet(ino, a.at)
		if n := l.nodes[ino]; n != nil {
			n.busy = l.busy[ino]
			n.known = n.known && n.pending > 0
		}
		l.touch(ino, false)
	}
	for _, c := range a.names {
		if n := l.nodes[c.parent]; n != nil {
			l.dropName(n, c.name)
		}
	}
	for _, g := range granted {
		l.takeLocked(a.at, g)
	}
	for _, c := range a.names {
		n := l.nodes[c.parent]
		free = free && n != nil && n.covers(a.at)
	}
	l.wakeLocked()
	if !free {
		return 0
	}
	l.clock++
	return l.clock
}

// endUnknown is end for a change of which is not known whether it was made.
func (l *leases) endUnknown(a asking) {
	l.mu.Lock()
	for _, ino := range a.inos {
		if n := l.nodes[ino]; n != nil && n.pending == 0 {
			l.doubt(n)
		}
	}
	l.mu.Unlock()
	l.end(a, nil)
}

// committed takes over attributes after a commit.
func (l *leases) committed(attr *dfs.Attr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[attr.Ino]; n != nil && n.known {
		n.learn(attr)
	}
}

// forget drops what is known of an inode, but not its lease.
func (l *leases) forget(ino dfs.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.touch(ino, false)
	if n := l.nodes[ino]; n != nil && n.pending == 0 {
		n.known = false
	}
}

// evictLocked has the least recently used leases given back when there are too many.
//
// +checklocks:l.mu
func (l *leases) evictLocked() {
	if len(l.nodes) > nodesMax || l.names > namesMax || len(l.returns) > returnsMax {
		kick(l.evicting)
	}
}

// idle reports whether the lease can be given back.
func (n *node) idle() bool {
	return n.pins == 0 && n.pending == 0 && n.busy == 0 && !n.untold && !n.recalled && n.serial != 0
}

// evictLoop gives back the least recently used leases, and those of what is gone.
func (fs *FS) evictLoop() {
	l := fs.leases
	for {
		select {
		case <-l.evicting:
		case <-time.After(evictEvery):
		case <-fs.ctx.Done():
			return
		}
		l.mu.Lock()
		var old []dfs.Ino
		excess := max(len(l.nodes)-nodesMax+nodesMax/evictShare, 0)
		if len(l.nodes) <= nodesMax && l.names <= namesMax {
			excess = 0
		}
		names := l.names
		for e := l.order.Front(); e != nil && (len(old) < excess || names > namesMax); e = e.Next() {
			n := e.Value.(*node)
			if n.idle() {
				old = append(old, n.ino)
				names -= len(n.names)
			}
		}
		l.mu.Unlock()
		fs.mu.RLock()
		old = slices.DeleteFunc(old, func(ino dfs.Ino) bool { return fs.inodes[ino] != nil })
		fs.mu.RUnlock()
		l.mu.Lock()
		for _, ino := range old {
			if n := l.nodes[ino]; n != nil && n.idle() {
				l.returnLocked(n)
			}
		}
		back := l.returns
		l.returns = nil
		l.mu.Unlock()
		for _, ino := range old { // it may have been opened just now
			if in := fs.find(ino); in != nil {
				in.doubt()
				in.release()
			}
		}
		if len(old) > 0 {
			fs.invalidate(old...)
		}
		for len(back) > 0 {
			n := min(len(back), returnsMax)
			fs.giveBackNow(back[:n]...)
			back = back[n:]
		}
	}
}

const evictEvery = time.Second

// returnGone gives leases on what has no name up, but for open files.
func (l *leases) returnGone() {
	l.mu.Lock()
	gone := l.gone
	l.gone = nil
	l.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	l.fs.mu.RLock()
	gone = slices.DeleteFunc(gone, func(ino dfs.Ino) bool { in := l.fs.inodes[ino]; return in != nil && in.opens > 0 })
	l.fs.mu.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ino := range gone {
		if n := l.nodes[ino]; n != nil && n.idle() {
			l.returnLocked(n)
		}
	}
}

// returnLocked gives up a lease; evictLoop tells it.
//
// +checklocks:l.mu
func (l *leases) returnLocked(n *node) {
	l.returns = append(l.returns, &metapb.Returned{Ino: uint64(n.ino), Serial: n.serial})
	l.removeLocked(n)
	l.touch(n.ino, true)
}

// +checklocks:l.mu
func (l *leases) removeLocked(n *node) {
	l.names -= len(n.names)
	l.order.Remove(n.place)
	delete(l.nodes, n.ino)
}

// of reports whether the client has come to the leader of that term.
func (l *leases) of(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term == term && term != 0
}

// written lists the inodes with exclusive leases that have bytes which are not
// committed, or that are being written: those leases are to be kept.
func (l *leases) written() []uint64 {
	var inos []uint64
	for _, in := range l.fs.snapshot() {
		in.mu.Lock()
		dirty := in.end > 0
		in.mu.Unlock()
		l.mu.Lock()
		if n := l.nodes[in.ino]; n != nil && n.exclusive && (dirty || n.pins > 0 || n.going != nil) {
			inos = append(inos, uint64(in.ino))
		}
		l.mu.Unlock()
	}
	return inos
}

// pinned reports whether something is being changed in memory.
//
// +checklocks:l.mu
func (l *leases) pinned() bool {
	for _, n := range l.nodes {
		if n.pins > 0 {
			return true
		}
	}
	return false
}

const (
	detachWait = time.Second // for writes that wait for memory
	detachPoll = time.Millisecond
)

// detach stops all answers from memory: there is a new leader, or a new session.
func (l *leases) detach() {
	l.until.Store(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	for end := time.Now().Add(detachWait); l.pinned() && time.Now().Before(end); {
		l.mu.Unlock()
		l.fs.sleep(detachPoll)
		l.mu.Lock()
	}
	l.term = 0
	l.until.Store(0)
	l.floor = l.clock + 1
	l.clock++
	clear(l.touched)
}

// reset drops all leases: those of another term or session are nothing.
func (l *leases) reset() { l.replace(func(map[dfs.Ino]*node) {}) }

// replace is reset, with what is known instead; next is called with mu held, and what was
// known.
func (l *leases) replace(next func(old map[dfs.Ino]*node)) {
	l.mu.Lock()
	old := l.nodes
	l.nodes, l.names, l.returns = map[dfs.Ino]*node{}, 0, nil
	l.order.Init()
	next(old)
	l.wakeLocked()
	l.mu.Unlock()
	for _, in := range l.fs.snapshot() {
		in.doubt()
	}
	inos := slices.Collect(maps.Keys(old))
	l.fs.invalidate(inos...)
}

// claimed notes a lease that a session has got which is about to be used, for bytes of the one
// before: nothing is answered under it before the session is attached, and written tells then
// that it is to be kept.
func (l *leases) claimed(ino dfs.Ino, granted []*metapb.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range granted {
		if dfs.Ino(g.Ino) == ino && g.Exclusive && l.nodes[ino] == nil {
			n := l.addLocked(ino)
			n.serial, n.exclusive = g.Serial, true
		}
	}
}

// attach takes up leases under a leader: those that it says were kept, but for what was
// recalled since it was asked, at at.
func (l *leases) attach(term uint64, until int64, at uint64, kept []*metapb.Lease) {
	l.replace(func(old map[dfs.Ino]*node) {
		l.term = term
		for _, g := range kept {
			if n := old[dfs.Ino(g.Ino)]; n != nil {
				l.keepLocked(at, n, g)
			} else {
				l.takeLocked(at, g)
			}
		}
	})
	l.until.Store(until)
}

// renew makes leases good for longer, if they are still those under the leader of that term: the
// answer to a heartbeat may come after its session has ended.
func (l *leases) renew(term uint64, until int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term == term {
		l.until.Store(until)
	}
}

// keepLocked goes on with a lease that was kept: nobody else had one at any time. Who is writing
// under it, or has yet to write the rest, and what is on the lane, know this node.
//
// +checklocks:l.mu
func (l *leases) keepLocked(at uint64, n *node, g *metapb.Lease) {
	if !l.granted(n.ino, at) {
		return
	}
	n.serial, n.by, n.exclusive, n.unlocked = g.Serial, at, g.Exclusive, g.Unlocked
	n.opened, n.own, n.shown = false, false, dfs.Time{}
	n.place = l.order.PushBack(n)
	l.nodes[n.ino] = n
	l.names += len(n.names)
}

// recallLoop hears what others wait for.
func (fs *FS) recallLoop() {
	for fs.ctx.Err() == nil {
		s := fs.session.Load()
		ctx, cancel := context.WithCancel(fs.ctx)
		stop := context.AfterFunc(s.over, cancel)
		err := fs.masters.CallStream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := metapb.NewMetaClient(conn).Recalls(ctx, &metapb.RecallsRequest{Session: uint64(s.id)})
			if err != nil {
				return err
			}
			for {
				r, err := stream.Recv()
				if err != nil {
					fs.beatNow() // perhaps another one leads: it waits for us
					return err
				}
				for _, lease := range r.Leases {
					fs.wg.Go(func() { fs.giveBack(lease) })
				}
			}
		})
		stop()
		cancel()
		if err != nil && fs.ctx.Err() == nil {
			fs.cfg.Logger.Debug("stream of recalls ended", "err", err)
			fs.sleep(recallPause)
		}
	}
}

const recallPause = 20 * time.Millisecond // between streams of recalls

// partLasts waits a moment, without l.mu, and reports whether more of a write is to come.
//
// +checklocks:l.mu
func (l *leases) partLasts(p *going) bool {
	l.mu.Unlock()
	defer l.mu.Lock()
	if time.Now().After(p.until) || !p.goesOn() {
		return false
	}
	l.fs.sleep(partPoll)
	return true
}

const partPoll = 200 * time.Microsecond

// giveBack answers a recall: what was changed in memory is told first, then nothing is
// answered from memory any more, then the lease goes.
func (fs *FS) giveBack(lease *metapb.Lease) {
	l, ino, share := fs.leases, dfs.Ino(lease.Ino), lease.Exclusive
	back := &metapb.Returned{Ino: lease.Ino, Serial: lease.Serial, Shared: share}
	l.mu.Lock()
	n := l.nodes[ino]
	if n == nil {
		l.touch(ino, true)
		l.mu.Unlock()
		back.Shared = false
		fs.flushFor(ino) // the leader may have kept it for bytes that are not written
		fs.giveBackNow(back)
		return
	}
	n.recalled = true
	l.touch(ino, true)
	for l.nodes[ino] == n && (n.pins > 0 || n.going != nil) && fs.ctx.Err() == nil {
		if n.pins > 0 {
			_ = l.waitLocked(fs.ctx)
			continue
		}
		if p := n.going; !l.partLasts(p) && n.going == p {
			n.going = nil
		}
	}
	flush, untold := n.pending > 0, n.untold
	l.mu.Unlock()
	if untold {
		fs.tellLocksOf(ino)
	}
	if flush {
		if err := fs.lane.flush(fs.ctx); err != nil {
			return // the session is over
		}
	}
	if fs.flushFor(ino) {
		share, back.Shared = false, false // what is known of the file is with the bytes that are lost
	}
	l.mu.Lock()
	if l.nodes[ino] == n {
		l.touch(ino, true)
		n.recalled = false
		if share {
			n.exclusive = false
		} else {
			l.removeLocked(n)
		}
	} else {
		back.Shared = false
	}
	l.mu.Unlock()
	if !back.Shared {
		if in := fs.find(ino); in != nil {
			in.doubt()
			in.release()
		}
		// After the node is gone: nothing that the kernel may keep is answered any more,
		// and what is on its way it discards.
		fs.invalidate(ino)
	}
	fs.giveBackNow(back)
}

// flushFor writes back an inode that others wait for. What there is no room for is lost, and
// the next fsync or close says so: the lease goes, and written later it would be written over
// what others have written meanwhile.
func (fs *FS) flushFor(ino dfs.Ino) (lost bool) {
	in := fs.find(ino)
	if in == nil {
		return false
	}
	defer in.release()
	err := in.flush(fs.ctx)
	if err == nil || fs.ctx.Err() != nil {
		return false
	}
	fs.cfg.Logger.Warn("others wait for bytes that cannot be written", "inode", uint64(ino), "err", err)
	if !errors.Is(err, dfs.ENOSPC) && !errors.Is(err, dfs.EDQUOT) {
		return false // the session ends, or has ended: see checkWritten
	}
	in.lose(err)
	return true
}

// waitLocked waits until something about a node has changed, and lets go of l.mu
// meanwhile.
//
// +checklocks:l.mu
func (l *leases) waitLocked(ctx context.Context) error {
	if l.waiting == nil {
		l.waiting = make(chan struct{})
	}
	waiting := l.waiting
	l.mu.Unlock()
	defer l.mu.Lock()
	select {
	case <-waiting:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// giveBackNow tells the leader that leases are given back, and which of the inodes are
// open here: under a lease, files are opened without telling.
func (fs *FS) giveBackNow(back ...*metapb.Returned) {
	fs.mu.Lock()
	for _, b := range back {
		if in := fs.inodes[dfs.Ino(b.Ino)]; in != nil && in.opens > 0 {
			b.Open, in.registered = true, true
		}
	}
	fs.mu.Unlock()
	req := &metapb.ReturnRequest{Session: fs.leases.session(), Leases: back}
	ctx, cancel := context.WithTimeout(fs.ctx, opTimeoutDefault)
	defer cancel()
	err := fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := metapb.NewMetaClient(conn).Return(ctx, req)
		return err
	})
	if err != nil && fs.ctx.Err() == nil {
		fs.cfg.Logger.Warn("cannot give a lease back", "err", err)
	}
}

const returnsMax = 8 << 10 // in one request

// Invalidator is told when what the kernel may have cached is not good any more.
type Invalidator interface {
	// Invalidate makes the kernel ask again for what it knows of inodes: attributes and, of
	// folders, names and listings. It waits for nothing. Bytes of files it asks for when it finds by the
	// attributes that they have changed.
	Invalidate(inos []dfs.Ino)
}

// SetInvalidator says who is to be told. Until it is set, CacheFor answers nothing.
func (fs *FS) SetInvalidator(i Invalidator) { fs.invalidator.Store(&i) }

func (fs *FS) invalidate(inos ...dfs.Ino) {
	if i := fs.invalidator.Load(); i != nil {
		(*i).Invalidate(inos)
	}
}

// CacheFor is how long what is told of an inode stays true without asking again, unless
// the Invalidator hears otherwise.
func (fs *FS) CacheFor(ino dfs.Ino) time.Duration {
	l := fs.leases
	if fs.invalidator.Load() == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[ino]
	if n == nil || n.recalled || n.busy > 0 {
		return 0
	}
	return l.remaining()
}

// remaining is how long leases are good.
func (l *leases) remaining() time.Duration {
	return time.Duration(max(0, l.until.Load()-l.fs.cfg.Clock()))
}

// Tell is CacheFor for attributes that the kernel is about to be told, and notes the mtime.
func (fs *FS) Tell(a *dfs.Attr) time.Duration {
	l := fs.leases
	if fs.invalidator.Load() == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[a.Ino]
	if n == nil || n.recalled || n.busy > 0 {
		return 0
	}
	n.shown = a.Mtime
	return l.remaining()
}

// OwnPages reports whether the size and the bytes that the kernel has cached of a file
// are right even if the attributes that it has are old: they are while all that has
// happened to the file went through this kernel. shown is the mtime that it was told last.
//
// As long as it has old ones it asks at each read. When it has asked so often, since the
// file's last change, that it could as well have read the file again, it is not so any more.
func (fs *FS) OwnPages(a *dfs.Attr, read bool) (shown dfs.Time, own bool) {
	l := fs.leases
	if fs.invalidator.Load() == nil || !l.good() {
		return dfs.Time{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[a.Ino]
	if n == nil || !n.own || n.recalled {
		return dfs.Time{}, false
	}
	if n.asksOf != a.Mtime {
		n.asks, n.asksOf = 0, a.Mtime
	}
	if read {
		n.asks++
	}
	return n.shown, n.asks <= a.Size/askedBytes
}

// askedBytes is how many bytes the kernel can ask for, and copy, in the time of one question.
const askedBytes = 128 << 10

// setOwn notes that a file was made or emptied here, with these attributes as the
// outcome: nothing else has happened to it if they are those of now.
func (l *leases) setOwn(attr *dfs.Attr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[attr.Ino]; n != nil && n.known && !n.recalled && n.attr.Change == attr.Change && attr.Size == 0 {
		n.own = true
	}
}

// disown is for a file whose bytes were lost after the kernel had cached them.
func (l *leases) disown(ino dfs.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[ino]; n != nil {
		n.own = false
	}
}

// KeepPages reports, when a file or folder is opened, whether what the kernel has cached of
// its bytes or entries is good: it is, if all of it was read since the first time that it was
// opened under the lease which is there now. With StrictAtime nothing is: reads from the
// kernel's memory are not heard of.
func (fs *FS) KeepPages(ino dfs.Ino) bool {
	l := fs.leases
	if fs.cfg.Atime == StrictAtime || fs.invalidator.Load() == nil || !l.good() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[ino]
	if n == nil || n.recalled {
		return false
	}
	keep := n.opened
	n.opened = true
	return keep
}
