package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"dfs"
	appender "dfs/client/append"
	"dfs/rpc"
)

// Bounds of what is written behind.
const (
	dirtyAge    = time.Second // the oldest unsubmitted byte of a file
	dirtySlack  = dirtyAge / 4
	segmentsMax = 1024 // of one file, before they are submitted
)

// errDropped tells an inode that pieces were taken back on purpose.
var errDropped = errors.New("dropped")

// inode is the state that all open files of an inode share. It is in FS.inodes while
// it is open or has bytes that are not committed.
type inode struct {
	fs   *FS
	ino  dfs.Ino
	file *appender.File
	// writing is held by who changes the file's bytes or size: it makes each write
	// and truncation one step for the others. It is a channel so that waiting for it
	// can end with a context.
	writing chan struct{}

	holds      int  // guarded by FS.mu; users of this state: Files and calls
	opens      int  // guarded by FS.mu; Files
	registered bool // guarded by FS.mu; the masters know that it is open

	mu      sync.Mutex
	attr    dfs.Attr          // +checklocks:mu — latest from the masters, with what was committed since
	known   bool              // +checklocks:mu — attr is set
	extents extentList        // +checklocks:mu — as of attr.Change
	dirty   dirtyList         // +checklocks:mu — not submitted
	flight  []*appender.Piece // +checklocks:mu — submitted and not committed, oldest first
	dropped int               // +checklocks:mu — so many of flight are given up, and not shown any more
	losses  uint64            // +checklocks:mu — counts how often bytes were given up
	end     int64             // +checklocks:mu — after the last byte of dirty and flight; 0 when both are empty, but for what is given up
	bytes   int64             // +checklocks:mu — of flight
	base    uint64            // +checklocks:mu — attr.Change before the oldest piece in flight
	sure    uint64            // +checklocks:mu — attr.Change while leases were good, since there are bytes that are not committed
	since   time.Time         // +checklocks:mu — of the oldest byte in dirty
	mtime   dfs.Time          // +checklocks:mu — of the last write in dirty or flight; zero when it was set since
	ctime   dfs.Time          // +checklocks:mu — of that write
	cut     int64             // +checklocks:mu — what is dirty from here on is not submitted: the file is being truncated
	kill    bool              // +checklocks:mu — a write in dirty takes set-id bits away
	err     error             // +checklocks:mu — of the last failure of writing back
	errSeq  uint64            // +checklocks:mu — counts them
	told    bool              // +checklocks:mu — somebody was told that there is no room
	syncs   int               // +checklocks:mu — how often it was synced
	parent  dfs.Ino           // +checklocks:mu — one name of it, when known: for rename
	name    string            // +checklocks:in.mu

	// The lease under which the last commit was made: while it is the same one, nobody
	// else has changed the file since. Guarded by leases.mu.
	committing, committed *node
	based                 *node // guarded by leases.mu; the lease under which attr was looked at for writing
}

// hold finds or makes the inode's state and counts one more user.
func (fs *FS) hold(ino dfs.Ino) *inode {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in := fs.inodes[ino]
	if in == nil {
		in = &inode{fs: fs, ino: ino, writing: make(chan struct{}, 1), cut: forever}
		in.file = fs.app.NewFile(ino, in)
		fs.inodes[ino] = in
	}
	in.holds++
	return in
}

// find is hold for an inode that is in the table already; nil when it is not.
func (fs *FS) find(ino dfs.Ino) *inode {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in := fs.inodes[ino]
	if in != nil {
		in.holds++
	}
	return in
}

// opened counts one more File, of an inode that is held.
func (in *inode) opened(registered bool) {
	in.fs.mu.Lock()
	in.opens++
	in.registered = in.registered || registered
	in.fs.mu.Unlock()
}

// closed counts one File less. The masters are told of the last with a heartbeat.
func (in *inode) closed() {
	fs := in.fs
	fs.mu.Lock()
	if in.opens--; in.opens == 0 && in.registered {
		in.registered = false
		fs.released[in.ino] = true
	}
	many := len(fs.released) >= releasedMany
	fs.mu.Unlock()
	if many {
		fs.beatNow()
	}
}

