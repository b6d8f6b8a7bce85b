package meta

import (
	"encoding/binary"
	"errors"
	"fmt"

	"dfs"
)

// rowVersion is the first byte of every row. A change of a row's format that an
// older program could misread takes the next number for that row.
const rowVersion = 1

var errTruncated = errors.New("row is cut short")

// decoder reads a row front to back. After the first error it answers zeros; the
// error comes out of done.
type decoder struct {
	b    []byte
	what string
	err  error
}

// decode begins a row: it checks the version.
func decode(what string, b []byte) decoder {
	d := decoder{b: b, what: what}
	if v := d.byte(); d.err == nil && v != rowVersion {
		d.err = fmt.Errorf("format version %d, this program knows version %d only", v, rowVersion)
	}
	return d
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail(errTruncated)
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errTruncated)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uvarint32() uint32 {
	v := d.uvarint()
	if v > 1<<32-1 {
		d.fail(fmt.Errorf("number %d does not fit in 32 bits", v))
		return 0
	}
	return uint32(v)
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errTruncated)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) fixed64() uint64 {
	if len(d.b) < 8 {
		d.fail(errTruncated)
		return 0
	}
	v := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

// string reads a length and so many bytes, at most limit.
func (d *decoder) string(limit int) string {
	n := d.uvarint()
	if n > uint64(limit) {
		d.fail(fmt.Errorf("string of %d bytes, at most %d expected", n, limit))
		return ""
	}
	if n > uint64(len(d.b)) {
		d.fail(errTruncated)
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) time() dfs.Time {
	t := dfs.Time{Sec: d.varint(), Nsec: d.uvarint32()}
	if t.Nsec >= 1e9 {
		d.fail(fmt.Errorf("%d nanoseconds in a time", t.Nsec))
	}
	return t
}

// count reads the length of a list whose items take at least itemBytes each, so
// that a broken row cannot ask for more memory than it has bytes.
func (d *decoder) count(itemBytes int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/itemBytes) {
		d.fail(errTruncated)
		return 0
	}
	return int(n)
}

func (d *decoder) ranges() []Range {
	n := d.count(2)
	var list []Range
	for range n {
		r := Range{From: d.uvarint()}
		r.To = r.From + d.uvarint()
		if r.To < r.From {
			d.fail(errors.New("range wraps around"))
		}
		list = append(list, r)
	}
	return list
}

// done answers the first error, also when bytes are left over.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) != 0 {
		d.err = fmt.Errorf("%d bytes after its end", len(d.b))
	}
	if d.err != nil {
		return fmt.Errorf("meta: %s row: %w", d.what, d.err)
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendTime(b []byte, t dfs.Time) []byte {
	b = binary.AppendVarint(b, t.Sec)
	return binary.AppendUvarint(b, uint64(t.Nsec))
}

func appendRanges(b []byte, list []Range) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, r := range list {
		b = binary.AppendUvarint(b, r.From)
		b = binary.AppendUvarint(b, r.To-r.From)
	}
	return b
}
