// Package virtualtime runs tests in bubbles of testing/synctest.
package virtualtime

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

var (
	mu      sync.Mutex
	bubbles int // that are run now
	procs   int // GOMAXPROCS without them
)

// Test runs f in a bubble, as synctest.Test does. With the race detector on, the process
// runs on one processor meanwhile: the runtime has one race context for all timers of a bubble
// (runtime.timers.raceCtx) and uses it without a lock from each processor that finds a timer
// due, which now and then kills the process inside the detector (golang/go#78156). Races are
// found as before, since the detector goes by the order of events and not by the time.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if raceEnabled {
		enter()
		defer leave()
	}
	synctest.Test(t, f)
}

func enter() {
	mu.Lock()
	defer mu.Unlock()
	if bubbles == 0 {
		procs = runtime.GOMAXPROCS(1)
	}
	bubbles++
}

func leave() {
	mu.Lock()
	defer mu.Unlock()
	bubbles--
	if bubbles == 0 {
		runtime.GOMAXPROCS(procs)
	}
}
