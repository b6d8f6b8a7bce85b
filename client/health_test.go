package client

import (
	"testing"
	"time"

	"dfs"
)

// A slow server does not raise the bound after which others are tried, comes last, and is
// tried again from time to time.
func TestSlowServerComesLastAndIsTriedAgain(t *testing.T) {
	h, now := newHealth(), time.Unix(1000, 0)
	all := []source{{server: 1}, {server: 2}}
	if d := h.hedge(all, 4096, now); d != hedgeUnknown {
		t.Errorf("nothing is known: %v", d)
	}
	for range 5 {
		h.answered(2, 4096, 2*time.Millisecond, now)
	}
	for i := range 5 {
		if slow := h.slow(1, now); slow != (i >= slowAfter) {
			t.Errorf("after %d slow reads: slow %t", i, slow)
		}
		h.gaveUp(1, 4096, 100*time.Millisecond, now)
		if d := h.hedge(all, 4096, now); d != 8*time.Millisecond {
			t.Errorf("bound is %v", d)
		}
	}
	if h.slow(2, now) {
		t.Error("the fast one is slow")
	}
	now = now.Add(slowFor)
	if h.slow(1, now) || !h.slow(1, now) {
		t.Error("not exactly one read tries it again")
	}
	h.gaveUp(1, 4096, time.Second, now)
	if !h.slow(1, now) {
		t.Error("it was slow again")
	}
	now = now.Add(slowFor)
	h.answered(1, 4096, time.Millisecond, now)
	if h.slow(1, now) {
		t.Error("it is fast again")
	}
}

// Reads that are tried elsewhere have a budget; large reads have a bound of their own.
func TestHedgesAreFew(t *testing.T) {
	h, now := newHealth(), time.Unix(1000, 0)
	n := 0
	const reads = 1000
	for range reads {
		h.hedge([]source{{server: dfs.NodeID(1)}}, 4096, now)
		if h.mayHedge() {
			n++
		}
	}
	if n < reads/10 || n > reads/10+hedgeBurst {
		t.Errorf("%d of %d reads", n, reads)
	}
	h.answered(1, 4096, 2*time.Millisecond, now)
	h.answered(1, 4<<20, 40*time.Millisecond, now)
	if d := h.hedge([]source{{server: 1}}, 4<<20, now); d != 160*time.Millisecond {
		t.Errorf("bound of a large read is %v", d)
	}
	if h.slow(1, now) {
		t.Error("a large read took longer than a small one")
	}
}
