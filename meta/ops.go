package meta

import "dfs"

// Command is one change as the Raft log holds it.
type Command struct {
	// Session and Seq name the request, so that a retry takes effect once. The
	// masters' own commands have session 0 and no Seq; they are not remembered.
	Session dfs.SessionID
	Seq     uint64 // from 1
	Acked   uint64 // the session got every answer with a sequence below this
	Time    dfs.Time
	Told    bool // Time is when the client made the change, under a lease: it stays
	Cred    dfs.Cred
	Op      Op
}

// Op is what a command does: a pointer to one of the types of this file, which
// mirror dfs.log.v1 field by field.
type Op interface {
	apply(tx *tx) (Reply, error)
}

// Create makes an inode of any type: mkdir, mknod, symlink, open(O_CREAT), open(O_TMPFILE).
type Create struct {
	Parent dfs.Ino
	Name   string
	Ino    dfs.Ino // from the session's range, never used before
	Mode   uint32  // type and permission bits; type 0 is a regular file
	Umask  uint32  // taken from Mode, unless the folder has a default ACL
	Rdev   uint32
	Target string // of a symlink
	Excl   bool   // EEXIST when the name exists; else what is there is answered with Existed
	// Tmpfile makes a regular file without a name, an orphan that lives while somebody
	// has it open. Link may give it its first name, unless Excl.
	Tmpfile bool
}

// Link gives an inode one more name.
type Link struct {
	Ino    dfs.Ino
	Parent dfs.Ino
	Name   string
}

// Unlink removes a name of anything but a folder.
type Unlink struct {
	Parent dfs.Ino
	Name   string
}

// Rmdir removes an empty folder.
type Rmdir struct {
	Parent dfs.Ino
	Name   string
}

// Rename is renameat2(2).
type Rename struct {
	Parent    dfs.Ino
	Name      string
	NewParent dfs.Ino
	NewName   string
	Flags     uint32  // dfs.RenameNoReplace, dfs.RenameExchange, dfs.RenameWhiteout
	Whiteout  dfs.Ino // with dfs.RenameWhiteout: from the session's range, never used before
}

// SetAttr is chmod, chown, truncate and utimensat: what is nil stays as it is.
type SetAttr struct {
	Ino      dfs.Ino
	Mode     *uint32 // permission bits
	UID      *uint32
	GID      *uint32
	Size     *uint64
	Atime    *dfs.Time
	Mtime    *dfs.Time
	AtimeNow bool // the command's time; Atime is then ignored
	MtimeNow bool
	Handle   bool // on an open descriptor (ftruncate): no permission check for the size
	KillSuid bool // clear setuid and setgid as write(2) and chown(2) do
}

// SetXattr is setxattr(2).
type SetXattr struct {
	Ino   dfs.Ino
	Name  string
	Value []byte
	Flags uint32 // dfs.XattrCreate, dfs.XattrReplace
}

// RemoveXattr is removexattr(2).
type RemoveXattr struct {
	Ino  dfs.Ino
	Name string
}

// Commit makes written bytes part of files: many files at once, all or nothing
// but for files that are gone (Reply.Skipped).
type Commit struct {
	Files  []FileCommit
	Chunks []ChunkCommit
}

// FileCommit is one file's part of a Commit.
type FileCommit struct {
	Ino      dfs.Ino
	Extents  []dfs.Extent // in the order in which they were written: later ones win
	SizeMin  uint64       // the size becomes at least this
	Mtime    dfs.Time     // of the last write; zero leaves the file's mtime alone
	KillSuid bool
	Ctime    dfs.Time // when the bytes were written, under a lease; zero: the command's time

	// Seq is that of the last of the pieces, see dfs.Intent. From then on, what follows
	// it may be acknowledged before it is committed. 0: it may not.
	Seq  uint64
	Prev uint64 // of Replay: the piece that the file must have been left by

	// Move says that no bytes are new: Extents are where those of Was are kept too. Nothing else
	// of the file changes; see moveFile.
	Move bool
	Was  []dfs.Extent
}

