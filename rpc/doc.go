// Package rpc is how the daemons and clients of dfs reach each other: one set of
// gRPC options for every server and connection, a codec that moves large byte
// fields without copying them, the check that nobody talks to another cluster,
// a pool of connections, lines for small calls (see frame.go) beside them, and Masters, which finds the leading master and goes on
// through elections. It keeps verdicts (dfs.Errno, in replies, final) and failures
// (errors, retried while they can heal) apart, and converts between the wire's
// messages and package dfs.
//
// Lock order: Masters.mu before nothing; Pool.mu before nothing; lines.mu before
// nothing. None is held during a call or a dial. line.mu is held while a message is
// written, so that messages do not mix.
package rpc
