package client

import (
	"math/bits"
	"sync"
	"time"

	"dfs"
)

// Bounds of how chunk servers are judged.
const (
	hedgeMin     = 5 * time.Millisecond // a read that takes longer may be tried elsewhere too
	hedgeMax     = 500 * time.Millisecond
	hedgeUnknown = 50 * time.Millisecond // as long as nothing is known
	hedgeFactor  = 4                     // times what is usual for the fastest of the servers

	hedgePart  = 0.1 // of the reads may be tried elsewhere before hedgeMax
	hedgeBurst = 10  // and so many more at once

	demotedFor = 2 * time.Second // a server that failed comes last

	slowMin    = 20 * time.Millisecond // an answer that takes less is never slow
	slowFactor = 10                    // times what is usual for the fastest server is
	slowAfter  = 2                     // slow answers one after the other: the server comes last
	slowFor    = 3 * time.Second       // then one read tries it again
	usualFor   = time.Minute           // what is known is not taken for usual any longer

	sizeClasses = 4 // of reads: up to 64 KiB, 256 KiB, 1 MiB, and more
)

// health remembers how chunk servers do.
type health struct {
	mu      sync.Mutex
	servers map[dfs.NodeID]*serverHealth // +checklocks:mu
	hedges  float64                      // +checklocks:mu — so many are allowed now
}

type serverHealth struct {
	failed time.Time
	usual  [sizeClasses]usual
	late   int       // slow answers, one after the other
	probe  time.Time // of late servers: comes last until then
}

// usual is how long a server takes, a moving average.
type usual struct {
	d    time.Duration
	seen time.Time
}

func newHealth() *health {
	return &health{servers: map[dfs.NodeID]*serverHealth{}, hedges: hedgeBurst}
}

func sizeClass(bytes int) int {
	return min((bits.Len(uint(max(bytes-1, 0)>>16))+1)/2, sizeClasses-1)
}

// +checklocks:h.mu
func (h *health) serverLocked(id dfs.NodeID) *serverHealth {
	s := h.servers[id]
	if s == nil {
		s = &serverHealth{}
		h.servers[id] = s
	}
	return s
}

// answered takes over how long a server took for a read of so many bytes.
func (h *health) answered(id dfs.NodeID, bytes int, d time.Duration, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.serverLocked(id)
	s.failed = time.Time{}
	h.tookLocked(s, sizeClass(bytes), d, now)
	if !h.lateLocked(sizeClass(bytes), d, now) {
		s.late = 0
		return
	}
	h.strikeLocked(s, now)
}

// gaveUp takes over that an answer was not waited for any more after d, which tells
// something only when the server is slower than we knew.
func (h *health) gaveUp(id dfs.NodeID, bytes int, d time.Duration, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, class := h.serverLocked(id), sizeClass(bytes)
	if d > s.usual[class].d {
		h.tookLocked(s, class, d, now)
	}
	if h.lateLocked(class, d, now) {
		h.strikeLocked(s, now)
	}
}

// failed takes over that a server gave no answer.
func (h *health) failed(id dfs.NodeID, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serverLocked(id).failed = now
}

// +checklocks:h.mu
func (h *health) tookLocked(s *serverHealth, class int, d time.Duration, now time.Time) {
	u := &s.usual[class]
	if u.seen.IsZero() {
		u.d = d
	}
	u.d += (d - u.d) / 8
	u.seen = now
}

// fastestLocked is what is usual for the fastest server; ok is false when nothing is known.
//
// +checklocks:h.mu
func (h *health) fastestLocked(class int, now time.Time) (d time.Duration, ok bool) {
	for _, s := range h.servers {
		if u := s.usual[class]; !u.seen.IsZero() && now.Sub(u.seen) < usualFor && (!ok || u.d < d) {
			d, ok = u.d, true
		}
	}
	return d, ok
}

// +checklocks:h.mu
func (h *health) lateLocked(class int, d time.Duration, now time.Time) bool {
	fastest, ok := h.fastestLocked(class, now)
	return ok && d > max(slowFactor*fastest, slowMin)
}

// +checklocks:h.mu
func (h *health) strikeLocked(s *serverHealth, now time.Time) {
	if s.late++; s.late >= slowAfter {
		s.probe = now.Add(slowFor)
	}
}

// hedge is how long to wait for one of these servers before another one is tried as well.
func (h *health) hedge(all []source, bytes int, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hedges = min(h.hedges+hedgePart, hedgeBurst)
	bound, class := hedgeUnknown, sizeClass(bytes)
	for _, src := range all {
		s := h.servers[src.server]
		if s == nil || s.usual[class].seen.IsZero() || now.Sub(s.usual[class].seen) >= usualFor {
			continue
		}
		if d := hedgeFactor * s.usual[class].d; bound == hedgeUnknown || d < bound {
			bound = d
		}
	}
	return min(max(bound, hedgeMin), hedgeMax)
}

// mayHedge takes one of the allowed hedges, if there is one.
func (h *health) mayHedge() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hedges < 1 {
		return false
	}
	h.hedges--
	return true
}

func (h *health) demoted(id dfs.NodeID, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.servers[id]
	return s != nil && now.Sub(s.failed) < demotedFor
}

// slow reports whether a server is to come after others because it is slow. From time to
// time it answers false, once: that read tries the server again.
func (h *health) slow(id dfs.NodeID, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.servers[id]
	if s == nil || s.late < slowAfter {
		return false
	}
	if now.Before(s.probe) {
		return true
	}
	s.probe = now.Add(slowFor)
	return false
}