// ChunkCommit is one chunk's part of a Commit.
type ChunkCommit struct {
	Chunk     dfs.ChunkID
	Committed uint32       // bytes of each fragment file that are on disk
	Servers   []dfs.NodeID // by position who has them; 0: nobody
	Sealed    bool         // the session will write no more to it
}

// Replay is the Commit that a session would have made if it had not died: of what its
// chunks say themselves, by the intents in their records.
type Replay struct {
	Session dfs.SessionID
	Commit
}

// Fallocate is fallocate(2). Nothing is set aside: to allocate is to grow the file.
type Fallocate struct {
	Ino  dfs.Ino
	Mode uint32 // dfs.FallocKeepSize and its kin
	Off  uint64
	Len  uint64
}

// CopyRange is copy_file_range(2).
type CopyRange struct {
	From    dfs.Ino
	FromOff uint64
	To      dfs.Ino
	ToOff   uint64
	Len     uint64
}

// SetLock gives the session a lock, or takes locks of one owner away. It waits for
// nothing: EAGAIN when another owner's is in the way.
type SetLock struct {
	Ino    dfs.Ino // of a file, or dfs.LockNameIno
	Lock   dfs.Lock
	Closed bool // all that were set through Lock.File go; nothing else of Lock counts
	Refuse bool // the leader keeps what is asked for to somebody who has waited for it: EAGAIN
}

// PutLocks says what the session holds of a file: it has set these under an exclusive
// lease, when no other session had any. EAGAIN when one is in the way all the same.
type PutLocks struct {
	Ino   dfs.Ino
	Locks dfs.Locks
}

// Access tells when inodes were read last; those that are gone, and what is older than
// the last change, it passes over.
type Access struct {
	Inodes []dfs.Ino
	Times  []dfs.Time // of each
}

// SetPolicy sets the layout of new chunks of a file, or of new children of a
// folder.
type SetPolicy struct {
	Ino    dfs.Ino
	Layout dfs.Layout
	// KeepTimes leaves ctime alone: the file is brought to what its folder says.
	KeepTimes bool
}

// GrantIDs gives the session its next inode numbers and chunk sequence numbers.
type GrantIDs struct {
	Inodes bool
	Chunks bool
}

// OpenSession registers a client. The same nonce again answers the same session.
type OpenSession struct {
	Nonce      uint64 // random, not 0
	Host       string
	Mountpoint string
	Version    string
	Restrict   dfs.Restrictions
}

// CloseSession ends a session; one that is already gone is no error.
type CloseSession struct {
	Session dfs.SessionID
}

// Reap frees orphans that nobody has open, a bounded part at a time. Inodes that
// are no orphans are passed over.
type Reap struct {
	Inodes     []dfs.Ino
	ExtentsMax uint32 // extents and xattrs freed by this command; 0 is ReapMax
}

// SetPresent tells what a server has of chunks: fragments that it has made anew, or
// found whole, up to what is committed; and fragments that it has lost. Chunks that
// it is no home of, or that are gone, are passed over.
type SetPresent struct {
	Server dfs.NodeID
	Have   []dfs.ChunkID // sealed ones; others are passed over
	Lack   []dfs.ChunkID
}

// DropChunks removes the records of chunks that nothing needs; others are
// passed over.
type DropChunks struct {
	Chunks []dfs.ChunkID
}

// Bootstrap makes an empty table a file system with a root folder. It is the
// first command of a cluster; EEXIST on one that has been bootstrapped.
type Bootstrap struct {
	Cluster dfs.ClusterID
	Buckets uint32 // placement groups per layout
}

// PutMap replaces the servers (none given: they stay) and adds or replaces homes
// of placement groups, when the map is at Epoch; else EAGAIN.
type PutMap struct {
	Epoch   dfs.Epoch
	Servers []dfs.Server
	Acting  []Home
}

// Home is the servers that were decided for a placement group, by position.
type Home struct {
	PG      dfs.PG
	Servers []dfs.NodeID
}

// PutMaster adds a master or changes its name or address.
type PutMaster struct {
	ID   dfs.NodeID
	Name string
	Addr string
}

// RemoveMaster forgets a master.
type RemoveMaster struct {
	ID dfs.NodeID
}
