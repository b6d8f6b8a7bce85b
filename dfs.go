package dfs

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Ino is an inode number. The top 16 bits are the metadata shard (0 today), so
// that metadata can be sharded later without renumbering. Never reused.
// Example: 0x0000_0000_0000_0001, the root folder.
type Ino uint64

// RootIno is the root folder of the file system.
const RootIno Ino = 1

// FirstIno is the first inode number that is given to sessions.
const FirstIno Ino = 16

// NodeID names a master or a chunk server for its whole life: a random number
// made when its data folder is formatted. Example: 0x9f3c_2b1d_0042_7701.
type NodeID uint64

func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// ClusterID names a cluster; made at bootstrap. Zero is no cluster.
type ClusterID uint64

func (c ClusterID) String() string { return fmt.Sprintf("%016x", uint64(c)) }

// SessionID names one client's registration with the masters. Never reused.
type SessionID uint64

func (s SessionID) String() string { return fmt.Sprintf("%x", uint64(s)) }

// Epoch is the version of the cluster map. It only grows.
type Epoch uint64

// Layout says how a chunk is cut in fragments: k data and m parity fragments.
// copies=3 is k=1, m=2. It is kept in the chunk id, so that a chunk describes
// itself. Bits: 15..8 class (0 today), 7..3 k (1..31), 2..0 m (0..7).
type Layout uint16

// DefaultLayout is the layout of the root folder of a new cluster: copies=3.
const DefaultLayout = Layout(1<<3 | 2)

// Limits of layouts.
const (
	CopiesMax = 5  // copies
	DataMax   = 16 // k of ec=k+m
	ParityMax = 4  // m of ec=k+m
)

// Copies returns the layout that keeps n whole copies, 1 <= n <= CopiesMax.
func Copies(n int) (Layout, error) {
	if n < 1 || n > CopiesMax {
		return 0, fmt.Errorf("copies=%d: want 1 to %d copies", n, CopiesMax)
	}
	return Layout(1<<3 | (n - 1)), nil
}

// EC returns the layout with k data and m parity fragments.
func EC(k, m int) (Layout, error) {
	if k < 2 || k > DataMax || m < 1 || m > ParityMax {
		return 0, fmt.Errorf("ec=%d+%d: want 2 to %d data and 1 to %d parity fragments", k, m, DataMax, ParityMax)
	}
	return Layout(k<<3 | m), nil
}

// ParseLayout reads "copies=3" or "ec=4+2".
func ParseLayout(s string) (Layout, error) {
	if v, ok := strings.CutPrefix(s, "copies="); ok {
		if n, err := strconv.Atoi(v); err == nil {
			return Copies(n)
		}
	}
	if v, ok := strings.CutPrefix(s, "ec="); ok {
		if ks, ms, ok := strings.Cut(v, "+"); ok {
			k, errK := strconv.Atoi(ks)
			m, errM := strconv.Atoi(ms)
			if errK == nil && errM == nil {
				return EC(k, m)
			}
		}
	}
	return 0, fmt.Errorf("policy %q: want copies=N or ec=K+M, for example copies=3 or ec=4+2", s)
}

// Data is k, the number of data fragments.
func (l Layout) Data() int { return int(l >> 3 & 31) }

// Parity is m, the number of parity fragments (extra copies when k is 1).
func (l Layout) Parity() int { return int(l & 7) }

// Width is k+m, the number of servers of an acting set.
func (l Layout) Width() int { return l.Data() + l.Parity() }

// MinWrite is how many fragments must be on disk before bytes may be committed
// while servers are away: 2 of copies=3, 5 of ec=4+2.
func (l Layout) MinWrite() int { return l.Data() + l.Parity()/2 }

// FragmentLen is how much of a record with that payload is in each fragment: a
// k-th, rounded up.
func (l Layout) FragmentLen(recordLen int) int {
	k := max(l.Data(), 1)
	return (recordLen + k - 1) / k
}

// Valid reports whether l is a layout that this version can store.
func (l Layout) Valid() bool {
	if l>>8 != 0 {
		return false
	}
	if l.Data() == 1 {
		return l.Parity() < CopiesMax
	}
	_, err := EC(l.Data(), l.Parity())
	return err == nil
}

func (l Layout) String() string {
	if l.Data() == 1 {
		return fmt.Sprintf("copies=%d", l.Width())
	}
	return fmt.Sprintf("ec=%d+%d", l.Data(), l.Parity())
}

