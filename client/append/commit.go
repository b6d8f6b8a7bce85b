package append

import (
	"context"
	"errors"
	"slices"
	"time"

	"dfs"
)

// commitLoop commits what is ready, one Batch after the other. There are commitsMax
// of it; a file is in one Batch at a time.
func (a *Appender) commitLoop() {
	for {
		select {
		case <-a.commit:
		case <-a.ctx.Done():
			return
		}
		for a.ctx.Err() == nil {
			g := a.collect()
			if g == nil {
				break
			}
			a.conclude(g)
		}
	}
}

// gathered is a Batch with what it is made of.
type gathered struct {
	batch  *Batch
	files  []*File
	pieces [][]*Piece // of each file
	chunks []*chunk   // of each of batch.Chunks
	seals  bool       // some of them only to be sealed
}

// collect makes the next Batch; nil when nothing is ready.
func (a *Appender) collect() *gathered {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := &gathered{batch: &Batch{Session: a.session}}
	taken := map[*chunk]int{}
	room := commitPieces
	used := 0
	alone := a.alone > 0
	for _, f := range a.ready {
		n, doubtful := 0, false
		for n < len(f.pieces) && n < room && f.pieces[n].state == ready {
			doubtful = doubtful || f.pieces[n].doubtful
			n++
		}
		if room == 0 || used > 0 && (alone || doubtful) {
			break
		}
		used++
		f.listed = false
		if n == 0 {
			continue
		}
		alone = alone || doubtful
		room -= n
		pieces := slices.Clone(f.pieces[:n])
		g.files, g.pieces = append(g.files, f), append(g.pieces, pieces)
		fc := fileCommit(f.ino, pieces)
		if f.tracked {
			fc.Seq = pieces[n-1].stamp
		}
		g.batch.Files = append(g.batch.Files, fc)
		for _, p := range pieces {
			p.state = committing
			c := p.rec.chunk
			if taken[c] == 0 {
				g.chunks = append(g.chunks, c)
			}
			taken[c]++
		}
	}
	a.ready = append([]*File(nil), a.ready[used:]...)
	if len(a.files) == 0 {
		a.alone = 0
	}
	switch {
	case a.alone == 0:
		a.sealsLocked(g, taken)
	case len(g.files) > 0: // with seals it would not be clear what is refused
		a.alone--
	}
	if len(g.files) == 0 && len(g.chunks) == 0 {
		return nil
	}
	if len(a.ready) > 0 {
		signal(a.commit) // for another loop
	}
	for _, c := range g.chunks {
		committed := c.acked
		if taken[c] == 0 {
			committed = c.committed // nothing new, so the masters need not ask who is up
		}
		g.batch.Chunks = append(g.batch.Chunks, ChunkCommit{
			Chunk: c.id, Committed: committed, Servers: c.servers,
			Sealed: c.over && len(c.records) == 0 && c.uncommitted == taken[c],
		})
	}
	return g
}

// sealsLocked adds finished chunks to a Batch, or makes one of them when they have
// waited for long enough.
//
// +checklocks:a.mu
func (a *Appender) sealsLocked(g *gathered, taken map[*chunk]int) {
	if len(a.closing) == 0 {
		return
	}
	due := len(g.files) > 0
	now := time.Now()
	for _, c := range a.closing {
		due = due || now.Sub(c.overSince) >= sealAfter
	}
	if !due {
		return
	}
	for _, c := range a.closing {
		if taken[c] == 0 && c.uncommitted == 0 && len(c.records) == 0 && !c.sealing && c.session == a.session {
			c.sealing = true
			g.chunks, g.seals = append(g.chunks, c), true
		}
	}
}

// fileCommit makes a file's part of a Batch of its next pieces.
func fileCommit(ino dfs.Ino, pieces []*Piece) FileCommit {
	fc := FileCommit{Ino: ino, Extents: make([]dfs.Extent, 0, len(pieces))}
	for _, p := range pieces {
		fc.Extents = append(fc.Extents, p.extent())
		if len(p.Was) > 0 {
			fc.Move, fc.Was = true, append(fc.Was, p.Was...)
			continue
		}
		fc.SizeMin = max(fc.SizeMin, uint64(p.Off)+uint64(len(p.Data)))
		fc.KillSuid = fc.KillSuid || p.KillSuid
		if fc.Mtime.Compare(p.Mtime) < 0 {
			fc.Mtime = p.Mtime
		}
		if fc.Ctime.Compare(p.Ctime) < 0 {
			fc.Ctime = p.Ctime
		}
	}
	return fc
}

// extent is where the piece lies. Appender.mu is held, or the piece is in a Batch.
func (p *Piece) extent() dfs.Extent {
	return dfs.Extent{
		Off: uint64(p.Off), Len: uint32(len(p.Data)), Chunk: p.rec.chunk.id,
		Record: p.rec.off, RecordLen: uint32(p.rec.length), Start: uint32(p.start),
	}
}

