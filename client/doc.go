// Package client is the whole file system as calls: the namespace, the bytes of
// files, buffering, retries, sessions. It needs no kernel; fuse, the command line
// and gateways are built on it.
//
// An FS is one session with the masters. Names and attributes are always asked of
// the masters, so that each call sees all that returned before it began, on any
// mount. Bytes are buffered: what a program wrote is visible to this client's own
// Read and GetAttr at once, and to others at the latest when Flush (close), Fsync or
// a namespace call on the inode returns. What Fsync has acknowledged is on the disks
// of all acting servers and of a majority of the masters.
//
// Calls wait for masters and servers that are away, until their context ends or
// Config.OpTimeout is over. Errors are verdicts (dfs.Errno, found by errors.As) or
// failures that wrap context.Canceled or context.DeadlineExceeded.
//
// # Inside
//
// An inode that is open or has unwritten bytes has one *inode, shared by all its
// Files. Reads lay its dirty bytes over those on their way, over the committed
// extents, over zeros. The extents are valid for one value of Attr.Change; the one
// place that decides this is (*inode).validate, where leases will fit in.
//
// Lock order: FS.mu, then inode.mu. Neither is held over I/O.
package client
