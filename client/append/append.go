package append

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/rpc"
)

// Bounds of an appender.
const (
	windowBytes   = 16 << 20  // of records of one layout on their way
	windowRecords = 64        // the same, in records
	gatherBelow   = 128 << 10 // less than this waits to be packed while two records are on their way
	gatherRecords = 2
	bigPiece      = 256 << 10 // from here on, a piece is a record of its own and is not copied

	commitPieces = 2048 // in one Commit
	commitsMax   = 2    // Commits under way: the masters work on one while the other's answer is on its way

	idsLow = 16  // chunk numbers left when more are asked for
	idsMax = 512 // numbers kept whose servers do not suit now

	tick        = 100 * time.Millisecond // of what is timed, while there is something to time
	fullPause   = time.Second            // a layout without room is tried again after this
	fullAside   = 10 * time.Second       // a server without room is, while others have some
	chunkIdle   = 30 * time.Second       // an open chunk that nobody writes to is sealed
	sealAfter   = time.Second            // a finished chunk's seal waits so long for a Commit to go with
	sealTimeout = time.Second            // telling the chunk servers about a sealed chunk
)

// ErrClosed is the failure of pieces that were not committed before Close.
var ErrClosed = errors.New("append: closed")

// ErrExpired is what Masters.Commit answers when the session is no more.
var ErrExpired = errors.New("the session has expired")

// ErrGone is why bytes were not committed of a file that has no name any more, and that
// nobody has open for the masters.
var ErrGone = fmt.Errorf("the file has been removed: %w", dfs.EIO)

// Masters is what an appender asks of the session it works for. All methods may be
// called at once, and block until ctx ends.
type Masters interface {
	// ChunkIDs grants unused chunk numbers [from, to) to the session it names.
	ChunkIDs(ctx context.Context) (session dfs.SessionID, from, to uint64, err error)
	// Report tells the masters that a server does not answer and waits for what they
	// decide: is it up, and the epoch of the map that says so.
	Report(ctx context.Context, server dfs.NodeID, reason string) (up bool, epoch dfs.Epoch, err error)
	// Refresh fetches the cluster map and hands it to SetMap before it returns.
	Refresh(ctx context.Context) error
	// Commit makes written bytes part of files. It takes effect once, however often
	// it is sent. The error is ErrExpired, a verdict, or that of ctx.
	Commit(ctx context.Context, batch *Batch) (Result, error)
}

// Batch is one Commit.
type Batch struct {
	Session dfs.SessionID
	Files   []FileCommit
	Chunks  []ChunkCommit
}

// FileCommit is one file's part of a Batch.
type FileCommit struct {
	Ino      dfs.Ino
	Extents  []dfs.Extent // in the order in which they were written
	SizeMin  uint64
	Mtime    dfs.Time // of the last write; zero: it has been set since
	Ctime    dfs.Time // of the last write, when it was made under a lease
	KillSuid bool
	Seq      uint64 // of the last piece, see dfs.Intent; 0: what follows will not be acknowledged early

	Move bool         // the bytes are those of Was
	Was  []dfs.Extent // where they lie now
}

// ChunkCommit is one chunk's part of a Batch.
type ChunkCommit struct {
	Chunk     dfs.ChunkID
	Committed uint32       // bytes of each fragment file that are on disk
	Servers   []dfs.NodeID // by position, who has them; 0: nobody
	Sealed    bool
}

// Result is the masters' answer to a Batch.
type Result struct {
	Stale bool                  // refused as a whole: write again in new chunks
	Attr  *dfs.Attr             // of the file, when it was a single one; nil then says that it is gone
	Attrs map[dfs.Ino]*dfs.Attr // of files, when there were many; those that are not told are missing
}

// Owner is told what became of a file's pieces. Its methods are called one at a
// time for each file, before Wait returns.
type Owner interface {
	// Committed says that the oldest pieces are part of the file now, at extents.
	// attr is the file after that; nil when the masters did not tell.
	Committed(pieces []*Piece, extents []dfs.Extent, attr *dfs.Attr)
	// Failed says that the oldest pieces will never be.
	Failed(pieces []*Piece, err error)
}