// ChunkID names a chunk. The top 16 bits are its Layout, the rest a sequence
// number that is never reused. Example: 0x000a_0000_0000_002a, chunk 42 in
// three copies.
type ChunkID uint64

// ChunkSeqBits is how many low bits of a ChunkID are the sequence number.
const ChunkSeqBits = 48

// MakeChunkID joins a layout and a sequence number.
func MakeChunkID(l Layout, seq uint64) ChunkID {
	return ChunkID(uint64(l)<<ChunkSeqBits | seq&(1<<ChunkSeqBits-1))
}

// Layout is how the chunk is cut in fragments.
func (c ChunkID) Layout() Layout { return Layout(c >> ChunkSeqBits) }

// Seq is the sequence number without the layout.
func (c ChunkID) Seq() uint64 { return uint64(c) & (1<<ChunkSeqBits - 1) }

func (c ChunkID) String() string { return fmt.Sprintf("%016x", uint64(c)) }

// PG names a placement group: the layout in the high 16 bits, the bucket in the
// low 16.
type PG uint32

// MakePG joins a layout and a bucket.
func MakePG(l Layout, bucket uint16) PG { return PG(uint32(l)<<16 | uint32(bucket)) }

// Layout of the chunks in the group.
func (p PG) Layout() Layout { return Layout(p >> 16) }

// Bucket of the group, below ClusterMap.Buckets.
func (p PG) Bucket() uint16 { return uint16(p) }

func (p PG) String() string { return fmt.Sprintf("%s/%d", p.Layout(), p.Bucket()) }

// PG is the placement group of the chunk in a cluster with that many buckets
// per layout. The hash (splitmix64, Steele et al. 2014) is part of the disk
// format: it never changes.
func (c ChunkID) PG(buckets uint32) PG {
	z := c.Seq() + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return MakePG(c.Layout(), uint16(z%uint64(buckets)))
}

// Sizes that the formats and the protocols agree on, in bytes.
const (
	PageBytes     = 4096     // unit of checksums and of alignment in chunk files
	ChunkBytes    = 64 << 20 // largest fragment file
	FragmentBytes = 1 << 20  // largest payload of one record in one fragment file
	RecordBytes   = 1 << 20  // payload a client puts in one record, copies or not
)

// Limits of names and files.
const (
	NameMax    = 255       // bytes of one name
	PathMax    = 4096      // bytes of a symlink's target, with its final NUL
	LinkMax    = 1<<31 - 1 // hard links of a file, subfolders of a folder
	FileMax    = 1<<63 - 1 // bytes of a file
	XattrMax   = 64 << 10  // bytes of one xattr value, and of all names listed
	SymlinkMax = 40        // symlinks followed in one resolution
)

// Extent says where a piece of a file lives. A record is one append to a chunk;
// Record is where it begins in each fragment file, RecordLen its payload over all
// data fragments, and Start where the piece begins in that payload.
type Extent struct {
	Off       uint64 // in the file, bytes
	Len       uint32 // bytes
	Chunk     ChunkID
	Record    uint32 // offset in the fragment file, bytes, a multiple of PageBytes
	RecordLen uint32 // bytes
	Start     uint32 // bytes
}

// End is the file offset just after the extent.
func (e Extent) End() uint64 { return e.Off + uint64(e.Len) }

// Time is a POSIX timespec.
type Time struct {
	Sec  int64
	Nsec uint32 // 0 to 999,999,999
}

// TimeOf converts t.
func TimeOf(t time.Time) Time { return Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())} }

// Time converts t back.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// Compare orders two times.
func (t Time) Compare(u Time) int {
	switch {
	case t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec:
		return -1
	case t == u:
		return 0
	}
	return 1
}

// Attr is what stat(2) tells of an inode.
type Attr struct {
	Ino    Ino
	Mode   uint32 // st_mode: type and permission bits as in Linux
	Nlink  uint32
	UID    uint32
	GID    uint32
	Rdev   uint32 // Linux device number of a special file
	Layout Layout // storage policy of new chunks (file) and of new children (folder)
	Size   uint64 // bytes; of a folder, its number of entries
	Alloc  uint64 // bytes that extents cover: st_blocks is this, rounded up, in units of 512
	Atime  Time
	Mtime  Time
	Ctime  Time
	Btime  Time   // birth
	Change uint64 // grows with each change of the inode or its bytes (NFSv4 change attribute)
	Flags  uint32 // FlagTmpfile and the like; those of chattr(1) may get numbers here too

	XattrBytes uint32 // names of its extended attributes, each with a final NUL, as listxattr(2) counts
}

