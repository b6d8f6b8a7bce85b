// Package cluster runs a whole cluster in one process, over loopback and in a
// temporary folder, for tests: real masters with real Raft, real chunk servers, and
// clients. A server can be killed as by a crash and started again on its data.
package cluster
