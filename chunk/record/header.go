package record

import (
	"encoding/binary"
	"errors"
	"fmt"

	"dfs"
)

const (
	formatVersion = 1
	magic         = 0x72736664 // "dfsr"
	holeMagic     = 0x68736664 // "dfsh"
)

// What is wrong with bytes on disk.
var (
	ErrTooNew = errors.New("written by a newer version of dfs")
	ErrFormat = errors.New("not what dfs writes there")
)

// Header is what stands before the payload of a record. The checksums of the
// payload's pages follow it.
type Header struct {
	Chunk     dfs.ChunkID
	Session   dfs.SessionID
	Offset    uint32 // of the record in the fragment file
	Fragment  uint32
	RecordLen uint32 // bytes, over all data fragments
	Len       uint32 // bytes, here
	Epoch     dfs.Epoch
	CRCs      []uint32 // of each page of the payload here
	Intents   []byte   // of the payload's pieces, see dfs.Intent; nil: none
	Hole      uint32   // not 0: there is no record but a hole of so many bytes
}

// Space is what the record takes in the file, in bytes.
func (h *Header) Space() uint32 {
	if h.Hole > 0 {
		return h.Hole
	}
	return uint32(dfs.RecordSpace(int(h.Len)))
}

// Head is where the payload begins behind the begin of the record, in bytes.
func (h *Header) Head() uint32 { return uint32(dfs.RecordHead(int(h.Len))) }

// Encode writes header, checksums and intents to the first page of the record, which b
// begins with and which is zero there but for the payload.
func (h *Header) Encode(b []byte) {
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint32(b[4:], formatVersion)
	binary.LittleEndian.PutUint64(b[8:], uint64(h.Chunk))
	binary.LittleEndian.PutUint64(b[16:], uint64(h.Session))
	binary.LittleEndian.PutUint32(b[24:], h.Offset)
	binary.LittleEndian.PutUint32(b[28:], h.Fragment)
	binary.LittleEndian.PutUint32(b[32:], h.RecordLen)
	binary.LittleEndian.PutUint32(b[36:], h.Len)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.Epoch))
	crcs := b[dfs.RecordHeaderBytes:][:dfs.PageCRCBytes*len(h.CRCs)]
	for i, c := range h.CRCs {
		binary.LittleEndian.PutUint32(crcs[dfs.PageCRCBytes*i:], c)
	}
	binary.LittleEndian.PutUint32(b[48:], dfs.CRC(crcs))
	if n := len(h.Intents); n > 0 {
		binary.LittleEndian.PutUint32(b[52:], uint32(n))
		binary.LittleEndian.PutUint32(b[56:], dfs.CRC(h.Intents))
		copy(b[dfs.PageBytes-n:dfs.PageBytes], h.Intents)
	}
	Sign(b[:dfs.RecordHeaderBytes])
}