// conclude sends a Batch and acts on the answer.
func (a *Appender) conclude(g *gathered) {
	start := time.Now()
	res, err := a.cfg.Masters.Commit(a.ctx, g.batch)
	took := time.Since(start)
	var verdict dfs.Errno
	switch {
	case err == nil && !res.Stale:
		a.committed(g, res, took)
	case err == nil:
		a.again(g, true, false)
		if err := a.cfg.Masters.Refresh(a.ctx); err != nil && a.ctx.Err() == nil {
			a.cfg.Logger.Warn("cannot get the cluster map", "err", err)
		}
		a.mu.Lock()
		a.stale++
		stale := a.stale
		a.mu.Unlock()
		if stale > 1 {
			a.sleep(cool(stale - 1))
		}
		signal(a.kick)
	case errors.Is(err, ErrExpired):
		a.again(g, false, true)
		signal(a.kick)
	case errors.As(err, &verdict):
		a.rejected(g, verdict)
	case a.ctx.Err() != nil:
	default:
		a.cfg.Logger.Error("commit failed, trying again", "err", err)
		a.again(g, true, true)
		a.sleep(sealAfter)
		signal(a.kick)
	}
}

func (a *Appender) sleep(d time.Duration) {
	ctx, cancel := context.WithTimeout(a.ctx, d)
	defer cancel()
	<-ctx.Done()
}

// committed tells the owners and forgets what is settled.
func (a *Appender) committed(g *gathered, res Result, took time.Duration) {
	var sealed []*chunk
	a.mu.Lock()
	a.stats.Commits++
	a.stats.CommitTime += took
	a.stale = 0
	for i, c := range g.chunks {
		c.committed = max(c.committed, g.batch.Chunks[i].Committed)
		if g.batch.Chunks[i].Sealed {
			if k := slices.Index(a.closing, c); k >= 0 {
				a.closing = slices.Delete(a.closing, k, k+1)
			}
			sealed = append(sealed, c)
		}
	}
	for i, pieces := range g.pieces {
		a.stats.Pieces += uint64(len(pieces))
		for _, p := range pieces {
			p.rec.chunk.uncommitted--
			p.settleOwed()
		}
		g.files[i].mark, g.files[i].marked = g.batch.Files[i].Seq, g.batch.Session
	}
	a.mu.Unlock()
	for i, f := range g.files {
		attr := res.Attr
		if len(g.files) > 1 {
			attr = res.Attrs[f.ino]
		}
		a.settle(f, g.pieces[i], func() {
			if len(g.files) == 1 && attr == nil { // nobody has a name or a session for it any more
				f.owner.Failed(g.pieces[i], ErrGone)
				return
			}
			f.owner.Committed(g.pieces[i], g.batch.Files[i].Extents, attr)
		})
	}
	for _, c := range sealed {
		a.wg.Go(func() { a.tellSealed(c) })
	}
}

// again queues the pieces of a Batch that was not carried out, or of which that is not known:
// doubtful. Its chunks are not used any more; when stale, one of them is refused by the masters.
func (a *Appender) again(g *gathered, stale, doubtful bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if doubtful {
		for _, pieces := range g.pieces {
			for _, p := range pieces {
				p.doubtful = true
			}
		}
	}
	a.againLocked(g, stale)
}

// +checklocks:a.mu
func (a *Appender) againLocked(g *gathered, stale bool) {
	used := map[*chunk]bool{}
	for _, pieces := range g.pieces {
		for _, p := range pieces {
			used[p.rec.chunk] = true
			p.leave()
		}
	}
	for _, c := range g.chunks {
		c.sealing = false
		if used[c] {
			a.breakLocked(c)
		} else if stale {
			// It was only to be sealed. If that is what they refuse, it would be so
			// each time: leave it to the end of the session.
			a.closing = slices.DeleteFunc(a.closing, func(o *chunk) bool { return o == c })
		}
	}
	for _, pieces := range slices.Backward(g.pieces) {
		a.requeueLocked(pieces)
	}
}

// rejected acts on a verdict against a Batch. One bad file fails the others with it,
// so they are tried again each by itself; what is refused alone is lost.
func (a *Appender) rejected(g *gathered, verdict dfs.Errno) {
	a.cfg.Logger.Error("commit refused", "files", len(g.files), "errno", verdict.Error())
	a.mu.Lock()
	if len(g.files) != 1 || g.seals {
		a.alone = len(g.files)
		a.againLocked(g, true)
		a.mu.Unlock()
		signal(a.kick)
		return
	}
	for _, p := range g.pieces[0] {
		p.rec.chunk.uncommitted--
		p.settleOwed()
	}
	for _, c := range g.chunks {
		a.breakLocked(c)
	}
	a.mu.Unlock()
	f := g.files[0]
	a.settle(f, g.pieces[0], func() { f.owner.Failed(g.pieces[0], verdict) })
	signal(a.kick)
}
