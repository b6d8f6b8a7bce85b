// Package code turns the payload of one record into the k data and m parity
// fragments of a layout and back, and tells how much room they take. It is pure.
// Copies are the case k=1: every fragment is the payload. Otherwise the payload is
// cut in k pieces of equal length (the last ones are filled up with zeros), and
// the parity pieces are those of Reed-Solomon by the Vandermonde matrix of
// klauspost/reedsolomon, whose choice is part of the disk format.
package code

import (
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"

	"dfs"
)

// FirstRecord is the offset of the first record in a fragment file.
const FirstRecord = dfs.FirstRecord

// Fragment is what one server of the acting set stores of a record.
type Fragment struct {
	Data []byte
	CRCs []uint32 // crc32c of each page of Data
}

// RecordSpace is how many bytes a record takes in a fragment file when its payload
// there is that long.
func RecordSpace(payload int) int { return dfs.RecordSpace(payload) }

// FragmentLen is how much of a record with that payload is in each fragment.
func FragmentLen(l dfs.Layout, recordLen int) int { return l.FragmentLen(recordLen) }

// CRC is the crc32c of p.
func CRC(p []byte) uint32 { return dfs.CRC(p) }

// PageCRCs appends the crc32c of each page of p to dst.
func PageCRCs(dst []uint32, p []byte) []uint32 { return dfs.PageCRCs(dst, p) }

// CheckPages compares data, which begins at off in the payload, with the checksums
// of its pages. The error is EIO.
func CheckPages(off uint32, data []byte, crcs []uint32) error {
	return dfs.CheckPages(off, data, crcs)
}

// Encode makes the fragments of a record. The data of copies, and of the data
// fragments which need no filling, is payload itself, so that it must not change
// while they are in use.
func Encode(l dfs.Layout, payload []byte) ([]Fragment, error) {
	if !l.Valid() {
		return nil, fmt.Errorf("layout %04x: %w", uint16(l), dfs.EINVAL)
	}
	if len(payload) == 0 || len(payload) > dfs.RecordBytes {
		return nil, fmt.Errorf("record of %d bytes, want 1 to %d: %w", len(payload), dfs.RecordBytes, dfs.EINVAL)
	}
	out := make([]Fragment, l.Width())
	k := l.Data()
	if k == 1 {
		crcs := PageCRCs(make([]uint32, 0, dfs.Pages(len(payload))), payload)
		for i := range out {
			out[i] = Fragment{Data: payload, CRCs: crcs}
		}
		return out, nil
	}
	shards := cut(l, payload)
	rs, err := codec(l)
	if err != nil {
		return nil, err
	}
	if err := rs.Encode(shards); err != nil {
		return nil, fmt.Errorf("encode %s: %w", l, err)
	}
	for i, s := range shards {
		out[i] = Fragment{Data: s, CRCs: PageCRCs(make([]uint32, 0, dfs.Pages(len(s))), s)}
	}
	return out, nil
}

// cut makes the k+m shards of a payload, the parity still zero.
func cut(l dfs.Layout, payload []byte) [][]byte {
	k, s := l.Data(), FragmentLen(l, len(payload))
	whole := len(payload) / s // data shards that need no filling
	rest := make([]byte, (l.Width()-whole)*s)
	shards := make([][]byte, l.Width())
	for i := range shards {
		if i < whole {
			shards[i] = payload[i*s : (i+1)*s : (i+1)*s]
			continue
		}
		shards[i], rest = rest[:s:s], rest[s:]
		if i < k && i*s < len(payload) {
			copy(shards[i], payload[i*s:])
		}
	}
	return shards
}

// Decode makes the payload of recordLen bytes from those fragments that are there
// (nil is a missing one). Any k of them do. It trusts them: check their pages
// first. The result may share memory with fragments, which stay unchanged.
func Decode(l dfs.Layout, recordLen int, fragments [][]byte) ([]byte, error) {
	if !l.Valid() || len(fragments) != l.Width() || recordLen <= 0 || recordLen > dfs.RecordBytes {
		return nil, fmt.Errorf("decode %d fragments of layout %04x to %d bytes: %w", len(fragments), uint16(l), recordLen, dfs.EINVAL)
	}
	s, have, lost := FragmentLen(l, recordLen), 0, false
	for i, f := range fragments {
		switch {
		case f == nil:
			lost = lost || i < l.Data()
		case len(f) != s:
			return nil, fmt.Errorf("fragment %d has %d bytes, want %d: %w", i, len(f), s, dfs.EINVAL)
		default:
			have++
		}
	}
	if have < l.Data() {
		return nil, fmt.Errorf("%d of %d fragments are there, %s needs %d: %w", have, l.Width(), l, l.Data(), dfs.EIO)
	}
	if l.Data() == 1 {
		for _, f := range fragments {
			if f != nil {
				return f, nil
			}
		}
	}
	shards := append(make([][]byte, 0, len(fragments)), fragments...)
	if lost {
		rs, err := codec(l)
		if err != nil {
			return nil, err
		}
		if err := rs.ReconstructData(shards); err != nil {
			return nil, fmt.Errorf("decode %s: %w", l, err)
		}
	}
	out := make([]byte, 0, recordLen)
	for _, f := range shards[:l.Data()] {
		out = append(out, f[:min(len(f), recordLen-len(out))]...)
	}
	return out, nil
}

// Rebuild makes fragment want of a record from the others (nil is a missing one).
func Rebuild(l dfs.Layout, fragments [][]byte, want int) ([]byte, error) {
	if !l.Valid() || len(fragments) != l.Width() || want < 0 || want >= l.Width() {
		return nil, fmt.Errorf("rebuild fragment %d of layout %04x: %w", want, uint16(l), dfs.EINVAL)
	}
	if l.Data() == 1 {
		for _, f := range fragments {
			if f != nil {
				return f, nil
			}
		}
		return nil, fmt.Errorf("no copy is there: %w", dfs.EIO)
	}
	rs, err := codec(l)
	if err != nil {
		return nil, err
	}
	need := make([]bool, len(fragments))
	need[want] = true
	shards := append(make([][]byte, 0, len(fragments)), fragments...)
	shards[want] = nil
	if err := rs.ReconstructSome(shards, need); err != nil {
		return nil, fmt.Errorf("rebuild %s: %w", l, err)
	}
	return shards[want], nil
}

// codecs keeps one codec for each layout: making one inverts a matrix. It is
// package state that nobody can observe, and layouts are few.
var codecs sync.Map // dfs.Layout to reedsolomon.Encoder

func codec(l dfs.Layout) (reedsolomon.Encoder, error) {
	if rs, ok := codecs.Load(l); ok {
		return rs.(reedsolomon.Encoder), nil
	}
	// One record is at most 1 MiB: goroutines cost more than they win.
	rs, err := reedsolomon.New(l.Data(), l.Parity(), reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("layout %s: %w", l, err)
	}
	codecs.Store(l, rs)
	return rs, nil
}
