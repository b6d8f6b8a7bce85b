package server

import (
	"sync"
	"time"
)

// What a server that has something to do for programs leaves to repair.
const (
	busyRequests = 8 // in this second and the one before
	busyShare    = 8 // repair then goes at this part of its rate, at least at busyLeast
	busyLeast    = 1 << 20
)

// busy knows whether programs write to this server or read from it just now.
type busy struct {
	mu     sync.Mutex
	second int64 // +checklocks:mu — since 1970
	now    int   // +checklocks:mu — requests in it
	before int   // +checklocks:mu — in the one before
}

// turnLocked goes on to a second.
//
// +checklocks:b.mu
func (b *busy) turnLocked(at time.Time) {
	switch s := at.Unix(); {
	case s == b.second+1:
		b.second, b.before, b.now = s, b.now, 0
	case s != b.second:
		b.second, b.before, b.now = s, 0, 0
	}
}

// note counts a request of a program.
func (b *busy) note(at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turnLocked(at)
	b.now++
}

// is reports whether there were many lately.
func (b *busy) is(at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turnLocked(at)
	return b.now+b.before >= busyRequests
}

// yielding is a rate of which a part only is left while programs are served.
func (s *Server) yielding(rate func() int64) func() int64 {
	return func() int64 {
		full := rate()
		if !s.busy.is(time.Now()) {
			return full
		}
		return min(full, max(full/busyShare, busyLeast))
	}
}
