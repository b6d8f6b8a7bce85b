package meta

import "dfs"

// Range is the numbers from From up to and without To.
type Range struct {
	From, To uint64
}

// Len is how many numbers the range holds.
func (r Range) Len() uint64 { return r.To - r.From }

// Contains reports whether n is in the range.
func (r Range) Contains(n uint64) bool { return r.From <= n && n < r.To }

// Reply is the answer to a command. Duplicate and Expired are failures: nothing
// was carried out and there is no verdict. All else is kept and answered again
// when the session repeats the command.
type Reply struct {
	Errno dfs.Errno
	// Attr is the inode after the change: of Create (also when it Existed), Link,
	// Rename (what was moved), SetAttr, SetXattr, RemoveXattr, SetPolicy, and of a
	// Commit of one file; of Fallocate, and of CopyRange To. Nil when refused.
	Attr    *dfs.Attr
	Existed bool // Create without Excl found the name
	// StaleMap refuses a Commit as a whole: a chunk has fewer live fragments than
	// its layout wants, or is not this session's to write any more. The bytes must
	// be written again in a new chunk.
	StaleMap  bool
	Duplicate bool // the sequence is below what the session acknowledged
	Expired   bool // there is no such session

	Session  dfs.SessionID // OpenSession
	Inodes   Range         // OpenSession, GrantIDs
	Chunks   Range         // OpenSession, GrantIDs: sequence numbers
	Orphaned []dfs.Ino     // inodes that lost their last link
	Skipped  []dfs.Ino     // Commit: files that are gone
	Reaped   []dfs.Ino     // Reap: inodes that are gone now
	More     bool          // Reap: ExtentsMax was reached; Fallocate: it is not done: ask again
	Dropped  []dfs.ChunkID // DropChunks: chunks whose record is gone now
	Epoch    dfs.Epoch     // PutMap: of the map after the command, also when refused
	Token    uint64        // SetLock of a name
	Copied   uint64        // CopyRange: bytes

	// Replayed says that this is the kept answer of an earlier Apply. It is about
	// this Apply and is not kept.
	Replayed bool
}
