package dfs

import (
	"fmt"
	"hash/crc32"
)

// A fragment file is a header block, then records one after the other. How much
// room a record takes, and how its bytes are checked, is agreed on by the client
// that writes it, the chunk servers and the client that reads it.
const (
	FirstRecord       = PageBytes // offset of the first record in a fragment file
	RecordHeaderBytes = 64        // of a record, before the checksums of its pages
	PageCRCBytes      = 4         // one checksum
)

// RecordHead is how many bytes header and checksums take before the payload of a
// record: exactly, when all fits in one page together with the payload, else
// rounded up to whole pages.
func RecordHead(payload int) int {
	head := RecordHeaderBytes + PageCRCBytes*Pages(payload)
	if head+payload <= PageBytes {
		return head
	}
	return roundUp(head)
}

// RecordSpace is how many bytes a record takes in a fragment file when its payload
// there is that long: the next record begins so much later.
func RecordSpace(payload int) int { return roundUp(RecordHead(payload) + payload) }

// IntentRoom is how many bytes of intents a record with such a payload has room for: what
// is left of its first page, at the end.
func IntentRoom(payload int) int {
	head := RecordHeaderBytes + PageCRCBytes*Pages(payload)
	if head+payload <= PageBytes {
		return PageBytes - head - payload
	}
	return max(0, PageBytes-head)
}

// Pages is how many pages, and so checksums, a payload has.
func Pages(payload int) int { return (payload + PageBytes - 1) / PageBytes }

func roundUp(n int) int { return (n + PageBytes - 1) &^ (PageBytes - 1) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC is the crc32c of p.
func CRC(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// PageCRCs appends the crc32c of each page of p to crcs; the last may be short.
func PageCRCs(crcs []uint32, p []byte) []uint32 {
	for len(p) > PageBytes {
		crcs = append(crcs, CRC(p[:PageBytes]))
		p = p[PageBytes:]
	}
	if len(p) > 0 {
		crcs = append(crcs, CRC(p))
	}
	return crcs
}

// CheckPages compares data with the checksums of its pages. off is where data
// begins in the payload, a multiple of PageBytes; it only serves the message. The
// error is EIO: somebody changed the bytes on the way or at rest.
func CheckPages(off uint32, data []byte, crcs []uint32) error {
	if len(crcs) != Pages(len(data)) {
		return fmt.Errorf("%d checksums for %d bytes: %w", len(crcs), len(data), EIO)
	}
	for i, want := range crcs {
		from := i * PageBytes
		if got := CRC(data[from:min(from+PageBytes, len(data))]); got != want {
			return fmt.Errorf("page at %d has checksum %08x, not %08x: %w", int(off)+from, got, want, EIO)
		}
	}
	return nil
}
