package chunk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"dfs"
)

// The formats on disk. All numbers are little endian; each structure ends with the
// crc32c of what is before it. docs/formats.md tells how each may evolve.
const (
	formatVersion = 1 // of the data folder, of fragment files and of records

	headerMagic = "dfschunk"
	headerBytes = 64
	sealOff     = 512 // a sector of its own: writing it cannot tear the header
	sealMagic   = "dfs-seal"
	scanOff     = 1024 // again
	scanMagic   = "dfs-scan"
	markBytes   = 32

	recordMagic  = 0x72736664 // "dfsr"
	recordCRCOff = dfs.RecordHeaderBytes - 4
)

var (
	errTooNew = errors.New("written by a newer version of dfs")
	errFormat = errors.New("not what dfs writes there")
)

// header is the first block of a fragment file.
type header struct {
	Chunk    dfs.ChunkID
	Fragment uint32
	Session  dfs.SessionID
	Cluster  dfs.ClusterID
}

// encodeHeader makes the block of an unsealed fragment.
func encodeHeader(h header) []byte {
	b := make([]byte, dfs.PageBytes)
	copy(b, headerMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint32(b[12:], h.Fragment)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.Chunk))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.Session))
	binary.LittleEndian.PutUint64(b[32:], uint64(h.Cluster))
	sign(b[:headerBytes])
	return b
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerBytes || string(b[:8]) != headerMagic {
		return header{}, fmt.Errorf("fragment header: %w", errFormat)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > formatVersion {
		return header{}, fmt.Errorf("fragment header has format %d: %w", v, errTooNew)
	}
	if !signed(b[:headerBytes]) {
		return header{}, fmt.Errorf("fragment header has a wrong checksum: %w", errFormat)
	}
	h := header{
		Fragment: binary.LittleEndian.Uint32(b[12:]),
		Chunk:    dfs.ChunkID(binary.LittleEndian.Uint64(b[16:])),
		Session:  dfs.SessionID(binary.LittleEndian.Uint64(b[24:])),
		Cluster:  dfs.ClusterID(binary.LittleEndian.Uint64(b[32:])),
	}
	if l := h.Chunk.Layout(); !l.Valid() || int(h.Fragment) >= l.Width() {
		return header{}, fmt.Errorf("fragment header has fragment %d of chunk %s: %w", h.Fragment, h.Chunk, errFormat)
	}
	return h, nil
}

// encodeMark makes a mark in the header block that tells an offset: where a fragment
// was sealed, or to where its records were checked when the store was opened.
func encodeMark(magic string, id dfs.ChunkID, end uint32) []byte {
	b := make([]byte, markBytes)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint32(b[12:], end)
	binary.LittleEndian.PutUint64(b[16:], uint64(id))
	sign(b)
	return b
}

// decodeMark reads the mark at off of a header block. A mark that is there and bad
// is an error; no mark is neither.
func decodeMark(block []byte, off int, magic string, id dfs.ChunkID) (end uint32, there bool, err error) {
	if len(block) < off+markBytes {
		return 0, false, nil
	}
	b := block[off : off+markBytes]
	if isZero(b) {
		return 0, false, nil
	}
	end = binary.LittleEndian.Uint32(b[12:])
	if string(b[:8]) != magic || !signed(b) || dfs.ChunkID(binary.LittleEndian.Uint64(b[16:])) != id ||
		end < dfs.FirstRecord || end%dfs.PageBytes != 0 || end > dfs.ChunkBytes {
		return 0, true, fmt.Errorf("%s mark: %w", magic, errFormat)
	}
	return end, true, nil
}

// recordHeader is what stands before the payload of a record. The checksums of the
// payload's pages follow it.
type recordHeader struct {
	Chunk     dfs.ChunkID
	Session   dfs.SessionID
	Offset    uint32 // of the record in the fragment file
	Fragment  uint32
	RecordLen uint32 // bytes, over all data fragments
	Len       uint32 // bytes, here
	Epoch     dfs.Epoch
	CRCs      []uint32 // of each page of the payload here
}

func (h *recordHeader) space() uint32 { return uint32(dfs.RecordSpace(int(h.Len))) }
func (h *recordHeader) head() uint32  { return uint32(dfs.RecordHead(int(h.Len))) }

// encode writes header and checksums to the begin of b, which is zero there and
// long enough.
func (h *recordHeader) encode(b []byte) {
	binary.LittleEndian.PutUint32(b, recordMagic)
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
	sign(b[:dfs.RecordHeaderBytes])
}

