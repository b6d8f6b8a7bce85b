package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dfs"
	"dfs/internal/virtualtime"
)

var (
	simSeed   = flag.Uint64("sim.seed", 0, "first seed; 0: a random one with -sim.seeds, else the fixed list")
	simSeeds  = flag.Int("sim.seeds", 0, "how many seeds, which follow each other; 0: 1, or the fixed list")
	simLog    = flag.Int("sim.log", 8<<10, "how many bytes of the log of a failure are shown")
	simFaults = flag.String("sim.faults", "", "only these kinds of faults, separated by commas, such as flap,kill")
	simPolicy = flag.String("sim.policy", "", "policy of all files, such as ec=2+2; empty: copies=3")
	simLength = flag.Duration("sim.length", 40*time.Second, "how long programs work, in virtual time")
)

// fixed are the seeds of each test run.
var fixed = []uint64{1, 2, 4, 10, 12, 14, 20003, 20017}

// TestSimulation runs clusters in which all that can fail does, and looks for what was
// acknowledged and is not there, what was read and cannot be, and what is not as it was in
// the end.
func TestSimulation(t *testing.T) {
	seeds := fixed
	if *simSeed != 0 || *simSeeds != 0 {
		first := *simSeed
		if first == 0 {
			first = rand.Uint64N(1 << 40)
		}
		seeds = nil
		for i := range uint64(max(*simSeeds, 1)) {
			seeds = append(seeds, first+i)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("sim.seed=%d", seed), func(t *testing.T) {
			r := &run{seed: seed, length: *simLength}
			if *simFaults != "" {
				r.only = strings.Split(*simFaults, ",")
			}
			if *simPolicy != "" {
				var err error
				if r.layout, err = dfs.ParseLayout(*simPolicy); err != nil {
					t.Fatal(err)
				}
			}
			defer func() { // also when what is in the bubble has failed: then nothing comes after it
				if t.Failed() || testing.Verbose() {
					t.Logf("-sim.seed=%d, policy %v, schedule:\n%slog:\n%s", seed, r.layout, describe(r.faults), r.log.tail(*simLog))
				}
			}()
			virtualtime.Test(t, func(t *testing.T) {
				r.mu = make(turn, 1)
				r.do(t)
			})
			if v := r.verdict(); v != "" {
				t.Error(v)
			}
			if testing.Verbose() {
				t.Logf("%d reads were held against the model", r.model.reads)
			}
		})
	}
}