// release takes one user away.
func (in *inode) release() {
	fs := in.fs
	fs.mu.Lock()
	in.holds--
	last := in.holds == 0
	fs.mu.Unlock()
	if !last {
		return
	}
	in.mu.Lock()
	dirty := in.submitLocked() > 0
	drop := in.told // close(2) has failed: nobody is left who could do better
	in.mu.Unlock()
	if drop {
		in.drop()
	} else if dirty {
		fs.app.Push()
	}
	fs.forget(in)
}

// forget takes an inode out of the table when nothing needs it.
func (fs *FS) forget(in *inode) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if in.holds > 0 {
		return
	}
	in.mu.Lock()
	clean := len(in.flight) == 0 && len(in.dirty.segs) == 0
	in.mu.Unlock()
	if clean && fs.inodes[in.ino] == in {
		delete(fs.inodes, in.ino)
	}
}

// validate takes over attributes that the masters told, and drops the extents when
// they are of another state of the file.
//
// +checklocks:in.mu
func (in *inode) validate(attr *dfs.Attr) {
	if in.known && attr.Change < in.attr.Change {
		return // an old answer that came late
	}
	if in.known && attr.Change != in.attr.Change {
		in.extents.reset()
	}
	in.attr, in.known = *attr, true
	in.assure()
}

// assure takes attr for what the bytes are to be written over: they are not committed, and
// others cannot have changed the file as long as leases are good.
//
// +checklocks:in.mu
func (in *inode) assure() {
	if in.end == 0 || in.fs.leases.good() {
		in.sure = in.attr.Change
	}
}

// small reports whether it is worth to ask for its extents with those of its neighbours.
func (in *inode) small() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.known && in.attr.Size <= nearBytes
}

// size is the file's size as this client sees it.
//
// +checklocks:in.mu
func (in *inode) size() int64 { return max(int64(in.attr.Size), in.end) }

// overlay is attr with what was written and is not committed yet.
//
// +checklocks:in.mu
func (in *inode) overlay() dfs.Attr {
	attr := in.attr
	if in.end == 0 {
		return in.fs.withAtime(attr)
	}
	attr.Size = uint64(in.size())
	// Not exact where bytes are overwritten; never 0, for which archivers would
	// take the file for one great hole.
	pages := (attr.Size + dfs.PageBytes - 1) &^ (dfs.PageBytes - 1)
	attr.Alloc = max(attr.Alloc, min(attr.Alloc+uint64(in.dirty.bytes+in.bytes), pages))
	if in.mtime != (dfs.Time{}) {
		attr.Mtime = in.mtime
	}
	if attr.Ctime.Compare(in.ctime) < 0 {
		attr.Ctime = in.ctime
	}
	return in.fs.withAtime(attr)
}

// adopt takes over attributes that were known here under a lease: nobody else has
// changed the bytes since the extents were learnt.
//
// +checklocks:in.mu
func (in *inode) adopt(attr *dfs.Attr) {
	if !in.known || attr.Change > in.attr.Change {
		in.attr, in.known = *attr, true
		in.assure()
	}
}

// doubt forgets what is known of the committed bytes: the lease on them is gone.
func (in *inode) doubt() {
	in.mu.Lock()
	in.extents.reset()
	in.mu.Unlock()
}

// seen takes over attributes of any inode that the masters told, and returns them as this
// client sees them.
func (fs *FS) seen(attr dfs.Attr) dfs.Attr {
	attr, _ = fs.withWritten(attr, (*inode).validate)
	return attr
}

// show is seen for what is answered to a program that has changed nothing of the inode.
func (fs *FS) show(ctx context.Context, attr dfs.Attr) (dfs.Attr, error) {
	attr, certain := fs.withWritten(attr, (*inode).validate)
	if !certain {
		return fs.GetAttr(ctx, attr.Ino)
	}
	return attr, nil
}

