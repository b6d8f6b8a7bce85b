package append

import (
	"fmt"
	"time"

	"dfs"
)

// tickLoop does what is timed: it finds stalled links, tries stuck lanes again,
// seals idle chunks. It sleeps while there is nothing of it.
func (a *Appender) tickLoop() {
	t := time.NewTimer(tick)
	defer t.Stop()
	for {
		next := a.tick(time.Now())
		var due <-chan time.Time
		if next > 0 {
			t.Reset(next)
			due = t.C
		}
		select {
		case <-due:
		case <-a.timed: // something may be due sooner than it was
			if next == 0 {
				continue
			}
			select { // but not sooner than after a tick
			case <-time.After(tick):
			case <-a.ctx.Done():
			}
		case <-a.ctx.Done():
			return
		}
	}
}

// tick looks at everything once, and tells after which time to look again; 0 when
// there is nothing to look at.
func (a *Appender) tick(now time.Time) (next time.Duration) {
	stuck, waiting, idle := false, false, false
	var links []*link
	a.mu.Lock()
	for _, l := range a.links {
		links = append(links, l)
	}
	for _, l := range a.lanes {
		stuck = stuck || len(l.queue) > 0
		if c := l.chunk; c != nil {
			a.moveLocked(c, now)
			if len(c.records) == 0 && now.Sub(c.used) >= chunkIdle {
				a.retireLocked(c)
			}
			idle = true
		}
	}
	seal := false
	for _, c := range a.closing {
		a.moveLocked(c, now)
		waiting = true
		seal = seal || now.Sub(c.overSince) >= sealAfter && c.uncommitted == 0 && len(c.records) == 0
	}
	for id, until := range a.full {
		if now.After(until) {
			delete(a.full, id)
		}
	}
	a.mu.Unlock()
	for _, l := range links {
		if a.inspect(l, now) {
			waiting = true
		}
	}
	if seal {
		signal(a.commit)
	}
	if stuck {
		signal(a.kick)
	}
	switch {
	case stuck || waiting:
		return tick
	case idle:
		return chunkIdle / 4
	}
	return 0
}

// inspect looks whether a link stalls, and reports whether it is waiting at all.
func (a *Appender) inspect(l *link, now time.Time) (waiting bool) {
	l.mu.Lock()
	waiting = len(l.waiting) > 0
	silent := now.Sub(l.since)
	oldest := now
	for _, o := range l.waiting {
		if o.at.Before(oldest) {
			oldest = o.at
		}
	}
	l.mu.Unlock()
	if !waiting {
		return false
	}
	switch {
	case silent >= a.patience(l.server) || now.Sub(oldest) >= answerMax:
		l.fail(fmt.Errorf("%w for %v", errStalled, max(silent, now.Sub(oldest)).Round(time.Millisecond)))
	case silent >= doubtAfter:
		a.mu.Lock()
		if s := a.suspects[l.server]; s == nil || !s.reporting && now.After(s.until) {
			a.reportLocked(l.server, fmt.Sprintf("%v for %v", errStalled, silent.Round(time.Millisecond)))
		}
		a.mu.Unlock()
	}
	return true
}

// patience is how long a server may be silent. One that the masters find to be up,
// again and again, is slow and gets more time.
func (a *Appender) patience(id dfs.NodeID) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.suspects[id]
	if s == nil {
		return stallAfter
	}
	return min(stallAfter<<min(max(s.failures-1, 0), 3), stallMax)
}
