package client

import "testing"

func TestStreamsGoAheadOfWhoGoesOn(t *testing.T) {
	var s streams[int]
	for i, step := range []struct{ of, at, want int64 }{
		{1, 100, 0}, // a place alone says nothing
		{1, 110, 4},
		{1, 111, 8},
		{2, 112, 0}, // of something else
		{1, 500, 0}, // too far away
		{1, 105, 16},
		{1, 104, 20}, // at most
		{1, 501, 4},
	} {
		if got := s.advise(int(step.of), step.at, 50, 4, 2, 20); got != step.want {
			t.Errorf("step %d: %d ahead, want %d", i, got, step.want)
		}
	}
	for of := range streamsMax {
		s.advise(10+of, 0, 50, 4, 2, 20)
	}
	if got := s.advise(1, 501, 50, 4, 2, 20); got != 0 {
		t.Errorf("what has been gone on with by others for long is not forgotten: %d", got)
	}
}
