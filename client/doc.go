// Package client is the whole file system as calls: the namespace, the bytes of
// files, buffering, retries, sessions. It needs no kernel; fuse, the command line
// and gateways are built on it.
//
// An FS is one session with the masters. Each call sees all that returned before it
// began, on any client: names, attributes and bytes. Most calls ask nobody for it. The
// masters grant leases on inodes; under a shared one the client answers from memory,
// under an exclusive one it also makes changes there and tells the masters later, in
// order, and before anybody else looks. What Fsync has acknowledged is on the disks of
// all acting servers and of a majority of the masters; what was changed after the last
// Fsync may be lost with this process, the newest first. docs/coherence.md describes it.
//
// Calls wait for masters and servers that are away, until their context ends or
// Config.OpTimeout is over. Errors are verdicts (dfs.Errno, found by errors.As) or
// failures that wrap context.Canceled or context.DeadlineExceeded.
//
// # Inside
//
// An inode that is open or has unwritten bytes has one *inode, shared by all its
// Files. Reads lay its dirty bytes over those on their way, over the committed
// extents, over zeros. The extents are valid while the lease is held under which they
// were read.
//
// lease.go keeps what is known under leases, local.go makes changes in memory, lane.go
// tells the masters of them.
//
// Lock order: FS.mu, inode.mu, leases.mu, session.mu or lane.mu. None is held over I/O.
package client
