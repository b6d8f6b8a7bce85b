// Package clock is the clock that leases are measured by.
package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells nanoseconds since some moment. It must never go back, and go on while
// the machine sleeps: who was suspended has to find that the lease is over.
type Clock func() int64

// Boot is the machine's: the time since it was started.
func Boot() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Now().UnixNano() // a kernel without it: never seen
	}
	return ts.Nano()
}