// Flags of Attr.Flags. They say what could else be known only by a look at another row.
const (
	// FlagTmpfile is on a file that was made without a name and has got none yet: it may
	// get one, which an inode that has lost its last name may not.
	FlagTmpfile    = 1 << iota
	FlagAccessACL  // it has XattrAccessACL
	FlagDefaultACL // it has XattrDefaultACL
	FlagCapability // it has XattrCapability
)

// File type bits of Attr.Mode, as in Linux.
const (
	TypeMask   = 0o170000
	TypeSocket = 0o140000
	TypeLink   = 0o120000
	TypeFile   = 0o100000
	TypeBlock  = 0o060000
	TypeDir    = 0o040000
	TypeChar   = 0o020000
	TypeFIFO   = 0o010000
)

// Type is the file type bits of the mode.
func (a *Attr) Type() uint32 { return a.Mode & TypeMask }

// IsDir reports whether the inode is a folder.
func (a *Attr) IsDir() bool { return a.Type() == TypeDir }

// IsFile reports whether the inode is a regular file.
func (a *Attr) IsFile() bool { return a.Type() == TypeFile }

// Blocks is st_blocks, in units of 512 bytes.
func (a *Attr) Blocks() uint64 { return (a.Alloc + 511) / 512 }

// Moved is what was moved of a file that is to be kept in another way.
type Moved struct {
	Bytes uint64 // that are kept so now
	Left  uint64 // that are not: somebody writes there again and again
}

// Entry is one name in a folder.
type Entry struct {
	Name   string
	Ino    Ino
	Type   uint32 // type bits as in Attr.Mode
	Cookie uint64 // where a listing goes on after this entry: stable while the folder changes
	Attr   Attr   // only when asked for
}

// Cred is on whose behalf an operation is done.
type Cred struct {
	UID    uint32
	GID    uint32
	Groups []uint32
	// Checked says that the caller's kernel has already checked permissions
	// (default_permissions), so the masters need not.
	Checked bool
	// Umask is taken from the mode of what is made, unless its folder has a default ACL.
	Umask uint32
}

// Restrictions are what a session may not do, as its mount was told to ask for.
type Restrictions uint32

// The restrictions.
const (
	ReadOnly   Restrictions = 1 << iota // change anything
	SquashRoot                          // act as root
)

// Nobody is the user and group as which root acts under SquashRoot.
const Nobody = 65534

// Squash is on whose behalf a request is really made.
func (r Restrictions) Squash(c Cred) Cred {
	if r&SquashRoot != 0 && c.UID == 0 {
		return Cred{UID: Nobody, GID: Nobody, Umask: c.Umask}
	}
	return c
}

// Flags of Rename, as in renameat2(2).
const (
	RenameNoReplace = 1
	RenameExchange  = 2
	RenameWhiteout  = 4
)

// XattrNameMax is the bytes of the name of an extended attribute, with its namespace.
const XattrNameMax = 255

// Namespaces of extended attributes, see xattr(7). Of "system." there are the ACLs.
const (
	XattrUser     = "user."
	XattrTrusted  = "trusted."
	XattrSecurity = "security."
)

// Extended attributes that mean something to the file system: who may do what.
const (
	XattrAccessACL  = "system.posix_acl_access"
	XattrDefaultACL = "system.posix_acl_default"
	XattrCapability = "security.capability"
)

// Flags of SetXattr, as in setxattr(2).
const (
	XattrCreate  = 1
	XattrReplace = 2
	// XattrKillSetgid is none of setxattr(2): the kernel has found that who sets an
	// access ACL must lose the setgid bit of the inode.
	XattrKillSetgid = 1 << 16
)

// Modes of Fallocate, as in fallocate(2).
const (
	FallocKeepSize  = 0x01
	FallocPunchHole = 0x02
	FallocZeroRange = 0x10
)

// StatFS is what statvfs(3) tells, in bytes.
type StatFS struct {
	TotalBytes uint64 // as the default policy would store them: raw bytes over its overhead
	FreeBytes  uint64
	Files      uint64 // inodes in use
}
