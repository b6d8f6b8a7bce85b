package invariant_test

import (
	"testing"

	"dfs/internal/invariant"
)

func TestChecksAreOnInTests(t *testing.T) {
	if !invariant.On {
		t.Fatal("checks are off")
	}
	invariant.Check(true, "fine")
	defer func() {
		if got := recover(); got != "invariant: 1 is not 2" {
			t.Fatalf("panic with %v", got)
		}
	}()
	invariant.Check(false, "%d is not %d", 1, 2)
}
