// Package replica makes a meta.State a replicated one: a command that a majority
// of the masters has on disk is applied by all of them, in the same order, once.
//
// A Node runs etcd's raft in one goroutine (run), which owns the RawNode and the
// log on disk, and applies committed entries in a second one (applier), which
// alone writes to the store. Proposals that arrive while the log is being synced
// share the next entry. A snapshot for a master that lags is a checkpoint of the
// store, sent by a goroutine of its own.
//
// Reads are linearizable: the leader answers under a lease that it renews by
// ReadIndex, or else asks a majority each time. The lease runs from before the
// question was sent, for less than an election timeout, on a clock that goes on
// while the machine sleeps; it is checked again after the read was done. A master
// that has just started gives no vote for one election timeout, since it forgot
// which lease it helped to give.
//
// Lock order: Node.use, then the store's; Node.mu is a leaf.
package replica