// Piece is a run of bytes of one file on its way. The appender owns it from Submit
// on, and one hold of its Buffer, until it has told the Owner.
type Piece struct {
	Off      int64
	Data     []byte // in Buffer; 1 byte to dfs.RecordBytes; never changes again
	Buffer   *Buffer
	Layout   dfs.Layout
	Mtime    dfs.Time // of the last write in it; zero: it has been set since
	Ctime    dfs.Time // of the last write in it, when that was made under a lease
	KillSuid bool     // writing took the set-id bits away

	// Was is, of bytes that are only to be kept elsewhere, where they lie now: if they are
	// not there any more when the piece is committed, it is forgotten.
	Was []dfs.Extent

	file  *File
	seq   uint64
	state pieceState // +checklocks:file.a.mu
	rec   *record    // of states sent, ready and committing
	start int        // in the record's payload

	// A Commit of it may have been carried out: the answer is not known. So it is committed
	// with nothing of other files, and the Owner learns what the file is then.
	doubtful bool // guarded by file.a.mu

	// What of it is in an intent, see intent.go. Guarded by file.a.mu.
	stamp, prev uint64   // dfs.Intent's Seq and Prev
	told        bool     // the record says what the piece is
	acked       bool     // somebody was told that it is durable
	owed        []*chunk // it was in these when that was said, and is written again
}

type pieceState uint8

const (
	queued     pieceState = iota // waits for a record
	sent                         // in a record on its way
	ready                        // on disk
	committing                   // in a Batch
	doomed                       // will fail, with those before it
)

// File is one file's pieces in their order.
type File struct {
	a     *Appender
	ino   dfs.Ino
	owner Owner

	pieces  []*Piece      // +checklocks:a.mu — not yet committed
	next    uint64        // +checklocks:a.mu — sequence of the next piece, from 1
	done    uint64        // +checklocks:a.mu — pieces up to this are settled
	changed chan struct{} // +checklocks:a.mu — closed when done grows or the layout is full; nil when nobody waits
	listed  bool          // +checklocks:a.mu — in a.ready

	tracked bool          // +checklocks:a.mu — its records carry intents
	stamp   uint64        // +checklocks:a.mu — of the piece submitted last
	mark    uint64        // +checklocks:a.mu — stamp of the piece that the masters know to be the last; 0: they know of none
	marked  dfs.SessionID // +checklocks:a.mu — whose mark it is
	hurry   int           // +checklocks:a.mu — so many wait for it to be committed
	doomed  uint64        // +checklocks:a.mu — pieces up to this fail
	doom    error         // +checklocks:a.mu — with this
	failing bool          // +checklocks:a.mu — the owner is being told
}

// Config is what an appender works with.
type Config struct {
	Masters Masters
	Pool    *rpc.Pool
	Logger  *slog.Logger
}

// Appender writes for one session after the other. Safe for concurrent use.
type Appender struct {
	cfg    Config
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	kick   chan struct{} // wakes pumpLoop
	commit chan struct{} // wakes commitLoop
	timed  chan struct{} // wakes tickLoop

	mu       sync.Mutex
	closed   bool                     // +checklocks:mu
	session  dfs.SessionID            // +checklocks:mu — whose numbers and chunks these are
	cluster  *dfs.ClusterMap          // +checklocks:mu — nil before the first
	mapWait  chan struct{}            // +checklocks:mu — closed when cluster changes
	ids      []uint64                 // +checklocks:mu — chunk numbers, oldest first
	granting bool                     // +checklocks:mu — more are being asked for
	lanes    map[dfs.Layout]*lane     // +checklocks:mu
	links    map[dfs.NodeID]*link     // +checklocks:mu
	suspects map[dfs.NodeID]*suspect  // +checklocks:mu
	full     map[dfs.NodeID]time.Time // +checklocks:mu — no room, until then
	paces    map[dfs.NodeID]*pace     // +checklocks:mu — of those that are not as fast as others
	closing  []*chunk                 // +checklocks:mu — not written to any more, the masters do not know yet
	files    map[*File]struct{}       // +checklocks:mu — that have pieces
	ready    []*File                  // +checklocks:mu — whose first piece is ready
	stale    int                      // +checklocks:mu — Batches refused as stale, one after the other
	stamps   uint64                   // +checklocks:mu — pieces so far
	lazy     bool                     // +checklocks:mu — a Commit is due in a moment
	alone    int                      // +checklocks:mu — so many Commits carry one file, to find the one that is refused
	stats    Stats                    // +checklocks:mu
}

