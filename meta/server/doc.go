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
// Lock order: Server.mu, leadership.mu and transport.mu are leaves; none is held
// over a call to another package.
package server
