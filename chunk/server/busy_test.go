package server

import (
	"testing"
	"time"
)

// TestRepairYieldsToPrograms: and has its whole rate again soon after.
func TestRepairYieldsToPrograms(t *testing.T) {
	s := &Server{}
	for _, rate := range []int64{64 << 10, 3 << 20, 120 << 20} {
		yielding := s.yielding(func() int64 { return rate })
		s.busy = busy{}
		if got := yielding(); got != rate {
			t.Errorf("of %d bytes a second %d are left when nothing is to do", rate, got)
		}
		for range busyRequests {
			s.busy.note(time.Now())
		}
		if got := yielding(); got > max(rate/busyShare, min(rate, busyLeast)) || got <= 0 {
			t.Errorf("of %d bytes a second %d are left while programs are served", rate, got)
		}
	}
	at := time.Unix(1000, 0)
	s.busy = busy{}
	for i := range busyRequests - 1 {
		s.busy.note(at.Add(time.Duration(i) * time.Second / busyRequests))
	}
	if s.busy.is(at) {
		t.Error("a few requests are many")
	}
	s.busy.note(at.Add(time.Second))
	for i, want := range []bool{true, false, false} {
		if got := s.busy.is(at.Add(time.Duration(1+i) * time.Second)); got != want {
			t.Errorf("%d s later: busy is %v", i, got)
		}
	}
}