// Decode reads header and checksums from b, which begins at off in the file
// and holds a page at least, unless the file is shorter. The intents are those in b.
func Decode(b []byte, off uint32) (Header, error) {
	if len(b) < dfs.RecordHeaderBytes || binary.LittleEndian.Uint32(b) != magic {
		return Header{}, fmt.Errorf("no record at %d: %w", off, ErrFormat)
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v > formatVersion {
		return Header{}, fmt.Errorf("record at %d has format %d: %w", off, v, ErrTooNew)
	}
	if !Signed(b[:dfs.RecordHeaderBytes]) {
		return Header{}, fmt.Errorf("header of the record at %d has a wrong checksum: %w", off, ErrFormat)
	}
	h := Header{
		Chunk:     dfs.ChunkID(binary.LittleEndian.Uint64(b[8:])),
		Session:   dfs.SessionID(binary.LittleEndian.Uint64(b[16:])),
		Offset:    binary.LittleEndian.Uint32(b[24:]),
		Fragment:  binary.LittleEndian.Uint32(b[28:]),
		RecordLen: binary.LittleEndian.Uint32(b[32:]),
		Len:       binary.LittleEndian.Uint32(b[36:]),
		Epoch:     dfs.Epoch(binary.LittleEndian.Uint64(b[40:])),
	}
	if h.Offset != off || h.Len == 0 || h.Len > dfs.FragmentBytes || h.RecordLen > dfs.RecordBytes ||
		h.Chunk.Layout().FragmentLen(int(h.RecordLen)) != int(h.Len) {
		return Header{}, fmt.Errorf("record at %d names offset %d and %d of %d bytes: %w", off, h.Offset, h.Len, h.RecordLen, ErrFormat)
	}
	n := dfs.Pages(int(h.Len)) * dfs.PageCRCBytes
	if len(b) < dfs.RecordHeaderBytes+n {
		return Header{}, fmt.Errorf("checksums of the record at %d are cut off: %w", off, ErrFormat)
	}
	crcs := b[dfs.RecordHeaderBytes:][:n]
	if dfs.CRC(crcs) != binary.LittleEndian.Uint32(b[48:]) {
		return Header{}, fmt.Errorf("checksums of the record at %d have a wrong checksum: %w", off, ErrFormat)
	}
	h.CRCs = make([]uint32, n/dfs.PageCRCBytes)
	for i := range h.CRCs {
		h.CRCs[i] = binary.LittleEndian.Uint32(crcs[dfs.PageCRCBytes*i:])
	}
	if n := binary.LittleEndian.Uint32(b[52:]); n > 0 {
		if uint64(n) > uint64(dfs.IntentRoom(int(h.Len))) || len(b) < dfs.PageBytes {
			return Header{}, fmt.Errorf("record at %d has no room for %d bytes of intents: %w", off, n, ErrFormat)
		}
		h.Intents = b[dfs.PageBytes-n : dfs.PageBytes : dfs.PageBytes]
		if dfs.CRC(h.Intents) != binary.LittleEndian.Uint32(b[56:]) {
			return Header{}, fmt.Errorf("intents of the record at %d have a wrong checksum: %w", off, ErrFormat)
		}
	}
	return h, nil
}

// EncodeHole makes the block that stands where records were which nothing needs any more:
// it says how far the hole goes, itself with it.
func EncodeHole(h Header) []byte {
	b := make([]byte, dfs.PageBytes)
	binary.LittleEndian.PutUint32(b, holeMagic)
	binary.LittleEndian.PutUint32(b[4:], formatVersion)
	binary.LittleEndian.PutUint64(b[8:], uint64(h.Chunk))
	binary.LittleEndian.PutUint32(b[24:], h.Offset)
	binary.LittleEndian.PutUint32(b[28:], h.Fragment)
	binary.LittleEndian.PutUint32(b[32:], h.Hole)
	Sign(b[:dfs.RecordHeaderBytes])
	return b
}

// DecodeHole reads the block of a hole that begins at off in the file; false when it is none.
func DecodeHole(b []byte, off uint32) (Header, bool) {
	if len(b) < dfs.RecordHeaderBytes || binary.LittleEndian.Uint32(b) != holeMagic ||
		binary.LittleEndian.Uint32(b[4:]) != formatVersion || !Signed(b[:dfs.RecordHeaderBytes]) {
		return Header{}, false
	}
	h := Header{
		Chunk: dfs.ChunkID(binary.LittleEndian.Uint64(b[8:])), Offset: binary.LittleEndian.Uint32(b[24:]),
		Fragment: binary.LittleEndian.Uint32(b[28:]), Hole: binary.LittleEndian.Uint32(b[32:]),
	}
	ok := h.Offset == off && h.Hole >= dfs.PageBytes && h.Hole%dfs.PageBytes == 0 && uint64(off)+uint64(h.Hole) <= dfs.ChunkBytes
	return h, ok
}

// Sign writes the checksum of b to its last four bytes.
func Sign(b []byte) {
	binary.LittleEndian.PutUint32(b[len(b)-4:], dfs.CRC(b[:len(b)-4]))
}

// Signed reports whether it is there and right.
func Signed(b []byte) bool {
	return binary.LittleEndian.Uint32(b[len(b)-4:]) == dfs.CRC(b[:len(b)-4])
}
