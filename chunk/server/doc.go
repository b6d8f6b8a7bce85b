// Package server makes a chunk store reachable: appends with the forwarding along
// a chain of copies, reads, seals, and the duties of a cluster member (joining,
// following the cluster map, gossip, deleting what the masters need no more). It
// starts without masters and outlives their loss: what it holds it serves.
//
// A Server owns all goroutines that it starts; Close ends them in reverse order.
//
// Lock order: there is one lock in each type and none is held while another is
// taken, nor during I/O; stream.sendMu is held while a reply is handed to gRPC.
package server
