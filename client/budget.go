package client

import (
	"context"
	"sync"
	"time"
)

// budget is a bound on memory: who needs more waits until others give some back.
type budget struct {
	mu    sync.Mutex
	max   int64
	used  int64         // +checklocks:mu
	freed chan struct{} // +checklocks:mu — closed when some is given back; nil when nobody waits
}

func newBudget(max int64) *budget { return &budget{max: max} }

// take takes n bytes if they are there. The first taker gets them however many.
func (b *budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 && b.used+int64(n) > b.max {
		return false
	}
	b.used += int64(n)
	return true
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= int64(n)
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

// wait returns when some was given back, ctx has ended or d is over.
func (b *budget) wait(ctx context.Context, d time.Duration) {
	b.mu.Lock()
	if b.freed == nil {
		b.freed = make(chan struct{})
	}
	freed := b.freed
	b.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-freed:
	case <-t.C:
	case <-ctx.Done():
	}
}

// over reports whether more than half is used.
func (b *budget) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used > b.max/2
}

func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
