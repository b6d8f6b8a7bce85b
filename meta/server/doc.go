// Package server makes a replicated meta.State reachable: it serves the namespace,
// the cluster map, Raft between masters and the admin's questions over gRPC.
//
// Every master runs the same services; all but Hello, WatchMap and Raft are
// answered by the leader alone. What only a leader knows (when a session was last
// heard of, which inodes it has open) lives in a leadership, which is made when
// this master has become leader and has applied all that came before, and thrown
// away when it is no longer. The duties of a leader are small loops of the
// leadership that compare what is with what should be, and propose changes.
//
// Lock order: leadership.mapMu comes first and is held over proposals, which end with
// the term. Server.mu, held while gossip starts, leadership.mu, transport.mu and
// mapWatch.mu are leaves.
package server
