// Package backup is the form of a backup of the metadata: a stream that says what it is,
// of which each block has a checksum, and which ends with a hash over all rows, so that
// one that was cut short or damaged anywhere is never taken for whole. It is written and
// read front to back, with a block in memory at a time.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"dfs"
	"dfs/meta"
)

// The form of a backup. It begins with a line of JSON, the Head, and one with its
// checksum. Then come blocks: length 4, crc 4, and rows, each a key and a value with
// their lengths as varints before them. A block of no length ends them; then the Tail, as
// the Head. Numbers are little endian.
const (
	formatName    = "dfs-backup"
	formatVersion = 1
	blockBytes    = 1 << 20  // a block ends with the row that reaches it
	rowBytesMax   = 32 << 20 // of a key and a value
	lineBytesMax  = 4 << 10
)

// Head says what is in a backup.
type Head struct {
	Format  string        `json:"format"`
	Version int           `json:"version"`
	Cluster dfs.ClusterID `json:"cluster"`
	Level   uint32        `json:"level"` // of the rows, see meta.Level
	Index   uint64        `json:"index"` // place in the log that the rows are at
	Term    uint64        `json:"term"`
	Made    time.Time     `json:"made"`
	Program string        `json:"program"` // version of dfs that made it
}

// Tail says what a backup had.
type Tail struct {
	Rows  uint64 `json:"rows"`
	Bytes uint64 `json:"bytes"` // of keys and values
	Hash  string `json:"sha256"`
}

// ErrDamaged is the cause when a backup is not what was written.
var ErrDamaged = errors.New("the backup is damaged or was cut short")

// Sum is a hash over rows in their order.
type Sum struct {
	Tail
	h   hash.Hash
	row []byte
}

// NewSum returns the sum of no rows.
func NewSum() *Sum { return &Sum{h: sha256.New()} }

// Add takes the next row.
func (s *Sum) Add(k, v []byte) {
	s.row = appendRow(s.row[:0], k, v)
	_, _ = s.h.Write(s.row) // never fails
	s.Rows++
	s.Bytes += uint64(len(k) + len(v))
}

// End is what was added.
func (s *Sum) End() Tail {
	t := s.Tail
	t.Hash = hex.EncodeToString(s.h.Sum(nil))
	return t
}

func appendRow(b, k, v []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(k))), k...)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// All calls fn with every row of r, in order.
func All(r meta.Reader, fn func(k, v []byte) error) error {
	return r.Scan([]byte{0}, []byte{0xff, 0xff}, func(k, v []byte) (bool, error) { return true, fn(k, v) })
}

// Write makes a backup of all rows of r. Of head it fills in what the rows say.
func Write(w io.Writer, head Head, r meta.Reader) (Tail, error) {
	v := meta.NewView(r)
	m, err := v.Map()
	if err != nil {
		return Tail{}, err
	}
	head.Format, head.Version, head.Cluster = formatName, formatVersion, m.Cluster
	if head.Level, _, err = v.Level(); err != nil {
		return Tail{}, err
	}
	if err := writeLine(w, head); err != nil {
		return Tail{}, err
	}
	sum := NewSum()
	var block []byte
	flush := func() error {
		err := writeBlock(w, block)
		block = block[:0]
		return err
	}
	err = All(r, func(k, v []byte) error {
		sum.Add(k, v)
		if len(sum.row) > rowBytesMax {
			return fmt.Errorf("row %x has %d bytes, at most %d fit in a backup", k[:min(len(k), 32)], len(sum.row), rowBytesMax)
		}
		block = append(block, sum.row...)
		if len(block) < blockBytes {
			return nil
		}
		return flush()
	})
	if err == nil && len(block) > 0 {
		err = flush()
	}
	if err == nil {
		err = flush() // the one of no length
	}
	if err != nil {
		return Tail{}, err
	}
	tail := sum.End()
	return tail, writeLine(w, tail)
}