// Stats counts what an appender did.
type Stats struct {
	Records     uint64 // appended, each to all servers of its chunk
	Bytes       uint64 // payload of them
	Pieces      uint64 // committed
	Commits     uint64
	Early       uint64 // waits for durable bytes that ended before the Commit
	Rewritten   uint64 // pieces that had to be written again
	ServerFails uint64 // streams that broke or stalled
	ServerSlow  uint64 // times that a server was left out because it was slow

	AppendTime time.Duration // from sending a record to the last server's answer, summed up
	CommitTime time.Duration // of all Commits
}

// New starts an appender. It needs a session (Reset) and a map (SetMap) to work.
func New(cfg Config) *Appender {
	ctx, cancel := context.WithCancel(context.Background())
	a := &Appender{
		cfg: cfg, ctx: ctx, cancel: cancel,
		kick: make(chan struct{}, 1), commit: make(chan struct{}, 1), timed: make(chan struct{}, 1),
		mapWait: make(chan struct{}),
		lanes:   map[dfs.Layout]*lane{}, links: map[dfs.NodeID]*link{},
		files: map[*File]struct{}{}, suspects: map[dfs.NodeID]*suspect{}, full: map[dfs.NodeID]time.Time{},
		paces: map[dfs.NodeID]*pace{},
	}
	a.wg.Go(a.pumpLoop)
	for range commitsMax {
		a.wg.Go(a.commitLoop)
	}
	a.wg.Go(a.tickLoop)
	return a
}

// Close stops. Pieces that are not committed fail with ErrClosed; wait for them
// before.
func (a *Appender) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	links := a.links
	a.links = map[dfs.NodeID]*link{}
	a.mu.Unlock()
	a.cancel()
	for _, l := range links {
		l.fail(ErrClosed)
	}
	a.wg.Wait()
	return nil
}

// Seal tells the chunk servers that the open chunks will not grow, before the
// session is closed; the masters seal them with it.
func (a *Appender) Seal() {
	a.mu.Lock()
	chunks := slices.Clone(a.closing)
	for _, l := range a.lanes {
		if l.chunk != nil {
			chunks = append(chunks, l.chunk)
			l.chunk = nil
		}
	}
	a.closing = nil
	a.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range chunks {
		wg.Go(func() { a.tellSealed(c) })
	}
	wg.Wait()
}

// Settled reports whether nothing waits to be committed.
func (a *Appender) Settled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.files) == 0
}

// Stats tells what was done so far.
func (a *Appender) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stats
}

// NewFile makes the queue of one file. It costs nothing while it is empty.
func (a *Appender) NewFile(ino dfs.Ino, owner Owner) *File {
	return &File{a: a, ino: ino, owner: owner, next: 1}
}

// Submit queues pieces behind those that were submitted before, and returns the
// sequence of the last one, for Wait. Call Push when no lock is held.
func (f *File) Submit(pieces ...*Piece) uint64 {
	a := f.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(pieces) > 0 {
		a.files[f] = struct{}{}
	}
	for _, p := range pieces {
		a.stamps++
		p.file, p.seq, p.state, p.stamp, p.prev = f, f.next, queued, a.stamps, f.stamp
		f.next++
		f.stamp = p.stamp
		f.pieces = append(f.pieces, p)
		l := a.laneLocked(p.Layout)
		l.queue = append(l.queue, p)
		l.queuedBytes += len(p.Data)
	}
	return f.next - 1
}

// Last is the sequence of the piece that was submitted last, 0 when there was none.
func (f *File) Last() uint64 {
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	return f.next - 1
}

// Wait waits until all pieces up to seq are settled: committed, or failed and the
// Owner was told. ENOSPC means that there is no room for them now; they are kept and
// tried again.
func (f *File) Wait(ctx context.Context, seq uint64) error {
	f.hasten(1)
	defer f.hasten(-1)
	_, err := f.wait(ctx, seq, false)
	return err
}

// wait is Wait. When early, it also ends when the pieces can be acknowledged without being
// committed, and tells whether that is why.
func (f *File) wait(ctx context.Context, seq uint64, early bool) (durable bool, err error) {
	a := f.a
	for {
		a.mu.Lock()
		if f.done >= seq {
			a.mu.Unlock()
			return false, nil
		}
		if early && a.durableLocked(f, seq) {
			a.mu.Unlock()
			return true, nil
		}
		if early && f.writtenLocked(seq) {
			signal(a.commit) // it is durable when it is committed, and not before
		}
		if a.closed {
			a.mu.Unlock()
			return false, ErrClosed
		}
		if l := a.lanes[f.pieces[0].Layout]; f.pieces[0].state == queued && time.Now().Before(l.fullUntil) {
			a.mu.Unlock()
			return false, dfs.ENOSPC
		}
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false, fmt.Errorf("writing back inode %d: %s: %w", f.ino, a.trouble(), context.Cause(ctx))
		case <-a.ctx.Done():
			return false, ErrClosed
		}
	}
}

