package meta

import (
	"crypto/sha256"
	"encoding/binary"

	"dfs"
)

// The kinds of rows. A key is the kind and then big-endian numbers, so that rows
// of one inode or session lie together in order. docs/formats.md lists them.
const (
	kindCluster   = 'A' // the cluster's id, buckets and epoch
	kindCounters  = 'B' // next ids, and tallies of closed sessions and of the masters
	kindChunk     = 'C' // chunk -> record
	kindDentry    = 'D' // folder, hash of the name -> entries whose names have it
	kindExtent    = 'E' // body (an inode number), offset in the file -> extent
	kindHome      = 'G' // placement group -> servers by position
	kindGroup     = 'H' // placement group -> number of chunk records
	kindInode     = 'I' // inode -> attributes, target, parent
	kindLocked    = 'J' // session, file or name -> marker: it has a row of kind K
	kindLock      = 'K' // file or name, session -> locks
	kindLayout    = 'L' // layout that some inode was given
	kindMaster    = 'M' // master -> name, address
	kindNonce     = 'N' // nonce of OpenSession -> session
	kindOrphan    = 'O' // inode without a name
	kindDroppable = 'Q' // sealed chunk without live bytes
	kindToken     = 'P' // the last token that was given with a lock of a name
	kindReply     = 'R' // session, sequence -> kept answer
	kindSession   = 'S' // session -> who it is
	kindTally     = 'T' // session -> acknowledged sequence, granted ids, what it added to the counters
	kindUnsealed  = 'U' // session, chunk that it may still write
	kindServer    = 'V' // chunk server of the map
	kindSetting   = 'W' // name -> value
	kindXattr     = 'X' // inode, name -> value
	kindJob       = 'Y' // job -> what it does, and how far it is
)

func key0(kind byte) []byte { return []byte{kind} }

func appendKey1(b []byte, kind byte, a uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, kind), a)
}

func appendKey2(b []byte, kind byte, a, c uint64) []byte {
	return binary.BigEndian.AppendUint64(appendKey1(b, kind, a), c)
}

func key1(kind byte, a uint64) []byte { return appendKey1(make([]byte, 0, 9), kind, a) }

func key2(kind byte, a, b uint64) []byte { return appendKey2(make([]byte, 0, 17), kind, a, b) }

// after is the first key of the next higher number a: the end of a Scan over all
// rows of a. Kinds are consecutive, so the highest number has one too.
func after(kind byte, a uint64) []byte {
	if a == 1<<64-1 {
		return key0(kind + 1)
	}
	return key1(kind, a+1)
}

func xattrKey(ino dfs.Ino, name string) []byte {
	return append(appendKey1(make([]byte, 0, 9+len(name)), kindXattr, uint64(ino)), name...)
}

// number reads the i-th number of a key.
func number(k []byte, i int) uint64 {
	k = k[1+8*i:]
	return binary.BigEndian.Uint64(k[:8])
}

// Cookies of a listing are the hash of the name in the high 55 bits and a slot
// among the names of the same hash in the low 8. They fit in a signed 64-bit
// d_off, and are at least cookieMin so that smaller ones can stand for "." and "..".
const (
	slotBits  = 8
	slotMax   = 1<<slotBits - 1
	cookieMin = 1 << slotBits
)

// hashName orders the names of a folder; part of the disk format. SHA-256, since
// nobody can then find more than slotMax names that collide, which would make a
// folder refuse names.
func hashName(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	if h := binary.BigEndian.Uint64(sum[:]) >> (slotBits + 1); h != 0 {
		return h
	}
	return 1
}