func writeBlock(w io.Writer, b []byte) error {
	var h [8]byte
	binary.LittleEndian.PutUint32(h[:], uint32(len(b)))
	binary.LittleEndian.PutUint32(h[4:], dfs.CRC(b))
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

func writeLine(w io.Writer, x any) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	_, err = w.Write(fmt.Appendf(b, "%08x\n", dfs.CRC(b)))
	return err
}

func readLine(r *bufio.Reader, x any) error {
	line := func() ([]byte, error) {
		b, err := r.ReadSlice('\n')
		if err != nil || len(b) > lineBytesMax {
			return nil, ErrDamaged
		}
		return bytes.Clone(b), nil
	}
	b, err := line()
	if err != nil {
		return err
	}
	sum, err := line()
	if err != nil {
		return err
	}
	if string(sum) != fmt.Sprintf("%08x\n", dfs.CRC(b)) || json.Unmarshal(b, x) != nil {
		return ErrDamaged
	}
	return nil
}

// Read reads a backup to its end. begin sees the head before any row; slices that row is
// given are its own until it returns. The error is ErrDamaged unless all was as written.
func Read(in io.Reader, begin func(Head) error, row func(k, v []byte) error) (Tail, error) {
	r := bufio.NewReaderSize(in, 64<<10)
	var head Head
	if err := readLine(r, &head); err != nil {
		return Tail{}, fmt.Errorf("its first line: %w", err)
	}
	switch {
	case head.Format != formatName:
		return Tail{}, fmt.Errorf("this is no backup of dfs: %w", ErrDamaged)
	case head.Version != formatVersion:
		return Tail{}, fmt.Errorf("the backup has format version %d, this program knows %d: use dfs %q or a later version", head.Version, formatVersion, head.Program)
	case head.Level > meta.Level:
		return Tail{}, fmt.Errorf("the backup: %w", &meta.NewerError{Level: head.Level, Program: head.Program, Knows: meta.Level})
	}
	if err := begin(head); err != nil {
		return Tail{}, err
	}
	sum := NewSum()
	var block []byte
	for {
		var err error
		if block, err = readBlock(r, block); err != nil {
			return Tail{}, fmt.Errorf("after %d rows: %w", sum.Rows, err)
		}
		if len(block) == 0 {
			break
		}
		for b := block; len(b) > 0; {
			var k, v []byte
			var whole bool
			if k, v, b, whole = cutRow(b); !whole {
				return Tail{}, ErrDamaged
			}
			sum.Add(k, v)
			if err := row(k, v); err != nil {
				return Tail{}, err
			}
		}
	}
	var tail Tail
	if err := readLine(r, &tail); err != nil {
		return Tail{}, fmt.Errorf("its last line: %w", err)
	}
	if got := sum.End(); got != tail {
		return Tail{}, fmt.Errorf("it has %d rows with hash %s, and says %d and %s: %w", got.Rows, got.Hash, tail.Rows, tail.Hash, ErrDamaged)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return Tail{}, fmt.Errorf("bytes after its end: %w", ErrDamaged)
	}
	return tail, nil
}

func readBlock(r io.Reader, block []byte) ([]byte, error) {
	var h [8]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	n := int(binary.LittleEndian.Uint32(h[:]))
	if n > blockBytes+rowBytesMax {
		return nil, ErrDamaged
	}
	if cap(block) < n {
		block = make([]byte, n)
	}
	block = block[:n]
	if _, err := io.ReadFull(r, block); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if dfs.CRC(block) != binary.LittleEndian.Uint32(h[4:]) {
		return nil, ErrDamaged
	}
	return block, nil
}

func cutRow(b []byte) (k, v, rest []byte, whole bool) {
	for _, to := range []*[]byte{&k, &v} {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return nil, nil, nil, false
		}
		b = b[used:]
		*to, b = b[:n:n], b[n:]
	}
	return k, v, b, len(k) > 0 && len(v) > 0
}