// ours is seen for attributes that were known here under a lease.
func (fs *FS) ours(attr dfs.Attr) dfs.Attr {
	attr, _ = fs.withWritten(attr, (*inode).adopt)
	return attr
}

// withWritten has take, under inode.mu, take over attributes of a file that is open or has
// bytes which are not committed, and adds those bytes. certain is what inode.certain says.
func (fs *FS) withWritten(attr dfs.Attr, take func(*inode, *dfs.Attr)) (_ dfs.Attr, certain bool) {
	if !attr.IsFile() {
		return fs.withAtime(attr), true
	}
	fs.mu.RLock()
	in := fs.inodes[attr.Ino]
	fs.mu.RUnlock()
	if in == nil {
		return fs.withAtime(attr), true
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	take(in, &attr)
	return in.overlay(), in.certain()
}

// certain reports whether bytes that are not committed may be shown: nobody else has changed
// the file since they were written. It is asked after what they are shown with has been
// learnt from the masters, who may have been long in answering.
//
// +checklocks:in.mu
func (in *inode) certain() bool {
	return in.end == 0 || in.fs.leases.good() || in.fs.leases.none.Load()
}

// submitLocked hands all dirty bytes to the appender, but for those that a truncation
// under way is about to drop, and returns the sequence to wait for; 0 when nothing of the
// file is on its way.
//
// +checklocks:in.mu
func (in *inode) submitLocked() uint64 {
	if len(in.dirty.segs) > 0 {
		in.submitSomeLocked(func(int) bool { return true })
	}
	if len(in.flight) == 0 {
		return 0
	}
	return in.file.Last()
}

// submitSomeLocked hands those segments to the appender that which picks by index.
//
// +checklocks:in.mu
func (in *inode) submitSomeLocked(which func(i int) bool) {
	var pieces []*appender.Piece
	keep := in.dirty.segs[:0]
	for i := range in.dirty.segs {
		s := in.dirty.segs[i]
		if !which(i) || s.off >= in.cut {
			keep = append(keep, s)
			continue
		}
		pieces = append(pieces, &appender.Piece{
			Off: s.off, Data: s.bytes(), Buffer: s.buf, Layout: in.attr.Layout, Mtime: in.mtime, Ctime: in.ctime, KillSuid: in.kill,
		})
		in.dirty.bytes -= int64(s.n)
		in.bytes += int64(s.n)
	}
	clear(in.dirty.segs[len(keep):])
	in.dirty.segs = keep
	if len(keep) == 0 {
		in.dirty.segs, in.kill = nil, false
	}
	if len(in.flight) == 0 {
		in.base = in.attr.Change
	}
	in.flight = append(in.flight, pieces...)
	in.file.Submit(pieces...)
}

// Committed implements appender.Owner.
func (in *inode) Committed(pieces []*appender.Piece, extents []dfs.Extent, attr *dfs.Attr) {
	in.mu.Lock()
	// If nobody else has changed the file, its Change is one more than it was. If
	// somebody has, that is found here, or when the masters tell it next: Change
	// only grows.
	right := true
	switch {
	case attr == nil: // not told for the files of a large batch
		in.attr.Change = max(in.attr.Change, in.base+1)
		for _, p := range pieces {
			in.attr.Size = max(in.attr.Size, uint64(p.Off)+uint64(len(p.Data)))
			if p.Mtime != (dfs.Time{}) {
				in.attr.Mtime = p.Mtime
			}
			in.attr.Ctime = p.Ctime
		}
		in.attr.Alloc = in.overlay().Alloc
	case attr.Change < in.attr.Change: // others' changes after this one are known already
		in.extents.reset()
		right = false
	case attr.Change == in.attr.Change+1:
		in.attr = *attr
	default:
		in.validate(attr)
	}
	if right {
		for _, e := range extents {
			in.extents.write(e)
		}
	}
	in.base, in.sure = in.attr.Change, in.attr.Change
	in.settledLocked(pieces)
	in.told = false
	known := attr != nil
	now := in.attr
	in.mu.Unlock()
	in.fs.leases.stillOurs(in)
	if known {
		in.fs.leases.committed(&now)
	} else {
		in.fs.leases.forget(in.ino)
	}
	in.fs.forget(in)
}

// Failed implements appender.Owner.
func (in *inode) Failed(pieces []*appender.Piece, err error) {
	if !errors.Is(err, errDropped) {
		in.fail(err)
	}
	if errors.Is(err, appender.ErrGone) { // whoever has it open is told; to others nothing is lost
		in.fs.mu.Lock()
		delete(in.fs.losses, in.ino)
		in.fs.mu.Unlock()
	}
	in.mu.Lock()
	in.settledLocked(pieces)
	in.mu.Unlock()
	in.fs.leases.disown(in.ino)
	in.fs.forget(in)
}

// settledLocked takes the oldest pieces out of flight.
//
// +checklocks:in.mu
func (in *inode) settledLocked(pieces []*appender.Piece) {
	in.flight = in.flight[len(pieces):]
	in.dropped = max(0, in.dropped-len(pieces))
	for _, p := range pieces {
		in.bytes -= int64(len(p.Data))
	}
	if len(in.flight) == 0 {
		in.flight = nil
	}
	if len(in.flight) == in.dropped {
		in.end = in.dirty.end()
	}
}

// drop forgets all bytes that are not on their way.
func (in *inode) drop() {
	in.mu.Lock()
	in.dirty.cut(0)
	if len(in.flight) == 0 {
		in.end = 0
	}
	in.mu.Unlock()
	in.file.Discard(errDropped)
}

// lose is drop when nobody wants the bytes dropped: the next fsync or close fails.
func (in *inode) lose(err error) {
	in.dropAll()
	in.fail(err)
}

// loseLate is lose of bytes that come too late: the session is over. What was synced is not
// lost, since the leader has it from the chunk servers.
func (in *inode) loseLate(err error) {
	if in.dropAll() {
		in.fail(err)
	}
}

// dropAll drops all bytes, whatever has become of them, and reports whether some of them
// were not synced.
func (in *inode) dropAll() (lost bool) {
	in.mu.Lock()
	lost = len(in.dirty.segs) > 0
	in.dirty.cut(0)
	in.losses++
	in.end, in.dropped = 0, len(in.flight) // those on their way are back later: others may see them no more than here
	in.mu.Unlock()
	if in.file.Doom(errDropped) {
		lost = true
	}
	in.fs.leases.disown(in.ino)
	return lost
}

// fail lets the next fsync or close fail, or the next Sync if there is none before.
func (in *inode) fail(err error) {
	in.mu.Lock()
	in.err = err
	in.errSeq++
	in.mu.Unlock()
	in.fs.mu.Lock()
	in.fs.losses[in.ino] = err
	in.fs.mu.Unlock()
}

// tracksFrom is which fsync of a file lets what is written from then on carry intents: most
// files are synced once.
const tracksFrom = 2

// sync makes everything that is dirty durable. early says that the masters do not know yet.
func (in *inode) sync(ctx context.Context) (early bool, err error) {
	in.mu.Lock()
	if in.syncs++; in.syncs == tracksFrom {
		in.file.Track()
	}
	in.mu.Unlock()
	seq, err := in.submit(ctx)
	if err != nil || seq == 0 {
		return false, err
	}
	in.fs.app.Push()
	if in.fs.leases.ours(in) {
		bounded, cancel := in.fs.bound(ctx)
		durable, err := in.file.WaitDurable(bounded, seq)
		cancel()
		// The lease is looked at when the bytes are there: who gets it after this has to
		// wait until they are committed.
		if err == nil && durable && in.fs.leases.ours(in) && in.file.Acknowledge(seq) {
			return true, nil
		}
	}
	return false, in.await(ctx, seq)
}

// flush writes back everything that is dirty, and waits until it is committed.
func (in *inode) flush(ctx context.Context) error {
	seq, err := in.submit(ctx)
	if err != nil || seq == 0 {
		return err
	}
	in.fs.app.Push()
	return in.await(ctx, seq)
}

// submit is submitLocked for who has to wait for all of it, also for what a truncation
// under way is about to drop, should that fail.
func (in *inode) submit(ctx context.Context) (seq uint64, err error) {
	for {
		in.mu.Lock()
		seq = in.submitLocked()
		kept := len(in.dirty.segs) > 0
		in.mu.Unlock()
		if !kept {
			return seq, nil
		}
		if err := in.lockWriting(ctx); err != nil {
			return 0, err
		}
		in.unlockWriting()
	}
}

// await waits for pieces up to seq.
func (in *inode) await(ctx context.Context, seq uint64) error {
	ctx, cancel := in.fs.bound(ctx)
	defer cancel()
	err := in.file.Wait(ctx, seq)
	if errors.Is(err, dfs.ENOSPC) {
		in.mu.Lock()
		in.told = true
		in.mu.Unlock()
	}
	return err
}

// lockWriting waits until the caller may change bytes or size.
func (in *inode) lockWriting(ctx context.Context) error {
	select {
	case in.writing <- struct{}{}:
		return nil
	default:
	}
	ctx, cancel := in.fs.bound(ctx)
	defer cancel()
	select {
	case in.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (in *inode) unlockWriting() { <-in.writing }

// alloc makes a buffer for dirty bytes; nil when the memory for them is used up.
func (fs *FS) alloc(n int) *appender.Buffer {
	if !fs.memory.take(n) {
		return nil
	}
	return appender.NewBuffer(rpc.Alloc(n), func(b *appender.Buffer) {
		rpc.Free(b.Bytes)
		fs.memory.give(n)
	})
}

// markDirty notes that an inode has unsubmitted bytes.
func (fs *FS) markDirty(in *inode) {
	fs.mu.Lock()
	fs.dirty[in] = true
	fs.mu.Unlock()
	kick(fs.flushing)
}

// flushLoop submits bytes that have been dirty for long enough. Those of all files
// that are due go together, so that they share records.
func (fs *FS) flushLoop() {
	for {
		select {
		case <-fs.flushing:
		case <-fs.ctx.Done():
			return
		}
		for fs.ctx.Err() == nil {
			next, any := fs.flushAged(time.Now())
			if !any {
				break
			}
			fs.sleep(max(next, dirtySlack))
		}
	}
}

// flushAged submits what is older than dirtyAge. It reports whether anything is left
// and after which time it is due.
func (fs *FS) flushAged(now time.Time) (next time.Duration, any bool) {
	fs.mu.RLock()
	all := make([]*inode, 0, len(fs.dirty))
	for in := range fs.dirty {
		all = append(all, in)
	}
	fs.mu.RUnlock()
	next = dirtyAge
	push := false
	var clean []*inode
	for _, in := range all {
		in.mu.Lock()
		age := now.Sub(in.since)
		switch {
		case len(in.dirty.segs) == 0:
			clean = append(clean, in)
		case age >= dirtyAge-dirtySlack:
			in.submitLocked()
			push = true
			if len(in.dirty.segs) == 0 {
				clean = append(clean, in)
			} else {
				any = true
			}
		default:
			next = min(next, dirtyAge-age)
			any = true
		}
		in.mu.Unlock()
	}
	if push {
		fs.app.Push()
	}
	fs.mu.Lock()
	for _, in := range clean {
		in.mu.Lock()
		if len(in.dirty.segs) == 0 {
			delete(fs.dirty, in)
		} else {
			any = true
		}
		in.mu.Unlock()
	}
	fs.mu.Unlock()
	return next, any
}

// flushAll submits everything: memory is wanted.
func (fs *FS) flushAll() {
	fs.mu.RLock()
	all := make([]*inode, 0, len(fs.dirty))
	for in := range fs.dirty {
		all = append(all, in)
	}
	fs.mu.RUnlock()
	for _, in := range all {
		in.mu.Lock()
		in.submitLocked()
		in.mu.Unlock()
	}
	fs.app.Push()
}
