package append

import (
	"context"
	"slices"
	"time"

	"dfs"
	"dfs/chunk/code"
)

// The records of a file that is synced again and again carry intents (dfs.Intent). Once
// the masters know by which piece of this session the file was left, what follows is
// durable as soon as it is on the chunk servers: if this client dies, the leader finds the
// intents there. The masters are then told of many syncs at once, a moment later.

// lazyDelay is how long a Commit that nobody waits for is put off.
const lazyDelay = 20 * time.Millisecond

// Track lets the records of the file carry intents from now on.
func (f *File) Track() {
	f.a.mu.Lock()
	f.tracked = true
	f.a.mu.Unlock()
}

// Unmark is called before the masters change the file's bytes otherwise: what is written
// after that does not follow what was committed before.
func (f *File) Unmark() {
	f.a.mu.Lock()
	f.mark = 0
	f.a.mu.Unlock()
}

// WaitDurable waits until all pieces up to seq are settled, as Wait does, or can be
// acknowledged by Acknowledge; then it answers true.
func (f *File) WaitDurable(ctx context.Context, seq uint64) (bool, error) {
	return f.wait(ctx, seq, true)
}

// Acknowledge notes that somebody is told that all pieces up to seq are durable, and
// reports whether they are.
func (f *File) Acknowledge(seq uint64) bool {
	a := f.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.durableLocked(f, seq) {
		return false
	}
	for _, p := range f.pieces {
		if p.seq <= seq {
			p.acked = true
		}
	}
	a.stats.Early++
	return true
}

// Acknowledged reports whether of all pieces somebody was told that they are durable.
func (f *File) Acknowledged() bool {
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	for _, p := range f.pieces {
		if !p.acked {
			return false
		}
	}
	return true
}

// durableLocked reports whether the leader would find all pieces up to seq if this client
// died now: they are on disk in chunks that the masters know to be this session's, with
// intents that follow, one after the other, what is committed.
//
// +checklocks:a.mu
func (a *Appender) durableLocked(f *File, seq uint64) bool {
	if f.mark == 0 || f.marked != a.session {
		return false
	}
	last := f.mark
	for _, p := range f.pieces {
		if p.seq > seq {
			break
		}
		if p.stamp <= f.mark {
			continue // committed, the owner is being told
		}
		if p.prev != last || !p.told || p.state != ready && p.state != committing ||
			p.rec.chunk.committed == 0 || p.rec.chunk.session != a.session {
			return false
		}
		last = p.stamp
	}
	return true
}

// writtenLocked reports whether all pieces up to seq are on disk.
//
// +checklocks:f.a.mu
func (f *File) writtenLocked(seq uint64) bool {
	for _, p := range f.pieces {
		if p.seq <= seq && p.state != ready && p.state != committing {
			return false
		}
	}
	return true
}

// hasten counts who waits for the file's pieces to be committed.
func (f *File) hasten(n int) {
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	f.hurry += n
	if n > 0 && f.listed {
		signal(f.a.commit)
	}
}

// dueLocked lets a file's ready pieces be committed: at once, or in a moment when they are
// durable without.
//
// +checklocks:a.mu
func (a *Appender) dueLocked(f *File) {
	if f.hurry > 0 || !f.tracked || !a.durableLocked(f, f.pieces[0].seq) {
		signal(a.commit)
		return
	}
	if a.lazy {
		return
	}
	a.lazy = true
	time.AfterFunc(lazyDelay, func() {
		a.mu.Lock()
		a.lazy = false
		a.mu.Unlock()
		signal(a.commit)
	})
}

// tell gives the record the intents of its pieces; Appender.mu is held. A record in which
// there is no room for all of them has none.
func (r *record) tell() {
	list := make([]dfs.Intent, 0, len(r.pieces))
	for _, p := range r.pieces {
		if !p.file.tracked || p.KillSuid {
			continue // to take set-id bits away is not for later
		}
		list = append(list, dfs.Intent{
			Ino: p.file.ino, Off: uint64(p.Off), Len: uint32(len(p.Data)), Start: uint32(p.start),
			Mtime: p.Mtime, Ctime: p.Ctime, Seq: p.stamp, Prev: p.prev,
		})
	}
	if len(list) == 0 {
		return
	}
	b := dfs.AppendIntents(nil, list)
	if len(b) > dfs.IntentRoom(code.FragmentLen(r.chunk.lane.layout, r.length)) {
		return
	}
	r.intents = b
	for _, p := range r.pieces {
		p.told = p.file.tracked && !p.KillSuid
	}
}

// leave takes a piece, that is to be written again, out of its chunk. When somebody was
// told that it is durable, the chunk stays open for the masters until it is.
func (p *Piece) leave() {
	if p.acked {
		p.owed = append(p.owed, p.rec.chunk)
		return
	}
	p.rec.chunk.uncommitted--
}

// settleOwed lets go of the chunks that a piece was in before.
func (p *Piece) settleOwed() {
	for _, c := range p.owed {
		c.uncommitted--
	}
	p.owed = nil
}

// Doom makes all pieces fail, whatever has become of them: they come too late. It reports
// whether some were never acknowledged.
func (f *File) Doom(err error) (lost bool) {
	a := f.a
	a.mu.Lock()
	defer a.mu.Unlock()
	f.doomed, f.doom, f.mark = f.next-1, err, 0
	for _, p := range f.pieces {
		lost = lost || !p.acked
		if p.state == queued {
			a.lanes[p.Layout].drop(p)
			p.state = doomed
		}
	}
	a.failLocked(f)
	return lost
}

// doomedLocked takes the pieces that are to fail out of those that are to be written again.
//
// +checklocks:a.mu
func (a *Appender) doomedLocked(pieces []*Piece) []*Piece {
	var again []*Piece
	files := map[*File]bool{}
	for _, p := range pieces {
		if p.seq > p.file.doomed {
			again = append(again, p)
			continue
		}
		p.state, p.rec = doomed, nil
		p.settleOwed()
		files[p.file] = true
	}
	for f := range files {
		a.failLocked(f)
	}
	return again
}

// failLocked tells the owner of doomed pieces, once all of them are back.
//
// +checklocks:a.mu
func (a *Appender) failLocked(f *File) {
	n := 0
	for n < len(f.pieces) && f.pieces[n].state == doomed {
		n++
	}
	if n == 0 || n < len(f.pieces) && f.pieces[n].seq <= f.doomed || f.failing || a.closed {
		return
	}
	f.failing = true
	gone, err := slices.Clone(f.pieces[:n]), f.doom
	a.wg.Go(func() {
		a.settle(f, gone, func() { f.owner.Failed(gone, err) })
		a.mu.Lock()
		f.failing = false
		a.failLocked(f)
		a.mu.Unlock()
	})
}
