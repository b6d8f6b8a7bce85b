package fuse

import (
	"testing"
	"time"
)

func TestListingIsKeptUnderOneLeaseOnly(t *testing.T) {
	start := time.Unix(1000, 0)
	type answer struct {
		after          time.Duration // since start
		beginning, end bool
		lease          uint64
		drop           bool
		kept           uint64 // the lease under which the listing is kept then
	}
	for name, answers := range map[string][]answer{
		"one lease":       {{0, true, false, 1, false, 1}, {0, false, false, 1, false, 1}, {0, false, true, 1, false, 1}},
		"no lease":        {{0, true, false, 0, false, 0}, {0, false, true, 0, true, 0}},
		"lost in between": {{0, true, false, 1, false, 1}, {0, false, false, 0, false, 0}, {0, false, true, 0, true, 0}},
		"another one":     {{0, true, false, 1, false, 1}, {0, false, false, 2, false, 0}, {0, false, true, 2, true, 0}},
		"begun elsewhere": {{0, false, false, 1, false, 0}, {0, false, true, 1, true, 0}},
		"a lease at last": {
			{0, true, false, 0, false, 0},
			{answerGrace / 2, true, false, 1, false, 0}, {answerGrace / 2, false, true, 1, true, 0}, // an old answer may still come
			{2 * answerGrace, true, false, 1, true, 1}, {2 * answerGrace, false, true, 1, false, 1},
		},
	} {
		var dir listing
		for i, a := range answers {
			if drop := dir.answer(start.Add(a.after), a.beginning, a.end, a.lease); drop != a.drop || dir.lease != a.kept {
				t.Errorf("%s, answer %d: drop %v and kept under %d, want %v and %d", name, i, drop, dir.lease, a.drop, a.kept)
			}
		}
	}
}
