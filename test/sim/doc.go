// Package sim runs whole clusters in one process and in virtual time, with a network and
// disks in memory that fail as a seed says, and holds what the clients saw against what may
// be seen: TestSimulation. A seed gives who does what, and what goes wrong when; how
// goroutines take turns, it does not, so a seed that has failed may have to be run again.
//
//	go test ./test/sim -sim.seed 7 -sim.seeds 100
//
// Locks: network.mu, stream.mu and model.mu are leaves, and nobody waits with one.
package sim