// Discard forgets the pieces that are not on their way yet. The Owner is told that
// they failed, with err.
func (f *File) Discard(err error) {
	a := f.a
	a.mu.Lock()
	n := 0
	for n < len(f.pieces) && f.pieces[n].state == queued {
		n++
	}
	gone := slices.Clone(f.pieces[:n])
	for _, p := range gone {
		a.lanes[p.Layout].drop(p)
		p.settleOwed()
	}
	a.mu.Unlock()
	if n > 0 {
		a.settle(f, gone, func() { f.owner.Failed(gone, err) })
	}
}

// settle tells the owner about the file's first pieces, then forgets them.
func (a *Appender) settle(f *File, pieces []*Piece, tell func()) {
	tell()
	a.mu.Lock()
	f.pieces = f.pieces[len(pieces):]
	if len(f.pieces) == 0 {
		f.pieces = nil
		delete(a.files, f)
	}
	f.done = pieces[len(pieces)-1].seq
	f.wakeLocked()
	a.readyLocked(f)
	a.failLocked(f)
	a.mu.Unlock()
	for _, p := range pieces {
		p.rec = nil
		p.Buffer.Drop()
	}
}

// +checklocks:f.a.mu
func (f *File) wakeLocked() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// readyLocked lists f for the next Commit when its first piece is on disk.
//
// +checklocks:a.mu
func (a *Appender) readyLocked(f *File) {
	if !f.listed && len(f.pieces) > 0 && f.pieces[0].state == ready {
		f.listed = true
		a.ready = append(a.ready, f)
		a.dueLocked(f)
	}
}

// Full reports whether the layout had no room a moment ago.
func (a *Appender) Full(l dfs.Layout) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	ln := a.lanes[l]
	return ln != nil && time.Now().Before(ln.fullUntil)
}

// trouble says why pieces are waiting, for people.
func (a *Appender) trouble() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.lanes {
		if l.trouble != "" && len(l.queue) > 0 {
			return l.trouble
		}
	}
	for id, s := range a.suspects {
		if s.reporting {
			return fmt.Sprintf("chunk server %s does not answer", id)
		}
	}
	return "no answer yet"
}

// SetMap gives the appender a new cluster map. Older ones are ignored.
func (a *Appender) SetMap(m *dfs.ClusterMap) {
	a.mu.Lock()
	if a.cluster != nil && m.Epoch <= a.cluster.Epoch {
		a.mu.Unlock()
		return
	}
	a.cluster = m
	close(a.mapWait)
	a.mapWait = make(chan struct{})
	for _, l := range a.lanes {
		l.failures, l.retryAt = 0, time.Time{}
		if l.chunk != nil {
			a.refitLocked(l.chunk)
		}
	}
	var away []*link
	for id, l := range a.links {
		if s := m.Server(id); s == nil || s.State != dfs.ServerUp && s.State != dfs.ServerDrain || s.Addr != l.addr {
			away = append(away, l)
			delete(a.links, id)
		}
	}
	a.mu.Unlock()
	for _, l := range away {
		l.fail(errAway)
	}
	signal(a.kick)
}

// Reset begins to work for another session: what the former one has not committed
// is written again.
func (a *Appender) Reset(session dfs.SessionID) {
	a.mu.Lock()
	if a.session == session {
		a.mu.Unlock()
		return
	}
	a.session, a.ids = session, nil
	for _, c := range a.closing {
		a.breakLocked(c)
	}
	a.closing = nil // the masters have sealed them with their session
	for _, l := range a.lanes {
		if l.chunk != nil {
			a.breakLocked(l.chunk)
		}
		l.fullUntil, l.retryAt, l.failures = time.Time{}, time.Time{}, 0
	}
	for _, f := range a.ready {
		f.listed = false
	}
	a.ready = nil
	for f := range a.files {
		var again []*Piece
		for _, p := range f.pieces {
			if p.state == ready {
				again = append(again, p)
			}
		}
		a.requeueLocked(again)
	}
	a.mu.Unlock()
	signal(a.kick)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