// decodeRecord reads header and checksums from b, which begins at off in the file
// and holds a page at least, unless the file is shorter.
func decodeRecord(b []byte, off uint32) (recordHeader, error) {
	if len(b) < dfs.RecordHeaderBytes || binary.LittleEndian.Uint32(b) != recordMagic {
		return recordHeader{}, fmt.Errorf("no record at %d: %w", off, errFormat)
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v > formatVersion {
		return recordHeader{}, fmt.Errorf("record at %d has format %d: %w", off, v, errTooNew)
	}
	if !signed(b[:dfs.RecordHeaderBytes]) {
		return recordHeader{}, fmt.Errorf("header of the record at %d has a wrong checksum: %w", off, errFormat)
	}
	h := recordHeader{
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
		return recordHeader{}, fmt.Errorf("record at %d names offset %d and %d of %d bytes: %w", off, h.Offset, h.Len, h.RecordLen, errFormat)
	}
	n := dfs.Pages(int(h.Len)) * dfs.PageCRCBytes
	if len(b) < dfs.RecordHeaderBytes+n {
		return recordHeader{}, fmt.Errorf("checksums of the record at %d are cut off: %w", off, errFormat)
	}
	crcs := b[dfs.RecordHeaderBytes:][:n]
	if dfs.CRC(crcs) != binary.LittleEndian.Uint32(b[48:]) {
		return recordHeader{}, fmt.Errorf("checksums of the record at %d have a wrong checksum: %w", off, errFormat)
	}
	h.CRCs = make([]uint32, n/dfs.PageCRCBytes)
	for i := range h.CRCs {
		h.CRCs[i] = binary.LittleEndian.Uint32(crcs[dfs.PageCRCBytes*i:])
	}
	return h, nil
}

// sign writes the checksum of b to its last four bytes.
func sign(b []byte) {
	binary.LittleEndian.PutUint32(b[len(b)-4:], dfs.CRC(b[:len(b)-4]))
}

func signed(b []byte) bool {
	return binary.LittleEndian.Uint32(b[len(b)-4:]) == dfs.CRC(b[:len(b)-4])
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// fragmentName is the name of a fragment file: chunk id and fragment.
func fragmentName(id dfs.ChunkID, fragment uint32) string {
	return id.String() + "." + strconv.FormatUint(uint64(fragment), 10)
}

// shardName is the folder that a fragment file is in.
func shardName(id dfs.ChunkID) string { return fmt.Sprintf("%02x", byte(id.Seq())) }

// parseName is the reverse of fragmentName; only the very name that it makes.
func parseName(name string) (dfs.ChunkID, uint32, bool) {
	idText, fragmentText, ok := strings.Cut(name, ".")
	if !ok {
		return 0, 0, false
	}
	n, err := strconv.ParseUint(idText, 16, 64)
	if err != nil {
		return 0, 0, false
	}
	f, err := strconv.ParseUint(fragmentText, 10, 8)
	id := dfs.ChunkID(n)
	if err != nil || !id.Layout().Valid() || int(f) >= id.Layout().Width() || fragmentName(id, uint32(f)) != name {
		return 0, 0, false
	}
	return id, uint32(f), true
}

// identity says whose a data folder is. It is a JSON file, for people to read.
type identity struct {
	Format  int           `json:"format"`
	Role    string        `json:"role"`
	Cluster dfs.ClusterID `json:"-"` // 0 until the server has joined one
	Node    dfs.NodeID    `json:"-"`
	Disk    uint64        `json:"-"`

	ClusterText string `json:"cluster"`
	NodeText    string `json:"node"`
	DiskText    string `json:"disk"`
}

const (
	identityName     = "dfs.json"
	identityRole     = "chunk"
	identityBytesMax = 4096
)

func encodeIdentity(i identity) []byte {
	i.Format, i.Role = formatVersion, identityRole
	i.ClusterText, i.NodeText, i.DiskText = i.Cluster.String(), i.Node.String(), fmt.Sprintf("%016x", i.Disk)
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil { // there is nothing in it that cannot be encoded
		return nil
	}
	return append(b, '\n')
}

func decodeIdentity(b []byte) (identity, error) {
	var i identity
	if err := json.Unmarshal(b, &i); err != nil {
		return identity{}, fmt.Errorf("%s: %w", err.Error(), errFormat)
	}
	if i.Format > formatVersion {
		return identity{}, fmt.Errorf("format %d, this program knows %d: %w", i.Format, formatVersion, errTooNew)
	}
	if i.Format < 1 || i.Role != identityRole {
		return identity{}, fmt.Errorf("format %d for role %q, want %q: %w", i.Format, i.Role, identityRole, errFormat)
	}
	var numbers [3]uint64
	for n, text := range []string{i.ClusterText, i.NodeText, i.DiskText} {
		v, err := strconv.ParseUint(text, 16, 64)
		if err != nil {
			return identity{}, fmt.Errorf("%q is no id: %w", text, errFormat)
		}
		numbers[n] = v
	}
	i.Cluster, i.Node, i.Disk = dfs.ClusterID(numbers[0]), dfs.NodeID(numbers[1]), numbers[2]
	if i.Node == 0 || i.Disk == 0 {
		return identity{}, fmt.Errorf("node or disk is zero: %w", errFormat)
	}
	return i, nil
}
