package chunk

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"dfs"
	"dfs/chunk/record"
)

// The formats on disk. All numbers are little endian; each structure ends with the
// crc32c of what is before it. docs/formats.md tells how each may evolve.
const (
	formatVersion = 1 // of the data folder and of fragment files

	headerMagic = "dfschunk"
	headerBytes = 64
	sealOff     = 512 // a sector of its own: writing it cannot tear the header
	sealMagic   = "dfs-seal"
	scanOff     = 1024 // again
	scanMagic   = "dfs-scan"
	markBytes   = 32
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
	record.Sign(b[:headerBytes])
	return b
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerBytes || string(b[:8]) != headerMagic {
		return header{}, fmt.Errorf("fragment header: %w", record.ErrFormat)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > formatVersion {
		return header{}, fmt.Errorf("fragment header has format %d: %w", v, record.ErrTooNew)
	}
	if !record.Signed(b[:headerBytes]) {
		return header{}, fmt.Errorf("fragment header has a wrong checksum: %w", record.ErrFormat)
	}
	h := header{
		Fragment: binary.LittleEndian.Uint32(b[12:]),
		Chunk:    dfs.ChunkID(binary.LittleEndian.Uint64(b[16:])),
		Session:  dfs.SessionID(binary.LittleEndian.Uint64(b[24:])),
		Cluster:  dfs.ClusterID(binary.LittleEndian.Uint64(b[32:])),
	}
	if l := h.Chunk.Layout(); !l.Valid() || int(h.Fragment) >= l.Width() {
		return header{}, fmt.Errorf("fragment header has fragment %d of chunk %s: %w", h.Fragment, h.Chunk, record.ErrFormat)
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
	record.Sign(b)
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
	if string(b[:8]) != magic || !record.Signed(b) || dfs.ChunkID(binary.LittleEndian.Uint64(b[16:])) != id ||
		end < dfs.FirstRecord || end%dfs.PageBytes != 0 || end > dfs.ChunkBytes {
		return 0, true, fmt.Errorf("%s mark: %w", magic, record.ErrFormat)
	}
	return end, true, nil
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
		return identity{}, fmt.Errorf("%s: %w", err.Error(), record.ErrFormat)
	}
	if i.Format > formatVersion {
		return identity{}, fmt.Errorf("format %d, this program knows %d: %w", i.Format, formatVersion, record.ErrTooNew)
	}
	if i.Format < 1 || i.Role != identityRole {
		return identity{}, fmt.Errorf("format %d for role %q, want %q: %w", i.Format, i.Role, identityRole, record.ErrFormat)
	}
	var numbers [3]uint64
	for n, text := range []string{i.ClusterText, i.NodeText, i.DiskText} {
		v, err := strconv.ParseUint(text, 16, 64)
		if err != nil {
			return identity{}, fmt.Errorf("%q is no id: %w", text, record.ErrFormat)
		}
		numbers[n] = v
	}
	i.Cluster, i.Node, i.Disk = dfs.ClusterID(numbers[0]), dfs.NodeID(numbers[1]), numbers[2]
	if i.Node == 0 || i.Disk == 0 {
		return identity{}, fmt.Errorf("node or disk is zero: %w", record.ErrFormat)
	}
	return i, nil
}
