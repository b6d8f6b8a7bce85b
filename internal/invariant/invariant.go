// Package invariant holds checks that are too costly, or too harsh, for daily
// work. They are on in tests and in programs built with the tag "invariants". A
// check that fails panics: the state is one that must not exist, and going on
// would spread it.
package invariant

import (
	"fmt"
	"testing"
)

// On says whether checks run: wrap those that cost something in it.
var On = tagged || testing.Testing()

// Check panics with the message when cond is false and checks are on.
func Check(cond bool, format string, args ...any) {
	if On && !cond {
		panic("invariant: " + fmt.Sprintf(format, args...))
	}
}
